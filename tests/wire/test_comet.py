"""``/c/NAME``: streams, their wire form, and what happens to them."""

from __future__ import annotations

import json

import pytest

from tests.support import wait_until
from tests.wire.clients import Comet, add, command, get, pop, post


def attached(comet, path):
    """A stream that is there when the next request is answered: its head has come."""
    return comet(path + "?flush=1").head()


def test_nothing_is_sent_before_the_first_message(server, queue, comet):
    stream = comet(f"/c/{queue}")
    for _ in range(3):
        assert get(server, "/livez").status == 200
    assert stream.said_nothing()
    add(server, queue, "foobar")
    assert stream.line() == f'{{"key": "{queue}:1", "value": "foobar"}}'.encode()
    assert stream.status == 200
    assert stream.headers["transfer-encoding"] == "chunked"
    assert stream.headers["content-type"] == "text/plain"
    assert stream.headers["cache-control"] == "no-store"
    assert "etag" not in stream.headers


def test_flush_sends_the_head_at_once(server, queue, comet):
    stream = attached(comet, f"/c/{queue}")
    assert stream.status == 200
    assert stream.said_nothing()


def test_each_message_is_a_chunk_of_its_own(server, queue, comet):
    stream = comet(f"/c/{queue}")
    for number in range(3):
        add(server, queue, str(number))
    assert stream.values(3) == ["0", "1", "2"]
    assert stream.chunks[1] == f'{{"key": "{queue}:2", "value": "1"}}\r\n'.encode()


def test_with_a_callback_each_message_is_a_call(server, queue, comet):
    stream = comet(f"/c/{queue}?callback=app.message")
    add(server, queue, "foobar")
    assert stream.line() == f'app.message({{"key": "{queue}:1", "value": "foobar"}});'.encode()
    assert stream.headers["content-type"].startswith("application/javascript")


def test_http_1_0_gets_plain_lines_and_the_end_of_the_connection(server, queue, comet):
    stream = comet(f"/c/{queue}", version="HTTP/1.0")
    add(server, queue, "one")
    add(server, queue, "two")
    assert stream.values(2) == ["one", "two"]
    assert "transfer-encoding" not in stream.headers
    server.request("DELETE", f"/q/{queue}")
    assert stream.rest() == b""


@pytest.mark.parametrize(
    "value", ["5", "007", "  padded  ", "a\nb\r\nc", "\x00\x1f", "é€😀\u2028", "</b>", '{"k": [1]}']
)
def test_values_are_exact(server, queue, comet, value):
    """The original lost every message that looked like a number, and those popped with it."""
    stream = comet(f"/c/{queue}")
    add(server, queue, value)
    assert stream.message() == {"key": f"{queue}:1", "value": value}


def test_a_body_that_is_no_utf_8_comes_as_base64_and_says_so(server, queue, comet):
    stream = comet(f"/c/{queue}")
    add(server, queue, b"\xff\xfe")
    assert stream.line() == (
        f'{{"key": "{queue}:1", "value": "//4=", "encoding": "base64"}}'.encode()
    )


def test_every_door_wakes_the_stream(server, queue, comet):
    stream = comet(f"/c/{queue}")
    add(server, queue, "by /q/")
    post(server, "/", queue=queue, value="by /")
    command(server, cmd="add", queue=queue, value="by /queue")
    assert stream.values(3) == ["by /q/", "by /", "by /queue"]


def test_a_backlog_of_25_comes_in_order(server, queue, comet):
    for number in range(25):
        add(server, queue, str(number))
    stream = comet(f"/c/{queue}")
    assert stream.values(25) == [str(number) for number in range(25)]
    wait_until(
        lambda: json.loads(get(server, f"/stats/{queue}").body)["len"] == 0, "an empty queue"
    )
    assert pop(server, queue) is None


def test_messages_that_are_gone_are_skipped(server, queue, comet):
    for value in ("a", "b", "5", "d"):
        add(server, queue, value)
    command(server, cmd="del", queue=queue, key=f"{queue}:2")
    assert comet(f"/c/{queue}").values(3) == ["a", "5", "d"]


def test_broadcast_gives_every_message_to_all(server, queue, comet):
    streams = [attached(comet, f"/c/{queue}") for _ in range(3)]
    for number in range(10):
        add(server, queue, str(number))
    for stream in streams:
        assert stream.values(10) == [str(number) for number in range(10)]


def test_round_robin_gives_each_message_to_one_in_turn(server, queue, comet):
    post(server, f"/p/{queue}", policy="roundrobin")
    streams = [attached(comet, f"/c/{queue}") for _ in range(3)]
    add(server, queue, "warm up")
    got = {id(stream): [] for stream in streams}
    for number in range(30):
        add(server, queue, str(number))
    wait_until(lambda: _collect(streams, got) == 31, "all 31 messages")
    values = sorted(value for each in got.values() for value in each)
    assert values == sorted(["warm up", *map(str, range(30))])
    assert {len(each) for each in got.values()} <= {10, 11}
    for each in got.values():
        numbers = [int(value) for value in each if value != "warm up"]
        assert numbers == sorted(numbers)


def _collect(streams, got):
    """Read whatever has come, from each stream; how many messages there are in all."""
    for stream in streams:
        while not stream.said_nothing():
            got[id(stream)].append(stream.message()["value"])
    return sum(map(len, got.values()))


def test_one_that_left_is_not_missed_by_the_others(server, queue, comet):
    first, second, third = (attached(comet, f"/c/{queue}") for _ in range(3))
    second.socket.close()
    add(server, queue, "x")
    assert first.values(1) == third.values(1) == ["x"]


def test_when_the_last_has_left_messages_stay(server, queue, comet):
    stream = comet(f"/c/{queue}")
    add(server, queue, "x")
    assert stream.values(1) == ["x"]
    stream.socket.close()
    add(server, queue, "kept")
    kept = wait_until(lambda: pop(server, queue), "the message in its queue")
    assert kept["value"] == "kept"


def test_stop_holds_the_push_back_and_start_lets_it_go_on(server, queue, comet):
    stream = comet(f"/c/{queue}")
    add(server, queue, "before")
    assert stream.values(1) == ["before"]
    post(server, f"/control/{queue}", status="stop")
    for number in range(3):
        add(server, queue, str(number))
    assert json.loads(get(server, f"/stats/{queue}").body)["len"] == 3
    assert stream.said_nothing()
    post(server, f"/control/{queue}", status="start")
    assert stream.values(3) == ["0", "1", "2"]


def test_delete_ends_every_stream_and_keeps_the_connection(server, queue, comet):
    """The original missed every second client, and sent the others a message ``null``."""
    streams = [attached(comet, f"/c/{queue}") for _ in range(3)]
    add(server, queue, "x")
    for stream in streams:
        assert stream.values(1) == ["x"]
    server.request("DELETE", f"/q/{queue}")
    for stream in streams:
        assert stream.is_over()
    again = streams[0]
    again.status = 0
    again.send(f"GET /c/{queue} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    add(server, queue, "y")
    assert again.values(1) == ["y"]


def test_a_stream_that_got_nothing_ends_as_an_empty_200(server, queue, comet):
    first = comet(f"/c/{queue}")
    add(server, queue, "x")
    assert first.values(1) == ["x"]
    stream = comet(f"/c/{queue}")
    for _ in range(2):
        assert get(server, "/livez").status == 200
    server.request("DELETE", f"/q/{queue}")
    assert stream.is_over()
    assert stream.status == 200
    assert stream.chunks == []


def test_a_queue_with_an_odd_name_ends_its_streams_too(server, comet):
    stream = attached(comet, "/c/%C3%A9t%C3%A9")
    post(server, "/q/%C3%A9t%C3%A9", value="x")
    assert stream.message()["key"].startswith("été:")
    server.request("DELETE", "/q/%C3%A9t%C3%A9")
    assert stream.is_over()


def test_connection_close_is_no_obstacle(server, queue, comet):
    stream = comet(f"/c/{queue}", "Connection: close")
    add(server, queue, "x")
    assert stream.values(1) == ["x"]
    server.request("DELETE", f"/q/{queue}")
    assert stream.is_over()
    assert stream.rest() == b""


def test_two_daemons_feed_each_others_streams(valkey, daemon, queue):
    first, second = (daemon("--redis-url", valkey.url) for _ in range(2))
    for each in (first, second):
        each.wait_for("/readyz")
    with Comet(first.port, f"/c/{queue}") as here, Comet(second.port, f"/c/{queue}") as there:
        for stream in (here, there):
            wait_until(lambda s=stream: add(first, queue, "probe") and not s.said_nothing(), "one")
        add(second, queue, "last")
        for stream in (here, there):
            values = [stream.message()["value"]]
            while values[-1] != "last":
                values.append(stream.message()["value"])
            assert set(values) == {"probe", "last"}


def test_a_stream_outlives_its_store(daemon, start_valkey, queue):
    store = start_valkey(appendonly="yes", appendfsync="always")
    server = daemon("--redis-url", store.url)
    server.wait_for("/readyz")
    with Comet(server.port, f"/c/{queue}") as stream:
        add(server, queue, "before")
        assert stream.values(1) == ["before"]
        store.kill()
        server.wait_for("/readyz", 503)
        store.start()
        server.wait_for("/readyz")
        add(server, queue, "after")
        assert stream.values(1) == ["after"]


def test_a_client_that_reads_nothing_delays_nobody_and_is_told_in_the_log(server, queue):
    """It has what the kernel took and the newest messages; the oldest between are dropped."""
    size, count = 50_000, 120
    with (
        Comet(server.port, f"/c/{queue}?flush=1") as frozen,
        Comet(server.port, f"/c/{queue}?flush=1") as reader,
    ):
        for each in (frozen, reader):
            each.head()
        for number in range(count):
            add(server, queue, f"{number}:".ljust(size, "x"))
            assert reader.message()["key"] == f"{queue}:{number + 1}"
        seen = [frozen.message()["key"]]
        while seen[-1] != f"{queue}:{count}":
            seen.append(frozen.message()["key"])
    numbers = [int(key.rpartition(":")[2]) for key in seen]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < count
    missed = count - len(numbers)
    wait_until(
        lambda: f"a consumer of {queue} read too slowly and missed {missed} messages" in server.log,
        "the line in the log",
    )


def test_round_robin_drops_nothing_of_a_slow_client(server, queue, comet):
    post(server, f"/p/{queue}", policy="roundrobin")
    stream = attached(comet, f"/c/{queue}")
    size, count = 50_000, 60
    for number in range(count):
        add(server, queue, f"{number}:".ljust(size, "x"))
    values = [value.partition(":")[0] for value in stream.values(count)]
    assert values == [str(number) for number in range(count)]


def test_delete_ends_a_stream_that_has_only_just_come(server, queue, comet):
    for number in range(20):
        stream = comet(f"/c/{queue}-{number}?flush=1").head()
        server.request("DELETE", f"/q/{queue}-{number}")
        assert stream.is_over()
