"""CloudEvents 1.0 in binary mode, made and read by the official SDK."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, to_binary_event
from cloudevents.core.v1.event import CloudEvent

from restmq.redis.keys import Keys
from tests.support import Daemon, Response

STATED = {
    "type": "com.example.created",
    "source": "/orders",
    "id": "A234-1234",
    "specversion": "1.0",
}


def publish(server: Daemon, topic: str, event: CloudEvent) -> dict[str, Any]:
    """As the SDK writes it on the wire."""
    message = to_binary_event(event)
    reply = server.request("POST", f"/v1/topics/{topic}/events", message.body, message.headers)
    assert reply.status == 201, reply
    told: dict[str, Any] = json.loads(reply.body)
    return told


def fetch(server: Daemon, topic: str, cursor: str) -> Response:
    return server.request("GET", f"/v1/topics/{topic}/events/{cursor}")


def as_event(reply: Response) -> Any:
    """As the SDK reads it off the wire."""
    assert reply.status == 200, reply
    fields = {
        name: value
        for name, value in reply.headers.items()
        if name.startswith("ce-") or name == "content-type"
    }
    return from_binary_event(HTTPMessage(fields, reply.body))


def test_an_event_of_the_sdk_comes_back_to_the_sdk(server, queue):
    """All attributes and extensions as they were; the id is the broker's, the producer's beside it."""
    event = CloudEvent(
        {
            **STATED,
            "datacontenttype": "application/json",
            "subject": 'größe "x" 100%, 日本',
            "time": datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC),
            "dataschema": "https://example.com/schema",
            "partitionkey": "a b",
        },
        {"n": 1, "é": [True, None]},
    )
    told = publish(server, queue, event)
    assert re.fullmatch(r"[1-9]\d*-[1-9]\d*", told["cursor"])
    found = as_event(fetch(server, queue, told["cursor"]))
    assert found.get_data() == event.get_data()
    expected = {**event.get_attributes(), "id": told["cursor"], "originid": "A234-1234"}
    assert found.get_attributes() == expected


@pytest.mark.parametrize(
    ("content_type", "data"),
    [("text/plain", "hällo"), ("application/octet-stream", b"\x00\xff\x01"), ("text/html", "<b>")],
)
def test_data_of_any_type_comes_back_to_the_byte(server, queue, content_type, data):
    event = CloudEvent({**STATED, "datacontenttype": content_type}, data)
    told = publish(server, queue, event)
    reply = fetch(server, queue, told["cursor"])
    assert reply.headers["content-type"] == content_type
    assert reply.body == (data if isinstance(data, bytes) else data.encode())
    assert as_event(reply).get_datacontenttype() == content_type


def test_an_event_from_any_other_door_can_be_read_as_one(server, queue):
    """Who published it need not know of CloudEvents."""
    reply = server.request(
        "POST", f"/v1/topics/{queue}.a/events", b"hello", {"RestMQ-Header-Event-Kind": "data"}
    )
    cursor = json.loads(reply.body)["cursor"]
    reply = fetch(server, f"{queue}.a", cursor)
    event = as_event(reply)
    assert event.get_id() == cursor
    assert event.get_type() == "restmq.event"
    assert event.get_source() == f"/v1/topics/{queue}.a"
    assert abs((datetime.now(UTC) - event.get_time()).total_seconds()) < 60
    assert reply.headers["restmq-header-event-kind"] == "data"
    assert reply.body == b"hello"


def test_a_header_that_no_field_can_hold_is_percent_encoded(server, queue):
    """RSE's clients may say anything in their User-Agent."""
    agent = "Sören 100% uuid/550e8400-e29b-41d4-a716-446655440000"
    reply = server.request("POST", f"/e/{queue}", "{}", {"User-Agent": agent.encode("latin-1")})
    assert reply.status == 201
    (event,) = json.loads(server.request("GET", f"/v1/events?topic={queue}").body)["events"]
    assert event["headers"]["user-agent"] == agent
    reply = fetch(server, queue, event["cursor"])
    assert as_event(reply).get_id() == event["cursor"]
    shown = reply.headers["restmq-header-user-agent"]
    assert shown == agent.replace("%", "%25").replace("ö", "%C3%B6")


def test_an_id_of_an_earlier_life_holds_as_far_as_the_store_has_its_events(daemon, valkey):
    made, topic = daemon("--redis-url", valkey.url), "t"
    made.wait_for("/readyz")
    cursors = [publish(made, topic, CloudEvent(STATED, b"%d" % n))["cursor"] for n in range(3)]
    epoch, last = map(int, cursors[-1].split("-"))
    entries, index = Keys("restmq:").log("main")[5], Keys("restmq:").log("main")[1]
    with valkey.client() as client:  # it is as it was before the last one
        client.hset(Keys("restmq:").log("main")[0], "id", last - 1)
        client.xdel(entries, str(last))
        low = topic.encode() + b"\0" + last.to_bytes(7, "big")
        assert client.zremrangebylex(index, b"[" + low, b"+") == 1
    later = publish(made, topic, CloudEvent(STATED, b"new"))["cursor"]
    new_epoch, number = map(int, later.split("-"))
    assert (new_epoch > epoch, number > last) == (True, True)
    replies = [fetch(made, topic, cursor) for cursor in (*cursors, later)]
    assert [reply.status for reply in replies] == [200, 200, 404, 200]
    assert [reply.body for reply in replies if reply.status == 200] == [b"0", b"1", b"new"]
    assert replies[0].headers["ce-id"] == cursors[0]
    for never in (f"{epoch}-{number}", f"{epoch - 1}-{last - 1}", f"{new_epoch + 1}-{number}"):
        assert fetch(made, topic, never).status == 404


def test_head_tells_the_attributes(server, queue):
    told = publish(server, queue, CloudEvent(STATED, b""))
    reply = server.request("HEAD", f"/v1/topics/{queue}/events/{told['cursor']}")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["ce-id"] == told["cursor"]


def test_a_page_that_opens_an_event_runs_none_of_it(server, queue):
    event = CloudEvent({**STATED, "datacontenttype": "text/html"}, "<script>alert(1)</script>")
    reply = fetch(server, queue, publish(server, queue, event)["cursor"])
    assert "sandbox" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_the_attributes_are_headers_of_the_event_on_other_doors(server, queue):
    told = publish(server, queue, CloudEvent(STATED, b"x"))
    (event,) = json.loads(server.request("GET", f"/v1/events?topic={queue}").body)["events"]
    assert event["cursor"] == told["cursor"]
    assert event["headers"]["ce-type"] == "com.example.created"
    assert event["headers"]["ce-id"] == "A234-1234"


GOOD = {f"ce-{name}": value for name, value in STATED.items()} | {"Content-Type": "text/plain"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce-specversion", "0.3"),
        ("ce-specversion", ""),
        ("ce-id", None),
        ("ce-source", None),
        ("ce-type", None),
        ("ce-type", ""),
        ("ce-time", "yesterday"),
        ("ce-time", "2026-11-22"),
        ("ce-time", "2026-13-22T00:00:00Z"),
        ("ce-time", "2026-11-22T00:00:00"),
        ("ce-datacontenttype", "text/plain"),
        ("ce-not_a_name", "1"),
        ("ce-subject", "%FF"),
    ],
)
def test_what_is_no_cloud_event_is_400_and_named(server, queue, name, value):
    fields = {key: text for key, text in GOOD.items() if key != name}
    if value is not None:
        fields[name] = value
    reply = server.request("POST", f"/v1/topics/{queue}/events", b"x", fields)
    assert reply.status == 400
    assert json.loads(reply.body)["detail"].startswith(name)
    assert json.loads(server.request("GET", f"/v1/events?topic={queue}").body)["events"] == []


@pytest.mark.parametrize("place", ["{epoch}-999999", "7-1", "{epoch}-0", "x", "0-0", "-1", "1-2-3"])
def test_an_event_that_is_not_there_is_404_and_an_id_that_is_none_400(server, queue, place):
    told = publish(server, queue, CloudEvent(STATED, b"x"))
    epoch, number = told["cursor"].split("-")
    reply = fetch(server, queue, place.format(epoch=epoch))
    there = re.fullmatch(r"\d+-[1-9]\d*", place.format(epoch=epoch))
    assert reply.status == (404 if there else 400)
    assert fetch(server, f"{queue}.other", f"{epoch}-{number}").status == 404
    assert fetch(server, queue, f"{epoch}-{number}").status == 200


def test_headers_that_no_field_can_hold_are_percent_encoded(common_daemon):
    """RSE keeps the User-Agent of who posted, which may be any bytes."""
    agent = "X\u00e9 uuid/550e8400-e29b-41d4-a716-446655440000"
    posted = common_daemon.request("POST", "/e/ce/bytes", "[1]", {"User-Agent": agent})
    assert posted.status == 201
    page = common_daemon.request("GET", "/v1/events?topic=ce.bytes")
    (event,) = json.loads(page.body)["events"]
    reply = common_daemon.request("GET", f"/v1/topics/ce.bytes/events/{event['cursor']}")
    assert (reply.status, reply.body) == (200, b"[1]")
    assert any("X%" in value for value in reply.headers.values())
