"""The profiles in the memory of this daemon: read from the store, kept up to date, applied to queues.

They lie in one hash of the store, with a version that every change raises. All daemons hear a change on a
channel, and look at the version every few seconds in case they did not. Who changes a profile applies it to
the queues that exist before it answers; should it die on the way, another daemon finds that ``:applied`` is not
``:version`` and that nothing goes on (``:progress``), and goes over all queues. A daemon that learns of a change applies it to the queues it has put into
lately itself, since it may have made one of them with the settings of before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import orjson
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from restmq.core.asking import ask
from restmq.core.scripted import KEPT
from restmq.errors import BadRequest, StoreError
from restmq.message import Mode
from restmq.names import queue_name
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode
from restmq.redis.scripts import Script
from restmq.rules.profiles import Profile, Table, read

VERSION, APPLIED, PROGRESS = b":version", b":applied", b":progress"
AT_ONCE: Final = 200
"""So many queues are looked at in one turn."""


class TooManyProfiles(BadRequest):
    """There are as many as the operator allows."""


class Profiles:
    """All profiles. ``table`` are those of now, none before the store was read."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        script: Script,
        key: bytes,
        most: int,
    ) -> None:
        """``key`` is the hash and the channel; ``most`` is how many there may be.

        Set ``names`` (all queues), ``listed`` (those this daemon puts into) and ``apply`` before `start`.
        """
        self._clock = clock
        self._store = store
        self._script = script
        self._key = key
        self._most = most
        self.table = Table()
        self._creation: dict[tuple[str, Mode | None], str] = {}
        self.names: Callable[[], Deferred[list[str]]]
        self.listed: Callable[[], Collection[str]]
        self.apply: Callable[[Sequence[str]], Any]
        self._loaded = False
        self._unapplied: tuple[int, bytes] | None = None
        self._busy = False
        self._changing = 0

    # ---- changes

    async def put(self, profile: Profile) -> bool:
        """Write a profile, and apply it to the queues that exist; whether it was there before.

        Raises TooManyProfiles. Fails with a StoreError.
        """
        return await self._change(profile.name, orjson.dumps(profile.json()))

    async def delete(self, name: str) -> bool:
        """Delete a profile; False if there was none."""
        return await self._change(name, b"")

    async def _change(self, name: str, text: bytes) -> bool:
        before = applied = await self.current()
        arguments = (self._key, name.encode(), text, b"%d" % self._most)
        command = encode(b"EVALSHA", self._script.sha, b"1", *arguments)
        self._changing += 1
        try:
            version, was = await ask(self._store.send, command)
            if text and version == b"0":
                raise TooManyProfiles(f"there are {self._most} profiles already (--max-profiles)")
            if text or was:
                await self._load()
                applied = self.table
                await self._sweep(lambda queue: before.of(queue) != self.table.of(queue))
        finally:
            self._changing -= 1
            self._apply_since(applied)  # what others changed while we were at it
        if text or was:
            await self._say_applied(int(version))
        return bool(was)

    def creation_fields(self, queue: str, mode: Mode | None) -> str:
        """What a new queue gets: see `Table.creation_fields`. Asked with every message."""
        if not self.table.profiles:
            return self.table.creation_fields(queue, mode)
        found = self._creation.get((queue, mode))
        if found is None:
            if len(self._creation) >= KEPT:
                del self._creation[next(iter(self._creation))]
            found = self._creation[queue, mode] = self.table.creation_fields(queue, mode)
        return found

    async def current(self) -> Table:
        """The profiles, read from the store if they have not been yet."""
        if not self._loaded:
            await self._load()
        return self.table

    def reload(self) -> Deferred[None]:
        """Read them anew."""
        return ensureDeferred(self._load())

    async def _load(self) -> None:
        flat = await ask(self._store.read, encode(b"HGETALL", self._key))
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        version = int(found.pop(VERSION, b"0"))
        found.pop(APPLIED, None)
        found.pop(PROGRESS, None)
        if version != self.table.version:
            profiles = (self._read(name.decode(), text) for name, text in found.items())
            self._replace(Table(filter(None, profiles), version))
        self._loaded = True

    def _read(self, name: str, text: bytes) -> Profile | None:
        try:
            return read(name, orjson.loads(text), queue_name)
        except (BadRequest, orjson.JSONDecodeError) as error:
            self.log.error(
                "profile {name} in the store is not understood and left out: {error}",
                name=name,
                error=error,
            )
            return None

    def _replace(self, table: Table) -> None:
        before, self.table = self.table, table
        self._creation.clear()
        if not self._changing:  # else it is done at the end of the change
            self._apply_since(before)

    # ---- applying

    def _apply_since(self, before: Table) -> None:
        """To what this daemon puts into, and may have made with the settings of before."""
        table = self.table
        if before is not table:
            stale = [queue for queue in self.listed() if before.of(queue) != table.of(queue)]
            self._in_background(self._apply_all(stale))

    async def _sweep(self, concerned: Callable[[str], bool]) -> None:
        names = sorted({*await self.names(), *self.listed()})
        for start in range(0, len(names), AT_ONCE):
            progress = b"%d %d" % (self.table.version, start)
            await ask(self._store.send, encode(b"HSET", self._key, PROGRESS, progress))
            await self.apply(list(filter(concerned, names[start : start + AT_ONCE])))
            await deferLater(self._clock, 0)

    async def _apply_all(self, queues: Sequence[str]) -> None:
        for start in range(0, len(queues), AT_ONCE):
            await self.apply(queues[start : start + AT_ONCE])
            await deferLater(self._clock, 0)

    async def _say_applied(self, version: int) -> None:
        await ask(self._store.send, encode(b"HSET", self._key, APPLIED, b"%d" % version))

    # ---- hearing of changes

    def store_ready(self) -> None:
        """The store is there, perhaps another one."""
        self._loaded = False
        self._in_background(self._load())

    def channel_up(self) -> None:
        """The connection of the channels is new."""
        self._store.listen(encode(b"SUBSCRIBE", self._key))
        self._in_background(self._load())

    def heard(self, channel: bytes) -> bool:
        """Whether something that came on a channel was for us."""
        if channel == self._key:
            self._in_background(self._load())
        return channel == self._key

    def tick(self) -> None:
        """Every few seconds: look whether there is something we did not hear of."""
        if not self._busy and self._store.ready:
            self._in_background(self._look())

    async def _look(self) -> None:
        self._busy = True
        try:
            reply = await ask(
                self._store.read, encode(b"HMGET", self._key, VERSION, APPLIED, PROGRESS)
            )
            version, applied = (int(text or 0) for text in reply[:2])
            state = (version, reply[2] or b"")
            if version != self.table.version:
                await self._load()
            if version == applied:
                self._unapplied = None
            elif state != self._unapplied:
                self._unapplied = state  # somebody is at it: until the next tick
            else:
                self.log.info(
                    "profiles of version {version} were left half applied", version=version
                )
                await self._sweep(lambda _: True)
                await self._say_applied(version)
        finally:
            self._busy = False

    def _in_background(self, work: Any) -> None:
        def failed(failure: Failure) -> None:
            if isinstance(
                failure.value, StoreError
            ):  # the next tick, or the next connection, tries again
                self.log.debug("profiles: {error}", error=failure.value)
            else:
                self.log.failure("profiles: a fault of ours", failure)

        ensureDeferred(work).addErrback(failed)
