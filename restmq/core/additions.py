"""Messages on their way into a queue: what a turn brought together, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred

from restmq.core.packs import Pack
from restmq.core.wire import encode_more, encode_payload, encode_ttls
from restmq.errors import PartlyRefused, QueueFull, RateLimited, StoreError
from restmq.message import Mode, NewMessage, Put
from restmq.redis.pipeline import encode_arguments


def encoded_payload(message: NewMessage) -> bytes:
    """The argument of a script, encoded."""
    payload = encode_payload(message.body, message.content_type)
    if message.headers or message.priority:
        payload = encode_more(message.headers, abs(message.priority)) + payload
    return b"$%d\r\n%s\r\n" % (len(payload), payload)


def _split_arguments(encoded: bytes) -> list[bytes]:
    """Arguments that were encoded together, one by one."""
    found, at = [], 0
    while at < len(encoded):
        line_end = encoded.index(b"\r\n", at)
        end = line_end + 2 + int(encoded[at + 1 : line_end]) + 2
        found.append(encoded[at:end])
        at = end
    return found


class Adds:
    """The messages of one queue that this turn brought, encoded, and who waits for their ids."""

    __slots__ = ("mode", "payloads", "size", "ttls", "waiting")

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.ttls: list[int] = []
        self.waiting: list[Deferred[int]] = []
        self.size = 0
        self.mode: Mode | None = None

    def arguments(self) -> tuple[bytes, int, bytes]:
        """What add.lua is told of them: ARGV 3, how many more there are, and these, encoded."""
        return encode_ttls(self.ttls), len(self.ttls), b"".join(self.payloads)

    def each_payload(self) -> list[bytes]:
        """The payload of each as an argument of put.lua, encoded."""
        joined = b"".join(self.payloads)
        return _split_arguments(joined) if len(self.ttls) > len(self.payloads) else self.payloads

    def added(self, first: int) -> None:
        """They are in, with ids from this one on."""
        for number, deferred in enumerate(self.waiting, first):
            deferred.callback(number)

    def failed(self, error: StoreError) -> None:
        """None is in, or nobody knows."""
        for deferred in self.waiting:
            deferred.errback(error)

    def put(self, puts: list[Put]) -> None:
        """The queue has bounds: what became of each."""
        for put, deferred in zip(puts, self.waiting, strict=True):
            if put.error:
                deferred.errback(refusal(put))
            else:
                deferred.callback(put.id)


class Many(Adds):
    """Messages that are put in by one call, and who hears of it."""

    __slots__ = ("answer", "limits")

    def __init__(self, answer: Callable[[int | StoreError], None], limits: bool) -> None:
        """``limits``: the one who asked goes another way where the queue has bounds."""
        super().__init__()
        self.answer = answer
        self.limits = limits

    def added(self, first: int) -> None:
        """See Adds."""
        self.answer(first)

    def failed(self, error: StoreError) -> None:
        """See Adds."""
        self.answer(error)

    def put(self, puts: list[Put]) -> None:
        """Together they are in if each is; else the error says how many are not."""
        refused = [put for put in puts if put.error]
        if not refused:
            self.answer(puts[0].id)
        elif len(refused) == len(puts):
            self.answer(refusal(refused[0]))
        else:
            self.answer(PartlyRefused(str(refusal(refused[0])), len(refused)))


class Packs(Many):
    """Messages that are put in as packs."""

    __slots__ = ("packs",)

    def __init__(self, answer: Callable[[int | StoreError], None], packs: Sequence[Pack]) -> None:
        super().__init__(answer, limits=False)
        self.packs = packs
        self.ttls = [0] * sum(pack.messages for pack in packs)

    def arguments(self) -> tuple[bytes, int, bytes]:
        """See Adds."""
        return b"packs", len(self.packs), encode_arguments(*[p.encoded() for p in self.packs])

    def each_payload(self) -> list[bytes]:
        """See Adds."""
        bodies = [body for pack in self.packs for body in pack.bodies()]
        return [encode_arguments(encode_payload(body, None)) for body in bodies]


def answers(done: Deferred[int]) -> Callable[[int | StoreError], None]:
    """Fires it with the first id, or fails it."""

    def answer(first: int | StoreError) -> None:
        if isinstance(first, StoreError):
            done.errback(first)
        else:
            done.callback(first)

    return answer


def refusal(put: Put) -> StoreError:
    """The error of a message that its queue did not take."""
    if put.error == "rate_limited":
        return RateLimited("the queue takes no more messages this moment", put.retry_ms)
    return QueueFull("the queue has as many messages as its settings allow")
