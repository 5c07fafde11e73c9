"""Small help for asking the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, FirstError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from restmq.errors import StoreError
from restmq.redis.pipeline import Callback

RETRY_SECONDS: Final = 0.2


def ask(send: Callable[[bytes, Callback], None], command: bytes) -> Deferred[Any]:
    """The reply to a command, by ``Store.send`` or ``Store.read``; fails with a StoreError."""
    done: Deferred[Any] = Deferred()

    def replied(reply: Any) -> None:
        if isinstance(reply, StoreError):
            done.errback(reply)
        else:
            done.callback(reply)

    send(command, replied)
    return done


def ask_all(send: Callable[[bytes, Callback], None], commands: Sequence[bytes]) -> Deferred[Any]:
    """The replies to commands that are sent together; fails with the first StoreError, when all are answered."""
    done: Deferred[list[Any]] = Deferred()
    replies: list[Any] = []

    def replied(reply: Any) -> None:
        replies.append(reply)
        if len(replies) == len(commands):
            error = next((one for one in replies if isinstance(one, StoreError)), None)
            if error is None:
                done.callback(replies)
            else:
                done.errback(error)

    for command in commands:
        send(command, replied)
    if not commands:
        done.callback(replies)
    return done


def first_error(failure: Failure) -> Failure:
    """The error itself instead of gatherResults' wrapper."""
    wrapper = failure.value
    assert isinstance(wrapper, FirstError)
    return wrapper.subFailure


class Retries:
    """What is tried again a little later, unless the daemon ends before."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[object, IDelayedCall] = {}

    def later(self, call: Callable[[], None]) -> None:
        """Call it in RETRY_SECONDS."""
        place = object()

        def again() -> None:
            del self._waiting[place]
            call()

        self._waiting[place] = self._clock.callLater(RETRY_SECONDS, again)

    def stop(self) -> None:
        """Call nothing that waits."""
        waiting, self._waiting = self._waiting, {}
        for retry in waiting.values():
            retry.cancel()
