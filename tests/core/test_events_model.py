"""The law of events, played at random against a real Valkey.

Whoever reads from a cursor gets every event behind it that matches, in order, once, whichever daemon
he asks and whatever went wrong meanwhile; or he is told of a gap before anything else. Each play
publishes from several daemons at once, cuts channels and connections, trims by count and wipes the store.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from twisted.internet import reactor, task
from twisted.internet.defer import DeferredList

from restmq.core.broker import Broker
from restmq.core.event_subscribers import Lot
from restmq.core.event_wire import decode_event
from restmq.event import EventCursor, EventGap, EventPage
from restmq.redis.keys import Keys
from restmq.rules.selection import Selection
from tests.core.test_events import EventsCase, news
from tests.turns import until

TOPICS = ("a", "a.b", "a.c", "b", "few.a", "few.b")
SELECTIONS = (
    Selection.everything(),
    Selection.exact("a.b"),
    Selection.parents("a.c"),
    Selection.matching(["*.b", "b"]),
    Selection.below("few"),
)
STEPS = 60


class Got(NamedTuple):
    """A page that a reader got from where it was."""

    selection: Selection
    before: EventCursor
    page: EventPage


class Follower:
    """A subscriber: what it was pushed, with a None for each gap.

    A gap speaks of all that comes with the next lot: retention by pattern leaves holes in the middle.
    """

    def __init__(self, selection: Selection, hungry: bool) -> None:
        self.selection = selection
        self.hungry = hungry
        self.got: list[tuple[int, int] | None] = []
        self.told = False

    def begins(self, cursor: EventCursor) -> None:
        self.got.append(None)

    def deliver_events(self, lot: Lot) -> bool:
        for event in lot.messages:
            self.got += [(lot.epoch, event.id), *([None] if self.told else [])]
        self.told = False
        return self.hungry

    def gap(self, gap: EventGap) -> None:
        self.got.append(None)
        self.told = True


class Play(EventsCase):
    """Random plays; the seed of one that fails is in its message."""

    async def test_nothing_is_missed_or_told_twice(self) -> None:
        await self.play(random.Random(1), 1)

    async def test_nor_in_another_play(self) -> None:
        await self.play(random.Random(2), 2)

    async def test_nor_in_one_that_nobody_chose(self) -> None:
        seed = random.SystemRandom().randrange(1_000_000)
        await self.play(random.Random(seed), seed)

    async def play(self, dice: random.Random, seed: int) -> None:
        brokers = [await self.broker(events_retention=("few.**=0:25",)) for _ in range(3)]
        truth: dict[int, dict[int, str]] = {}
        cursors = dict.fromkeys(SELECTIONS, EventCursor(0, 0))
        pages: list[Got] = []
        followers = []
        for selection in SELECTIONS:
            for hungry in (True, False):
                follower = Follower(selection, hungry)
                followers.append((dice.choice(brokers), follower))
                followers[-1][0].events.subscribe("main", selection, 0, follower)
        for _ in range(STEPS):
            what = dice.choice(
                ("publish", "publish", "publish", "poll", "poll", "cut", "lose", "wipe")
            )
            if what == "publish":
                await self.publish(dice, brokers)
            elif what == "poll":
                for selection in SELECTIONS:
                    page = await self.ask(dice.choice(brokers), selection, cursors[selection], dice)
                    pages.append(Got(selection, cursors[selection], page))
                    cursors[selection] = page.cursor
            else:
                self.spoil(what, dice)
                await self.together(brokers)
            self.look_at_the_store(truth)
            for broker, follower in followers:
                broker.events.resume(follower)
        await self.finish(brokers, followers)
        for got in pages:
            self.check_page(got, truth, seed)
        for _, follower in followers:
            self.check_follower(follower, truth, seed)

    async def publish(self, dice: random.Random, brokers: list[Broker]) -> None:
        """From several daemons at once; one whose connection was cut may fail."""
        sent = []
        for _ in range(dice.randrange(1, 8)):
            topics = [dice.choice(TOPICS) for _ in range(dice.randrange(1, 4))]
            sent.append(dice.choice(brokers).events.publish("main", news(*topics)))
        await DeferredList(sent, consumeErrors=True)

    async def ask(
        self, broker: Broker, selection: Selection, cursor: EventCursor, dice: random.Random
    ) -> EventPage:
        if dice.random() < 0.3:
            return await broker.events.wait("main", selection, cursor, dice.randrange(1, 30), 0.01)
        return await broker.events.read("main", selection, cursor, dice.randrange(1, 30))

    def spoil(self, what: str, dice: random.Random) -> None:
        with self.valkey.client() as client:
            if what == "cut":
                client.client_kill_filter(_type="pubsub")
            elif what == "lose":
                client.client_kill_filter(_type="normal", skipme=True)
            elif dice.random() < 0.2:
                client.flushall()

    async def together(self, brokers: list[Broker]) -> None:
        """All are connected; else a read would rightly fail."""

        async def answers(broker: Broker) -> bool:
            found: Any = await DeferredList([broker.ping()], consumeErrors=True)
            return bool(found[0][0])

        for broker in brokers:
            while not await answers(broker):
                await task.deferLater(reactor, 0.01)

    def look_at_the_store(self, truth: dict[int, dict[int, str]]) -> None:
        names = Keys("restmq:").log("main")
        with self.valkey.client() as client:
            epoch = int(client.hget(names[0], "epoch") or 0)
            here = truth.setdefault(epoch, {})
            was = int(client.hget(names[0], "was") or 0)
            older = truth.get(was, {})
            for key in names[5:8]:
                for _, fields in client.xrange(key):
                    event = decode_event(fields[b"e"])
                    if event.id not in older:
                        here[event.id] = event.topic

    async def finish(self, brokers: list[Broker], followers: list[tuple[Broker, Follower]]) -> None:
        """Every subscriber comes to the end."""
        await self.together(brokers)
        (last,) = await brokers[0].events.publish("main", news("a.b"))
        for broker, follower in followers:

            def there(broker: Broker = broker, follower: Follower = follower) -> bool:
                broker.events.resume(follower)
                position = broker.events.position(follower)
                return position is not None and position.id >= last

            await until(there, lambda: "a subscriber is at the end")

    def check_page(self, got: Got, truth: dict[int, dict[int, str]], seed: int) -> None:
        ids = [event.id for event in got.page.events]
        assert ids == sorted(set(ids)), f"seed {seed}: {ids}"
        if got.page.gap is not None:
            return
        epoch, last = got.page.cursor
        assert got.before.epoch in (0, epoch), f"seed {seed}: another epoch and no gap"
        if got.before.epoch == 0:
            return  # from the beginning: what is trimmed is not missed
        wanted = [
            number
            for number, topic in sorted(truth.get(epoch, {}).items())
            if got.before.id < number <= last and got.selection.matches(topic)
        ]
        assert ids == wanted, f"seed {seed}: from {got.before} to {got.page.cursor}"

    def check_follower(
        self, follower: Follower, truth: dict[int, dict[int, str]], seed: int
    ) -> None:
        seen: set[tuple[int, int]] = set()
        for one, two in zip(follower.got, follower.got[1:], strict=False):
            if one is not None:
                assert one not in seen, f"seed {seed}: {one} twice"
                seen.add(one)
            if one is None or two is None:
                continue
            assert one[0] == two[0], f"seed {seed}: {one} before {two}"
            assert one[1] < two[1], f"seed {seed}: {one} before {two}"
            between = [
                number
                for number, topic in truth.get(one[0], {}).items()
                if one[1] < number < two[1] and follower.selection.matches(topic)
            ]
            assert not between, f"seed {seed}: {between} between {one} and {two}"
