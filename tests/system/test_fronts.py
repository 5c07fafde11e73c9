"""The shipped configurations of nginx, HAProxy and Caddy, in front of a real broker.

Each front is the real program with the file of ``deploy/``, in which only addresses are replaced.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, cast
from urllib.parse import quote

import pytest

from tests.support import (
    DEADLINE_SECONDS,
    ROOT,
    Daemon,
    ValkeyServer,
    free_port,
    need_tool,
    wait_until,
)
from tests.wire.clients import Comet, add, get, pop, post
from tests.wire.test_streams import SSE, Events
from tests.wire.websockets import Socket

DEPLOY = ROOT / "deploy"
HERE, THERE = "127.0.0.1:8080", "127.0.0.1:8888"
NAMES = ("plain", "a/b", "a//b", "/a/", "a b", "a+b", "é/ü", "50%", "%2F", "q?x=1", "a#b", "a;b")
FRONTS = ("nginx", "nginx with a prefix", "nginx with a slash", "haproxy", "caddy")
LOST_WITH_A_SLASH = ("a+b",)
"""What nginx changes when it writes a path anew: %2B becomes +, which has always meant a space."""
Tool = Callable[[str], str]


class Front(Daemon):
    """A front as tests see it: a port, and requests to it; ``prefix`` stands before each path."""

    def __init__(self, folder: Path, port: int, prefix: str) -> None:
        super().__init__(folder, (), {})
        self.port, self.prefix = port, prefix
        self.url = f"http://127.0.0.1:{port}{prefix}"

    def request(self, method: str, path: str, *more: Any, **rest: Any) -> Any:
        return super().request(method, self.prefix + path, *more, **rest)


def nginx(tool: Tool, folder: Path, text: str) -> tuple[list[str], list[str]]:
    main = folder / "nginx.conf"
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main.write_text(
        f"pid {folder}/pid;\nerror_log {folder}/error.log;\ndaemon off;\nmaster_process off;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{text}\n}}\n"
    )
    command = [tool("nginx"), "-c", str(main), "-p", str(folder)]
    return [*command, "-t"], command


def haproxy(tool: Tool, folder: Path, text: str) -> tuple[list[str], list[str]]:
    path = folder / "haproxy.cfg"
    path.write_text(text.replace("/etc/haproxy/", f"{DEPLOY}/haproxy/"))
    command = [tool("haproxy"), "-f", str(path)]
    return [*command, "-c"], command


def caddy(tool: Tool, folder: Path, text: str) -> tuple[list[str], list[str]]:
    path = folder / "Caddyfile"
    path.write_text(text)
    rest = ["--adapter", "caddyfile", "--config", str(path)]
    return [tool("caddy"), "validate", *rest], [tool("caddy"), "run", *rest]


KINDS = {
    "nginx": ("nginx/restmq.conf", nginx),
    "haproxy": ("haproxy/haproxy.cfg", haproxy),
    "caddy": ("caddy/Caddyfile", caddy),
}


@contextmanager
def running(tool: Tool, name: str, folder: Path, brokers: list[Daemon]) -> Iterator[Front]:
    """The front of that name before these brokers."""
    kind, _, prefixed = name.partition(" ")
    path, prepare = KINDS[kind]
    port = free_port()
    text = (DEPLOY / path).read_text()
    text = text.replace(HERE, f"127.0.0.1:{port}").replace(":8080", f":{port}")
    if name == "nginx with a slash":
        text = text.replace("proxy_pass http://restmq$restmq_path;", "proxy_pass http://restmq/;")
        assert "\n        proxy_pass http://restmq/;\n" in text
    if kind == "nginx":
        servers = "".join(f"server 127.0.0.1:{each.port};\n" for each in brokers)
        text = text.replace(f"server {THERE};", servers)
    text = text.replace(THERE, f"127.0.0.1:{brokers[0].port}")
    check, command = prepare(tool, folder, text)
    environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "PATH": "/usr/bin:/bin"}
    checked = subprocess.run(check, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    log = folder / "front.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        front = Front(folder, port, "/mq" if prefixed else "")
        wait_until(lambda: answers(port), log.read_text)
        wait_until(lambda: get(front, "/readyz").status == 200, log.read_text)
        yield front
    finally:
        process.kill()  # asked to end, one would wait for the streams that go through it
        process.wait(DEADLINE_SECONDS)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=FRONTS)
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, common_daemon: Daemon
) -> Iterator[Any]:
    """A front, with the broker behind it as ``broker``."""
    folder = tmp_path_factory.mktemp("front")
    common_daemon.wait_for("/readyz")
    with running(need_tool, request.param, folder, [common_daemon]) as made:
        own = request.param.replace(" ", "-")
        yield SimpleNamespace(front=made, broker=common_daemon, own=own)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_same_queue_before_and_behind_it(front: Any, name: str) -> None:
    """Slashes as they are and as %2F, and all that has a meaning somewhere on the way."""
    if front.own == "nginx-with-a-slash" and name in LOST_WITH_A_SLASH:
        pytest.skip("docs/deployment.md tells of it")
    queue = f"{front.own}:{name}"
    for safe in ("", "/"):
        reply = post(front.front, f"/q/{quote(queue, safe=safe)}", value="in front")
        assert (reply.status, reply.body.decode().rpartition(":")[0]) == (200, queue)
        assert pop(front.broker, queue)["value"] == "in front"
        add(front.broker, queue, "behind")
        assert b'"behind"' in get(front.front, f"/q/{quote(queue, safe=safe)}").body
        stats = get(front.front, f"/stats/{quote(queue, safe=safe)}")
        assert b'"len": 0' in stats.body


def test_a_stream_is_not_held_back(front: Any) -> None:
    """Each message reaches the stream before the next one is posted."""
    queue = f"{front.own}:stream/of messages"
    path = f"{front.front.prefix}/c/{quote(queue)}"
    with Comet(front.front.port, path) as stream:
        for word in ("one", "two", "three"):
            add(front.broker, queue, word)
            assert stream.message()["value"] == word
        assert stream.headers["content-type"].startswith("text/plain")
        reply = front.front.request("DELETE", f"/q/{quote(queue)}")
        assert reply.status == 200
        assert stream.is_over()


@pytest.mark.parametrize(
    "path", ["/sse/{}", "/v1/queues/{}/stream", "/v1/stream?queue={}"], ids=["sse", "one", "many"]
)
def test_events_are_not_held_back(front: Any, path: str) -> None:
    """The head and the greeting come before there is any message, and then each as it is posted."""
    queue = f"{front.own}:events/{path.count('/')}{path[1]}{path[4]}"
    path = front.front.prefix + path.format(quote(queue, safe=""))
    with Events(front.front.port, path, SSE) as stream:
        assert stream.head().headers["content-type"] == "text/event-stream"
        assert stream.block()[""] == "ok"
        for word in ("one", "two", "three"):
            add(front.broker, queue, word)
            assert stream.event()["data"]["body"] == word


def test_a_poll_for_events_is_answered_when_one_comes(front: Any) -> None:
    """At both doors, to whoever waits: the reader asks first, through the front."""
    topic = f"{front.own}.polled"
    agent = {"User-Agent": f"Ann uuid/{uuid.uuid4()}"}
    other = {"User-Agent": f"Bob uuid/{uuid.uuid4()}"}
    channel = f"/e/{front.own}/polled"
    with ThreadPoolExecutor(2) as pool:
        cursor = json.loads(front.broker.request("GET", "/v1/events").body)["cursor"]
        asked = f"/v1/events?topic={topic}&wait=30&cursor={cursor}"
        polls = [
            pool.submit(front.front.request, "GET", asked),
            pool.submit(front.front.request, "GET", f"{channel}?wait=30", None, agent),
        ]
        assert not wait(polls, 0.2).done, "nothing was published yet"
        reply = front.front.request("POST", channel, '{"n": 1}', other)
        assert reply.status == 201
        answers = [json.loads(poll.result(DEADLINE_SECONDS).body) for poll in polls]
    assert [answer["events"][0].get("body") for answer in answers] == [{"n": 1}, None]
    assert answers[1]["events"][0]["data"] == {"n": 1}


def test_events_of_topics_are_not_held_back(front: Any) -> None:
    topic = f"{front.own}.streamed"
    path = f"{front.front.prefix}/v1/stream?topic={topic}"
    with Events(front.front.port, path, SSE) as stream:
        assert stream.block()[""] == "ok"
        for word in ("one", "two", "three"):
            reply = front.front.request("POST", f"/v1/topics/{topic}/events", word)
            assert reply.status == 201
            assert stream.event()["data"]["body"] == word


def test_a_worker_waits_for_a_job_behind_it(front: Any) -> None:
    """Receive is a long poll, and a POST."""
    queue = quote(f"{front.own}:jobs/a b", safe="")
    asked = f"/v1/queues/{queue}/receive?wait=30"
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(front.front.request, "POST", asked)
        assert not wait([poll], 0.2).done, "there is no job yet"
        body, kind = "a job", {"Content-Type": "text/plain"}
        assert front.front.request("POST", f"/v1/queues/{queue}/messages", body, kind).status == 201
        (job,) = json.loads(poll.result(DEADLINE_SECONDS).body)["messages"]
    assert job["body"] == "a job"
    said = json.dumps({"receipts": [job["receipt"]]})
    assert front.front.request("POST", "/v1/ack", said).status == 200


def test_a_client_that_leaves_is_gone_for_the_broker_too(front: Any) -> None:
    """Else the front would read a stream for nobody, and swallow what it is dealt."""
    queue = f"{front.own}:left"
    path = f"{front.front.prefix}/c/{quote(queue)}"
    with Comet(front.front.port, path) as stream:
        add(front.broker, queue, "first")
        assert stream.message()["value"] == "first"

    def waits() -> bool:
        add(front.broker, queue, "next")
        return pop(front.broker, queue) is not None

    wait_until(waits, "a message that no stream took")


def test_websocket_frames_go_both_ways(front: Any) -> None:
    queue = f"{front.own}:ws/a b"
    client = Socket(front.front.port, f"{front.front.prefix}/ws/{quote(queue)}")
    try:
        assert client.status == 101
        client.send(b"there and back")
        assert client.frame() == (1, b"there and back")
        add(front.broker, queue, "pushed")
        opcode, text = client.frame()
        assert opcode == 1
        assert b'"pushed"' in text
    finally:
        client.close()


def test_the_websocket_of_v1_is_welcomed(front: Any) -> None:
    client = Socket(front.front.port, f"{front.front.prefix}/v1/ws")
    try:
        assert client.status == 101
        assert json.loads(client.frame()[1])["type"] == "welcome"
    finally:
        client.close()


def test_a_large_message_goes_through(front: Any) -> None:
    """Nothing but the broker's own limit counts, and its answer is what the client sees."""
    queue = f"{front.own}:large"
    value = "\u00e9" * (1 << 19)  # 1 MiB, 3 MiB as a form
    assert post(front.front, f"/q/{quote(queue)}", value=value).status == 200
    assert pop(front.front, queue)["value"] == value
    assert post(front.front, f"/q/{quote(queue)}", value=value + "x").status == 413


def test_the_front_page_comes(front: Any) -> None:
    reply = get(front.front, "/static/index.html")
    assert (reply.status, reply.headers["content-type"].partition(";")[0]) == (200, "text/html")


class Page:
    """A web page's EventSource, by the rules of the HTML standard (9.2.3).

    It comes again when the connection ends or is refused, with the id of the last event; any answer
    but 200 with events ends it for good, and that is ``given_up``. ``bodies`` is what it got.
    """

    def __init__(self, front: Daemon, path: str) -> None:
        self.bodies: list[str] = []
        self.answers = 0
        self.given_up = ""
        self._front, self._path = front, path
        self._last_id = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(DEADLINE_SECONDS)

    def _run(self) -> None:
        while not self._closed.is_set() and not self.given_up:
            with closing(self._front.connection()) as connection:
                try:
                    self._read(connection)
                except (OSError, http.client.HTTPException):
                    self._closed.wait(0.05)

    def _read(self, connection: http.client.HTTPConnection) -> None:
        last = {"Last-Event-ID": self._last_id} if self._last_id else {}
        connection.request("GET", self._path, headers={"Accept": "text/event-stream", **last})
        reply = connection.getresponse()
        self.answers += 1
        if (reply.status, reply.headers["Content-Type"]) != (200, "text/event-stream"):
            self.given_up = f"{reply.status} {reply.headers['Content-Type']}"
            return
        event = ""
        for line in reply:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if self._closed.is_set():
                return
            match name:
                case "id":
                    self._last_id = value
                case "event":
                    event = value
                case "data" if not event:
                    self.bodies.append(json.loads(value)["body"])
                case "":
                    event = ""


def keep_for_a_while(front: Daemon, queue: str) -> None:
    """Let streams ask again for what they missed."""
    settings = '{"replay": 600, "mode": "open"}'
    reply = front.request("PATCH", f"/v1/queues/{queue}/settings", settings)
    assert reply.status == 200, reply


@pytest.mark.parametrize("name", FRONTS)
def test_a_page_survives_the_restart_of_its_only_broker(
    name: str, daemon: Callable[..., Daemon], tool: Tool, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """While nobody is there the front answers for the broker; then nothing is missing."""
    broker = daemon("--redis-url", valkey.url)
    broker.wait_for("/readyz")
    folder = tmp_path / "front"
    folder.mkdir()
    with running(tool, name, folder, [broker]) as front:
        keep_for_a_while(front, "news")
        with Page(front, f"{front.prefix}/sse/news?heartbeat=0.2") as page:
            wait_until(lambda: page.answers, "the page's first answer")
            for word in ("one", "two"):
                add(broker, "news", word)
                wait_until(lambda w=word: page.bodies[-1:] == [w], lambda: str(page.bodies))
            assert broker.stop() == 0
            before = page.answers
            wait_until(
                lambda: page.answers >= before + 2 or page.given_up, "an answer, broker away"
            )
            assert not page.given_up, f"a browser takes that for good: {page.given_up}"
            broker.start("/readyz")
            for word in ("three", "four"):
                add(broker, "news", word)
            wanted = ["one", "two", "three", "four"]
            wait_until(lambda: page.bodies == wanted, lambda: f"{page.bodies} {page.given_up}")


class Dying(BaseHTTPRequestHandler):
    """A broker that takes a request, and dies before it has answered."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path == "/readyz":
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.asked.append(self.path)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def dying_broker() -> Iterator[Daemon]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Dying) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield cast("Daemon", SimpleNamespace(port=server.server_address[1]))
        finally:
            server.shutdown()
            thread.join(DEADLINE_SECONDS)


@pytest.mark.parametrize(
    "path", ["/q/queue", "/?queue=queue", "/e/channel?method=POST&post-data=%7B%7D&callback=f"]
)
def test_what_changes_something_is_asked_once(tool: Tool, tmp_path: Path, path: str) -> None:
    """A pop, a post by JSONP: the first broker may have done it before it died."""
    Dying.asked.clear()
    with ExitStack() as stack:
        brokers = [stack.enter_context(dying_broker()) for _ in range(2)]
        front = stack.enter_context(running(tool, "nginx", tmp_path, brokers))
        assert front.request("GET", path).status == 502
    assert Dying.asked == [path]


def test_with_one_of_three_brokers_gone_the_others_serve(
    daemon: Callable[..., Daemon], tool: Tool, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """As in docker-compose.yml: three brokers, one store, and nginx in front."""
    brokers = [daemon("--redis-url", valkey.url) for _ in range(3)]
    for broker in brokers:
        broker.wait_for("/readyz")
    folder = tmp_path / "front"
    folder.mkdir()
    with running(tool, "nginx", folder, brokers) as front, ExitStack() as stack:
        keep_for_a_while(front, "news")
        pages = [stack.enter_context(Page(front, "/sse/news?heartbeat=0.2")) for _ in range(6)]
        wait_until(lambda: all(page.answers for page in pages), "six pages, on all three")
        for number in range(30):
            assert add(front, "three", str(number)).body == b"three:%d\r\n" % (number + 1)
        brokers[1].kill()
        wait_until(
            lambda: all(get(front, "/readyz").status == 200 for _ in range(6)), "two that answer"
        )
        assert [pop(front, "three")["value"] for _ in range(30)] == list(map(str, range(30)))
        add(front, "news", "the others serve")
        wait_until(
            lambda: all(page.bodies == ["the others serve"] for page in pages),
            lambda: str([(page.bodies, page.given_up) for page in pages]),
        )
