"""A profile is written and applied to the queues that are, on a real store."""

from __future__ import annotations

from twisted.internet.defer import ensureDeferred, gatherResults

from restmq.core.broker import Broker
from restmq.names import queue_name
from restmq.rules.profiles import Profile, read
from tests.core.test_broker import Brokers
from tests.turns import until

QUEUES = 450
"""More than are looked at in one turn, twice."""


def profile(pattern: str = "jobs.*", **settings: object) -> Profile:
    return read("p", {"pattern": pattern, "settings": settings}, queue_name)


class Applied(Brokers):
    """What becomes of queues that are there."""

    async def queues(self, broker: Broker) -> list[str]:
        names = [f"jobs.{number}" for number in range(QUEUES)]
        await gatherResults([broker.create(name) for name in [*names, "other"]])
        return names

    async def lengths(self, broker: Broker, names: list[str]) -> set[bytes | None]:
        infos = await gatherResults([broker.inspect(name) for name in names])
        return {info.settings.get("max_length") for info in infos}

    async def test_each_queue_is_looked_at_once(self) -> None:
        """By the daemon that has put into them, too, which hears of its own change."""
        broker = await self.broker()
        names = await self.queues(broker)
        looked: list[bytes] = []
        send = broker._store.send

        def watched(command: bytes, heard: object) -> None:
            if b"HMGET" in command:
                looked.append(command)
            send(command, heard)  # type: ignore[arg-type]

        self.patch(broker._store, "send", watched)
        assert not await broker.profiles.put(profile(max_length=5))
        assert await self.lengths(broker, names) == {b"5"}
        assert len(set(looked)) == len(looked) == QUEUES
        assert await self.lengths(broker, ["other"]) == {None}
        assert await broker.profiles.put(profile(max_length=5)), "it was there"
        assert len(looked) == QUEUES, "and nothing is another"

    async def test_who_changes_a_queue_meanwhile_spoils_nothing(self) -> None:
        broker, other = await self.broker(), await self.broker()
        names = await self.queues(broker)
        put = ensureDeferred(broker.profiles.put(profile(max_length=5)))
        changed = [ensureDeferred(other.queue_settings.change(n, {"ttl_ms": "9"})) for n in names]
        await gatherResults([put, *changed])
        await until(lambda: other.profiles.table.version, "the other daemon knows it")
        assert await self.lengths(broker, names) == {b"5"}
        infos = await gatherResults([broker.inspect(name) for name in names])
        assert {info.settings.get("ttl_ms") for info in infos} == {b"9"}

    async def test_two_changes_at_once_are_both_applied(self) -> None:
        broker, other = await self.broker(), await self.broker()
        names = await self.queues(broker)
        second = read("q", {"pattern": "jobs.*", "settings": {"lease": 7}}, queue_name)
        await gatherResults(
            [
                ensureDeferred(broker.profiles.put(profile(max_length=5))),
                ensureDeferred(other.profiles.put(second)),
            ]
        )

        async def found() -> set[tuple[bytes | None, bytes | None]]:
            infos = await gatherResults([broker.inspect(name) for name in names])
            return {(i.settings.get("max_length"), i.settings.get("lease_ms")) for i in infos}

        assert await found() == {(b"5", b"7000")}
