"""The benchmark counts rightly. No timing is asserted here."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import figures, request_load, rows
from bench.__main__ import in_order, options, progress, report
from bench.fanout import MARK, Fanout, Tally, fan_out, numbers, tally, torn
from bench.figures import Figures, Goal, Idle, Measurement, best_of, judge, ratio
from bench.request_load import Load, figures_in, make_requests
from bench.responses import request, response


def measured(row: str, system: str, rate: float, number: int = 1, **faults: int) -> Measurement:
    return Measurement(row, system, number, Figures(round(rate), 1.0, **faults))


# ---- figures


def test_the_best_round_counts_but_faults_of_all_rounds():
    best = best_of(
        [measured("POST", "a", 10, lost=2), measured("POST", "a", 30), measured("POST", "a", 20)]
    )
    assert best["POST", "a"].figures.rate == 30
    assert best["POST", "a"].figures.lost == 2


def test_of_idle_rounds_the_one_with_the_least_cpu_counts():
    idle = [
        Measurement("idle", "a", n, Figures(0, 0.0), idle=Idle(1000, cpu, 0, 0, 0))
        for n, cpu in enumerate((0.5, 0.2, 0.4))
    ]
    found = best_of(idle)["idle", "a"].idle
    assert found is not None
    assert found.cpu_percent == 0.2


def test_a_ratio_to_what_was_not_measured_is_none():
    best = best_of([measured("POST", "a", 30), measured("POST", "b", 20), measured("POST", "c", 0)])
    assert ratio(best, ("POST", "a"), ("POST", "b")) == 1.5
    assert ratio(best, ("POST", "a"), ("POST", "c")) is None
    assert ratio(best, ("POST", "a"), ("POST", "absent")) is None


@pytest.mark.parametrize(
    ("value", "at_most", "met", "word"),
    [
        (1.0, False, True, "met"),
        (0.9, False, False, "MISSED"),
        (0.9, True, True, "met"),
        (1.1, True, False, "MISSED"),
        (None, False, None, "not measured"),
    ],
)
def test_a_goal_is_met_missed_or_not_measured(
    value: float | None, at_most: bool, met: bool | None, word: str
):
    (verdict,) = judge([Goal("it", 1.0, lambda best: value, at_most)], {})
    assert verdict.met is met
    assert verdict.line().startswith(word)


def test_every_goal_can_be_read_from_a_full_result():
    names = [(row.name, system) for row in rows.ROWS for system in row.runs]
    full = [measured(row, system, 100) for row, system in names]
    idle = Idle(1000, 0.1, 0.1, 1024, 1024)
    full += [
        Measurement(name, rows.RESTMQ, 1, Figures(0, 0.0), idle=idle) for name in rows.IDLE_ROWS
    ]
    best = best_of(full)
    assert [verdict.goal.text for verdict in judge(rows.GOALS, best) if verdict.met is None] == []
    assert all(name in report(best) for name, _ in names)


def test_a_row_without_its_peer_is_shown_all_the_same():
    text = report(best_of([measured(rows.POST_ONE.name, rows.RESTMQ, 12345)]))
    assert "12.3k" in text
    assert "not measured" in text


@pytest.mark.parametrize(
    ("number", "text"), [(7.4, "7"), (9999, "9999"), (12345, "12.3k"), (2_500_000, "2.50M")]
)
def test_numbers_are_short(number: float, text: str):
    assert figures.short(number) == text


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.99, 4), (1.0, 4)])
def test_percentiles(share: float, value: float):
    assert figures.percentile([1, 2, 3, 4], share) == value
    assert figures.percentile([], share) is None


def test_rounds_alternate():
    assert in_order(["a", "b"], 1) != in_order(["a", "b"], 2)


def test_the_command_line():
    chosen = options(["--quick", "--only", "POST", "--no-peers", "--own-load", "--seconds", "0.5"])
    assert chosen.scale == rows.QUICK._replace(own_load=True, seconds=0.5)
    assert not chosen.peers
    assert chosen.only.search(rows.POST_ONE.name)
    assert "POST" in progress(measured("POST", "a", 1))


# ---- reading what comes


def test_wrks_figures_are_the_last_line_our_script_prints():
    output = 'Running 1s test\nFIGURES {"operations": 3, "seconds": 2.0, "errors": 1}\n'
    assert figures_in(output) == Figures(3, 2.0, errors=1)
    with pytest.raises(ValueError, match="gave no figures"):
        figures_in("connection refused")


@given(st.integers(0, 60), st.binary(max_size=20))
def test_a_response_is_known_when_it_is_whole(cut: int, body: bytes):
    whole = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    found = response(whole[:cut])
    if cut < len(whole):
        assert found is None
    assert response(whole + b"HTTP") == (201, len(whole))


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
)
def test_what_cannot_be_counted_is_refused(data: bytes):
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are for people
        response(data)


@given(st.lists(st.integers(0, 9), max_size=20), st.lists(st.integers(1, 40), max_size=10))
def test_marks_are_counted_whatever_reads_cut(sent: list[int], sizes: list[int]):
    """Each message is counted once, in the read that completes its mark."""
    data = b"".join(b'{"value": "%b%dxxx"}\r\n' % (MARK, number) for number in sent)
    count, kept, at = 0, b"", 0
    for size in [*sizes, len(data)]:
        read = kept + data[at : at + size]
        at += size
        kept = torn(read, len(read))
        count += read.count(MARK)
    assert count == len(sent)
    assert numbers(data) == sent


@given(st.lists(st.integers(0, 5)))
def test_every_message_is_lost_or_arrives_and_the_rest_is_too_much(arrived: list[int]):
    lost, duplicated = tally(4, Counter(arrived))
    assert 4 - lost + duplicated == len(arrived)
    assert lost == len({0, 1, 2, 3} - set(arrived))


# ---- against a small broker that does what it is told


class Hub:
    """Streams of ``/sub`` get what is posted to ``/pub``, each as often as ``copies`` says."""

    def __init__(self, copies: dict[int, int], each_once: bool) -> None:
        self.copies = copies
        self.each_once = each_once
        self.streams: list[socket.socket] = []
        self.lock = threading.Lock()

    def publish(self, body: bytes) -> None:
        found = numbers(body)
        with self.lock:
            if self.each_once and found:
                self.streams.append(self.streams.pop(0))
                self.streams[-1].sendall(body * self.copies.get(found[0], 1))
                return
            for place, stream in enumerate(self.streams):
                # Only the first stream suffers.
                times = self.copies.get(found[0], 1) if found and place == 0 else 1
                stream.sendall(body * times)


class Handler(socketserver.BaseRequestHandler):
    """Requests one after the other; a subscription never ends."""

    def handle(self) -> None:
        file = self.request.makefile("rb")
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = file.readline()
                if not line:
                    return
                head += line
            self.answer(
                head, file.read(int((re.search(rb"Length: (\d+)", head) or [b"", b"0"])[1]))
            )

    def answer(self, head: bytes, body: bytes) -> None:
        assert isinstance(self.server, Server)
        hub = self.server.hub
        if head.startswith(b"GET /sub"):
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with hub.lock:
                hub.streams.append(self.request)
        elif head.startswith(b"POST /pub"):
            hub.publish(body)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    hub: Hub


@contextmanager
def serving(hub: Hub) -> Iterator[int]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.hub = hub
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def fan(copies: dict[int, int], each_once: bool = False) -> Figures:
    with serving(Hub(copies, each_once)) as port:
        plan = Fanout(port, "/sub", "/pub", 3, 2, 20, form=False, each_once=each_once)
        return fan_out(plan, patience_seconds=0.5)


def test_a_fan_out_without_fault_is_counted_so():
    found = fan({})
    assert found.operations == 60
    assert found.faults == 0
    assert found.p50_ms is not None


@pytest.mark.parametrize("each_once", [False, True])
@pytest.mark.parametrize(
    ("copies", "wrong"),
    [
        ({3: 0, 7: 0}, Tally(2, 0)),
        ({3: 2}, Tally(0, 1)),
        ({3: 0, 4: 2}, Tally(1, 1)),  # the sum alone would not show it
    ],
)
def test_lost_and_duplicated_messages_are_counted(
    copies: dict[int, int], wrong: Tally, each_once: bool
):
    found = fan(copies, each_once)
    assert (found.lost, found.duplicated) == wrong


def test_shares_of_strict_turns_are_even():
    assert fan({}, each_once=True).uneven_percent == pytest.approx(100 * 1 * 3 / 20)


def test_a_request_load_of_a_number_sends_that_many():
    with serving(Hub({}, each_once=False)) as port:
        load = Load(port, "POST", "/pub/@", "x" * 10, "text/plain", 3, 100, 30.0, 5)
        found = make_requests(load)
    assert (found.operations, found.errors) == (100, 0)


def test_refused_requests_are_errors():
    with serving(Hub({}, each_once=False)) as port:
        found = make_requests(
            Load(port, "GET", "/nothing", requests=10, seconds=30.0, connections=2)
        )
    assert (found.operations, found.errors) == (0, 10)


def test_the_load_runs_in_a_process_of_its_own():
    with serving(Hub({}, each_once=False)) as port:
        load = Load(
            port, "POST", "/pub", "x", "text/plain", requests=50, seconds=30.0, connections=2
        )
        found = request_load.run(load, own=True)
    assert (found.operations, found.errors) == (50, 0)
    assert found.load_cpu_seconds > 0


def test_a_request_is_what_http_wants():
    assert request("GET", "/x") == b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert request("POST", "/x", b"ab", "a/b").endswith(
        b"Content-Type: a/b\r\nContent-Length: 2\r\n\r\nab"
    )
