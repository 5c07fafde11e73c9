"""Receipts: the proof that a message was handed out under a lease, for ack and nack.

A receipt is opaque to clients: URL-safe base64 (RFC 4648, section 5, no padding) of epoch, position of
the chunk and id, seven bytes each, and the queue's name in UTF-8. When the message was handed out
anew its receipt is another one, so an old one is stale.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

LEASED = 1 << 52
"""Receipts of messages that were received have this and the number of the lease for a position, others that of a chunk."""

_NUMBERS = 21
_FORM = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
MAX_RECEIPT = 32768
"""Characters; the longest queue name has 16,384 bytes."""


class Receipt(NamedTuple):
    """A message under a lease: where the store has it."""

    queue: str
    epoch: int
    pos: int
    id: int

    def encode(self) -> str:
        """As the client gets it."""
        numbers = b"".join([number.to_bytes(7, "big") for number in self[1:]])
        return urlsafe_b64encode(numbers + self.queue.encode("utf-8")).rstrip(b"=").decode("ascii")


def decode(text: str) -> Receipt | None:
    """The receipt in this text, or None if there is none."""
    if len(text) > MAX_RECEIPT or _FORM.fullmatch(text) is None:
        return None
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        queue = data[_NUMBERS:].decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    if len(data) < _NUMBERS:
        return None
    epoch, pos, number = (int.from_bytes(data[at : at + 7], "big") for at in (0, 7, 14))
    return Receipt(queue, epoch, pos, number)
