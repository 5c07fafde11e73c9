"""A receive that stands on ``/v1/ws``: as many messages as the client gave credit for, as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from restmq.core.jobs import Leased
from restmq.errors import StoreError
from restmq.web.v1.receive import Asked

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from restmq.web.transmit import Outlet

MAX_CREDIT: Final = 1000
MAX_BACKLOG: Final = 1048576
"""Bytes that may wait for a client before no more is leased for it."""
WAIT_SECONDS: Final = 50.0
"""Of one receive; then comes the next."""
PAUSE_SECONDS: Final = 0.5
"""Until the store is asked again that was away."""


class Standing:
    """``credit`` messages are still to come; each that comes takes one away."""

    def __init__(
        self,
        broker: Any,
        outlet: Outlet,
        asked: Asked,
        deliver: Callable[[Leased], None],
        is_there: Callable[[], bool],
    ) -> None:
        """Nothing is received before there is credit. ``deliver`` sends one message.

        ``is_there`` tells whether the client can still be sent anything.
        """
        self.credit = 0
        self._broker = broker
        self._outlet = outlet
        self._asked = asked
        self._deliver = deliver
        self._is_there = is_there
        self._receiving: Any = None
        self._pause: IDelayedCall | None = None
        self._over = False

    def give(self, credit: int) -> None:
        """So many more may come."""
        self.credit += credit
        self._receive()

    def stop(self) -> None:
        """No more; what is being taken goes back."""
        self._over = True
        if self._pause is not None and self._pause.active():
            self._pause.cancel()
        if self._receiving is not None:
            self._receiving.cancel()

    def _receive(self) -> None:
        self._pause = None
        if self._over or self._receiving is not None or not self.credit:
            return
        if self._outlet.backlog() > MAX_BACKLOG:
            self._outlet.when_drained(self._receive)
            return
        queues, _, _, lease_ms = self._asked
        self._receiving = self._broker.receive(queues, self.credit, WAIT_SECONDS, lease_ms, key=b"")
        self._receiving.done.addCallbacks(self._received, self._failed)

    def _received(self, messages: list[Leased]) -> None:
        receiving, self._receiving = self._receiving, None
        if not self._is_there():
            receiving.cancel()
            return
        self.credit -= len(messages)
        for leased in messages:
            self._deliver(leased)
        self._receive()

    def _failed(self, failure: Failure) -> None:
        """While the store is away the client waits, as on every stream."""
        if not isinstance(failure.value, StoreError):
            failure.raiseException()
        self._receiving = None
        if not self._over:
            self._pause = self._broker.clock.callLater(PAUSE_SECONDS, self._receive)
