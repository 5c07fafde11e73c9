"""The settings of queues in the store: what holds, changing what is a queue's own, applying profiles.

A change is worked out here, from what the store has (`restmq.rules.queue_settings`), and written by
``settings.lua`` if that is still so; else it is worked out again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred

from restmq.core.asking import ask, ask_all
from restmq.core.census import Census
from restmq.core.scripted import QueueScripts
from restmq.errors import StoreRefused
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode_arguments
from restmq.rules import queue_settings
from restmq.rules.profiles import Table
from restmq.rules.queue_settings import JOBS, KEPT, Changes, Merged, Stored

TRIES: Final = 100
"""So often a change is worked out again because somebody else changed the same queue meanwhile."""

_ASKED: Final = (*KEPT, "rev", "id", "dlq")
_HMGET: Final = encode_arguments(b"HMGET")
_FIELDS: Final = encode_arguments(*(field.encode() for field in _ASKED))
CHANGED, NEWER_PROFILES = 1, 2
"""Answers of settings.lua."""


class QueueSettings:
    """What the doors ask about settings. Every call fails with a StoreError when the store does not answer."""

    def __init__(
        self,
        store: Store,
        scripts: QueueScripts,
        census: Census,
        *,
        table: Callable[[], Table],
        newer_profiles: Callable[[], Deferred[None]],
        made: Callable[[str], None],
    ) -> None:
        """``table`` gives the profiles of now; ``newer_profiles`` reads them, since others know newer ones.

        ``made`` is told of a queue that is new.
        """
        self._store = store
        self._scripts = scripts
        self._census = census
        self._table = table
        self._newer_profiles = newer_profiles
        self._made = made

    async def look(self, queue: str) -> Merged:
        """What holds for a queue, or would if it were made by ``/v1``."""
        stored = await self._stored(queue)
        return _merged(queue, self._table(), stored, stored.own_fields)

    async def change(self, queue: str, changes: Changes, *, replace: bool = False) -> Merged:
        """Change what is the queue's own, ``None`` to take it back; with ``replace`` all of it.

        Makes the queue if it is not there, in mode jobs unless something says otherwise. Raises BadMember
        for what makes no sense together, and TooManyQueues; then nothing is changed.
        """
        for _ in range(TRIES):
            stored, table = await self._stored(queue), self._table()
            own: dict[str, str | None] = {} if replace else dict(stored.own_fields)
            own |= changes
            said = {field: text for field, text in own.items() if text is not None}
            merged = _merged(queue, table, stored, said)
            queue_settings.check(merged)
            if stored.known or self._census.admits(queue):
                written = await self._write(queue, stored, merged, table)
            else:
                write = partial(self._write, queue, stored, merged, table)
                written = await self._census.then(queue, write)
            if written:
                return merged
        raise StoreRefused(f"the settings of {queue!r} are changed by others all the time")

    async def apply(self, queue: str) -> None:
        """Bring a queue up to date with the profiles; one that is not there stays so."""
        for _ in range(TRIES):
            stored, table = await self._stored(queue), self._table()
            if not stored.known:
                return
            merged = _merged(queue, table, stored, stored.own_fields)
            if await self._write(queue, stored, merged, table):
                return
        raise StoreRefused(f"the settings of {queue!r} are changed by others all the time")

    async def apply_all(self, queues: Sequence[str]) -> None:
        """Bring queues up to date with the profiles: they are read together, and written together."""
        replies = await ask_all(self._store.send, [self._look_at(queue) for queue in queues])
        table, written, commands = self._table(), [], []
        for queue, reply in zip(queues, replies, strict=True):
            stored = _read(reply)
            if stored.known:
                merged = _merged(queue, table, stored, stored.own_fields)
                command = self._writing(queue, stored, merged, table)
                if command:
                    written.append(queue)
                    commands.append(command)
        answers = await ask_all(self._store.send, commands)
        for queue, answer in zip(written, answers, strict=True):
            if answer != CHANGED:  # somebody changed it meanwhile
                await self.apply(queue)

    def _look_at(self, queue: str) -> bytes:
        base = self._scripts.keys.base(queue)
        return b"*%d\r\n%b%b%b" % (2 + len(_ASKED), _HMGET, encode_arguments(base), _FIELDS)

    async def _stored(self, queue: str) -> Stored:
        return _read(await ask(self._store.send, self._look_at(queue)))

    def _writing(self, queue: str, stored: Stored, merged: Merged, table: Table) -> bytes:
        """The command that writes what differs; nothing if nothing does."""
        wanted = queue_settings.effective(merged)
        if not stored.known:
            wanted["id"] = "0"
        changes = _differences(stored.fields, wanted)
        if not changes:
            return b""
        if table.version:
            changes["pv"] = str(table.version)
        version = b"%d" % table.version
        arguments = [stored.token.encode(), version, b"", *_pairs(changes)]
        return self._scripts.call("settings", queue, arguments)

    async def _write(self, queue: str, stored: Stored, merged: Merged, table: Table) -> bool:
        """Write what differs; False: it must be worked out again."""
        command = self._writing(queue, stored, merged, table)
        if not command:
            return True
        answer = await ask(self._store.send, command)
        if answer == NEWER_PROFILES:
            await self._newer_profiles()
        elif answer == CHANGED and not stored.known:
            self._made(queue)
        return bool(answer == CHANGED)


def _read(reply: Sequence[bytes | None]) -> Stored:
    """What the hash of a queue says of its settings."""
    found = {
        name: text.decode("utf-8")
        for name, text in zip(_ASKED, reply, strict=True)
        if text is not None
    }
    known = "id" in found
    return Stored(
        known,
        frozenset(filter(None, found.get("own", "").split(","))),
        {name: found[name] for name in KEPT if name in found},
        found.get("born", ""),
        found.get("rev", "") + ("+" if known else "-"),
        "dlq" in found,
    )


def own_arguments(fields: Mapping[str, int]) -> list[bytes]:
    """The arguments of settings.lua (its own clock left out) for fields that become the queue's own."""
    return [b"", b"0", b"own", *_pairs({name: str(value) for name, value in fields.items()})]


def _pairs(fields: Mapping[str, str]) -> list[bytes]:
    return [text.encode("utf-8") for pair in fields.items() for text in pair]


def _differences(before: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    gone = {name: "" for name in before if name not in wanted}
    return gone | {name: text for name, text in wanted.items() if before.get(name) != text}


def _merged(queue: str, table: Table, stored: Stored, own: Mapping[str, str]) -> Merged:
    first_mode = stored.first_mode if stored.known else JOBS
    return queue_settings.merge(queue, first_mode, table.of(queue), own, gathers=stored.gathers)
