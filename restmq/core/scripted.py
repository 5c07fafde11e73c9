"""Script calls as bytes, with all that is the same for every call of a queue made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from restmq.redis.keys import Keys
from restmq.redis.pipeline import encode_arguments
from restmq.redis.scripts import Script

KEPT = 100_000
"""How many queues' encoded keys are kept; the oldest go first."""

KEYS = 15
"""How many keys every script gets."""

SERVER_CLOCK = b"$1\r\n0\r\n"


class QueueScripts:
    """EVALSHA commands for the queue scripts."""

    def __init__(self, keys: Keys, scripts: Mapping[str, Script]) -> None:
        """``scripts`` by name; ``keys`` spells the queues' keys."""
        self.keys = keys
        self._heads = {
            name: encode_arguments(b"EVALSHA", script.sha, b"%d" % KEYS)
            for name, script in scripts.items()
        }
        self._shas = {name: script.sha for name, script in scripts.items()}
        self._queues: dict[str, bytes] = {}

    def call(self, script: str, queue: str, arguments: Sequence[bytes]) -> bytes:
        """The command, encoded."""
        return self.call_encoded(script, queue, len(arguments), encode_arguments(*arguments))

    def call_encoded(
        self,
        script: str,
        queue: str,
        count: int,
        arguments: bytes,
        keys_too: Sequence[bytes] = (),
    ) -> bytes:
        """The command, where ``arguments`` is ``count`` arguments encoded already.

        ``keys_too`` are keys of the queue's slot behind those that every script gets.
        """
        keys = self._queues.get(queue)
        if keys is None:
            keys = self._encode_keys(queue)
        head = self._heads[script]
        if keys_too:
            head = encode_arguments(b"EVALSHA", self._shas[script], b"%d" % (KEYS + len(keys_too)))
            keys += encode_arguments(*keys_too)
        return b"*%d\r\n%s%s%s%s" % (
            count + KEYS + len(keys_too) + 4,
            head,
            keys,
            SERVER_CLOCK,
            arguments,
        )

    def _encode_keys(self, queue: str) -> bytes:
        if len(self._queues) >= KEPT:
            del self._queues[next(iter(self._queues))]
        keys = self._queues[queue] = encode_arguments(*self.keys.queue(queue))
        return keys
