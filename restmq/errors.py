"""Everything that can go wrong in the broker, as one tree.

    RestMQError
      BadRequest            what the client sent makes no sense; nothing changed
        BadQueueName
      BadAcl                the access file can't be read or understood; no rule changed
      StoreError            the store did not do it
        StoreAway           it was not asked, or said it can't: nothing changed
        OutcomeUnknown      it was asked and the reply was lost: it may have happened
        StoreFull           it is at its memory limit: nothing changed
        StoreRefused        it answered with an error: nothing changed

Status codes for these are in one table, ``restmq.web.endpoint.STATUS``.
"""


class RestMQError(Exception):
    """The root: every error this package raises on purpose."""


class BadRequest(RestMQError):
    """The client's input is wrong; the text says what and how to mend it."""


class BadQueueName(BadRequest):
    """A queue name that no store key can be made of."""


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
