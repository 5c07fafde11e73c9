"""``twistd syslogd``: by hand, by logger and by a real rsyslog."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import (
    DEADLINE_SECONDS,
    Daemon,
    ValkeyServer,
    free_port,
    make_certificate,
    twistd,
    wait_until,
)
from tests.system.processes import stopped
from tests.wire.clients import add, get, pop

SYSLOGD = twistd("syslogd")
HERE = "syslogd:127.0.0.1"
LINE = "<22>Nov  1 00:12:04 gleicon-vm1 postfix/smtpd[4880]: connect from localhost[127.0.0.1]"


class Syslogd(Daemon):
    """The daemon, with the port that takes lines."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.syslog_port = free_port()
        more = ("--syslog-port", str(self.syslog_port), *options)
        super().__init__(folder, more, {}, SYSLOGD)

    def tcp(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.syslog_port), DEADLINE_SECONDS)

    def send(self, *streams: bytes) -> None:
        """Each on a connection of its own that is closed in order."""
        for stream in streams:
            with self.tcp() as connection:
                connection.sendall(stream)

    def datagram(self, data: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, ("127.0.0.1", self.syslog_port))

    def length(self, queue: str = HERE) -> int:
        """How many lines wait; -1 while the store can't tell."""
        reply = get(self, f"/stats/{queue}")
        return int(json.loads(reply.body)["len"]) if reply.status == 200 else -1

    def lines(self, count: int, queue: str = HERE) -> list[dict[str, Any]]:
        """So many messages, taken out, and no more than those."""
        wait_until(lambda: self.length(queue) >= count, lambda: f"{count} lines; log:\n{self.log}")
        assert self.length(queue) == count
        return [json.loads(pop(self, queue)["value"]) for _ in range(count)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Syslogd]:
    daemon = Syslogd(tmp_path_factory.mktemp("syslogd"))
    try:
        daemon.start("/readyz")
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(autouse=True)
def nothing_queued(request):
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").request("DELETE", f"/q/{HERE}")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Syslogd] = []

    def start(*options: str) -> Syslogd:
        daemon = Syslogd(tmp_path / f"syslogd-{len(made)}", *options)
        made.append(daemon)
        daemon.start("/readyz")
        return daemon

    yield start
    for daemon in made:
        daemon.close()


# -- lines ----------------------------------------------------------------------------------------


def test_a_line_as_recorded(server):
    server.send(LINE.encode() + b"\n")
    (found,) = server.lines(1)
    stamp = found.pop("tstamp")
    assert isinstance(stamp, float)
    assert found == {
        "severity": "info",
        "line": LINE,
        "facility": "mail",
        "host": "127.0.0.1",
    }


def test_both_framings_and_any_bytes(server):
    odd = b"<13>\x00\xff\n\r\x80"
    server.send(b"<13>caf\xc3\xa9\r\n%d %s<14>last, without an end" % (len(odd), odd))
    first, second, third = server.lines(3)
    assert first["line"] == "<13>café"
    assert b64decode(second["line"]) == odd
    assert third["line"] == "<14>last, without an end"


def test_a_line_that_is_too_long_is_cut_and_marked(server):
    server.send(b"<13>" + b"x" * 200_000 + b"\n<13>next\n")
    first, second = server.lines(2)
    assert (len(first["line"]), first["truncated"]) == (65536, True)
    assert (second["line"], "truncated" in second) == ("<13>next", False)


def test_structured_data(server):
    server.send(b'<165>1 2003-10-11T22:14:15.003Z box app 7 ID47 [a@1 b="c"] event\n')
    (found,) = server.lines(1)
    assert found["structured_data"] == {"a@1": {"b": "c"}}
    assert (found["hostname"], found["msgid"], found["message"]) == ("box", "ID47", "event")


def test_datagrams_are_a_message_each(server):
    for data in (b"<13>one", b"<13>two\n", b"<13>three\nfour", b"\xff", b""):
        server.datagram(data)
    found = server.lines(5)
    assert [one["line"] for one in found[:3]] == ["<13>one", "<13>two", "<13>three\nfour"]
    assert b64decode(found[3]["line"]) == b"\xff"
    assert found[4]["line"] == ""


def test_each_sender_by_its_own_address(server):
    """Both families, both transports."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as sender:
                try:
                    sender.connect((address, server.syslog_port))
                except OSError:
                    assert family == socket.AF_INET6, "this machine has no IPv6"
                    continue
                sender.sendall(b"<13>x\n")
            (found,) = server.lines(1, f"syslogd:{address}")
            assert (found["line"], found["host"]) == ("<13>x", address)


def test_by_a_unix_socket(make, tmp_path):
    path = tmp_path / "s"
    server = make("--syslog-listen", f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(str(path))
        sender.sendall(b"<13>x\n")
    assert server.lines(1, "syslogd:unix")[0]["host"] == "unix"


@pytest.mark.parametrize("processes", ["1", "2"])
def test_beside_a_port_for_tls_nothing_is_taken_in_clear(make, tmp_path, processes):
    """An endpoint is for TCP: datagrams to its port would come without any cipher."""
    key, certificate = make_certificate(tmp_path)
    port = free_port()
    place = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    server = make("--syslog-listen", place, "--syslog-listen", "::1", "--processes", processes)
    assert f"listening on 127.0.0.1:{port}\n" in server.log
    assert f"listening on [::1]:{server.syslog_port} (UDP)\n" in server.log
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        sender.send(b"<13>in clear")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)
    plain = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    with context.wrap_socket(plain) as sender:
        sender.sendall(b"<13>in cipher\n")
        assert server.lines(1)[0]["line"] == "<13>in cipher"


def test_who_cuts_the_connection_loses_half_a_line_only(server):
    with server.tcp() as connection:
        connection.sendall(b"<13>whole\n<13>half")
        (found,) = server.lines(1)
        assert found["line"] == "<13>whole"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.send(b"<13>after\n")
    assert server.lines(1)[0]["line"] == "<13>after"


def test_lines_are_pushed_as_all_messages_are(server, comet):
    stream = comet(f"/c/{HERE}")
    server.send(b"<13>pushed\n")
    assert json.loads(stream.message()["value"])["line"] == "<13>pushed"


def test_a_burst_of_lines_is_messages_as_all_others_at_every_door(server, comet):
    """They wait as a few packs; nobody who looks, deletes, takes or listens can tell."""
    count = 2500
    add(server, HERE, "first")
    server.send(b"".join(b"<13>number %d\n" % number for number in range(count)))
    wait_until(lambda: server.length() == 1 + count, lambda: f"{count} lines; log:\n{server.log}")
    add(server, HERE, "last")
    pop(server, HERE)
    path = f"/v1/queues/{quote(HERE)}/messages"
    page = json.loads(get(server, f"{path}?limit=1000").body)
    wanted = {f"<13>number {number}": number for number in range(count)}
    assert [json.loads(m["body"])["line"] for m in page["messages"]] == list(wanted)[:1000]
    first = page["messages"][0]["id"]
    one = json.loads(get(server, f"{path}/{first + 2000}").body)
    assert json.loads(one["body"])["line"] == "<13>number 2000"
    assert server.request("DELETE", f"{path}/{first + 2000}").status == 204
    assert get(server, f"{path}/{first + 2000}").status == 404
    taken = pop(server, HERE)
    assert taken["key"] == f"{HERE}:{first}"
    assert server.length() == count
    stream = comet(f"/c/{HERE}")
    values = [stream.message()["value"] for _ in range(count - 1)]
    assert values.pop() == "last"
    numbers = [wanted[json.loads(value)["line"]] for value in values]
    assert numbers == [number for number in range(1, count) if number != 2000]


def test_it_is_the_whole_broker(server, queue):
    add(server, queue, "v")
    assert pop(server, queue)["value"] == "v"


def test_ten_senders_lose_nothing_and_each_keeps_its_order(server):
    count = 20_000
    senders = [server.tcp() for _ in range(10)]
    stream = b"".join(b"<13>S %06d\n" % number for number in range(count))
    for number, sender in enumerate(senders):
        sender.sendall(stream.replace(b"S", b"%d" % number))
        sender.close()
    total = 10 * count
    wait_until(lambda: server.length() == total, lambda: f"{total} lines, not {server.length()}")
    seen = [0] * 10
    with closing(server.connection()) as connection:
        for _ in range(2000):
            connection.request("GET", f"/q/{HERE}")
            text = json.loads(json.loads(connection.getresponse().read())["value"])["line"]
            sender, number = int(text[4]), int(text[6:])
            assert number == seen[sender]
            seen[sender] += 1


# -- options --------------------------------------------------------------------------------------


def test_queues_by_hostname_and_fields_of_the_old_header(make):
    server = make("--syslog-queue", "hostname", "--syslog-fields")
    server.send(LINE.encode() + b"\n<13>no header\n")
    (found,) = server.lines(1, "syslogd:gleicon-vm1")
    assert (found["app_name"], found["procid"]) == ("postfix/smtpd", "4880")
    assert server.lines(1)[0]["line"] == "<13>no header"


def test_a_shorter_limit_for_messages_is_one_for_lines(make):
    server = make("--max-message-bytes", "16384")
    server.send(b"<13>" + b"\x01" * 5000 + b"\n")
    (found,) = server.lines(1)
    assert (len(found["line"]), found["truncated"]) == (1024, True)


@pytest.mark.parametrize("rule", ["hosts_deny = 127.0.0.1", "username = u\npassword = p"])
def test_who_may_not_produce_may_not_log(make, tmp_path, rule):
    rules = tmp_path / "acl.conf"
    rules.write_text(f"[rest:producer]\n{rule}\n")
    server = make("--acl", str(rules))
    with server.tcp() as connection:
        assert connection.recv(1) == b""
    server.datagram(b"<13>x")
    wait_until(lambda: "syslog from 127.0.0.1 is refused" in server.log, "a word in the log")
    rules.write_text("[rest:producer]\nhosts_allow = 127.0.0.1\n")
    wait_until(lambda: "now in force" in server.log, "the new rules")
    server.datagram(b"<13>y")
    assert [one["line"] for one in server.lines(1)] == ["<13>y"]


def test_a_taken_port_is_one_line_and_exit_code_1(server, tmp_path):
    second = Daemon(tmp_path, ["--syslog-port", str(server.syslog_port)], {}, SYSLOGD)
    assert second.launch().wait(DEADLINE_SECONDS) == 1
    (line,) = second.log.splitlines()
    assert f"port {server.syslog_port} (option --syslog-port) is taken" in line
    assert "--syslog-port" in line.rpartition("give another")[2]


def test_beyond_loopback_it_wants_a_rule(tmp_path):
    daemon = Daemon(tmp_path, ["--syslog-listen", "0.0.0.0"], {}, SYSLOGD)
    assert daemon.launch().wait(DEADLINE_SECONDS) == 1
    assert "listen (option --syslog-listen): 0.0.0.0 can be reached" in daemon.log


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_emptied_access_file_does_not_open_a_syslog_port_that_others_can_reach(
    make, tmp_path, processes
):
    """HTTP is for this machine alone; 127.1 is loopback, too, but no address the rule knows."""
    acl, reachable = tmp_path / "acl.conf", f"tcp:{free_port()}:interface=127.1"
    acl.write_text("[rest:producer]\nhosts_deny = all\n")
    server = make("--syslog-listen", reachable, "--acl", str(acl), "--processes", processes)
    assert get(server, f"/stats/{HERE}").status == 200
    acl.write_text("")
    wait_until(lambda: "access rules" in server.log or "restricts nobody" in server.log, "a look")
    assert "restricts nobody" in server.log
    assert server.request("POST", f"/q/{HERE}?value=1").status == 401


# -- the store ------------------------------------------------------------------------------------


def test_while_the_store_is_away_the_senders_wait_and_nothing_is_lost(make, start_valkey):
    """More is sent than the daemon and the kernel would keep: the sender blocks, and all arrives."""
    store: ValkeyServer = start_valkey(appendonly="yes", appendfsync="always")
    server = make("--redis-url", store.url)
    server.send(b"<13>before\n")
    wait_until(lambda: server.length() == 1, "the first line")
    store.kill()
    server.wait_for("/readyz", 503)
    count, line = 30_000, b"<13>%06d " + b"x" * 990 + b"\n"
    stream = b"".join(line % number for number in range(count))
    with server.tcp() as sender:
        sender.setblocking(False)
        sent = 0
        quiet = 0
        while quiet < 20:
            try:
                sent += sender.send(stream[sent : sent + 65536])
                quiet = 0
            except BlockingIOError:
                quiet += 1
                server.request("GET", "/livez")
        assert sent < len(stream), "the daemon went on reading with nowhere to put it"
        assert "reading stops" in server.log
        store.start()
        sender.settimeout(60)
        sender.sendall(stream[sent:])
    wait_until(lambda: server.length() == count + 1, "all lines", 60)
    assert json.loads(pop(server, HERE)["value"])["line"] == "<13>before"
    for number in range(100):
        assert json.loads(pop(server, HERE)["value"])["line"].startswith(f"<13>{number:06d} ")
    assert "takes lines again" in server.log


def test_while_the_store_is_away_datagrams_are_dropped_and_the_daemon_lives(make, start_valkey):
    store: ValkeyServer = start_valkey(appendonly="yes", appendfsync="always")
    server = make("--redis-url", store.url)
    store.kill()
    server.wait_for("/readyz", 503)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(20_000):
            sender.sendto(b"<13>" + b"x" * 1000, ("127.0.0.1", server.syslog_port))
            if number % 1000 == 0:
                assert server.request("GET", "/livez").status == 200
        store.start()
        server.wait_for("/readyz")
        wait_until(lambda: "takes lines again" in server.log, "the store to take lines")
        wait_until(lambda: server.length() > 1000, "the datagrams that were kept")
        assert server.length() < 20_000

        def one_more() -> bool:
            sender.sendto(b"<13>last", ("127.0.0.1", server.syslog_port))
            if server.length() > 100:
                server.request("DELETE", f"/q/{HERE}")
            message = pop(server, HERE)
            return message is not None and "<13>last" in message["value"]

        wait_until(one_more, "a datagram after that")


def test_what_was_taken_is_with_the_store_when_the_daemon_ends(make, valkey):
    server = make("--redis-url", valkey.url)
    with server.tcp() as sender:
        sender.sendall(b"<13>x\n" * 5000)
        wait_until(lambda: server.length() > 0, "a line")
        assert server.stop() == 0
    server.start("/readyz")
    assert server.length() == 5000


def test_what_the_kernel_has_at_the_end_is_read(make, valkey):
    """The daemon is told to end while it stands still: lines of senders that have gone, and datagrams."""
    server = make("--redis-url", valkey.url)
    with server.tcp() as faithful:
        faithful.sendall(b"<13>first\n")
        wait_until(lambda: server.length() == 1, "the first line")
        with stopped(server.pid):
            faithful.sendall(b"<13>more\n" * 100)
            server.send(*[b"<13>x\n"] * 900)
            for _ in range(50):
                server.datagram(b"<13>y")
            server.terminate()
        assert server.wait() == 0
    server.start("/readyz")
    assert server.length() == 1051


# -- real senders ---------------------------------------------------------------------------------


def test_with_logger(server, tool):
    """RFC 5424 with structured data, RFC 3164; TCP in both framings, UDP."""
    program = tool("logger")
    at = (
        "--server",
        "127.0.0.1",
        "--port",
        str(server.syslog_port),
        "--tag",
        "me",
        "-p",
        "mail.err",
    )
    data = ("--sd-id", "zoo@123", "--sd-param", 'tiger="hun\\"gry"', "--msgid", "MSG")
    ways = [
        ("--tcp", "--rfc5424", *data),
        ("--tcp", "--octet-count", "--rfc5424", *data),
        ("--udp", "--rfc5424", *data),
        ("--tcp", "--rfc3164"),
        ("--tcp", "--octet-count", "--rfc3164"),
        ("--udp", "--rfc3164"),
    ]
    for way in ways:
        subprocess.run(
            [program, *at, *way, "--", "höllo [world]"], check=True, timeout=DEADLINE_SECONDS
        )
        (found,) = server.lines(1)
        assert (found["facility"], found["severity"]) == ("mail", "err"), way
        assert found["line"].endswith("höllo [world]")
        if "--rfc5424" in way:
            assert found["structured_data"]["zoo@123"] == {"tiger": 'hun"gry'}
            assert (found["app_name"], found["msgid"]) == ("me", "MSG")
            assert found["message"] == "höllo [world]"


RSYSLOG = """
global(workDirectory="{folder}")
module(load="imtcp")
template(name="line" type="string" string="<%pri%>%timestamp% %hostname% %syslogtag%%msg%")
ruleset(name="on") {{
  action(type="omfwd" target="127.0.0.1" port="{to}" protocol="{protocol}" {more})
}}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="on")
"""


@pytest.mark.parametrize(
    ("protocol", "more"),
    [
        ("tcp", 'TCP_Framing="traditional"'),
        ("tcp", 'TCP_Framing="octet-counted" template="RSYSLOG_SyslogProtocol23Format"'),
        ("udp", 'template="RSYSLOG_ForwardFormat"'),
    ],
)
def test_with_rsyslog(server, tool, tmp_path, protocol, more):
    """A real rsyslog takes lines and forwards them (omfwd)."""
    program, port = tool("rsyslogd"), free_port()
    config = tmp_path / "rsyslog.conf"
    config.write_text(
        RSYSLOG.format(
            folder=tmp_path, to=server.syslog_port, port=port, protocol=protocol, more=more
        )
    )
    process = subprocess.Popen(
        [program, "-n", "-f", config, "-i", tmp_path / "pid"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(port), "rsyslog to listen")
        with socket.create_connection(("127.0.0.1", port)) as sender:
            for number in range(500):
                sender.sendall(b"<13>Nov  1 00:12:04 box app[7]: number %03d\n" % number)
        found = server.lines(500)
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)
    for number, one in enumerate(found):
        assert one["line"].endswith(f"number {number:03d}")
        assert (one["facility"], one["severity"]) == ("user", "notice")
        assert " box app" in one["line"]
        if "Protocol23" in more:
            assert (one["hostname"], one["app_name"], one["procid"]) == ("box", "app", "7")


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
