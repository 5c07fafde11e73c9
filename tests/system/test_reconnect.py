"""Who is cut off and comes back with Last-Event-ID, to whichever daemon, misses nothing unsaid.

The law: the messages a client has seen, in the order it saw them, and the gaps it was told of are
all from its first message on, each once. Moments, daemons and settings are random; the seed is in the
output of a test that fails.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

import pytest

from tests.conftest import StartDaemon
from tests.support import DEADLINE_SECONDS, Daemon, ValkeyServer, wait_until
from tests.system.clients import Posting, Streams, bodies
from tests.system.transports import Events

pytestmark = pytest.mark.slow

MESSAGES = 3000


@pytest.fixture
def daemons(daemon: StartDaemon, valkey: ValkeyServer) -> Sequence[Daemon]:
    """Two daemons on one Valkey."""
    started = [daemon("--redis-url", valkey.url) for _ in range(2)]
    for one in started:
        one.wait_for("/readyz")
    return started


class Browser:
    """Reads events as a browser does: a whole block counts, half of one does not."""

    def __init__(self, daemons: Sequence[Daemon], queue: str, chance: random.Random) -> None:
        self.seen: list[int] = []
        self.accounted = self._sure = 0
        self.gaps = self.visits = 0
        self._last = ""
        self._daemons, self._queue, self._chance = daemons, queue, chance

    def visit(self, most: int, until: int) -> None:
        """Connect to any of the daemons, read so many events or fewer, and be cut off."""
        self.visits += 1
        self.accounted = self._sure  # what it was told behind the last id is told again
        stream = _Back(self._chance.choice(self._daemons).port, self._queue, self._last)
        stream.socket.settimeout(DEADLINE_SECONDS)
        try:
            taken = 0
            while taken < most and self.accounted < until:
                assert stream.read_some(self._chance.choice((10, 100, 1000, 65536))), "it ended"
                for block in stream.blocks():
                    self._take(block)
                    taken += 1
                    if taken == most:
                        break
        finally:
            stream.close()

    def _take(self, block: bytes) -> None:
        fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
        if "data" in fields:
            self._account(fields)
        if "id" in fields:
            self._last, self._sure = fields["id"], self.accounted

    def _account(self, fields: Mapping[str, str]) -> None:
        data = json.loads(fields["data"])
        if "event" in fields:
            assert fields["event"] in ("gap", "missed"), fields
            assert data["missed"] is not None, fields
            self.gaps += 1
            self.accounted += data["missed"]
            return
        if not self.seen:  # nobody knew it before
            self.accounted = data["id"] - 1
        self.seen.append(data["id"])
        self.accounted += 1
        assert data["id"] == self.accounted, (
            f"message {data['id']} in the place of {self.accounted}, after {self.seen[-3:-1]}"
        )


class _Back(Events):
    """A stream of events that knows where it was; its blocks are handed out as they came."""

    def __init__(self, port: int, queue: str, last: str) -> None:
        self._blocks: list[bytes] = []
        if last:
            self.headers = (*Events.headers, f"Last-Event-ID: {last}")
        super().__init__(port, queue)

    def read_some(self, size: int) -> bool:
        """Read at most so many bytes."""
        data = self.socket.recv(size)
        self._data += data
        self._parse()
        return bool(data)

    def _chunk(self, chunk: bytes) -> None:
        assert chunk.endswith(b"\n\n"), chunk
        self._blocks.append(chunk[:-2])

    def blocks(self) -> list[bytes]:
        """The whole blocks that came since."""
        found, self._blocks = self._blocks, []
        return found


@pytest.mark.parametrize(
    ("others", "kept"), [(0, 10_000), (1, 10_000), (2, 10_000), (0, 100), (1, 100), (2, 100)]
)
@pytest.mark.parametrize("time", range(2))
def test_each_message_once_or_a_gap_that_accounts_for_it(
    daemons: Sequence[Daemon], streams: Streams, others: int, kept: int, time: int
) -> None:
    """My train goes through tunnels: I see every message once, in order, or how many I missed."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    queue = "tunnel"
    settings = json.dumps({"mode": "open", "replay_messages": kept, "replay": 600})
    reply = daemons[0].request("PATCH", f"/v1/queues/{queue}/settings", settings)
    assert reply.status == 200, reply
    listeners = [streams.open(daemons[i], queue) for i in range(others)]

    def all_listen() -> bool:
        found = json.loads(daemons[0].request("GET", f"/stats/{queue}").body)
        return sum(found.get("consumers", {}).values()) >= others

    wait_until(all_listen, "the others")
    browser = Browser(daemons, queue, chance)
    posting = Posting([one.port for one in daemons], queue, bodies(MESSAGES), producers=3)
    while browser.accounted < MESSAGES:
        browser.visit(chance.choice((1, 2, 3, 20, 200, 1000)), MESSAGES)
        if chance.random() < 0.5:
            longer = posting.ledger.count() + chance.randrange(500)
            posting.wait_for(min(MESSAGES, longer))
    ledger = posting.join()
    assert sorted(ledger.ids) == list(range(1, MESSAGES + 1))
    print(f"seen {len(browser.seen)} in {browser.visits} visits, {browser.gaps} gaps")
    assert browser.accounted == MESSAGES
    if kept > MESSAGES:
        assert not browser.gaps
    streams.wait(lambda: all(len(one.lines) == MESSAGES for one in listeners), "all at the others")
