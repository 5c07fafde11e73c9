"""SIGTERM: what is under way is answered, streams end whole, nothing is lost, and it takes no longer."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from restmq.web.stream import KERNEL_BYTES
from tests.conftest import StartDaemon, StartValkey
from tests.support import Daemon, wait_until
from tests.system.clients import Client, Posting, Streams, bodies, drain, number, warm_up
from tests.system.processes import is_alive, serving, stopped

pytestmark = pytest.mark.slow

QUEUE = "stop"
UNDER_WAY = 200

PROCESSES = pytest.mark.parametrize("processes", ["1", "3"])

Holding = Callable[..., list[Client]]


@pytest.fixture
def clients() -> Iterator[Holding]:
    """A function that connects so many clients, all closed at the end."""
    with ExitStack() as stack:

        def connect(port: int, count: int) -> list[Client]:
            return [stack.enter_context(Client(port)) for _ in range(count)]

        yield connect


def wait_for_all(broker: Daemon, processes: str) -> None:
    """Wait until the broker is ready, with all its processes."""
    broker.wait_for("/readyz")
    if processes != "1":
        wait_until(lambda: broker.log.count(") serves") == int(processes), lambda: broker.log)


def begin_post(client: Client, body: bytes) -> None:
    """Send the whole request; its answer is read later."""
    form = b"value=" + body
    head = f"POST /q/{QUEUE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(form)}\r\n"
    kind = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    client.socket.sendall((head + kind).encode() + form)


def refuses(port: int) -> bool:
    """Whether nobody listens there any more."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@PROCESSES
def test_requests_under_way_at_the_end_are_all_answered(
    daemon: StartDaemon, start_valkey: StartValkey, clients: Holding, processes: str
) -> None:
    """I restart the broker while 200 posts wait for a slow store: each gets its 200, and is there."""
    server = start_valkey()
    broker = daemon("--redis-url", server.url, "--processes", processes)
    wait_for_all(broker, processes)
    posting = clients(broker.port, UNDER_WAY)
    with stopped(server.pid):
        for count, client in enumerate(posting):
            begin_post(client, b"%d" % count)
        broker.terminate()
        wait_until(lambda: refuses(broker.port), "the port to be closed")
    answers = [client._answer() for client in posting]
    assert [answer.status for answer in answers] == [200] * UNDER_WAY
    assert {number(answer) for answer in answers} == set(range(1, UNDER_WAY + 1))
    assert broker.wait() == 0
    broker.start("/readyz")
    assert {message.body for message in drain(broker.port, QUEUE)} == {
        b"%d" % count for count in range(UNDER_WAY)
    }


@PROCESSES
def test_requests_the_kernel_has_are_answered_too(
    daemon: StartDaemon, clients: Holding, processes: str
) -> None:
    """On connections that are idle, and on some that were not even accepted yet."""
    broker = daemon("--processes", processes)
    wait_for_all(broker, processes)
    idle = clients(broker.port, UNDER_WAY // 2)
    for client in idle:
        assert client.request("GET", "/livez").status == 200
    with stopped(broker.pid, *serving(broker.pid)):
        new = clients(broker.port, UNDER_WAY // 2)
        for client in [*idle, *new]:
            begin_post(client, b"x")
        broker.terminate()
    answers = [client._answer() for client in [*idle, *new]]
    assert [answer.status for answer in answers] == [200] * UNDER_WAY
    assert broker.wait() == 0


def test_while_it_ends_it_lives_and_is_not_ready(daemon: StartDaemon, clients: Holding) -> None:
    """A load balancer that asks on a connection it has open learns that it must go elsewhere."""
    broker = daemon()
    wait_for_all(broker, "1")
    idle, *asking = clients(broker.port, 4)
    assert idle.request("GET", "/livez").status == 200
    for client, path in zip(asking, ("/readyz", "/health", "/livez"), strict=True):
        client.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode())
    broker.terminate()
    assert idle.socket.recv(1) == b"", "by then the end has begun"
    for client in asking:
        client.socket.sendall(b"\r\n")
    answers = [client._answer() for client in asking]
    assert [answer.status for answer in answers] == [503, 503, 200]
    assert answers[0].body == b'{"status": "unavailable", "reason": "the broker is stopping"}\n'
    assert broker.wait() == 0


def test_stopped_before_the_store_answers_it_ends_without_a_complaint(
    daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    """Whoever stops it that early has seen the typing error; the log need not blame the store."""
    server = start_valkey()
    with stopped(server.pid):
        broker = daemon("--redis-url", server.url)
        assert broker.stop() == 0
    assert "error" not in broker.log


@PROCESSES
def test_streams_end_with_a_last_chunk(
    daemon: StartDaemon, streams: Streams, processes: str
) -> None:
    """A client can tell a broker that was restarted from one that died."""
    broker = daemon("--processes", processes)
    wait_for_all(broker, processes)
    comets = [streams.open(broker, QUEUE) for _ in range(20)]
    warm_up(streams, comets, broker.port, QUEUE)
    broker.terminate()
    streams.wait(lambda: all(comet.ended for comet in comets), "the last chunks")
    streams.wait(lambda: all(comet.lost for comet in comets), "the ends of the connections")
    assert broker.wait() == 0


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
def test_a_stream_that_hangs_is_cut_in_time_and_nothing_is_lost(
    daemon: StartDaemon, streams: Streams, policy: str
) -> None:
    """A reader that sleeps can't hold up the restart; what it had not got is in the queue."""
    broker = daemon("--stop-timeout", "1")
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        client.set_policy(QUEUE, policy)
    comet = streams.open(broker, QUEUE, receive_bytes=4096)
    warm_up(streams, [comet], broker.port, QUEUE)
    streams.freeze(comet)
    ledger = Posting([broker.port], QUEUE, [b.ljust(2000, b"-") for b in bodies(1500)]).join()
    assert len(ledger.acknowledged) == 1500
    assert broker.stop() == 0
    comet.read_to_end()
    assert not comet.ended
    broker.start("/readyz")
    found = [message.id for message in drain(broker.port, QUEUE)]
    assert 0 < len(comet.lines) < 1500
    assert set(comet.ids) | set(found) == ledger.ids
    if policy == "roundrobin":
        # What the kernel took between its first refusal and the cut goes to others, too.
        doubled = sorted(set(comet.ids) & set(found))
        assert doubled == sorted(comet.ids)[len(comet.ids) - len(doubled) :]
        assert len(doubled) * 2000 <= KERNEL_BYTES


def test_a_stream_that_is_slow_gets_what_it_was_dealt_and_then_its_end(
    daemon: StartDaemon, streams: Streams
) -> None:
    """What lies in the broker for me comes before the last chunk."""
    broker = daemon()
    broker.wait_for("/readyz")
    with Client(broker.port) as client:
        client.set_policy(QUEUE, "roundrobin")
    comet = streams.open(broker, QUEUE, receive_bytes=4096)
    warm_up(streams, [comet], broker.port, QUEUE)
    streams.freeze(comet)
    ledger = Posting([broker.port], QUEUE, [b.ljust(2000, b"-") for b in bodies(300)]).join()
    broker.terminate()
    wait_until(lambda: refuses(broker.port), "the port to be closed")
    streams.thaw(comet)
    streams.wait(lambda: comet.ended, "the last chunk")
    assert broker.wait() == 0
    broker.start("/readyz")
    rest = [message.id for message in drain(broker.port, QUEUE)]
    assert sorted([*comet.ids, *rest]) == sorted(ledger.ids)


@PROCESSES
@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,) * 2])
def test_a_second_signal_ends_it_at_once(
    daemon: StartDaemon,
    start_valkey: StartValkey,
    clients: Holding,
    signals: tuple[signal.Signals, signal.Signals],
    processes: str,
) -> None:
    """Ctrl-C, and Ctrl-C again because it takes too long for me."""
    server = start_valkey()
    options = ("--redis-url", server.url, "--stop-timeout", "600", "--processes", processes)
    broker = daemon(*options)
    wait_for_all(broker, processes)
    all_pids = [broker.pid, *serving(broker.pid)]
    (client,) = clients(broker.port, 1)
    with stopped(server.pid):
        begin_post(client, b"x")
        os.kill(broker.pid, signals[0])
        wait_until(lambda: refuses(broker.port), "the port to be closed")
        os.kill(broker.pid, signals[1])
        assert broker.wait() == -signals[1]
    wait_until(lambda: not any(map(is_alive, all_pids)), "the end of all")
