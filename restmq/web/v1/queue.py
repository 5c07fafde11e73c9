"""``/v1/queues`` and ``/v1/queues/QUEUE``: what there is, making sure it is, taking it away; stop and go.

Every call is there without the queue in the path, too: ``/v1/queue?queue=NAME``, ``/v1/purge?queue=NAME`` ...
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from bisect import bisect_left, bisect_right
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

from twisted.internet import task
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults, succeed

from restmq.core.asking import first_error
from restmq.message import Mode, Policy, QueueInfo
from restmq.rules import queue_settings
from restmq.web.describe import (
    CURSOR,
    NAME,
    STRING,
    WHOLE,
    describe,
    items,
    record,
    whole,
    words,
)
from restmq.web.endpoint import Access, Reply, endpoint
from restmq.web.v1.endpoint import V1Endpoint, named_queue, v1_name
from restmq.web.v1.given import Given
from restmq.web.v1.messages import MAX_LIST, dead_letters, page_limit
from restmq.web.v1.problems import Problem
from restmq.web.v1.settings import PATCH

MAX_RATE: Final = 10_000
MAX_MOVED: Final = 1_000_000
MAX_STEP: Final = 1000
PAUSED: Final[Mapping[bytes, str]] = {b"0": "all", b"2": "push"}
"""By the queue's field ``st``: what is held back."""
SETTINGS: Final = tuple(dict.fromkeys(s.word.partition(".")[0] for s in queue_settings.SETTINGS))
TRUTH: Final = {"enum": [True, False, 1, 0]}
QUEUE: Final = {
    "name": NAME,
    "ready": WHOLE,
    "leased": WHOLE,
    "delayed": WHOLE,
    "dead": WHOLE,
    "consumers": WHOLE,
    "delivery": words("broadcast", "roundrobin"),
    "mode": words("open", "jobs"),
    "paused": words("none", "push", "all"),
    "oldest_age": {"type": ["number", "null"], "minimum": 0},
}
ONE: Final = record(QUEUE, redelivered=WHOLE, dropped=WHOLE)
SWITCHED: Final = record(queue=NAME, paused=words("none", "push", "all"))
STATUS: Final[Mapping[str, int]] = {"none": 1, "all": 0, "push": 2}


def cursor_of(name: str) -> str:
    """Where a page of names ended."""
    return urlsafe_b64encode(name.encode("utf-8")).decode("ascii").rstrip("=")


def read_cursor(given: Given) -> str:
    """The name after which the page begins. Raises Problem."""
    text = given.text("cursor") or ""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8")
    except (NotBase64, ValueError):
        raise given.wrong("cursor", "is one that this list gave", text) from None


def page_of(names: Sequence[str], prefix: str, after: str, limit: int) -> tuple[list[str], bool]:
    """The sorted names with this prefix that come after that one, and whether more follow."""
    start = max(bisect_left(names, prefix), bisect_right(names, after) if after else 0)
    found = [name for name in names[start : start + limit + 1] if name.startswith(prefix)]
    return found[:limit], len(found) > limit


def described(info: QueueInfo, dead: int) -> dict[str, Any]:
    """A queue as an element of the list; ``dead`` are the messages that wait in its dead-letter queue."""
    policy = info.policy or (Policy.ROUNDROBIN if info.mode is Mode.JOBS else Policy.BROADCAST)
    age = max(0.0, (info.now_ms - info.oldest_ms) / 1000) if info.oldest_ms else None
    return {
        "name": info.name,
        "ready": info.length,
        "leased": info.leased,
        "delayed": info.delayed,
        "dead": dead,
        "consumers": sum(info.consumers.values()),
        "delivery": policy.name.lower(),
        "mode": (info.mode or Mode.OPEN).name.lower(),
        "paused": PAUSED.get(info.settings.get("st", b""), "none"),
        "oldest_age": age,
    }


def is_known(info: QueueInfo) -> bool:
    """Whether somebody has used the queue, or made it."""
    return info.started is not None or info.mode is not None or info.last_id > 0


class _Describing(V1Endpoint):
    def describe(self, infos: Sequence[QueueInfo]) -> Deferred[list[dict[str, Any]]]:
        """These queues, each with what waits in its dead-letter queue."""
        asked = [self._waiting_in(dead_letters(info)) for info in infos]
        looked = gatherResults(asked, consumeErrors=True).addErrback(first_error)
        return looked.addCallback(lambda dead: list(map(described, infos, dead)))

    def _waiting_in(self, queue: str | None) -> Deferred[int]:
        if queue is None:
            return succeed(0)
        inspected: Deferred[QueueInfo] = self.broker.inspect(queue)
        return inspected.addCallback(lambda info: info.length)


class QueueList(_Describing):
    """``/v1/queues``."""

    @endpoint(Access.CONSUMER)
    @describe(
        query={"prefix": STRING, "limit": whole(1, MAX_LIST), "cursor": STRING},
        replies={200: record(queues=items(record(QUEUE)), cursor=CURSOR)},
    )
    async def get(self) -> Reply:
        """A page of the queues, sorted by name; each is of its own moment."""
        given = self.given_in_query(("prefix", "limit", "cursor"))
        prefix, after, limit = given.text("prefix") or "", read_cursor(given), page_limit(given)
        names, more = page_of(await self.broker.queue_names(), prefix, after, limit)
        asked = [self.broker.inspect(name) for name in names]
        infos = await gatherResults(asked, consumeErrors=True).addErrback(first_error)
        cursor = cursor_of(names[-1]) if more else None
        return self.json({"queues": await self.describe(infos), "cursor": cursor})


class OneQueue(_Describing):
    """``/v1/queues/QUEUE``, ``/v1/queue``."""

    @endpoint(Access.CONSUMER)
    @describe(replies={200: ONE})
    def get(self, queue: str) -> Deferred[Reply]:
        """What the queue holds."""
        name = named_queue(queue, self.given_in_query(("queue",)))
        inspected: Deferred[QueueInfo] = self.broker.inspect(name)
        return inspected.addCallback(self._one, 200)

    def _one(self, info: QueueInfo, status: int) -> Deferred[Reply]:
        if status == 200 and not is_known(info):
            raise Problem("unknown_queue", f"there is no queue {info.name!r}")
        counters = {"redelivered": info.redelivered, "dropped": info.dropped}
        described = self.describe([info])
        return described.addCallback(lambda all_: self.json(all_[0] | counters, status))

    @endpoint(Access.PRODUCER)
    @describe(body=PATCH, replies={200: ONE, 201: ONE})
    def put(self, queue: str) -> Deferred[Reply]:
        """Make sure that it exists, with these settings; 201 if it is new."""
        given = self.given(("queue", *SETTINGS))
        name = named_queue(queue, given)
        changes = queue_settings.read(given.members(SETTINGS), v1_name)
        if not changes:
            return self.broker.create(name).addCallback(self._made, name)
        inspected: Deferred[QueueInfo] = self.broker.inspect(name)
        return inspected.addCallback(self._change, changes)

    def _change(self, info: QueueInfo, changes: Mapping[str, str | None]) -> Deferred[Reply]:
        """Makes it, or nothing: settings that make no sense together are a BadRequest."""
        change = self.broker.queue_settings.change(info.name, changes, replace=False)
        return ensureDeferred(change).addCallback(
            lambda _: self._made(not is_known(info), info.name)
        )

    def _made(self, is_new: bool, name: str) -> Deferred[Reply]:
        inspected: Deferred[QueueInfo] = self.broker.inspect(name)
        return inspected.addCallback(self._one, 201 if is_new else 200)

    @endpoint(Access.PRODUCER)
    @describe(fields={"force": TRUTH}, replies={204: None})
    def delete(self, queue: str) -> Deferred[Reply]:
        """Take it away with its settings; only with ``force`` while it holds messages."""
        given = self.given(("queue", "force"))
        name, force = named_queue(queue, given), given.truth("force")
        removed: Deferred[str] = self.broker.remove(name, force)
        return removed.addCallback(self._removed, name)

    def _removed(self, outcome: str, name: str) -> Reply:
        if outcome == "not_empty":
            raise Problem("not_empty", f"there are messages in {name!r}: force=true deletes them")
        return self.nothing()


class Purge(V1Endpoint):
    """``/v1/queues/QUEUE/purge``."""

    @endpoint(Access.PRODUCER)
    @describe(replies={200: record(deleted=WHOLE)})
    def post(self, queue: str) -> Deferred[Reply]:
        """Delete all messages, those that are leased or delayed, too; streams end."""
        name = named_queue(queue, self.given(("queue",)))
        purged: Deferred[int] = self.broker.purge(name)
        return purged.addCallback(lambda count: self.json({"deleted": count}))


class _Switch(V1Endpoint):
    def set(self, name: str, paused: str) -> Deferred[Reply]:
        """Hold back, or let go."""
        changed: Deferred[None] = self.broker.change(name, {"st": STATUS[paused]})
        return changed.addCallback(lambda _: self.json({"queue": name, "paused": paused}))


class Pause(_Switch):
    """``/v1/queues/QUEUE/pause``."""

    @endpoint(Access.PRODUCER)
    @describe(fields={"paused": words("push", "all")}, replies={200: SWITCHED})
    def post(self, queue: str) -> Deferred[Reply]:
        """Hold back the push to streams, and ``receive`` unless ``paused`` is push."""
        given = self.given(("queue", "paused"))
        name, paused = named_queue(queue, given), given.word("paused", ("push", "all")) or "all"
        return self.set(name, paused)


class Resume(_Switch):
    """``/v1/queues/QUEUE/resume``."""

    @endpoint(Access.PRODUCER)
    @describe(replies={200: SWITCHED})
    def post(self, queue: str) -> Deferred[Reply]:
        """Let everything go on."""
        return self.set(named_queue(queue, self.given(("queue",))), "none")


class Redrive(V1Endpoint):
    """``/v1/queues/DEAD_LETTERS/redrive``."""

    @endpoint(Access.PRODUCER)
    @describe(
        fields={"to": NAME, "limit": whole(1, MAX_MOVED), "rate": whole(1, MAX_RATE)},
        replies={200: record(moved=WHOLE)},
    )
    def post(self, queue: str) -> Coroutine[Any, Any, Reply]:
        """Send dead letters back, each to where it came from, or all to the queue ``to``.

        With ``rate`` so many a second, for as long as a receive may wait at most; what is left then is for the
        next call.
        """
        given = self.given(("queue", "to", "limit", "rate"))
        name, to = named_queue(queue, given), given.text("to")
        limit = given.whole("limit", MAX_MOVED, 1, MAX_MOVED)
        target = "" if to is None else v1_name(to)
        if target == name:
            raise given.wrong("to", "is another queue", to)
        return self._move(name, target, limit, given.whole("rate", 0, 1, MAX_RATE))

    async def _move(self, name: str, target: str, limit: int, rate: int) -> Reply:
        """A step at a time, so that nobody else waits long; what comes back meanwhile is not sent again."""
        moved, limit = 0, min(limit, (await self.broker.inspect(name)).length)
        step = max(1, rate // 10) if rate else MAX_STEP
        clock = self.broker.clock
        begun = clock.seconds()
        while moved < limit and clock.seconds() - begun < self.settings.max_wait:
            more = await self.broker.redrive(name, target, min(limit - moved, step, MAX_STEP))
            if not more or not self.exchange.open:
                break
            moved += more
            if rate and moved < limit:
                await task.deferLater(clock, max(0.0, begun + moved / rate - clock.seconds()))
        return self.json({"moved": moved})
