"""``/v1/schedules``: what people write, what they are told, and which of their mistakes are named."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Daemon, Response, wait_until
from tests.wire.clients import get

NUMBERS = itertools.count()
MESSAGE = {"body": "work"}
YEARLY = {"cron": "0 0 1 1 *", "queue": "sched-jobs", "message": MESSAGE}


@pytest.fixture
def server(common_daemon: Daemon) -> Iterator[Daemon]:
    yield common_daemon
    for found in listed(common_daemon):
        assert common_daemon.request("DELETE", f"/v1/schedules/{found['name']}").status == 204


def listed(server: Daemon, query: str = "?limit=1000") -> list[dict[str, Any]]:
    schedules: list[dict[str, Any]] = json.loads(get(server, f"/v1/schedules{query}").body)[
        "schedules"
    ]
    return schedules


def put(server: Daemon, value: Any, name: str = "one") -> Response:
    return server.request("PUT", f"/v1/schedules/{name}", json.dumps(value))


def made(server: Daemon, name: str = "one", **members: Any) -> dict[str, Any]:
    reply = put(server, {**YEARLY, **members}, name)
    assert reply.status in (200, 201), reply
    value: dict[str, Any] = json.loads(reply.body)
    return value


def test_a_schedule_is_made_shown_replaced_and_removed(server: Daemon) -> None:
    reply = put(server, {**YEARLY, "timezone": "Asia/Kathmandu"}, "ops/yearly")
    assert reply.status == 201
    first = json.loads(reply.body)
    assert first["next_run"].endswith("-12-31T18:15:00Z")
    assert {**first, "next_run": ""} == {
        "name": "ops/yearly",
        "cron": "0 0 1 1 *",
        "timezone": "Asia/Kathmandu",
        "queue": "sched-jobs",
        "message": {"content_type": "text/plain", "body": "work", "encoding": "text"},
        "paused": False,
        "next_run": "",
        "last_run": None,
        "last_id": None,
        "missed": 0,
    }
    assert json.loads(get(server, "/v1/schedules/ops/yearly").body) == first
    assert json.loads(get(server, "/v1/schedules/ops%2Fyearly").body) == first
    assert put(server, {**YEARLY, "paused": True}, "ops/yearly").status == 200
    again = json.loads(get(server, "/v1/schedules/ops/yearly").body)
    assert (again["timezone"], again["paused"], again["next_run"]) == ("UTC", True, None)
    for _ in range(2):
        assert server.request("DELETE", "/v1/schedules/ops/yearly").status == 204
    missing = get(server, "/v1/schedules/ops/yearly")
    assert (missing.status, json.loads(missing.body)["code"]) == (404, "not_found")


def test_what_is_shown_can_be_put_again(server: Daemon) -> None:
    """The members that describe a schedule come out as they go in."""
    for message in (
        {"body": {"n": [1, None, "é"]}, "ttl": 0.5},
        {"body": "text", "content_type": "text/csv"},
        {"body": "x", "priority": 9, "headers": {"x-kind": "report", "n": ""}},
        {"body": "AP8=", "encoding": "base64"},
        {"body": '{"as": "text"}', "content_type": "text/plain", "encoding": "text"},
        {"body": "a string", "encoding": "json"},
    ):
        first = made(server, message=message)
        told = {k: first[k] for k in ("cron", "timezone", "queue", "message", "paused")}
        assert made(server, **told)["message"] == first["message"]
        assert first["message"]["body"] == message["body"]


def test_pause_and_resume(server: Daemon) -> None:
    made(server)
    paused = server.request("POST", "/v1/schedules/one/pause")
    assert (paused.status, json.loads(paused.body)["next_run"]) == (200, None)
    resumed = json.loads(server.request("POST", "/v1/schedules/one/resume").body)
    assert resumed["paused"] is False
    assert resumed["next_run"].endswith("-01-01T00:00:00Z")
    for word in ("pause", "resume"):
        assert server.request("POST", f"/v1/schedules/nobody/{word}").status == 404


def test_pages(server: Daemon) -> None:
    for name in ("c", "a", "b"):
        made(server, name)
    names, cursor = [], ""
    while cursor is not None:
        page = json.loads(get(server, f"/v1/schedules?limit=2&cursor={cursor}").body)
        names.append([found["name"] for found in page["schedules"]])
        cursor = page["cursor"]
    assert names == [["a", "b"], ["c"]]


def test_it_runs_and_the_message_is_a_job(server: Daemon) -> None:
    made(server, "quick", cron="* * * * * *", queue="sched-ticks", message={"body": {"n": 1}})
    found = wait_until(
        lambda: (it := json.loads(get(server, "/v1/schedules/quick").body))["last_id"] and it,
        "the first run",
    )
    assert found["last_run"] is not None
    assert json.loads(get(server, "/stats/sched-ticks").body)["len"] >= 1
    assert get(server, "/q/sched-ticks").status == 409, "a queue of jobs"


@pytest.mark.parametrize("priorities", [True, False])
def test_a_message_has_its_priority_and_headers(server: Daemon, priorities: bool) -> None:
    """A priority counts where the queue has priorities, and does no harm elsewhere."""
    queue = f"sched-headers-{priorities}".lower()
    said = json.dumps({"priorities": priorities})
    assert server.request("PATCH", f"/v1/queues/{queue}/settings", said).status == 200
    assert server.request("POST", f"/v1/queues/{queue}/messages", "before it").status == 201
    message = {"body": "work", "priority": 7, "headers": {"X-Kind": "report", "restmq-run": "no"}}
    shown = made(server, "quick", cron="* * * * * *", queue=queue, message=message)["message"]
    assert shown["headers"] == {"x-kind": "report", "restmq-run": "no"}

    def looks() -> list[dict[str, Any]]:
        return json.loads(get(server, f"/v1/queues/{queue}/messages").body)["messages"]  # type: ignore[no-any-return]

    found = wait_until(lambda: len(looks()) > 1 and looks(), "the first run")
    first, second = found[:2]
    run = first if priorities else second
    assert (run["body"], run["headers"]["x-kind"]) == ("work", "report")
    assert run["headers"]["restmq-schedule"] == "quick"
    assert run["headers"]["restmq-run"].endswith("Z")


@pytest.mark.parametrize(
    ("wrong", "member"),
    [
        ({"cron": None}, "cron"),
        ({"cron": 5}, "cron"),
        ({"cron": "* * * *"}, "cron"),
        ({"cron": "* 25 * * *"}, "cron"),
        ({"cron": "9" * 100_000}, "cron"),
        ({"timezone": "Mars"}, "timezone"),
        ({"timezone": 1}, "timezone"),
        ({"queue": None}, "queue"),
        ({"queue": ""}, "queue"),
        ({"queue": "a" * 256}, "queue"),
        ({"queue": "a/../b"}, "queue"),
        ({"queue": "a/receive"}, "queue"),
        ({"paused": "yes"}, "paused"),
        ({"paused": 2}, "paused"),
        ({"message": None}, "message"),
        ({"message": "text"}, "message"),
        ({"message": {}}, "message.body"),
        ({"message": {"body": "x", "delay": 3}}, "message.delay"),
        ({"message": {"body": 1, "encoding": "text"}}, "message.body"),
        ({"message": {"body": "%", "encoding": "base64"}}, "message.body"),
        ({"message": {"body": "{", "content_type": "application/json"}}, "message.body"),
        ({"message": {"body": "x", "encoding": "rot13"}}, "message.encoding"),
        ({"message": {"body": "x", "encoding": []}}, "message.encoding"),
        ({"message": {"body": "x", "content_type": "ü"}}, "message.content_type"),
        ({"message": {"body": "x", "content_type": "a" * 300}}, "message.content_type"),
        ({"message": {"body": "x", "ttl": 0}}, "message.ttl"),
        ({"message": {"body": "x", "ttl": -1}}, "message.ttl"),
        ({"message": {"body": "x", "ttl": 1e300}}, "message.ttl"),
        ({"message": {"body": "x", "ttl": "3"}}, "message.ttl"),
        ({"message": {"body": "x", "ttl": True}}, "message.ttl"),
        ({"message": {"body": "x", "priority": 10}}, "message.priority"),
        ({"message": {"body": "x", "priority": True}}, "message.priority"),
        ({"message": {"body": "x", "headers": []}}, "message.headers"),
        ({"message": {"body": "x", "headers": {"n": 1}}}, "message.headers"),
        ({"message": {"body": "x", "headers": {"a b": "c"}}}, "message.headers"),
        ({"message": {"body": "x", "headers": {"n": "x" * 9000}}}, "message.headers"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_made(
    server: Daemon, wrong: dict[str, Any], member: str
) -> None:
    reply = put(server, {**YEARLY, **wrong})
    problem = json.loads(reply.body)
    assert reply.status == 400
    assert problem["detail"].startswith(f"{member}:"), problem
    assert problem["errors"][0]["pointer"] == "/" + member.replace(".", "/")
    assert len(problem["detail"]) < 300
    assert listed(server) == []


def test_a_message_that_is_too_large_is_refused(server: Daemon) -> None:
    reply = put(server, {**YEARLY, "message": {"body": "x" * 65537}})
    assert reply.status == 413
    assert json.loads(reply.body)["detail"].startswith("message.body: at most 65536 bytes")
    assert made(server, message={"body": "x" * 65536})["message"]["body"] == "x" * 65536


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/schedules/one", "[]"),
        ("/v1/schedules/one", "{"),
        ("/v1/schedules/one", json.dumps({**YEARLY, "colour": "red"})),
        ("/v1/schedules/one?x=1", json.dumps(YEARLY)),
        ("/v1/schedules/" + "a" * 256, json.dumps(YEARLY)),
        ("/v1/schedules/a%00b", json.dumps(YEARLY)),
        ("/v1/schedules/a/pause", json.dumps(YEARLY)),
    ],
)
def test_what_is_no_schedule_is_refused(server: Daemon, path: str, body: str) -> None:
    assert server.request("PUT", path, body).status in (400, 405)
    assert listed(server) == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "cursor=%FF", "cursor=a", "x=1"]
)
def test_a_page_that_makes_no_sense_is_refused(server: Daemon, query: str) -> None:
    assert get(server, f"/v1/schedules?{query}").status == 400
