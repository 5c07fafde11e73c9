"""Everything that can go wrong in the broker, as one tree.

    RestMQError
      BadRequest            what the client sent makes no sense; nothing changed
        BadQueueName
      WrongDelivery         what is asked needs round robin, and the queue is broadcast; nothing changed
      TooManyQueues         there are as many as there may be; nothing changed
      TooManyBindings       the log has as many as it may; nothing changed
      BadAcl                the access file can't be read or understood; no rule changed
      StoreError            the store did not do it
        StoreAway           it was not asked, or said it can't: nothing changed
        OutcomeUnknown      it was asked and the reply was lost: it may have happened
        StoreFull           it is at its memory limit: nothing changed
        StoreRefused        it answered with an error: nothing changed
        LeasedOnly          the queue's mode forbids it: nothing changed
        Limited             the queue has bounds of its own: nothing changed, another way decides
        QueueFull           it has as many messages as it may: nothing changed
          PartlyRefused     of several messages it took some only
        RateLimited         it gets more messages a second than it may: nothing changed

Status codes for these are in one table, ``restmq.web.endpoint.STATUS``.
"""

from __future__ import annotations


class RestMQError(Exception):
    """The root: every error this package raises on purpose."""


class BadRequest(RestMQError):
    """The client's input is wrong; the text says what and how to mend it."""


class BadMember(BadRequest):
    """One member of a JSON object is wrong: ``pointer`` (RFC 6901) says which, ``detail`` how."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer[1:].replace('/', '.') or 'the body'}: {detail}")
        self.pointer = pointer
        self.detail = detail


class BadQueueName(BadRequest):
    """A queue name that no store key can be made of."""


class WrongDelivery(RestMQError):
    """What is asked makes no sense with the queue's delivery; the text says how to mend it."""


class BadAcl(RestMQError):
    """The access file can't be read or understood; the text says where, and how to mend it."""


class StoreError(RestMQError):
    """The store could not do what was asked."""


class StoreAway(StoreError):
    """No connection to the store, or it is loading or read-only. Nothing changed."""


class OutcomeUnknown(StoreError):
    """The command was sent and no reply came: it may or may not have happened."""


class StoreFull(StoreError):
    """The store is at its memory limit. Nothing changed."""


class StoreRefused(StoreError):
    """The store answered with an error of its own, kept as the text. Nothing changed."""


class LeasedOnly(StoreError):
    """The queue's mode is jobs: its messages are handed out under a lease only. Nothing changed."""

    @classmethod
    def of(cls, queue: str) -> LeasedOnly:
        """The error in words for clients."""
        return cls(
            f"the queue {queue!r} is in mode jobs: its messages are handed out under a lease only "
            "(a stream with ack=1); observe=1 gives copies, and the setting mode=open lets every "
            "door take them"
        )


class Limited(StoreError):
    """The queue has bounds or a time to live of its own, which the fast way in does not know. Nothing changed."""


class QueueFull(StoreError):
    """The queue has as many messages, or bytes, as it may. Nothing changed."""


class PartlyRefused(QueueFull):
    """Of messages that were put in together the queue took some: its bounds allow no more."""

    def __init__(self, text: str, refused: int) -> None:
        """``refused``: how many it did not take."""
        super().__init__(text)
        self.refused = refused


class TooManyQueues(RestMQError):
    """A new queue would be one more than the operator allows. Nothing changed."""


class TooManyBindings(RestMQError):
    """A new binding would be one more than a log may have. Nothing changed."""


class KeyReused(StoreError):
    """The idempotency key was used for something else. Nothing changed."""


class RateLimited(StoreError):
    """More messages a second than the queue's setting allows. Nothing changed."""

    def __init__(self, text: str, retry_ms: int = 1000) -> None:
        """``retry_ms``: when there is room again, at the earliest."""
        super().__init__(text)
        self.retry_ms = retry_ms
