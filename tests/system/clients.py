"""Clients that look at the wire: kept-alive producers, and many streams read by one thread.

They know HTTP only as far as the broker's replies need it, and are strict about that: a chunk that
is no line, or a reply without a length, fails the test.
"""

from __future__ import annotations

import base64
import json
import random
import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import quote, quote_plus

from tests.support import DEADLINE_SECONDS, Daemon, wait_until

LARGE = 1 << 18
WARM_UP = b"warm-up"
_WARM_UP_END = b'"warm-up"}\r\n'


class Delivered(NamedTuple):
    """A message as a stream or a pop gave it."""

    id: int
    body: bytes


def delivered(line: bytes | str) -> Delivered:
    """The message in one line of JSON."""
    found = json.loads(line)
    value = found["value"]
    body = base64.b64decode(value) if found.get("encoding") == "base64" else value.encode()
    return Delivered(int(found["key"].rpartition(":")[2]), body)


# -- one request at a time ------------------------------------------------------------------------


class Answer(NamedTuple):
    """A reply: its status and its body."""

    status: int
    body: bytes


class Gone(Exception):
    """The connection ended before the whole reply was there."""


class Client:
    """A kept-alive connection on which requests are sent one after the other."""

    def __init__(self, port: int) -> None:
        self.port = port
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
        except OSError as error:
            raise Gone(repr(error)) from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "") -> Answer:
        """Send one request and wait for its reply; Gone if none comes."""
        self._send(method, path, body, kind)
        return self.answer()

    def _send(self, method: str, path: str, body: bytes = b"", kind: str = "") -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: localhost:{self.port}"]
        if body or method == "POST":
            kind = kind or "application/x-www-form-urlencoded"
            lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        try:
            self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        except (ConnectionError, TimeoutError) as error:
            raise Gone(repr(error)) from error

    def answer(self) -> Answer:
        """Wait for the reply to what was sent; Gone if none comes."""
        try:
            return self._answer()
        except (ConnectionError, TimeoutError) as error:
            raise Gone(repr(error)) from error

    def _answer(self) -> Answer:
        data = self._rest
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, data = data.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in fields)}
        status = int(first.split(" ")[1])
        length = 0 if status == 204 else int(headers["content-length"])
        while len(data) < length:
            data += self._more()
        self._rest = data[length:]
        return Answer(status, data[:length])

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("the other side closed")
        return data

    def post(self, queue: str, body: bytes) -> Answer:
        """Add a message, as curl -d would."""
        self.send_post(queue, body)
        return self.answer()

    def send_post(self, queue: str, body: bytes) -> None:
        """The same without waiting; `answer` is to be called before anything else."""
        self._send("POST", f"/q/{quote(queue)}", b"value=" + quote_plus(body).encode())

    def add(self, queue: str, body: bytes) -> int:
        """Add a message that must be acknowledged; its number."""
        answer = self.post(queue, body)
        assert answer.status == 200, answer
        return number(answer)

    def get(self, queue: str) -> Delivered | None:
        """Pop the oldest message by GET."""
        answer = self.request("GET", f"/q/{quote(queue)}")
        assert answer.status in (200, 204), answer
        return delivered(answer.body) if answer.status == 200 else None

    def take(self, queue: str) -> Delivered | None:
        """Pop the oldest message by the command take."""
        command = json.dumps({"cmd": "take", "queue": queue}).encode()
        answer = self.request("POST", "/queue", command, "application/json")
        assert answer.status == 200, answer
        return None if b'"error"' in answer.body else delivered(answer.body)

    def length(self, queue: str) -> int:
        """How many messages wait."""
        answer = self.request("GET", f"/stats/{quote(queue)}")
        assert answer.status == 200, answer
        return int(json.loads(answer.body)["len"])

    def set_policy(self, queue: str, policy: str) -> None:
        answer = self.request("POST", f"/p/{quote(queue)}", b"policy=" + policy.encode())
        assert answer == (200, b"OK\r\n"), answer

    def control(self, queue: str, order: str) -> None:
        """Stop or start the queue."""
        answer = self.request("POST", f"/control/{quote(queue)}", b"status=" + order.encode())
        assert answer.status == 200, answer
        assert b"invalid" not in answer.body, answer


def number(answer: Answer) -> int:
    """The number in the reply to a POST."""
    return int(answer.body.decode().strip().rpartition(":")[2])


def drain(port: int, queue: str) -> list[Delivered]:
    """Pop all that waits, oldest first."""
    with Client(port) as client:
        found = []
        while (message := client.get(queue)) is not None:
            found.append(message)
        return found


# -- many producers -------------------------------------------------------------------------------


class Ledger:
    """What became of the posts: bodies with the numbers of their 200s, and the others."""

    def __init__(self) -> None:
        self.acknowledged: dict[bytes, int] = {}
        self.refused: dict[bytes, Answer] = {}
        self.unknown: set[bytes] = set()

    @property
    def ids(self) -> set[int]:
        """The numbers of all acknowledged messages."""
        return set(self.acknowledged.values())

    def count(self) -> int:
        """How many posts have come to an end so far."""
        return len(self.acknowledged) + len(self.refused) + len(self.unknown)

    def note(self, body: bytes, answer: Answer | None) -> None:
        """Write down the outcome of one post; None when no reply came."""
        if answer is None:
            self.unknown.add(body)
        elif answer.status == 200:
            self.acknowledged[body] = number(answer)
        else:
            self.refused[body] = answer


def _close(clients: Iterable[Client]) -> None:
    for client in clients:
        client.close()


class Posting:
    """Producers at work: each posts its share of the bodies in order, to daemons at random.

    A producer has so many posts on the way as ``burst`` says. A daemon that ends is left out from then on; with
    none left the rest is not posted. ``join`` waits for all and gives the ledger.
    """

    def __init__(
        self,
        ports: Sequence[int],
        queue: str,
        bodies: Iterable[bytes],
        producers: int = 6,
        burst: int = 1,
    ) -> None:
        self.ledger = Ledger()
        self._ports, self._queue, self._burst = list(ports), queue, burst
        self._enough = False
        bodies = list(bodies)
        self._pool = ThreadPoolExecutor(producers)
        shares = [bodies[i::producers] for i in range(producers)]
        self._work = [self._pool.submit(self._post, share) for share in shares]

    def _post(self, bodies: list[bytes]) -> None:
        clients = {port: [Client(port) for _ in range(self._burst)] for port in self._ports}
        chance = random.Random(bodies[0])
        try:
            for start in range(0, len(bodies), self._burst):
                if self._enough or not clients:
                    return
                port = chance.choice(list(clients))
                if not self._post_part(clients[port], bodies[start : start + self._burst]):
                    _close(clients.pop(port))
        finally:
            for some in clients.values():
                _close(some)

    def _post_part(self, clients: list[Client], bodies: list[bytes]) -> bool:
        """Post each on a connection of its own; False if the daemon is gone."""
        asked = list(zip(clients, bodies, strict=False))
        lost = False
        for client, body in asked:
            with suppress(Gone):  # its answer will not come
                client.send_post(self._queue, body)
        for client, body in asked:
            try:
                answer = client.answer()
            except Gone:
                answer, lost = None, True
            self.ledger.note(body, answer)
        return not lost

    def wait_for(self, count: int) -> None:
        """Wait until so many posts have come to an end."""
        wait_until(lambda: self.ledger.count() >= count, f"{count} posts", 60)

    def stop(self) -> None:
        """Post no more than what is on the way."""
        self._enough = True

    def join(self) -> Ledger:
        """Wait until all bodies are posted."""
        for work in self._work:
            work.result(120)
        self._pool.shutdown()
        return self.ledger


def bodies(count: int, name: str = "message") -> list[bytes]:
    """So many different messages of about 100 bytes."""
    return [b"%s %06d " % (name.encode(), i) + b"." * 80 for i in range(count)]


# -- streams --------------------------------------------------------------------------------------


class Note(NamedTuple):
    """What is no message: ``missed`` or ``gap``, its members, and how many messages came before."""

    word: str
    value: dict[str, Any]
    at: int


class Comet:
    """One streaming consumer. ``lines`` are what it got, a line each, without CRLF.

    ``warmth`` counts the messages of ``warm_up``, which are not among them. ``notes`` are what the
    broker said besides.
    """

    name = "comet"
    path = "/c/{}"
    headers: tuple[str, ...] = ()
    head_has: tuple[bytes, ...] = (b"HTTP/1.1 200 ", b"\r\nTransfer-Encoding: chunked")

    def __init__(
        self, port: int, queue: str, receive_bytes: int | None = None, *, query: str = ""
    ) -> None:
        self.port = port
        self.head = b""
        self.lines: list[bytes] = []
        self.notes: list[Note] = []
        self.warmth = 0
        self.ended = self.lost = False
        self._data = bytearray()
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(DEADLINE_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        path = self.path.format(quote(queue)) + query
        lines = (f"GET {path} HTTP/1.1", f"Host: localhost:{port}", *self.headers)
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    @property
    def messages(self) -> list[Delivered]:
        """All messages so far."""
        return list(map(self.delivered, self.lines))

    @staticmethod
    def delivered(line: bytes) -> Delivered:
        """The message in a line."""
        return delivered(line)

    @property
    def bodies(self) -> list[bytes]:
        return [message.body for message in self.messages]

    @property
    def ids(self) -> list[int]:
        return [message.id for message in self.messages]

    def read(self) -> bool:
        """Read what is there, or wait for it; False at the end of the connection."""
        try:
            data = self.socket.recv(LARGE)
        except BlockingIOError:
            return True
        except ConnectionError:
            data = b""
        if not data:
            self.lost = True
            return False
        self._data += data
        self._parse()
        return True

    def _parse(self) -> None:
        data, at = self._data, 0
        if not self._head_is_there():
            return
        while not self.ended and (end := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:end], 16)
            if len(data) < end + 2 + size + 2:
                break
            self._chunk(bytes(data[end + 2 : end + 2 + size]))
            at = end + 2 + size + 2
        del data[:at]

    def _head_is_there(self) -> bool:
        """Take the head from the data, if that has not been done."""
        end = -1 if self.head else self._data.find(b"\r\n\r\n")
        if end >= 0:
            self.head = bytes(self._data[:end])
            del self._data[: end + 4]
            for part in self.head_has:
                assert part in self.head, self.head
        return bool(self.head)

    def _chunk(self, chunk: bytes) -> None:
        if not chunk:
            self.ended = True
        else:
            assert chunk.endswith(b"\r\n"), chunk
            if chunk.endswith(_WARM_UP_END):
                self.warmth += 1
            elif chunk.startswith(b'{"missed"'):
                self._note("missed", json.loads(chunk))
            else:
                self.lines.append(chunk[:-2])

    def _note(self, word: str, value: dict[str, Any]) -> None:
        self.notes.append(Note(word, value, len(self.lines)))

    @property
    def missed(self) -> int:
        """How many messages it was told it missed."""
        return sum(note.value["missed"] for note in self.notes if note.word == "missed")

    def say_goodbye(self) -> None:
        """Leave in good order: what was sent before still comes, then the end."""
        self.socket.shutdown(socket.SHUT_WR)

    def read_to_end(self) -> None:
        """Read until the server has closed the connection."""
        self.socket.settimeout(DEADLINE_SECONDS)
        while self.read():
            pass

    def close(self) -> None:
        self.socket.close()


class Streams:
    """Streaming consumers read by one thread, as fast as it can. Closes them all at the end."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._comets: list[Comet] = []
        self._failure: BaseException | None = None
        self._stopping = False
        self._reading = threading.Lock()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(DEADLINE_SECONDS)
        for comet in self._comets:
            comet.close()
        self._selector.close()
        if self._failure is not None:
            raise self._failure

    def open(
        self,
        daemon: Daemon,
        queue: str,
        receive_bytes: int | None = None,
        kind: type[Comet] = Comet,
        query: str = "",
    ) -> Comet:
        """A consumer that is read from now on. ``receive_bytes`` is its SO_RCVBUF."""
        return self.adopt(kind(daemon.port, queue, receive_bytes, query=query))

    def adopt(self, comet: Comet) -> Comet:
        """Read a consumer that nobody has read so far."""
        self._comets.append(comet)
        self._listen(comet)
        return comet

    def thaw(self, comet: Comet) -> None:
        """Read it again, from now on with a buffer of the ordinary size."""
        comet.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LARGE)
        self._listen(comet)

    def _listen(self, comet: Comet) -> None:
        comet.socket.setblocking(False)
        self._selector.register(comet.socket, selectors.EVENT_READ, comet)

    def freeze(self, comet: Comet) -> None:
        """Read no more of it."""
        self._selector.unregister(comet.socket)

    def leave(self, comet: Comet) -> None:
        """Close one consumer, whether it is read or not."""
        with self._reading:
            if comet.socket in self._selector.get_map():
                self._selector.unregister(comet.socket)
            self._comets.remove(comet)
            comet.close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select(0.05):
                    with self._reading:
                        if key.data.socket.fileno() >= 0 and not key.data.read():
                            self._selector.unregister(key.fileobj)
        except BaseException as error:  # noqa: BLE001 - it is raised at the end of the test
            self._failure = error

    def wait(
        self, look: Callable[[], bool], what: str | Callable[[], str], seconds: float = 60
    ) -> None:
        """Wait until something is so, or the reading thread has failed."""

        def seen() -> bool:
            if self._failure is not None:
                raise self._failure
            return look()

        wait_until(seen, what, seconds)


def warm_up(streams: Streams, comets: Sequence[Comet], port: int, queue: str) -> int:
    """Post until every consumer has had a message, so that all are known to be attached.

    Those messages are not among a consumer's ``lines``. Gives the number of the last one.
    """
    with Client(port) as client:

        def one_more() -> int:
            before = sum(comet.warmth for comet in comets)
            last = client.add(queue, WARM_UP)
            streams.wait(lambda: sum(c.warmth for c in comets) > before, "a warm-up message")
            return last if all(comet.warmth for comet in comets) else 0

        return wait_until(one_more, "a warm-up message for each consumer")


def total(comets: Sequence[Comet]) -> int:
    """How many messages these consumers have had together."""
    return sum(len(comet.lines) for comet in comets)


def wait_for_lines(streams: Streams, comets: Sequence[Comet], count: int) -> None:
    """Wait until these consumers together have had so many messages."""
    streams.wait(lambda: total(comets) >= count, lambda: f"{count} messages, not {total(comets)}")
