"""``twistd collectd``: the broker with ``/collectd/``, by hand and by the real collectd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest

from tests.support import DEADLINE_SECONDS, Daemon, twistd, wait_until
from tests.wire.clients import add, get, pop

TEXT = {"Content-Type": "text/plain"}
LINE = "PUTVAL host1/df/df-boot interval=10 1288548767:116497408.000000:391246848.000000"
EVENT = "Severity: WARNING\nHost: host1\n\nHost host1 is low."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("collectd"), [], {}, twistd("collectd"))
    try:
        yield daemon.start("/readyz")
    finally:
        daemon.close()


def send(server: Daemon, path: str, body: str | bytes, kind: str = "text/plain") -> tuple[int, str]:
    reply = server.request("POST", path, body, {"Content-Type": kind} if kind else {})
    return reply.status, reply.body.decode()


def queued(server: Daemon, name: str) -> Any:
    """The JSON of the next message."""
    message = pop(server, f"collectd_{name}")
    return None if message is None else json.loads(message["value"])


@pytest.fixture(autouse=True)
def nothing_queued(server):
    for name in ("data", "event"):
        server.request("DELETE", f"/q/collectd_{name}")


def test_metrics_are_one_message_to_the_byte(server):
    status, key = send(server, "/collectd/data", f"{LINE}\r\n{LINE}\r\n")
    assert (status, key.rpartition(":")[0]) == (200, "collectd_data")
    metric = (
        '{"host": "host1", "type_instance": "df-boot", "plugin_instance": "df", '
        '"value": "1288548767:116497408.000000:391246848.000000", "interval": "10"}'
    )
    assert pop(server, "collectd_data")["value"] == f"[{metric}, {metric}]"
    assert queued(server, "data") is None


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "Text/Plain", "text/plain;x=y"])
def test_the_type_of_the_text_may_say_more(server, kind):
    assert send(server, "/collectd/data", LINE, kind)[0] == 200
    assert queued(server, "data")[0]["host"] == "host1"


def test_json_is_kept_as_it_is(server):
    body = '[ {"values":[1.0e3], "host" : "\u00e9"} ]'
    for kind in ("application/json", "application/json; charset=UTF-8"):
        assert send(server, "/collectd/data", body.encode(), kind)[0] == 200
        assert pop(server, "collectd_data")["value"] == body


def test_a_host_with_spaces_and_several_values(server):
    assert send(server, "/collectd/data", 'PUTVAL "my host/a/b" interval=10 1:2 3:4')[0] == 200
    metrics = queued(server, "data")
    assert [(metric["host"], metric["value"]) for metric in metrics] == [
        ("my host", "1:2"),
        ("my host", "3:4"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "why"),
    [
        ("data", f"{LINE}\nPUTVAL nonsense\n", "text/plain", 400, "line 2: "),
        ("data", b"PUTVAL h\xff/p/t 1:2", "text/plain", 400, "UTF-8"),
        ("data", "[1,", "application/json", 400, "not JSON"),
        ("data", b'["\xff"]', "application/json", 400, "not JSON"),
        ("data", "NaN", "application/json", 400, "not JSON"),
        ("data", "", "application/json", 400, "not JSON"),
        ("data", "[" * 100_000, "application/json", 400, "not JSON"),
        ("data", LINE, "application/x-www-form-urlencoded", 415, "text/plain"),
        ("data", LINE, "", 415, "text/plain"),
        ("data", "x" * 1_048_577, "text/plain", 413, "1048576"),
        ("data", "PUTVAL a/b/c 1:2\n" * 30_000, "text/plain", 413, "1048576"),
        ("event", "no headers", "text/plain", 400, "headers"),
        ("event", b"A: \xff\n\nx", "text/plain", 400, "UTF-8"),
        ("event", "{", "application/json", 400, "not JSON"),
        ("other", LINE, "text/plain", 400, "/collectd/data"),
        ("", LINE, "text/plain", 400, "/collectd/data"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(server, path, body, kind, status, why):
    answered, page = send(server, f"/collectd/{path}", body, kind)
    assert (answered, why in page) == (status, True), page[:300]
    assert queued(server, "data") is None
    assert queued(server, "event") is None


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_notification_whatever_its_label(server, kind):
    """A script posts it with curl -d, as the original's README told people to."""
    assert send(server, "/collectd/event", EVENT, kind)[0] == 200
    assert pop(server, "collectd_event")["value"] == (
        '[{"severity": "WARNING"}, {"host": "host1"}, {"event_text": "Host host1 is low."}]'
    )


def test_get_and_delete_are_those_of_q(server):
    send(server, "/collectd/data", LINE)
    assert get(server, "/collectd/data").status == 204
    assert get(server, "/collectd/collectd_data").status == 200
    assert b"/q/collectd_data" in get(server, "/collectd/").body
    assert server.request("DELETE", "/collectd/data").body == b'{"queue": "data", "status": 0}\r\n'
    assert get(server, "/collectd").status == 404


def test_the_broker_itself_has_no_such_door(common_daemon):
    assert send(common_daemon, "/collectd/data", LINE)[0] == 404


def test_it_is_the_whole_broker(server, queue):
    add(server, queue, "v")
    assert pop(server, queue)["value"] == "v"


def test_who_may_not_produce_may_not_send_metrics(daemon, tmp_path):
    rules = tmp_path / "acl.conf"
    rules.write_text("[rest:producer]\nusername = collectd\npassword = weCh3ik0\n")
    server = daemon("--acl", str(rules), program=twistd("collectd"))
    server.wait_for("/readyz")
    assert send(server, "/collectd/data", LINE)[0] == 401
    allowed = {**TEXT, "Authorization": "Basic Y29sbGVjdGQ6d2VDaDNpazA="}
    assert server.request("POST", "/collectd/data", LINE, allowed).status == 200


# -- the real one ---------------------------------------------------------------------------------

CONFIG = """
Hostname "{host}"
FQDNLookup false
BaseDir "{folder}"
PIDFile "{folder}/collectd.pid"
Interval 1
LoadPlugin logfile
<Plugin logfile>
  LogLevel info
  File "{folder}/log"
</Plugin>
LoadPlugin load
LoadPlugin memory
LoadPlugin threshold
<Plugin threshold>
  <Type "load">
    WarningMin 100000
    Persist true
  </Type>
</Plugin>
LoadPlugin write_http
<Plugin write_http>
  <Node "text">
    URL "{url}/collectd/data"
    Format Command
    BufferSize 1024
  </Node>
  <Node "json">
    URL "{url}/collectd/data"
    Format JSON
    BufferSize 1024
  </Node>
  <Node "events">
    URL "{url}/collectd/event"
    Format JSON
    Metrics false
    Notifications true
  </Node>
</Plugin>
"""


@pytest.mark.parametrize("host", ["box1", "a host with spaces"])
def test_with_collectd(server, tool, tmp_path: Path, host: str):
    """Its own metrics by write_http, as text and as JSON, and a notification of a threshold."""
    program = tool("collectd")
    if find_library("yajl") is None:
        tool("libyajl2")  # what write_http loads
    (tmp_path / "conf").write_text(CONFIG.format(host=host, folder=tmp_path, url=server.url))
    text: list[dict[str, str]] = []
    objects: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []

    def seen() -> bool:
        while (found := queued(server, "data")) is not None:
            (text if "type_instance" in found[0] and "value" in found[0] else objects).extend(found)
        while (found := queued(server, "event")) is not None:
            events.extend(found)
        return bool(len(text) >= 10 and len(objects) >= 10 and events)

    process = subprocess.Popen(
        [program, "-f", "-C", tmp_path / "conf"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(seen, lambda: f"metrics of collectd; its log: {(tmp_path / 'log').read_text()}")
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)
    assert {metric["host"] for metric in text} == {metric["host"] for metric in objects} == {host}
    assert {"load", "memory"} <= {metric["plugin_instance"] for metric in text}
    loads = [metric for metric in text if metric["plugin_instance"] == "load"]
    assert loads[0]["type_instance"] == "load"
    assert len(loads[0]["value"].split(":")) == 4
    assert float(loads[0]["interval"]) == 1
    assert "warning" in json.dumps(events).lower()
    assert "HTTP" not in (tmp_path / "log").read_text()
