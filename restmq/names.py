"""Queue names and the public key of a message, ``queue:id``."""

from restmq.errors import BadQueueName

MAX_NAME_BYTES = 16384
"""What the original's request line let through; ``/v1`` allows 255."""


def queue_name(name: str) -> str:
    """Return the name if a queue may bear it; the empty name is one, as in the original.

    Raises BadQueueName when it is too long or holds a lone surrogate (no UTF-8).
    """
    try:
        size = len(name) if name.isascii() else len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise BadQueueName("a queue name must be valid UTF-8") from None
    if size > MAX_NAME_BYTES:
        raise BadQueueName(f"a queue name has at most {MAX_NAME_BYTES} bytes, this one {size}")
    return name


def message_key(queue: str, message_id: int) -> str:
    """The public key of a message: ``queue:id``."""
    return f"{queue}:{message_id}"


def message_id(queue: str, key: str) -> int | None:
    """The id in a public key, or None if the key names no message of this queue."""
    prefix, _, digits = key.rpartition(":")
    if prefix != queue or not (digits.isascii() and digits.isdigit()) or len(digits) > 16:
        return None
    return int(digits)
