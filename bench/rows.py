"""The rows of the table: for each what is done to which system. ``bench.alone`` has the rest."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, cast

from bench import fanout, request_load
from bench.fanout import Fanout
from bench.figures import Figures
from bench.request_load import Load
from bench.streams import Stream
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
    """How long each measurement is.

    Seconds of posting, messages to drain, to fan out, to deal, seconds of idling, messages to
    fan out to a crowd, at a calm pace, past a sleeper, lines to log, messages that wait in a deep
    queue, those whose memory is measured, and seconds of events.
    """

    seconds: float
    drained: int
    fanned_out: int
    dealt: int
    idle_seconds: float
    crowd: int
    calm: int
    past_sleeper: int
    logged: int
    deep: int
    remembered: int
    event_seconds: float
    own_load: bool = False


FULL = Scale(
    4.0, 60_000, 2000, 20_000, 10.0, 1000, 200, 200_000, 300_000, 10_000_000, 1_000_000, 10.0
)
QUICK = Scale(1.0, 8_000, 500, 4_000, 3.0, 100, 40, 20_000, 50_000, 1_000_000, 100_000, 4.0)

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


COMET = "COMET"
SSE = "SSE"
WEBSOCKET = "WebSocket"


class Transport(NamedTuple):
    """How a consumer listens; ``@`` is the queue's name."""

    restmq: Stream
    nchan: Stream


TRANSPORTS: Mapping[str, Transport] = {
    COMET: Transport(Stream("/c/@"), Stream("/sub/@", more="TE: chunked\r\n")),
    SSE: Transport(Stream("/sse/@"), Stream("/sub/@", more="Accept: text/event-stream\r\n")),
    WEBSOCKET: Transport(Stream("/ws/@", websocket=True), Stream("/sub/@", websocket=True)),
}


class Shape(NamedTuple):
    """How many send to how many, and what the scale says of the number of messages."""

    consumers: int
    publishers: int
    messages: Callable[[Scale], int]
    per_second: float = 0.0


def _queue(title: str) -> str:
    """A name of its own for each row; nchan's are of letters and digits."""
    return title.lower().replace(" ", "")


def _fan_out(queue: str, streams: Sequence[Stream], shape: Shape, publish: str) -> Measure:
    """``@`` in the paths is the queue; ours takes a form, nchan the body."""

    def measure(system: System, scale: Scale) -> Figures:
        return fanout.run(
            Fanout(
                system.port,
                [one._replace(path=one.path.replace("@", queue)) for one in streams],
                publish.replace("@", queue),
                shape.consumers,
                shape.publishers,
                shape.messages(scale),
                form=publish.startswith("/q/"),
                per_second=shape.per_second,
            )
        )

    return measure


def _dealt(system: System, scale: Scale) -> Figures:
    streams = [Stream("/c/turns")]
    plan = Fanout(system.port, streams, "/q/turns", 9, 50, scale.dealt, each_once=True)
    return fanout.run(plan)


def _round_robin(system: System, scale: Scale) -> None:
    status = system.ask("POST", "/p/turns", "policy=roundrobin", FORM)
    assert status == 200, status


def _fan_row(kind: str, title: str, shape: Shape) -> Row:
    """Consumers of one transport, beside nchan's of the same; COMET's also over Redis."""
    ours, theirs = TRANSPORTS[kind]
    queue = _queue(title)
    runs = {
        RESTMQ: Run(_fan_out(queue, [ours], shape, "/q/@")),
        NCHAN: Run(_fan_out(queue, [theirs], shape, "/pub/@")),
    }
    if kind == COMET and not shape.per_second:
        over_redis = theirs._replace(path="/rsub/@")
        runs[NCHAN_REDIS] = Run(_fan_out(queue, [over_redis], shape, "/rpub/@"))
    return Row(title, "deliveries", runs, NCHAN)


def _crowd_row(consumers: int) -> Row:
    shape = Shape(consumers, 8, lambda scale: scale.crowd)
    title = f"COMET and WebSocket {consumers} x 8"
    streams = [TRANSPORTS[COMET].restmq, TRANSPORTS[WEBSOCKET].restmq]
    run = Run(_fan_out(_queue(title), streams, shape, "/q/@"))
    return Row(title, "deliveries", {RESTMQ: run})


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
    (kind, consumers, publishers): _fan_row(
        kind,
        f"{kind} {consumers} x {publishers}",
        Shape(consumers, publishers, lambda scale: scale.fanned_out),
    )
    for kind in TRANSPORTS
    for consumers in ((100, 1000) if kind == COMET else (1000,))
    for publishers in (8, 64)
}
CALM_ROWS = {
    kind: _fan_row(kind, f"{kind} calm 100", Shape(100, 8, lambda scale: scale.calm, 20.0))
    for kind in TRANSPORTS
}
CROWD_ROWS = {consumers: _crowd_row(consumers) for consumers in (1000, 10_000)}
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
    *CALM_ROWS.values(),
    *CROWD_ROWS.values(),
    ROUND_ROBIN,
    SYSLOG,
)
