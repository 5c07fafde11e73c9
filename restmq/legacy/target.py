"""The new broker's store, as the import writes it: past the daemons, by one script of its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

from restmq.core.wire import encode_payload
from restmq.errors import RestMQError, StoreError
from restmq.legacy.numbers import Numbers
from restmq.legacy.source import Body
from restmq.redis.blocking import BlockingConnection
from restmq.redis.keys import Keys
from restmq.redis.pipeline import encode
from restmq.redis.scripts import load

_HEAD = struct.Struct(">7s6s")


class ImportedMeanwhile(RestMQError):
    """Another import took over messages of the same queue; nothing was done twice."""


class Witness(NamedTuple):
    """A message that was taken over: were it another the next time, so would be the old broker."""

    number: int
    checksum: int


class Known(NamedTuple):
    """What the new broker has of a queue: its last number, those taken over already, and one of these."""

    last: int
    taken: Numbers
    witness: Witness | None


class _Note:
    """What is noted of one queue: ``1-400,402;402:9ae0daaf``."""

    def __init__(self, text: bytes) -> None:
        """Raises ValueError when it is another text."""
        self.text = text
        numbers, _, witness = text.partition(b";")
        self.taken = Numbers(numbers)
        self.witness: Witness | None = None
        if witness:
            number, _, checksum = witness.partition(b":")
            self.witness = Witness(int(number), int(checksum, 16))

    @classmethod
    def of(cls, taken: Numbers, witness: Witness | None) -> bytes:
        """The text for these."""
        return taken.text() + (b"" if witness is None else b";%d:%08x" % witness)


def checksum(body: bytes) -> int:
    """What a witness remembers of a body."""
    return crc32(body)


class NewBroker:
    """The queues of the new broker. Every method may raise StoreError."""

    def __init__(self, connection: BlockingConnection, keys: Keys, label: str) -> None:
        """``label`` tells apart the notes about several old brokers."""
        self._connection = connection
        self._keys = keys
        self._label = label.encode()
        self._script = load(("import",))["import"]
        self._notes: dict[str, _Note] = {}

    def prepare(self) -> None:
        """Bring the script; before anything is taken over."""
        self._connection.ask(b"SCRIPT", b"LOAD", self._script.source)

    def known(self, names: Sequence[str]) -> list[Known]:
        """What is there of each of these queues."""
        commands = []
        for name in names:
            commands.append(encode(b"HGET", self._keys.base(name), b"id"))
            commands.append(encode(b"HGET", self._keys.taken_over(name), self._label))
        replies = [_good(reply) for reply in self._connection.ask_all(commands)]
        found = []
        for n, name in enumerate(names):
            last, text = replies[2 * n : 2 * n + 2]
            note = self._notes[name] = _Note(text or b"")
            found.append(Known(int(last or 0), note.taken, note.witness))
        return found

    def list(self, names: Sequence[str]) -> None:
        """Put queues into the list of all queues."""
        commands = [encode(b"SADD", self._keys.shard(name), name.encode()) for name in names]
        for reply in self._connection.ask_all(commands):
            _good(reply)

    def take_over(
        self,
        name: str,
        bodies: Sequence[Body],
        taken: Numbers,
        *,
        started: bool | None = None,
        policy: int | None = None,
        used: int = 0,
    ) -> int:
        """Put messages into a queue and note ``taken``, in one step; how many kept their number.

        ``started`` and ``policy`` count where the queue has none; numbers up to ``used`` will not
        be given again. Raises ImportedMeanwhile.
        """
        before = self._notes[name]
        witness = before.witness
        if bodies:
            witness = Witness(bodies[-1].number, checksum(bodies[-1].body or b""))
        note = _Note.of(taken, witness)
        numbers = b"".join(
            _HEAD.pack(body.number.to_bytes(7, "big"), body.ttl_ms.to_bytes(6, "big"))
            for body in bodies
        )
        keys = [*self._keys.queue(name), self._keys.taken_over(name)]
        reply = self._connection.ask(
            b"EVALSHA",
            self._script.sha,
            b"%d" % len(keys),
            *keys,
            b"0",
            self._label,
            before.text,
            note,
            b"" if started is None else b"%d" % started,
            b"" if policy is None else b"%d" % policy,
            b"%d" % used,
            numbers,
            *[encode_payload(body.body or b"", None) for body in bodies],
        )
        done, kept = reply
        if not done:
            raise ImportedMeanwhile(
                f"another import took over messages of the queue {name!r} meanwhile; "
                "nothing was done twice: run one at a time"
            )
        self._notes[name] = _Note(note)
        return int(kept)


def _good(reply: Any) -> Any:
    if isinstance(reply, StoreError):
        raise reply
    return reply
