"""What goes wrong round the broker: the store away, stuck, full or emptied; clients that misbehave.

Each time the daemon says so with a status, harms nobody else, and recovers by itself.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.conftest import StartDaemon, StartValkey
from tests.support import Daemon, ValkeyServer, wait_until
from tests.system.clients import (
    Client,
    Comet,
    Posting,
    Streams,
    bodies,
    drain,
    wait_for_lines,
    warm_up,
)
from tests.system.parameters import BAD
from tests.system.processes import MIB, memory, open_files, peak_memory
from tests.web.malformed import CASES, Case, is_good, play

QUEUE = "faults"
GOOD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def broker(daemon: StartDaemon, valkey: ValkeyServer) -> Daemon:
    """A daemon on a Valkey of others."""
    started = daemon("--redis-url", valkey.url)
    started.wait_for("/readyz")
    return started


def assert_works(broker: Daemon) -> None:
    """A request on a connection of its own is answered as ever."""
    with Client(broker.port) as client:
        number = client.add("works", b"yes")
        assert client.get("works") == (number, b"yes")


# -- the store ------------------------------------------------------------------------------------


def test_with_redis_away_at_the_start_the_daemon_waits_for_it(
    daemon: StartDaemon, start_valkey: StartValkey, streams: Streams
) -> None:
    """The daemon is up first: it says so, answers 503, and a stream opened now works later."""
    server = start_valkey()
    server.kill()
    broker = daemon("--redis-host", server.host, "--redis-port", str(server.port))
    assert broker.request("GET", "/livez").status == 200
    assert broker.request("GET", "/readyz").status == 503
    comet = streams.open(broker, QUEUE)
    with Client(broker.port) as client:
        for answer in (client.post(QUEUE, b"early"), client.request("GET", f"/q/{QUEUE}"),
                       client.request("GET", "/stats/"), client.request("DELETE", f"/q/{QUEUE}"),
                       client.request("GET", "/q/"), client.request("GET", "/control/")):  # fmt: skip
            assert answer.status == 503
            assert b"store" in answer.body
        server.start()
        broker.wait_for("/readyz")
        client.add(QUEUE, b"hello")
    wait_for_lines(streams, [comet], 1)
    assert comet.bodies == [b"hello"]


def test_a_store_that_stands_still_is_503_within_bounded_time(
    daemon: StartDaemon, start_valkey: StartValkey, streams: Streams
) -> None:
    """Valkey hangs: no request waits for ever; when it goes on all goes on, streams, too."""
    server = start_valkey()
    broker = daemon("--redis-url", server.url)
    broker.wait_for("/readyz")
    comets = [streams.open(broker, QUEUE) for _ in range(2)]
    warm_up(streams, comets, broker.port, QUEUE)
    with Client(broker.port) as client:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            answer = client.post(QUEUE, b"in between")
            assert answer.status == 503
            assert b"connection to the store was lost" in answer.body
            assert client.request("GET", "/livez").status == 200
            assert client.request("GET", "/readyz").status == 503
            assert client.post(QUEUE, b"still away").status == 503
            print(f"answered within {time.monotonic() - begin:.1f} s")
            assert time.monotonic() - begin < 15
        finally:
            os.kill(server.pid, signal.SIGCONT)
        broker.wait_for("/readyz")
        number = client.add(QUEUE, b"after")
    for comet in comets:
        streams.wait(lambda c=comet: number in c.ids, "the message after it")
        assert set(comet.bodies) <= {b"in between", b"still away", b"after"}
        assert not comet.lost


def test_a_full_store_refuses_posts_in_clear_words_and_gives_pops(
    daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    """Valkey is at its limit: 503 says so; what is there can be taken, and then posts go again."""
    server = start_valkey(maxmemory="8mb", maxmemory_policy="noeviction")
    broker = daemon("--redis-url", server.url)
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        added = 0
        while (answer := client.post(QUEUE, b"x" * 10_000)).status == 200:
            added += 1
            assert added < 2000
        assert answer.status == 503
        assert b"memory" in answer.body
        assert client.request("GET", "/readyz").status == 200
        assert client.length(QUEUE) == added
        popped = [client.get(QUEUE) for _ in range(added // 2)]
        assert None not in popped
        wait_until(lambda: client.post(QUEUE, b"again").status == 200, "a post that works")
        assert len(drain(broker.port, QUEUE)) == added - added // 2 + 1


def test_a_full_store_goes_on_with_streams(
    daemon: StartDaemon, start_valkey: StartValkey, streams: Streams
) -> None:
    """A full store with a stream opened then: what waits is streamed, and makes room."""
    server = start_valkey(maxmemory="8mb", maxmemory_policy="noeviction")
    broker = daemon("--redis-url", server.url)
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        added = 0
        while client.post(QUEUE, b"x" * 10_000).status == 200:
            added += 1
        comet = streams.open(broker, QUEUE)
        wait_for_lines(streams, [comet], added)
        wait_until(lambda: client.post(QUEUE, b"again").status == 200, "a post that works")
    streams.wait(lambda: comet.bodies[-1] == b"again", "the new message")
    assert len(comet.ids) == len(set(comet.ids)) == added + 1


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_flushall_under_streams_loses_what_was_there_and_nothing_later(
    broker: Daemon, valkey: ValkeyServer, streams: Streams, policy: str
) -> None:
    """Somebody empties Redis: streams go on, and numbers are higher than any before."""
    comets = [streams.open(broker, QUEUE) for _ in range(2)]
    with Client(broker.port) as client:
        client.set_policy(QUEUE, policy)
        warm_up(streams, comets, broker.port, QUEUE)
        before = [client.add(QUEUE, b"before %d" % i) for i in range(20)]
        each = 2 if policy == "broadcast" else 1
        wait_for_lines(streams, comets, 20 * each)
        with valkey.client() as store:
            store.flushall()
        client.set_policy(QUEUE, policy)
        after = [client.add(QUEUE, b"after %d" % i) for i in range(50)]
        assert after == list(range(max(before) + 1_000_001, max(before) + 1_000_051))
        wait_for_lines(streams, comets, 70 * each)
    for comet in comets:
        assert comet.ids == sorted(set(comet.ids))
        assert not comet.lost


# -- clients that speak something else ------------------------------------------------------------


@pytest.fixture(scope="module")
def many() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_every_malformed_request_is_refused_and_the_next_one_works(
    broker: Daemon, many: ThreadPoolExecutor
) -> None:
    """A case for each rule of RFC 9112: an error status or a clean close, no traceback."""
    before = open_files(broker.pid)

    def outcome(case: Case) -> str | None:
        seen = play("127.0.0.1", broker.port, case)
        assert broker.request("GET", "/livez").status == 200
        return None if is_good(case, seen) else f"{case.name}: {seen}"

    bad = [text for text in many.map(outcome, CASES) if text]
    assert not bad, "\n".join(bad)
    print(len(CASES), "cases")
    assert_works(broker)
    wait_until(lambda: open_files(broker.pid) <= before, "the end of all connections")
    broker.assert_no_trouble()


def test_bad_parameters_of_every_route_are_refused_and_change_nothing(
    broker: Daemon, valkey: ValkeyServer
) -> None:
    """Each route says 4xx to what it can't understand; the store is as empty as before."""
    wrong = []
    for bad in BAD:
        answer = broker.request(bad.method, bad.path, bad.body, {"Content-Type": bad.kind})
        if answer.status != bad.status:
            wrong.append(f"{answer.status} to {bad._replace(body=bad.body[:60])}")
    assert not wrong, "\n".join(wrong)
    print(len(BAD), "requests")
    with valkey.client() as store:
        assert store.keys() == []
    assert_works(broker)


def test_random_bytes_harm_nobody(broker: Daemon, many: ThreadPoolExecutor) -> None:
    """Noise on the port: every connection ends, and the daemon works."""

    def noise(seed: int) -> None:
        data = random_bytes(seed)
        seen = play("127.0.0.1", broker.port, Case("noise", data, frozenset()))
        assert seen.closed
        assert all(400 <= status < 600 for status in seen.statuses), (data, seen)

    list(many.map(noise, range(200)))
    assert_works(broker)


def random_bytes(seed: int) -> bytes:
    """Noise, with the start of a good request before it now and then, and always an end."""
    chance = random.Random(seed)
    noise = chance.randbytes(chance.randrange(1, 5000))
    start = chance.choice([b"", b"GET ", b"POST /q/q HTTP/1.1\r\n", GOOD[:-2], b"\x16\x03\x01"])
    return start + noise + b"\r\n\r\n"


# -- clients that do not do their part ------------------------------------------------------------


def test_1000_connections_opened_and_closed_leave_nothing(broker: Daemon) -> None:
    """A port scanner, a thousand times: no descriptor and no memory stays."""
    assert_works(broker)
    files, before = open_files(broker.pid), memory(broker.pid)
    for i in range(1000):
        with socket.create_connection(("127.0.0.1", broker.port), 10) as one:
            if i % 3 == 1:
                one.sendall(GOOD)
            elif i % 3 == 2:
                one.sendall(b"GET /c/scan HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert_works(broker)
    wait_until(lambda: open_files(broker.pid) <= files, "the end of all connections")
    assert memory(broker.pid) - before < 16 * MIB


@contextmanager
def connected(broker: Daemon, count: int) -> Iterator[list[socket.socket]]:
    """So many open connections."""
    with ExitStack() as stack:
        where = ("127.0.0.1", broker.port)
        yield [stack.enter_context(socket.create_connection(where, 10)) for _ in range(count)]


def test_half_a_request_is_answered_408_and_delays_nobody(
    daemon: StartDaemon, valkey: ValkeyServer
) -> None:
    """A hundred clients stop in the middle: others are served, and these are told 408."""
    broker = daemon("--redis-url", valkey.url, "--idle-timeout", "2")
    broker.wait_for("/readyz")
    request = b"POST /q/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nvalue=h"
    with connected(broker, 100) as connections:
        for i, connection in enumerate(connections):
            connection.sendall(request[: 1 + i * len(request) // 100])
        assert_works(broker)
        for connection in connections:
            received = b""
            while data := connection.recv(4096):
                received += data
            assert received.startswith(b"HTTP/1.1 408 "), received
    assert drain(broker.port, "half") == []


def test_a_client_that_leaves_in_the_middle_of_its_request_adds_nothing(broker: Daemon) -> None:
    """The line is cut while I post: half a message is no message."""
    request = b"POST /q/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nvalue=h"
    files = open_files(broker.pid)
    with connected(broker, 100) as connections:
        for i, connection in enumerate(connections):
            connection.sendall(request[: 1 + i * len(request) // 100])
    wait_until(lambda: open_files(broker.pid) <= files, "the end of all connections")
    assert drain(broker.port, "half") == []
    assert_works(broker)


def test_bodies_that_come_byte_by_byte_are_whole(broker: Daemon) -> None:
    """Fifty clients on thin lines post at the same time: each message is whole."""
    kind = "application/x-www-form-urlencoded"
    texts = [f"value=thin+line+{i:02d}".encode() for i in range(50)]
    head = f"POST /q/thin HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: "
    requests = [head.encode() + b"%d\r\n\r\n%s" % (len(text), text) for text in texts]
    assert len({len(request) for request in requests}) == 1
    with connected(broker, 50) as connections:
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(requests[0])):
            for connection, request in zip(connections, requests, strict=True):
                connection.sendall(request[at : at + 1])
        for connection in connections:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    found = {message.body for message in drain(broker.port, "thin")}
    assert found == {f"thin line {i:02d}".encode() for i in range(50)}


MESSAGE_BYTES = 1_000_000
MESSAGES = 200


def post_large(broker: Daemon, count: int) -> Iterator[bytes]:
    """Post messages of a megabyte, one after the other; the start of each."""
    with Client(broker.port) as client:
        for i in range(count):
            start = b"%06d" % i
            client.add(QUEUE, start + b"x" * (MESSAGE_BYTES - 6))
            yield start


def newest(comet: Comet) -> bytes:
    """The start of the newest message of ``post_large`` that a consumer has."""
    return comet.lines[-1][:80].rpartition(b'"')[2][:6] if comet.lines else b""


def test_a_stream_that_is_not_read_costs_bounded_memory(broker: Daemon, streams: Streams) -> None:
    """200 MB go by a consumer that hangs, beside one that reads: the daemon stays small."""
    reading = streams.open(broker, QUEUE)
    frozen = streams.open(broker, QUEUE, receive_bytes=4096)
    warm_up(streams, [reading, frozen], broker.port, QUEUE)
    streams.freeze(frozen)
    before = memory(broker.pid)
    for start in post_large(broker, MESSAGES):
        streams.wait(lambda start=start: newest(reading) == start, "the next message")
    assert len(reading.lines) == MESSAGES
    cost = peak_memory(broker.pid) - before
    print(f"peak {cost / MIB:.0f} MiB more")
    assert cost < 64 * MIB
    streams.thaw(frozen)
    streams.wait(lambda: newest(frozen) == start, "the newest message at the other")
    assert len(frozen.lines) < MESSAGES


def test_streams_that_nobody_reads_keep_the_messages_in_the_store(
    broker: Daemon, streams: Streams
) -> None:
    """The only consumer hangs: what it has not got waits in the store, for whoever comes."""
    frozen = streams.open(broker, QUEUE, receive_bytes=4096)
    warm_up(streams, [frozen], broker.port, QUEUE)
    streams.freeze(frozen)
    before = memory(broker.pid)
    posted = list(post_large(broker, 60))
    cost = peak_memory(broker.pid) - before
    print(f"peak {cost / MIB:.0f} MiB more")
    assert cost < 64 * MIB
    streams.leave(frozen)
    later = streams.open(broker, QUEUE)
    wait_for_lines(streams, [later], 60)
    assert [body[:6] for body in later.bodies] == posted


@pytest.mark.parametrize(("count", "size"), [(10_000, 100), (10_000, 1000), (60, 1_000_000)])
def test_a_consumer_that_comes_late_gets_all_that_waits(
    broker: Daemon, streams: Streams, count: int, size: int
) -> None:
    """Messages gathered over night: who connects in the morning gets them all, however many."""
    texts = [body.ljust(size, b".")[:size] for body in bodies(count)]
    ledger = Posting([broker.port], QUEUE, texts).join()
    assert len(ledger.acknowledged) == count
    comet = streams.open(broker, QUEUE)
    wait_for_lines(streams, [comet], count)
    assert comet.ids == sorted(ledger.ids)


def test_a_client_that_never_reads_its_replies_costs_bounded_memory(broker: Daemon) -> None:
    """It asks and asks and takes no answer: we stop listening to it, and to nobody else."""
    assert list(post_large(broker, 1)) == [b"000000"]
    before = memory(broker.pid)
    ask = b'{"cmd": "get", "queue": "faults"}'
    kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(ask), ask)
    request = b"POST /queue HTTP/1.1\r\nHost: localhost\r\n" + kind
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.settimeout(10)
        greedy.connect(("127.0.0.1", broker.port))
        greedy.settimeout(1)
        sent = 0
        with pytest.raises((TimeoutError, ConnectionError)):
            while sent < 200_000:
                greedy.sendall(request * 100)
                sent += 100
        cost = peak_memory(broker.pid) - before
        print(f"{sent} requests went out, peak {cost / MIB:.0f} MiB more")
        assert cost < 64 * MIB
        assert_works(broker)
