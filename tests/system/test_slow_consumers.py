"""One consumer sleeps: nobody else notices, memory stays, and it learns exactly what it missed.

RESTMQ_TEST_SLOW_MESSAGES is how many messages of 1 KiB a hundred consumers get (200000 is the full
proof; it takes minutes).
"""

from __future__ import annotations

import json
import os
import zlib

import pytest

from tests.conftest import StartDaemon, StartValkey
from tests.support import Daemon, wait_until
from tests.system.clients import Comet, Posting, Streams, bodies
from tests.system.processes import MIB, peak_memory, proportional_memory
from tests.system.transports import TRANSPORTS, WebSocket

pytestmark = pytest.mark.slow

MESSAGES = int(os.environ.get("RESTMQ_TEST_SLOW_MESSAGES", "20000"))
CONSUMERS = 100
"""Those that read, and one that sleeps."""

TINY = 4096
"""SO_RCVBUF of a sleeper: the kernel holds little for it."""


def kibibytes(count: int) -> list[bytes]:
    return [body.ljust(1024, b"-") for body in bodies(count)]


def stats(daemon: Daemon, queue: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(daemon.request("GET", f"/stats/{queue}").body)
    return found


def wait_for_consumers(daemon: Daemon, queue: str, count: int) -> None:
    """Wait until so many listen to the queue, on whatever transport."""

    def there() -> bool:
        found = stats(daemon, queue).get("consumers", {})
        assert isinstance(found, dict)
        return sum(found.values()) == count

    wait_until(there, f"{count} consumers")


# -- exactly what it missed -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRANSPORTS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("slow", ["drop-oldest", "drop-newest", "latest"])
def test_a_sleeper_learns_the_exact_number_missed(
    common_daemon: Daemon, streams: Streams, kind: type[Comet], slow: str
) -> None:
    """I slept through a flood. When I wake, what I have and what I am told I missed is all of it."""
    queue = f"sleeper-{kind.name}-{slow}"
    awake = streams.open(common_daemon, queue)
    sleeper = kind(common_daemon.port, queue, TINY, query=f"?slow={slow}&buffer=50")
    wait_for_consumers(common_daemon, queue, 2)
    ledger = Posting([common_daemon.port], queue, kibibytes(1500), producers=2, burst=16).join()
    streams.wait(lambda: len(awake.lines) == 1500, "all at who is awake")
    streams.adopt(sleeper)
    streams.wait(lambda: len(sleeper.lines) + sleeper.missed == 1500, "the account of a sleeper")
    order = sorted(ledger.ids)
    assert awake.ids == order
    assert sleeper.missed > 0
    assert_holes_are_told(sleeper, order)
    if slow == "drop-newest":
        assert sleeper.notes[-1].at == len(sleeper.lines), "the newest are gone: told last"
    else:
        assert sleeper.ids[-1] == order[-1]
    if slow == "latest":
        assert sleeper.notes[-1].at == len(sleeper.lines) - 1, "nothing waits but the newest"
    wait_until(lambda: stats(common_daemon, queue).get("missed") == sleeper.missed, "the counter")

    one_more = Posting([common_daemon.port], queue, [b"awake again"], producers=1).join()
    streams.wait(lambda: set(sleeper.ids[-1:]) == one_more.ids, "what comes later")
    print("missed", sleeper.missed, "of 1500")


def assert_holes_are_told(sleeper: Comet, order: list[int]) -> None:
    """Each hole in what it got is told in its place, with its size."""
    place = {number: i for i, number in enumerate(order)}
    told = {note.at: note.value["missed"] for note in sleeper.notes}
    assert len(told) == len(sleeper.notes)
    expected = 0
    for at, number in enumerate(sleeper.ids):
        expected += told.get(at, 0)
        assert place[number] == expected, f"{at} messages had come"
        expected += 1
    assert expected + told.get(len(sleeper.lines), 0) == len(order)


@pytest.mark.parametrize("kind", TRANSPORTS, ids=lambda kind: kind.name)
def test_a_sleeper_that_wants_to_be_cut_off_is(
    common_daemon: Daemon, streams: Streams, kind: type[Comet]
) -> None:
    """slow=disconnect: what I have is all up to some message, then the stream ends; no hole."""
    queue = f"cut-off-{kind.name}"
    awake = streams.open(common_daemon, queue)
    sleeper = kind(common_daemon.port, queue, TINY, query="?slow=disconnect&buffer=50")
    wait_for_consumers(common_daemon, queue, 2)
    posting = Posting([common_daemon.port], queue, kibibytes(1500), producers=2, burst=16)
    wait_for_consumers(common_daemon, queue, 1)
    streams.adopt(sleeper)
    streams.wait(lambda: sleeper.ended, "the end of the stream, in good order")
    ledger = posting.join()
    streams.wait(lambda: len(awake.lines) == 1500, "all at who is awake")
    assert 0 < len(sleeper.lines) < 1500
    assert sleeper.ids == sorted(ledger.ids)[: len(sleeper.lines)]
    assert not sleeper.missed


# -- a hundred, of which one sleeps ---------------------------------------------------------------


class Summed(Comet):
    """A consumer that keeps no message but counts them, and sums up their bytes."""

    def __init__(self, *args: object, **options: object) -> None:
        self.count = self.sum = 0
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def _parse(self) -> None:
        if not self._head_is_there():
            return
        end = self._data.rfind(b"\r\n\r\n") + 4  # of a chunk whose line ends in CRLF
        if end > 3:
            whole = bytes(self._data[:end])
            self.count += whole.count(b'"value": ')
            self.sum = zlib.crc32(whole, self.sum)
            del self._data[:end]


def growth(
    daemon: Daemon, streams: Streams, queue: str, sleep: bool
) -> tuple[int, int, list[Summed]]:
    """A flood to a hundred consumers: how much RSS and Pss grew at their highest."""
    readers = CONSUMERS - 1 if sleep else CONSUMERS
    found = [streams.open(daemon, queue, kind=Summed) for _ in range(readers)]
    sleeper = WebSocket(daemon.port, queue, TINY, query="?slow=drop-oldest") if sleep else None
    wait_for_consumers(daemon, queue, CONSUMERS)
    rss, pss = peak_memory(daemon.pid), proportional_memory(daemon.pid)
    posting = Posting([daemon.port], queue, kibibytes(MESSAGES), producers=2, burst=8)
    highest = 0

    def all_there() -> bool:
        nonlocal highest
        highest = max(highest, proportional_memory(daemon.pid))
        return all(reader.count == MESSAGES for reader in found)

    streams.wait(all_there, lambda: f"all, not {min(r.count for r in found)}", 600)
    assert len(posting.join().acknowledged) == MESSAGES
    grown = peak_memory(daemon.pid) - rss, highest - pss
    if sleeper is not None:
        streams.adopt(sleeper)
        streams.wait(lambda: len(sleeper.lines) + sleeper.missed == MESSAGES, "its account")
        assert sleeper.missed
        wait_until(lambda: stats(daemon, queue).get("missed") == sleeper.missed, "the counter")
        print("the sleeper missed", sleeper.missed)
    return *grown, found  # type: ignore[return-value]


def test_one_sleeper_of_a_hundred_costs_little_memory_and_the_others_nothing(
    daemon: StartDaemon, start_valkey: StartValkey, streams: Streams
) -> None:
    """99 read and get all; the daemon grows by less than 16 MiB more than with 100 who read."""
    grown = {}
    for sleep in (False, True):
        broker = daemon("--redis-url", start_valkey().url)
        broker.wait_for("/readyz")
        *grown[sleep], readers = growth(broker, streams, "flood", sleep)
        assert len({reader.sum for reader in readers}) == 1, "not the same bytes for all"
        for reader in readers:
            assert not reader.lost
            streams.leave(reader)
    for word, without, with_sleeper in zip(("RSS", "Pss"), grown[False], grown[True], strict=True):
        print(f"{word} grew by {without / MIB:.1f} MiB, with a sleeper {with_sleeper / MIB:.1f}")
        assert with_sleeper - without < 16 * MIB
