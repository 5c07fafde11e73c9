"""The benchmark counts rightly. No timing is asserted here."""

from __future__ import annotations

import os
import re
import socket
import socketserver
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import alone, events, figures, jobs, request_load, rows, systems
from bench.__main__ import ALONE, ROWS, in_order, options, plain, progress, report
from bench.fanout import MARK, Fanout, Tally, fan_out, numbers, tally, told_missed, torn
from bench.figures import Figures, Goal, Growth, Idle, Lot, Measurement, best_of, judge, ratio
from bench.goals import GOALS
from bench.processes import peak_bytes
from bench.readers import PATTERNS, POLLS, Apart, Readers, wrong
from bench.readers import Load as ReaderLoad
from bench.request_load import Load, figures_in, make_requests
from bench.responses import request, response
from bench.streams import OFFER, Stream, begun
from bench.talks import KINDS, Answer, Talk, line_answer, talk_here


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
        Measurement("idle", "a", n, Figures(0, 0.0), idle=Idle([], cpu, 0))
        for n, cpu in enumerate((0.5, 0.2, 0.4))
    ]
    found = best_of(idle)["idle", "a"].idle
    assert found is not None
    assert found.cpu_percent == 0.2


def test_at_a_set_pace_the_round_with_the_lowest_p99_counts():
    calm = [
        Measurement("calm", "a", n, Figures(10, 1.0 + p99, 1.0, p99, paced=True))
        for n, p99 in enumerate((9.0, 4.0, 0.0), 1)
    ]
    assert best_of(calm)["calm", "a"].figures.p99_ms == 0.0


def test_memory_is_told_of_each_kind_of_consumer():
    lots = [Lot("COMET", 5000, 2.0, 1.0, 4096, 0), Lot("WebSocket", 5000, 3.0, 2.0, 8192, 0)]
    found = Idle(lots, 0.5, 0.1)
    assert found.connect_seconds == 5.0
    assert found.bytes_each("WebSocket") == 8192
    assert found.bytes_each("SSE") is None


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


def full_result() -> list[Measurement]:
    """Something measured in every row."""
    latencies = Figures(100, 1.0, 1.0, 2.0)
    full = [Measurement(row.name, system, 1, latencies) for row in ROWS for system in row.runs]
    kinds = (rows.COMET, rows.WEBSOCKET, alone.COMPRESSED)
    idle = Idle([Lot(kind, 1000, 1.0, 0.5, 2048, 1024) for kind in kinds], 0.1, 0.1)
    full += [
        Measurement(row.name, rows.RESTMQ, 1, Figures(0, 0.0), bytes_each=150.0)
        for row in jobs.JOBS_ALONE
    ]
    full += [Measurement(row.name, rows.RESTMQ, 1, latencies) for row in events.EVENTS_ALONE]
    for row in alone.ALONE:
        if row in (alone.AWAKE, alone.ASLEEP):
            full.append(Measurement(row.name, rows.RESTMQ, 1, latencies, growth=Growth(2**20, 0)))
        else:
            full.append(Measurement(row.name, rows.RESTMQ, 1, Figures(0, 0.0), idle=idle))
    return full


def test_every_goal_can_be_read_from_a_full_result():
    full = full_result()
    best = best_of(full)
    assert [verdict.goal.text for verdict in judge(GOALS, best) if verdict.met is None] == []
    assert all(name in report(best) for name, _ in best)
    assert all(plain(one)["row"] == one.row and one.row in progress(one) for one in full)


def test_of_nothing_measured_no_goal_is_judged():
    assert {verdict.met for verdict in judge(GOALS, {})} == {None}


def test_all_rows_have_names_of_their_own():
    names = [row.name for row in (*ROWS, *ALONE)]
    assert len(set(names)) == len(names)


def test_a_p99_below_100_ms_is_good_whatever_the_peers_is():
    row = rows.FAN_ROWS[rows.SSE, 1000, 64].name
    goal = next(goal for goal in GOALS if goal.text.startswith("SSE") and "p99" in goal.text)
    ours, fast, slow = Figures(1, 1.0, 1, 90), Figures(1, 1.0, 1, 5), Figures(1, 1.0, 1, 900)
    for theirs, value in ((fast, 0.9), (slow, 0.1)):
        both = [Measurement(row, rows.RESTMQ, 1, ours), Measurement(row, rows.NCHAN, 1, theirs)]
        assert goal.value(best_of(both)) == pytest.approx(value)


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


def test_what_a_consumer_is_told_it_missed_is_added_up():
    lines = b'{"missed": 3}\r\n{"key": "a", "value": "missed"}\r\ndata: {"queue":"a","missed":40}'
    assert told_missed(lines) == 43


@given(st.integers(1, 200_000), st.integers(1, 20_000), st.sampled_from([100, 1024, 2**20]))
def test_a_sample_has_a_consumer_and_a_bounded_size(messages: int, consumers: int, size: int):
    plan = Fanout(1, [Stream("/")], "/", consumers, 1, messages, size=size)
    assert plan.sampled >= 1
    assert plan.sampled in (1, consumers) or plan.sampled * messages * size <= 400_000_000


def test_a_stream_asks_for_what_it_wants():
    assert b"Upgrade: websocket\r\n" in Stream("/ws/a", websocket=True, more=OFFER).request()
    assert b"permessage-deflate" in Stream("/ws/a", websocket=True, more=OFFER).request()
    assert b"Upgrade" not in Stream("/c/a").request()


def test_memory_at_its_peak_is_no_less_than_it_is():
    assert peak_bytes([os.getpid()]) >= 1_000_000
    assert peak_bytes([]) == 0


def test_a_daemon_that_lacks_an_option_is_left_out(tmp_path: Path):
    command = [sys.executable, "-c", "print('--port')"]
    with pytest.raises(systems.Missing, match="--nothing"):
        systems.restmq(tmp_path, command, ["--nothing"])


# ---- against a small broker that does what it is told


class Hub:
    """Streams of ``/sub`` get what is posted to ``/pub``, each as often as ``copies`` says."""

    def __init__(
        self, copies: dict[int, int], each_once: bool, untold: frozenset[int] = frozenset()
    ) -> None:
        """``untold``: of these the first stream is only told that it missed them."""
        self.copies = copies
        self.each_once = each_once
        self.untold = untold
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
                untold = found and place == 0 and found[0] in self.untold
                stream.sendall(b'{"missed": 1}\r\n' if untold else body * times)


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
                place = 0 if head.startswith(b"GET /sub/first ") else len(hub.streams)
                hub.streams.insert(place, self.request)
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
        streams = [Stream("/sub/first"), Stream("/sub"), Stream("/sub")]
        plan = Fanout(port, streams, "/pub", 3, 2, 20, form=False, each_once=each_once)
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


def with_sleeper(copies: dict[int, int], untold: frozenset[int]) -> Figures:
    with serving(Hub(copies, each_once=False, untold=untold)) as port:
        streams = [Stream("/sub/first"), Stream("/sub"), Stream("/sub")]
        plan = Fanout(port, streams, "/pub", 3, 2, 20, form=False, sleepers=1)
        return fan_out(plan, patience_seconds=0.5)


def test_a_sleeper_that_is_told_what_it_missed_lost_nothing():
    found = with_sleeper({}, frozenset({3, 4}))
    assert found.faults == 0
    assert found.operations == 40  # those of the others


@pytest.mark.parametrize("times", [0, 2])
def test_a_sleeper_is_counted_like_all_others(times: int):
    found = with_sleeper({3: times}, frozenset({7}))
    assert (found.lost, found.duplicated) == ((1, 0) if times == 0 else (0, 1))


def test_messages_at_a_set_pace_all_arrive():
    with serving(Hub({}, each_once=False)) as port:
        plan = Fanout(port, [Stream("/sub")], "/pub", 3, 2, 20, form=False, per_second=500.0)
        found = fan_out(plan)
    assert (found.operations, found.faults, found.paced) == (60, 0, True)


def test_streams_are_begun_or_refused():
    with serving(Hub({}, each_once=False)) as port:
        opened, seconds = begun([Stream("/sub")] * 3, port)
        opened.close()
        assert seconds > 0
        with pytest.raises(ValueError, match="/nothing is refused"):
            begun([Stream("/nothing")], port)


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


# ---- workers


def replies(data: bytes) -> list[bytes]:
    """What a loop reads of beanstalkd, piece by piece."""
    found = []
    while (answer := line_answer(data)) is not None:
        found.append(answer[0].data)
        data = data[answer[1] :]
    return found


def test_a_reserved_job_is_read_with_its_body():
    whole = b"INSERTED 1\r\nRESERVED 1 5\r\na\r\nb\n\r\nDELETED\r\n"
    assert replies(whole) == [b"INSERTED 1\r\n", b"RESERVED 1 5\r\na\r\nb\n\r\n", b"DELETED\r\n"]
    assert replies(b"RESERVED 1 5\r\na\r\nb\n\r") == []


def test_a_worker_acknowledges_what_it_received():
    worker = KINDS["batches"](Talk("batches", 1, "jobs", batch=2))
    assert b"/v1/queues/jobs/batch" in next(worker).send
    step = worker.send(Answer(200, b'{"results":[],"failed":0}'))
    assert b"/receive?limit=2" in step.send
    step = worker.send(Answer(200, b'{"receipt":"a"}{"receipt": "b"}'))
    assert step.send.endswith(b'{"receipts":["a","b"]}')
    step = worker.send(Answer(200, b'{"results":[],"failed":0}'))
    assert (step.done, step.errors) == (2, 0)
    assert b"/batch" in step.send


def test_a_worker_that_is_refused_counts_an_error_and_begins_anew():
    worker = KINDS["put-receive-ack"](Talk("put-receive-ack", 1, "jobs"))
    put = next(worker).send
    step = worker.send(Answer(503, b""))
    assert (step.send, step.done, step.errors) == (put, 0, 1)


class Lines(socketserver.StreamRequestHandler):
    """As much of beanstalkd as a worker needs."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            if line.startswith(b"put "):
                self.rfile.readline()
                self.wfile.write(b"INSERTED 7\r\n")
            elif line.startswith(b"reserve"):
                self.wfile.write(b"RESERVED 7 3\r\nabc\r\n")
            else:
                self.wfile.write(b"DELETED\r\n")


def test_workers_run_until_enough_is_done():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Lines) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        port = server.server_address[1]
        found = talk_here(Talk("put-reserve-delete", port, "", 30.0, 40, connections=2))
        server.shutdown()
        thread.join()
    assert 40 <= found.operations <= 41  # the other one's last job may come with it
    assert found.errors == 0
    assert found.p50_ms is not None


# ---- readers of events


def test_a_reader_must_get_the_events_of_its_group_and_no_others():
    assert wrong(1, 4, 10, [1, 5, 9]) == Tally(0, 0)
    assert wrong(1, 4, 10, [1, 9]) == Tally(1, 0)
    assert wrong(1, 4, 10, [1, 5, 5, 9]) == Tally(0, 1)
    assert wrong(1, 4, 10, [1, 2, 5, 9]) == Tally(0, 1)
    assert wrong(1, 4, 10, [1, 9, 9]) == Tally(1, 1)  # the sum alone would not show it
    assert wrong(7, 4, 10, []) == Tally(0, 0)  # nothing is published to its topic
    assert wrong(7, 4, 10, [7]) == Tally(0, 1)


class EventHub:
    """Events as often as ``copies`` says; ``suffers`` is the one that it says so for."""

    def __init__(self, copies: dict[int, int], suffers: str) -> None:
        self.copies = copies
        self.suffers = suffers
        self.bodies: list[tuple[str, bytes]] = []
        self.streams: list[tuple[str, socket.socket]] = []
        self.lock = threading.Lock()

    def times(self, body: bytes, who: str) -> int:
        number = int((re.search(rb'"n":(\d+)', body) or [b"", b"0"])[1])
        return self.copies.get(number, 1) if self.suffers in who else 1

    def publish(self, group: str, body: bytes) -> None:
        with self.lock:
            self.bodies.append((group, body))
            for path, stream in self.streams:
                if group in path:
                    stream.sendall(b"data: {%b}\n\n" % body * self.times(body, path))

    def read(self, path: str) -> bytes:
        """What lies behind the cursor, as each of the protocols has it."""
        after = int(re.findall(r"\d+", path)[-1])
        with self.lock:
            found = [
                (place, body)
                for place, (group, body) in enumerate(self.bodies, 1)
                if place > after and group in path
                for _ in range(self.times(body, path))
            ]
            last = len(self.bodies)
        if path.startswith("/e/"):
            texts = [b'{"id":%d,"data":%b}' % one for one in found]
            return b'{"events":[%b]}' % b",".join(texts)
        texts = [b'{"cursor":"1-%d","body":%b}' % one for one in found]
        return b'{"events":[%b],"cursor":"1-%d","more":false}' % (b",".join(texts), last)


class EventHandler(Handler):
    """As much of events as readers need."""

    def answer(self, head: bytes, body: bytes) -> None:
        assert isinstance(self.server, EventServer)
        hub = self.server.hub
        path = head.split(b" ")[1].decode()
        if path.startswith("/v1/stream"):
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n:ok\n\nid: 1-0\n\n")
            with hub.lock:
                hub.streams.append((path, self.request))
            return
        if head.startswith(b"POST"):
            hub.publish(path.split(".")[1], body)
            text, status = b"{}", b"201 Created"
        else:
            text, status = hub.read(path), b"200 OK"
        self.request.sendall(
            b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text)
        )


class EventServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    hub: EventHub


def read_events(copies: dict[int, int], suffers: str) -> Figures:
    """Ten subscribers and eight pollers of two groups; what is told of them."""
    # A publisher for each event: none is late, however busy the machine is.
    plan = Readers(0, 10, 8, groups=2, published=2, seconds=1.0, per_second=40.0, publishers=40)
    with EventServer(("127.0.0.1", 0), EventHandler) as server:
        server.hub = EventHub(copies, suffers)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            load = ReaderLoad(plan._replace(port=server.server_address[1]), patience_seconds=0.5)
            load.connect()
            return load.run()
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "suffers", [PATTERNS[3].format(1), POLLS[1].format(1)[:-1], POLLS[0].format(1)[:-1]]
)
@pytest.mark.parametrize(
    ("copies", "wrong_ones"), [({3: 0}, (1, 0)), ({3: 2}, (0, 1)), ({}, (0, 0))]
)
def test_readers_notice_what_is_lost_and_what_comes_twice(
    suffers: str, copies: dict[int, int], wrong_ones: tuple[int, int]
):
    found = read_events(copies, suffers)
    assert found.errors == 0
    assert (found.lost, found.duplicated) == wrong_ones


def test_readers_of_a_real_daemon_get_everything_once(tmp_path: Path):
    """A tiny run of the rows: patterns and topics, polls of both kinds, at a pace and as fast as it goes."""
    system = systems.restmq(tmp_path, options=("--events-open",))
    try:
        mixed = Readers(system.port, 30, 24, 3, 3, 1.0, 60.0, publishers=60)
        found = Apart(mixed).run()
        assert found.faults == 0
        assert found.operations > 0
        assert found.p99_ms is not None
        of_one = Readers(system.port, 20, groups=20, seconds=0.3, wildcards=False)
        found = Apart(of_one).run()
        assert found.faults == 0
        assert found.operations > 0
        assert not found.paced
    finally:
        system.end()


def test_events_that_cannot_be_published_in_time_are_errors():
    """Or a row whose daemon is too slow would look well with half of the load."""
    plan = Readers(0, 1, groups=1, seconds=0.5, per_second=1000.0, publishers=1)
    with EventServer(("127.0.0.1", 0), EventHandler) as server:
        server.hub = EventHub({}, "")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        server.hub.lock.acquire()  # nothing is answered
        try:
            load = ReaderLoad(plan._replace(port=server.server_address[1], subscribers=0), 0.1)
            load.connect()
            assert load.run().errors >= 500 - 2
        finally:
            server.hub.lock.release()
            server.shutdown()
            thread.join()


def test_readers_that_are_refused_say_so():
    with serving(Hub({}, each_once=False)) as port, pytest.raises(ValueError, match="is refused"):
        ReaderLoad(Readers(port, 1)).connect()
