"""The rows of the table: for each what is done to which system, and the goals."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, cast

from bench import fanout, request_load
from bench.fanout import Fanout
from bench.figures import Best, Figures, Goal, Idle, ratio
from bench.request_load import Load
from bench.responses import request
from bench.systems import SYSLOG_QUEUE, LineSystem, System

FORM = "application/x-www-form-urlencoded"
VALUE = "x" * 94
BODY = f"value={VALUE}"
TAKE = 'body={"cmd":"take","queue":"taken"}'

RESTMQ = "restmq"
NCHAN = "nchan"
NCHAN_REDIS = "nchan/redis"
WEBDIS = "webdis"
SYSLOGD = "syslogd"
RSYSLOG = "rsyslog"
OURS = (RESTMQ, SYSLOGD)


class Scale(NamedTuple):
    """How long each measurement is: seconds of posting, messages to drain, to fan out, to deal; lines to log."""

    seconds: float
    drained: int
    fanned_out: int
    dealt: int
    idle_seconds: float
    logged: int
    own_load: bool = False


FULL = Scale(4.0, 60_000, 2000, 20_000, 10.0, 300_000)
QUICK = Scale(1.0, 8_000, 500, 4_000, 3.0, 50_000)

Measure = Callable[[System, Scale], Figures]
"""Does the work and says what the load generator saw."""

Prepare = Callable[[System, Scale], None]


class Run(NamedTuple):
    """One system's part in a row; ``prepare`` is done before, and not measured."""

    measure: Measure
    prepare: Prepare = lambda system, scale: None


class Row(NamedTuple):
    """What is measured together. ``peer``: the system that ratios are to, if it is another's."""

    name: str
    unit: str
    runs: Mapping[str, Run]
    peer: str = ""


def _posting(
    path: str, queues: int = 1, body: str = BODY, content_type: str = FORM
) -> Callable[[System, Scale], Figures]:
    """POST for as long as the scale says."""

    def measure(system: System, scale: Scale) -> Figures:
        load = Load(system.port, "POST", path, body, content_type, queues, 0, scale.seconds)
        return request_load.run(load, scale.own_load)

    return measure


def _counted(method: str, path: str, body: str = "", content_type: str = "") -> Measure:
    """As many requests as there are messages to drain."""

    def measure(system: System, scale: Scale) -> Figures:
        load = Load(system.port, method, path, body, content_type, 1, scale.drained, 120.0)
        figures = request_load.run(load, scale.own_load)
        # The last ones were on their way when the generator stopped counting.
        missing = max(0, scale.drained - figures.operations - load.connections)
        return figures._replace(errors=figures.errors + missing)

    return measure


def _filled(path: str, body: str = BODY, content_type: str = FORM) -> Prepare:
    def prepare(system: System, scale: Scale) -> None:
        load = Load(system.port, "POST", path, body, content_type, 1, scale.drained, 120.0)
        request_load.run(load, scale.own_load)

    return prepare


def _fanned_out(consumers: int, publishers: int, kind: Callable[..., Fanout]) -> Measure:
    def measure(system: System, scale: Scale) -> Figures:
        return fanout.run(
            kind(system.port, f"f{consumers}x{publishers}", consumers, publishers, scale.fanned_out)
        )

    return measure


def _comet(port: int, name: str, consumers: int, publishers: int, messages: int) -> Fanout:
    return Fanout(port, f"/c/{name}", f"/q/{name}", consumers, publishers, messages)


def _nchan(prefix: str) -> Callable[..., Fanout]:
    def plan(port: int, name: str, consumers: int, publishers: int, messages: int) -> Fanout:
        """A stream of chunks like ours: of what nchan offers it is the fastest here."""
        return Fanout(
            port,
            f"/{prefix}sub/{name}",
            f"/{prefix}pub/{name}",
            consumers,
            publishers,
            messages,
            form=False,
            more="TE: chunked\r\n",
        )

    return plan


def _dealt(system: System, scale: Scale) -> Figures:
    plan = Fanout(system.port, "/c/turns", "/q/turns", 9, 50, scale.dealt, each_once=True)
    return fanout.run(plan)


def _round_robin(system: System, scale: Scale) -> None:
    status = system.ask("POST", "/p/turns", "policy=roundrobin", FORM)
    assert status == 200, status


def _fan_row(consumers: int, publishers: int) -> Row:
    runs = {
        RESTMQ: Run(_fanned_out(consumers, publishers, _comet)),
        NCHAN: Run(_fanned_out(consumers, publishers, _nchan(""))),
        NCHAN_REDIS: Run(_fanned_out(consumers, publishers, _nchan("r"))),
    }
    return Row(f"COMET {consumers} x {publishers}", "deliveries", runs, NCHAN)


def _post_row(name: str, queues: int) -> Row:
    at = "@" if queues > 1 else ""
    runs = {
        RESTMQ: Run(_posting(f"/q/{name}{at}", queues)),
        NCHAN_REDIS: Run(_posting(f"/rpub/{name}{at}", queues, "x" * 100, "text/plain")),
        NCHAN: Run(_posting(f"/pub/{name}{at}", queues, "x" * 100, "text/plain")),
    }
    if queues == 1:
        runs[WEBDIS] = Run(_posting("/", 1, f"LPUSH/{name}/{VALUE}"))
    title = "one queue" if queues == 1 else f"{queues} queues"
    return Row(f"POST {title}", "requests", runs, NCHAN_REDIS)


POST_ONE = _post_row("one", 1)
POST_50 = _post_row("fifty", 50)
POST_5000 = _post_row("many", 5000)
GET_DRAIN = Row(
    "GET drains",
    "requests",
    {
        RESTMQ: Run(_counted("GET", "/q/drained"), _filled("/q/drained")),
        WEBDIS: Run(
            _counted("POST", "/", "RPOP/drained", FORM), _filled("/", f"LPUSH/drained/{VALUE}")
        ),
    },
    WEBDIS,
)
TAKE_DRAIN = Row(
    "take drains",
    "requests",
    {RESTMQ: Run(_counted("POST", "/queue", TAKE, FORM), _filled("/q/taken"))},
)
FAN_ROWS = {
    (consumers, publishers): _fan_row(consumers, publishers)
    for consumers in (100, 1000)
    for publishers in (8, 64)
}
ROUND_ROBIN = Row("round robin 9", "deliveries", {RESTMQ: Run(_dealt, _round_robin)})

SENDERS = 10
LOG_LINE = (
    b"<22>Nov  1 00:12:04 mail postfix/smtpd[4880]: connect from localhost[127.0.0.1], no. %07d\n"
)


def _forget_lines(system: System, scale: Scale) -> None:
    system.ask("DELETE", f"/q/{SYSLOG_QUEUE}")


def _logged(system: System, scale: Scale) -> Figures:
    """Lines on ten connections at once, until the last one is kept."""
    assert isinstance(system, LineSystem)
    each = scale.logged // SENDERS
    before, wanted = system.lines(), each * SENDERS
    blocks = [b"".join(LOG_LINE % n for n in range(each)) for _ in range(SENDERS)]
    with ExitStack() as stack:
        address = ("127.0.0.1", system.syslog_port)
        senders = [stack.enter_context(socket.create_connection(address)) for _ in blocks]
        cpu, start = time.process_time(), time.perf_counter()
        _send_all(senders, blocks)
        while (kept := system.lines() - before) < wanted and time.perf_counter() - start < 120:
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        load = time.process_time() - cpu
    return Figures(kept, seconds, lost=wanted - kept, load_cpu_seconds=load)


def _send_all(senders: Sequence[socket.socket], blocks: Sequence[bytes]) -> None:
    with selectors.DefaultSelector() as selector:
        for sender, block in zip(senders, blocks, strict=True):
            sender.setblocking(False)
            selector.register(sender, selectors.EVENT_WRITE, memoryview(block))
        while selector.get_map():
            for key, _ in selector.select():
                sender, rest = cast("socket.socket", key.fileobj), key.data
                rest = rest[sender.send(rest[:262144]) :]
                if rest:
                    selector.modify(sender, selectors.EVENT_WRITE, rest)
                else:
                    selector.unregister(sender)


SYSLOG = Row(
    "syslog 10 senders",
    "lines",
    {SYSLOGD: Run(_logged, _forget_lines), RSYSLOG: Run(_logged)},
    RSYSLOG,
)

ROWS: Sequence[Row] = (
    POST_ONE,
    POST_50,
    POST_5000,
    GET_DRAIN,
    TAKE_DRAIN,
    *FAN_ROWS.values(),
    ROUND_ROBIN,
    SYSLOG,
)


# ---- consumers that get nothing

IDLE_CONSUMERS = 1000
IDLE_ONE = "idle 1000"
IDLE_EACH = "idle 1000 queues"
IDLE_ROWS = {IDLE_ONE: "/c/idle?flush=1", IDLE_EACH: "/c/idle@?flush=1"}
"""All on one queue, and each on a queue of its own."""


def idle(system: System, path: str, seconds: float) -> Idle:
    """What 1,000 consumers of a fresh daemon cost while nothing is sent."""
    with ExitStack() as stack:
        stack.enter_context(_streams(system.port, [path] * 10, "first@"))
        time.sleep(1.0)
        before = system.resident_bytes()
        stack.enter_context(_streams(system.port, [path] * IDLE_CONSUMERS, ""))
        time.sleep(1.0)
        cpu, start = system.cpu_seconds(), time.perf_counter()
        time.sleep(seconds)
        used, elapsed = system.cpu_seconds(), time.perf_counter() - start
        after = system.resident_bytes()
    return Idle(
        IDLE_CONSUMERS,
        100 * (used[0] - cpu[0]) / elapsed,
        100 * (used[1] - cpu[1]) / elapsed,
        (after[0] - before[0]) / IDLE_CONSUMERS,
        (after[1] - before[1]) / IDLE_CONSUMERS,
    )


def _streams(port: int, paths: Sequence[str], prefix: str) -> ExitStack:
    """Open streams, each once its head has come; closed at the end."""
    stack = ExitStack()
    for number, path in enumerate(paths):
        one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        one.sendall(request("GET", path.replace("@", f"{prefix}{number}")))
        head = b""
        while b"\r\n\r\n" not in head:
            head += one.recv(4096) or b"\r\n\r\n"
        assert head.startswith(b"HTTP/1.1 200 "), head
    return stack


# ---- goals


def _rate(row: Row, system: str, other_row: Row, other: str) -> Callable[[Best], float | None]:
    return lambda best: ratio(best, (row.name, system), (other_row.name, other))


def _idle_cpu(best: Best) -> float | None:
    found = best.get((IDLE_ONE, RESTMQ))
    return None if found is None or found.idle is None else found.idle.cpu_percent


def _idle_memory(best: Best) -> float | None:
    found = best.get((IDLE_ONE, RESTMQ))
    return None if found is None or found.idle is None else found.idle.bytes_each / 1024


def _uneven(best: Best) -> float | None:
    found = best.get((ROUND_ROBIN.name, RESTMQ))
    return None if found is None else found.figures.uneven_percent


def _faults(best: Best) -> float | None:
    ours = [one.figures.faults for (_, system), one in best.items() if system in OURS]
    return float(sum(ours)) if ours else None


MANY = FAN_ROWS[1000, 64]
FEW = FAN_ROWS[1000, 8]

GOALS: Sequence[Goal] = (
    Goal(
        "POST / nchan over Redis (1.5 in sight)",
        1.0,
        _rate(POST_ONE, RESTMQ, POST_ONE, NCHAN_REDIS),
    ),
    Goal("GET that drains / POST", 0.8, _rate(GET_DRAIN, RESTMQ, POST_ONE, RESTMQ)),
    Goal("GET that drains / webdis' RPOP", 0.5, _rate(GET_DRAIN, RESTMQ, GET_DRAIN, WEBDIS)),
    Goal("POST over 50 queues / over one", 0.6, _rate(POST_50, RESTMQ, POST_ONE, RESTMQ)),
    Goal("1000 consumers, 64 publishers / nchan in memory", 3.0, _rate(MANY, RESTMQ, MANY, NCHAN)),
    Goal("1000 consumers, 8 publishers / nchan in memory", 1.0, _rate(FEW, RESTMQ, FEW, NCHAN)),
    Goal("syslog lines / rsyslog to a file", 0.5, _rate(SYSLOG, SYSLOGD, SYSLOG, RSYSLOG)),
    Goal("CPU with 1,000 idle consumers", 1.0, _idle_cpu, at_most=True, unit="%"),
    Goal("memory of an idle consumer", 16.0, _idle_memory, at_most=True, unit="KiB"),
    Goal("round robin: shares apart", 2.0, _uneven, at_most=True, unit="%"),
    Goal("errors, lost, duplicated in all rows", 0.0, _faults, at_most=True, unit=""),
)
