"""Commands to a Redis server in one stream, replies in the order of the commands (RESP2).

No socket here: bytes out through ``write``, bytes in through ``feed``. A command costs an append
and a callback; what was sent within one turn leaves in one write when ``flush`` is called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

from restmq.errors import (
    LeasedOnly,
    Limited,
    OutcomeUnknown,
    StoreAway,
    StoreError,
    StoreFull,
    StoreRefused,
)

Callback = Callable[[Any], None]
"""Gets the reply: bytes, int, list or None, or a StoreError instance if there is none."""

_ERRORS = {
    "OOM": StoreFull,
    "LOADING": StoreAway,
    "READONLY": StoreAway,
    "MASTERDOWN": StoreAway,
    "CLUSTERDOWN": StoreAway,
    "MISCONF": StoreAway,
    "NOREPLICAS": StoreAway,
    "NOSCRIPT": StoreAway,
    "NOAUTH": StoreAway,
    "BUSY": StoreAway,
    "NOPERM": StoreRefused,
    "LEASEDONLY": LeasedOnly,
    "LIMITED": Limited,
}


def encode(*arguments: bytes) -> bytes:
    """A command as RESP wants it: an array of bulk strings."""
    return b"*%d\r\n%s" % (len(arguments), encode_arguments(*arguments))


def encode_arguments(*arguments: bytes) -> bytes:
    """Arguments without the array's head, to be put together later."""
    return b"".join([b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments])


def store_error(text: str) -> StoreError:
    """The error of ours for an error reply of the server."""
    word = text.split(" ", 1)[0]
    kind: type[StoreError] = _ERRORS.get(word, StoreRefused)
    return kind(text)


class Pipeline:
    """The commands under way on one connection."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        clock: Callable[[], float],
        scripts_gone: Callable[[], None] = lambda: None,
    ) -> None:
        """``write`` sends bytes; ``clock`` gives seconds.

        ``scripts_gone`` is called when the server does not know a script, before the callback is.
        """
        self._write = write
        self._clock = clock
        self._reader = hiredis.Reader(replyError=self._error)
        self._out: list[bytes] = []
        self._waiting: deque[Callback] = deque()
        self._heard = 0.0
        self._scripts_gone = scripts_gone

    def _error(self, text: str) -> StoreError:
        if text.startswith("NOSCRIPT"):
            self._scripts_gone()
        return store_error(text)

    def send(self, command: bytes, callback: Callback) -> None:
        """Put an encoded command into the stream; it leaves at the next `flush`."""
        if not self._waiting:
            self._heard = self._clock()
        self._out.append(command)
        self._waiting.append(callback)

    def flush(self) -> None:
        """Send what has gathered, in one write."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._write(data)

    def feed(self, data: bytes) -> None:
        """Hand on the replies that these bytes complete.

        Raises hiredis.ProtocolError when they are no RESP.
        """
        self._heard = self._clock()
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        reply = reader.gets()
        while reply is not False:
            waiting.popleft()(reply)
            reply = reader.gets()

    def silent_for(self) -> float:
        """Seconds since a reply came, with one outstanding; 0 when none is."""
        return self._clock() - self._heard if self._waiting else 0.0

    def lost(self) -> None:
        """The connection is gone: what left may have happened, what gathered did not."""
        unsent = len(self._out)
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        sent = len(waiting) - unsent
        for n, callback in enumerate(waiting):
            if n < sent:
                callback(OutcomeUnknown("the connection to the store was lost before its reply"))
            else:
                callback(StoreAway("no connection to the store"))
