"""``/v1/queues/QUEUE/settings``, ``/v1/profiles``, ``/v1/info`` and ``/v1/whoami``, as clients see them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from restmq.settings import Settings as Options
from restmq.web.v1.info import limits
from tests.conftest import StartDaemon
from tests.support import Daemon, Response, ValkeyServer, wait_until
from tests.wire.clients import add, get, post


def ask(server: Daemon, method: str, path: str, value: Any = None) -> Response:
    return server.request(method, path, None if value is None else json.dumps(value))


def settings(server: Daemon, queue: str, query: str = "") -> Any:
    reply = get(server, f"/v1/queues/{queue}/settings{query}")
    assert reply.status == 200, reply
    return json.loads(reply.body)


def change(server: Daemon, method: str, queue: str, value: Any) -> Any:
    reply = ask(server, method, f"/v1/queues/{queue}/settings", value)
    assert reply.status == 200, reply
    return json.loads(reply.body)


@pytest.fixture
def profile(server: Daemon, queue: str) -> Iterator[Any]:
    """Puts a profile; all are taken away in the end."""
    names = []

    def put(name: str, pattern: str, order: int = 0, on: Daemon = server, **said: Any) -> Response:
        names.append(name)
        value = {"pattern": pattern, "order": order, "settings": said}
        return ask(on, "PUT", f"/v1/profiles/{name}", value)

    yield put
    for name in names:
        assert ask(server, "DELETE", f"/v1/profiles/{name}").status == 204


# ---- settings of one queue


def test_patch_merges_and_put_replaces(server: Daemon, queue: str) -> None:
    change(server, "PATCH", queue, {"lease": 5, "backoff": {"first": 2}})
    found = change(server, "PATCH", queue, {"ttl": 60, "backoff": {"factor": 3}})
    assert (found["lease"], found["ttl"]) == (5, 60)
    assert found["backoff"] == {"first": 2, "factor": 3, "max": 300, "jitter": 0.2}
    assert settings(server, queue) == found
    found = change(server, "PATCH", queue, {"lease": None, "backoff": None})
    assert (found["lease"], found["ttl"], found["backoff"]["first"]) == (30, 60, 1)
    found = change(server, "PUT", queue, {"max_attempts": 9})
    assert (found["ttl"], found["max_attempts"]) == (0, 9)
    explained = settings(server, queue, "?explain=1")
    assert explained["max_attempts"] == {"value": 9, "source": "own"}
    assert explained["ttl"] == {"value": 0, "source": "default"}


def test_what_is_shown_can_be_put_back(server: Daemon, queue: str) -> None:
    found = change(
        server, "PATCH", queue, {"put_rate": 1.5, "dead_letter": False, "priorities": True}
    )
    assert change(server, "PUT", queue, found) == found


def test_a_queue_is_made_in_mode_jobs_and_listed(server: Daemon, queue: str) -> None:
    assert settings(server, queue)["mode"] == "jobs", "what it would be"
    assert queue not in get(server, "/stats/").body.decode()
    change(server, "PUT", queue, {})
    assert queue in get(server, "/stats/").body.decode()
    assert settings(server, queue, "?explain=1")["mode"] == {"value": "jobs", "source": "creation"}
    assert get(server, f"/q/{queue}").status == 409, "leased only"
    change(server, "PATCH", queue, {"mode": "open"})
    assert get(server, f"/q/{queue}").status == 204
    assert change(server, "PATCH", queue, {"mode": None})["mode"] == "jobs"


def test_a_queue_of_an_old_door_goes_back_to_open(server: Daemon, queue: str) -> None:
    add(server, queue, "x")
    change(server, "PATCH", queue, {"mode": "jobs"})
    assert get(server, f"/q/{queue}").status == 409
    assert change(server, "PATCH", queue, {"mode": None})["mode"] == "open"
    assert get(server, f"/q/{queue}").status == 200


def test_old_doors_set_what_is_the_queues_own(server: Daemon, queue: str) -> None:
    add(server, queue, "x")
    post(server, f"/control/{queue}", status="stop")
    post(server, f"/p/{queue}", policy="roundrobin")
    explained = settings(server, queue, "?explain=true")
    assert explained["paused"] == {"value": "all", "source": "own"}
    assert explained["delivery"] == {"value": "roundrobin", "source": "own"}
    change(server, "PATCH", queue, {"paused": None})
    assert b'"status": 1' in get(server, f"/control/{queue}").body


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"lease": 0}, "/lease"),
        ({"lease": "30"}, "/lease"),
        ({"backoff": {"max": -1}}, "/backoff/max"),
        ({"backoff": {"first": 500}}, "/backoff/max"),
        ({"colour": "red"}, "/colour"),
        ({"delivery": "broadcast"}, "/delivery"),
        ({"dead_letter": "a//b"}, "/dead_letter"),
        ({"dead_letter": "x" * 10000}, "/dead_letter"),
        ({"max_length": 1.5, "lease": 5}, "/max_length"),
    ],
)
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_bad_settings_are_named_and_change_nothing(
    server: Daemon, queue: str, method: str, value: Any, pointer: str
) -> None:
    body = json.dumps(value)
    reply = server.request(method, f"/v1/queues/{queue}/settings", body)
    problem = json.loads(reply.body)
    assert (reply.status, problem["code"]) == (400, "bad_request")
    assert problem["errors"][0]["pointer"] == pointer, problem
    assert queue not in get(server, "/stats/").body.decode()


@pytest.mark.parametrize("body", ["7", "[]", "{", '"x"', "null", '{"ttl": 1e999}'])
def test_what_is_no_object_is_refused(server: Daemon, queue: str, body: str) -> None:
    assert server.request("PATCH", f"/v1/queues/{queue}/settings", body).status == 400


def test_changes_at_the_same_time_all_count(server: Daemon, queue: str) -> None:
    """A law: each patch names another member, so in the end all are there."""
    patches = [{"lease": 7}, {"ttl": 8}, {"backoff": {"first": 2}}, {"backoff": {"jitter": 0.5}},
               {"max_length": 9}, {"dedup": 10}, {"replay": 11}, {"priorities": True}]  # fmt: skip
    with ThreadPoolExecutor(len(patches)) as pool:
        list(pool.map(lambda patch: change(server, "PATCH", queue, patch), patches))
    found = settings(server, queue)
    assert (found["lease"], found["ttl"], found["max_length"]) == (7, 8, 9)
    assert (found["dedup"], found["replay"], found["priorities"]) == (10, 11, True)
    assert found["backoff"] == {"first": 2, "factor": 2, "max": 300, "jitter": 0.5}


# ---- profiles


def test_a_profile_holds_for_queues_that_are_and_that_come(
    server: Daemon, queue: str, profile: Any
) -> None:
    old, new = f"{queue}.old", f"{queue}.new"
    change(server, "PUT", old, {"ttl": 5})
    assert profile(queue[:60], f"{queue}.*", lease=7, ttl=100).status == 201
    found = settings(server, old, "?explain=1")
    assert found["lease"] == {"value": 7, "source": f"profile:{queue[:60]}"}
    assert found["ttl"] == {"value": 5, "source": "own"}
    assert settings(server, new)["lease"] == 7, "what it would get"
    change(server, "PUT", new, {})
    assert settings(server, new)["ttl"] == 100
    assert profile(queue[:60], f"{queue}.*", lease=8).status == 200
    assert (settings(server, new)["lease"], settings(server, new)["ttl"]) == (8, 0)
    assert ask(server, "DELETE", f"/v1/profiles/{queue[:60]}").status == 204
    assert settings(server, old, "?explain=1")["lease"] == {"value": 30, "source": "default"}


def test_the_store_has_what_holds(valkey: ValkeyServer, daemon: StartDaemon) -> None:
    """The scripts read fields: they are the effective ones, on old and new queues."""
    one, two = (daemon("--redis-url", valkey.url) for _ in range(2))
    for server in (one, two):
        server.wait_for("/readyz")
    change(one, "PUT", "jobs.a", {})
    change(two, "PUT", "jobs.b", {"max_length": 0})
    value = {"pattern": "jobs.*", "settings": {"max_length": 10, "lease": 5}}
    assert ask(one, "PUT", "/v1/profiles/small", value).status == 201
    with valkey.client() as store:
        read = lambda queue, *fields: store.hmget(f"restmq:{{{queue}}}", *fields)  # noqa: E731
        assert read("jobs.a", "max_length", "lease_ms", "lim") == [b"10", b"5000", b"1"]
        assert read("jobs.b", "max_length", "lease_ms", "lim") == [None, b"5000", None]
        wait_until(lambda: settings(two, "jobs.c")["lease"] == 5, "the other daemon knows it")
        change(two, "PUT", "jobs.c", {})
        assert read("jobs.c", "max_length", "lim") == [b"10", b"1"]
        assert ask(two, "DELETE", "/v1/profiles/small").status == 204
        for queue in ("jobs.a", "jobs.b", "jobs.c"):
            assert read(queue, "max_length", "lease_ms", "lim") == [None, None, None]
        wait_until(lambda: b'"profiles":[]' in get(one, "/v1/profiles").body, "and the first one")


def test_profiles_outlive_the_daemons_and_a_sweep_is_finished_by_another(
    valkey: ValkeyServer, daemon: StartDaemon
) -> None:
    """Somebody wrote a profile and died before it was on all queues."""
    one = daemon("--redis-url", valkey.url)
    one.wait_for("/readyz")
    change(one, "PUT", "late", {})
    value = {"pattern": "late", "settings": {"lease": 9}}
    assert ask(one, "PUT", "/v1/profiles/p", value).status == 201
    assert one.stop() == 0
    with valkey.client() as store:
        store.hdel("restmq:{late}", "lease_ms")
        store.hset("restmq:profiles", ":applied", "1")
        two = daemon("--redis-url", valkey.url)
        two.wait_for("/readyz")
        assert [p["name"] for p in json.loads(get(two, "/v1/profiles").body)["profiles"]] == ["p"]
        wait_until(lambda: store.hget("restmq:{late}", "lease_ms") == b"9000", "it is applied")


def test_a_dead_letter_queue_is_left_alone_unless_named(
    server: Daemon, queue: str, profile: Any
) -> None:
    change(server, "PUT", f"{queue}.dead", {})
    profile(f"a-{queue[:60]}", f"{queue}.**", max_length=10)
    assert settings(server, f"{queue}.dead")["max_length"] == 0
    profile(f"b-{queue[:60]}", f"{queue}.dead", max_length=20)
    assert settings(server, f"{queue}.dead")["max_length"] == 20


def test_profiles_are_listed_by_pages(server: Daemon, queue: str, profile: Any) -> None:
    for number in range(5):
        profile(f"list-{number}", f"{queue}.{number}", order=number, lease=5)
    first = json.loads(get(server, "/v1/profiles?limit=3").body)
    assert [p["name"] for p in first["profiles"]] == ["list-0", "list-1", "list-2"]
    rest = json.loads(get(server, f"/v1/profiles?cursor={first['cursor']}").body)
    assert [p["name"] for p in rest["profiles"]] == ["list-3", "list-4"]
    assert rest["cursor"] is None
    one = json.loads(get(server, "/v1/profiles/list-4").body)
    assert one == {"name": "list-4", "pattern": f"{queue}.4", "order": 4, "settings": {"lease": 5}}
    assert get(server, "/v1/profiles/nobody").status == 404


@pytest.mark.parametrize(
    ("name", "value", "pointer"),
    [
        ("p", {"pattern": "a..b"}, "/pattern"),
        ("p", {"settings": {}}, "/pattern"),
        ("p", {"pattern": "a", "order": "1"}, "/order"),
        ("p", {"pattern": "a", "settings": {"lease": 0}}, "/settings/lease"),
        ("a%20b", {"pattern": "a"}, None),
        ("x" * 65, {"pattern": "a"}, None),
    ],
)
def test_bad_profiles_are_named_and_not_kept(
    server: Daemon, name: str, value: Any, pointer: str | None
) -> None:
    reply = ask(server, "PUT", f"/v1/profiles/{name}", value)
    assert reply.status == 400
    if pointer is not None:
        assert json.loads(reply.body)["errors"][0]["pointer"] == pointer
    assert json.loads(get(server, "/v1/profiles").body)["profiles"] == []


def test_there_is_a_bound_on_profiles(daemon: StartDaemon) -> None:
    server = daemon("--max-profiles", "1")
    server.wait_for("/readyz")
    value = {"pattern": "x"}
    assert ask(server, "PUT", "/v1/profiles/a", value).status == 201
    refused = ask(server, "PUT", "/v1/profiles/b", value)
    assert refused.status == 409
    assert b"--max-profiles" in refused.body
    assert ask(server, "PUT", "/v1/profiles/a", value).status == 200
    assert ask(server, "DELETE", "/v1/profiles/a").status == 204
    assert ask(server, "PUT", "/v1/profiles/b", value).status == 201


# ---- info, whoami


def test_info_tells_version_store_and_limits(daemon: StartDaemon, valkey: ValkeyServer) -> None:
    server = daemon("--redis-url", valkey.url, "--max-batch", "7", "--lease", "3")
    server.wait_for("/readyz")
    info = json.loads(get(server, "/v1/info").body)
    assert info["store"]["server"] in ("valkey", "redis")
    assert info["store"]["version"][0].isdigit()
    assert info["store"]["embedded"] is False
    assert info["limits"]["batch"] == {"max": 7}
    assert info["limits"]["lease"] == {"default": 3.0, "max": 43200.0}
    assert settings(server, "x")["lease"] == 3
    assert json.loads(get(server, "/v1/info").body)["epoch"] == info["epoch"]
    with valkey.client() as store:
        store.flushall()
    assert json.loads(get(server, "/v1/info").body)["epoch"] != info["epoch"], "another life"


def test_the_limits_are_those_of_the_api(server: Daemon) -> None:
    told = limits(Options())
    assert told["message"]["max"] == 1 << 20
    assert (told["batch"]["max"], told["batch_bytes"]["max"]) == (10_000, 16 << 20)
    assert told["receive_limit"] == {"default": 1, "max": 1000}
    assert told["wait"] == {"default": 0, "max": 50}
    assert (told["headers"]["max"], told["header_bytes"]["max"]) == (32, 8192)
    assert (told["queues"]["max"], told["name"]["max"], told["words"]["max"]) == (100_000, 255, 32)


ACL = """
[rest:producer]
username = ann
password = secret

[rest:consumer]
hosts_deny = all
"""


def test_whoami_tells_who_and_what_for(daemon: StartDaemon, tmp_path: Any) -> None:
    (tmp_path / "acl").write_text(ACL)
    server = daemon("--acl", str(tmp_path / "acl"))

    def whoami(password: str | None) -> Any:
        token = base64.b64encode(f"ann:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}"} if password else {}
        reply = server.request("GET", "/v1/whoami", None, headers)
        assert reply.status == 200
        return json.loads(reply.body)

    known = {"produce": True, "consume": False, "stream": True, "websocket": True}
    assert whoami("secret") == {"user": "ann", "address": "127.0.0.1", "rights": known}
    for password in (None, "wrong"):
        assert whoami(password) == {
            "user": None,
            "address": "127.0.0.1",
            "rights": {**known, "produce": False},
        }
    assert get(server, "/v1/info").status == 401


def test_an_unknown_path_is_a_problem_too(server: Daemon) -> None:
    reply = get(server, "/v1/nothing", X_Request_Id="mine")
    problem = json.loads(reply.body)
    assert (reply.status, reply.headers["content-type"]) == (404, "application/problem+json")
    assert (problem["code"], problem["request_id"]) == ("not_found", "mine")


# ---- what the settings do


def put(server: Daemon, queue: str, body: str = "x", query: str = "") -> Response:
    return server.request("POST", f"/v1/queues/{queue}/messages{query}", body)


def receive(server: Daemon, queue: str, **how: Any) -> list[Any]:
    reply = ask(server, "POST", f"/v1/queues/{queue}/receive", how)
    assert reply.status == 200, reply
    found: list[Any] = json.loads(reply.body)["messages"]
    return found


def code(reply: Response) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["code"]


def test_a_new_queue_has_its_profile_from_its_first_message_on(
    server: Daemon, queue: str, profile: Any
) -> None:
    """Whichever door makes it."""
    profile(queue[:60], f"{queue}.**", max_length=1, priorities=True)
    assert put(server, f"{queue}.new", query="?priority=9").status == 201
    assert code(put(server, f"{queue}.new")) == (507, "queue_full")
    assert ask(server, "PUT", f"/v1/queues/{queue}.made").status == 201
    add(server, f"{queue}.old", "x")
    assert post(server, f"/q/{queue}.old", value="y").status != 200
    for name, mode in (("new", "jobs"), ("made", "jobs"), ("old", "open")):
        told = settings(server, f"{queue}.{name}", "?explain=1")
        assert told["max_length"] == {"value": 1, "source": f"profile:{queue[:60]}"}, name
        assert told["mode"] == {"value": mode, "source": "creation"}


def test_bounds_hold_and_a_queue_of_its_own_mind_has_none(server: Daemon, queue: str) -> None:
    change(server, "PUT", queue, {"max_length": 2})
    assert [put(server, queue).status for _ in range(3)] == [201, 201, 507]
    change(server, "PATCH", queue, {"overflow": "drop-oldest"})
    assert put(server, queue, "newest").status == 201
    assert [m["body"] for m in receive(server, queue, limit=5)][-1] == "newest"
    change(server, "PATCH", queue, {"max_length": 0, "put_rate": 0.001})
    assert put(server, queue).status == 201
    assert code(put(server, queue)) == (429, "rate_limited")
    change(server, "PATCH", queue, {"put_rate": None})
    assert put(server, queue).status == 201


def test_priorities_are_there_for_the_asking(server: Daemon, queue: str) -> None:
    change(server, "PUT", queue, {})
    assert code(put(server, queue, query="?priority=3")) == (409, "priorities_off")
    change(server, "PATCH", queue, {"priorities": True})
    put(server, queue, "low")
    assert put(server, queue, "high", "?priority=3").status == 201
    assert [m["body"] for m in receive(server, queue, limit=2)] == ["high", "low"]


def test_leases_attempts_and_dead_letters_are_those_of_the_settings(
    server: Daemon, queue: str
) -> None:
    dead = f"{queue}-failed"
    change(server, "PUT", queue, {"max_attempts": 1, "dead_letter": dead, "lease": 500})
    put(server, queue)
    (one,) = receive(server, queue)
    assert ask(server, "POST", "/v1/nack", {"receipts": [one["receipt"]]}).status == 200
    (failed,) = receive(server, dead, wait=10)
    assert failed["headers"]["restmq-origin"] == f"{queue}:1"
    told = change(server, "PATCH", dead, {"ttl": 60})
    assert (told["max_attempts"], told["dead_letter"]) == (0, False), "it was made for dead letters"


def test_a_pause_of_all_holds_receives_back(server: Daemon, queue: str) -> None:
    change(server, "PUT", queue, {"paused": "all", "max_in_flight": 1})
    assert put(server, queue).status == put(server, queue).status == 201
    assert receive(server, queue) == []
    change(server, "PATCH", queue, {"paused": "push"})
    assert len(receive(server, queue, limit=2)) == 1, "one may be in flight"
    change(server, "PATCH", queue, {"max_in_flight": 0, "paused": None})
    assert len(receive(server, queue, limit=2)) == 1


def test_there_is_a_bound_on_queues(daemon: StartDaemon) -> None:
    """Of those that /v1 makes; what is there may be used, and historic doors are not asked."""
    server = daemon("--max-queues", "3")
    server.wait_for("/readyz")
    assert put(server, "a").status == 201
    assert ask(server, "PUT", "/v1/queues/b").status == 201
    change(server, "PUT", "c", {})
    for reply in (
        put(server, "d"),
        ask(server, "PUT", "/v1/queues/d"),
        ask(server, "PATCH", "/v1/queues/d/settings", {"ttl": 1}),
    ):
        assert code(reply) == (507, "too_many_queues")
    batch = ask(server, "POST", "/v1/queues/d/batch", {"messages": [{"body": 1}]})
    assert b"too_many_queues" in batch.body
    assert [put(server, queue).status for queue in "abc"] == [201] * 3
    change(server, "PATCH", "b", {"ttl": 1})
    add(server, "e", "x")
    assert put(server, "e").status == 201, "it is there"
    for queue in ("a", "e"):
        assert ask(server, "DELETE", f"/v1/queues/{queue}?force=true").status == 204
    wait_until(lambda: put(server, "d").status == 201, "there is room")


@pytest.mark.parametrize(
    ("held", "free"),
    [({"max_in_flight": 1}, {"max_in_flight": 0}), ({"paused": "all"}, {"paused": None})],
)
def test_a_long_poll_hears_of_a_change_that_lets_it_have_more(
    server: Daemon, queue: str, held: Any, free: Any
) -> None:
    change(server, "PUT", queue, held)
    put(server, queue, "a")
    put(server, queue, "b")
    receive(server, queue)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receive, server, queue, wait=50)
        wait_until(
            lambda: json.loads(get(server, f"/v1/queues/{queue}").body)["consumers"], "it waits"
        )
        change(server, "PATCH", queue, free)
        assert len(waiting.result(20)) == 1
