"""How a stream over HTTP begins, for every door that has one.

A queue in mode jobs is only for those who acknowledge (or observe), and what can't be done with the
queue as it is gets 409 before the stream begins. While the store is away nobody can tell, so the
stream begins and waits: an answer of 503 would make a browser give up for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.python.failure import Failure

from restmq.errors import LeasedOnly, StoreError, WrongDelivery
from restmq.message import Mode, Policy, QueueInfo
from restmq.rules.buffer import Slow
from restmq.web.exchange import Exchange
from restmq.web.stream import Choices, Cursor, Stream, bound_kernel_buffer
from restmq.web.wires import Wire


def refuse_unfit(info: QueueInfo, choices: Choices) -> None:
    """Raise LeasedOnly or WrongDelivery if a stream with these choices makes no sense here."""
    if choices.observe:
        return
    dealt = info.mode is Mode.JOBS or info.policy is Policy.ROUNDROBIN
    if info.mode is Mode.JOBS and choices.lease is None:
        raise LeasedOnly.of(info.name)
    if choices.lease is not None and not dealt:
        raise WrongDelivery(
            f"ack=1 needs round robin, and {info.name!r} is broadcast: POST policy=roundrobin to "
            "/p, or set delivery to roundrobin"
        )
    if choices.slow is Slow.BLOCK and not dealt:
        raise WrongDelivery(
            f"slow=block needs round robin, and {info.name!r} is broadcast: it would hold up all "
            "the others"
        )


def check(broker: Any, queues: Sequence[str], choices: Choices) -> Deferred[Mapping[str, Cursor]]:
    """Fires when the stream may begin, with where each queue is, as far as the store tells.

    Fails with LeasedOnly or WrongDelivery.
    """
    asked = [broker.inspect(queue) for queue in queues]

    def looked(infos: list[QueueInfo]) -> Mapping[str, Cursor]:
        for info in infos:
            refuse_unfit(info, choices)
        return {info.name: Cursor(info.epoch, info.place) for info in infos}

    def away(failure: Failure) -> Mapping[str, Cursor]:
        wrapper = failure.value
        assert isinstance(wrapper, FirstError)
        if not isinstance(wrapper.subFailure.value, StoreError):
            wrapper.subFailure.raiseException()  # a bug
        return {}

    return gatherResults(asked, consumeErrors=True).addCallbacks(looked, away)


def begin(
    broker: Any,
    exchange: Exchange,
    wire: Wire,
    choices: Choices,
    queues: Mapping[str, Cursor | None],
    *,
    here: Mapping[str, Cursor] = MappingProxyType({}),
) -> Stream | None:
    """Attach the client to its queues, from the cursors on; the response must have begun.

    ``here`` is what `check` told.

    None if the client left meanwhile.
    """
    if not exchange.open:
        return None
    bound_kernel_buffer(exchange.transport)
    stream = Stream(broker.beats, exchange, wire, choices)
    exchange.gone.addCallback(stream.left)
    exchange.on_closing = stream.shut_down
    stream.open(broker, queues, here)
    return stream
