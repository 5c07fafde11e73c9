"""Small help for asking the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, FirstError
from twisted.python.failure import Failure

from restmq.errors import StoreError
from restmq.redis.pipeline import Callback


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


def first_error(failure: Failure) -> Failure:
    """The error itself instead of gatherResults' wrapper."""
    wrapper = failure.value
    assert isinstance(wrapper, FirstError)
    return wrapper.subFailure
