"""JSON as the original wrote it: what Python 2's json.dumps and cyclone made of a value."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from restmq.message import Batch, Message, Peeked
from restmq.web import historic

BODIES = st.binary() | st.text().map(str.encode)


def dumped(members: dict[str, object]) -> bytes:
    return json.dumps(members).replace("</", "<\\/").encode()


@given(queue=st.text(), body=BODIES)
def test_what_is_put_together_by_hand_is_what_json_writes(queue, body):
    message = Message(queue, 7, body)
    key = f"{queue}:7"
    try:
        value, more = body.decode(), {}
    except UnicodeDecodeError:
        value, more = base64.b64encode(body).decode(), {"encoding": "base64"}
    assert historic.popped(message) == dumped({"count": 0, "key": key, "value": value, **more}) + (
        b"\r\n"
    )
    assert historic.line(message) == dumped({"key": key, "value": value, **more}) + b"\r\n"
    assert historic.taken(message) == dumped({"queue": queue, "value": value, "key": key, **more})
    assert historic.peeked(Peeked(message, 3)) == dumped(
        {"queue": queue, "count": 3, "value": value, "key": key, **more}
    )


@given(queue=st.text(), value=st.text())
def test_the_reply_to_add(queue, value):
    assert historic.added(queue, value, f"{queue}:1") == dumped(
        {"queue": queue, "value": value, "key": f"{queue}:1"}
    )


def test_a_message_that_is_gone_is_null():
    message = Message("q", 1, None)
    assert historic.popped(message) == b'{"count": 0, "key": "q:1", "value": null}\r\n'


def test_escapes_are_those_of_2010():
    message = Message("q", 1, "é😀\x7f\u2028</b>".encode())
    assert historic.line(message) == (
        rb'{"key": "q:1", "value": "\u00e9\ud83d\ude00\u007f\u2028<\/b>"}' + b"\r\n"
    )


def test_streams_of_one_kind_share_an_encoding():
    batch = Batch([Message("q", 1, b"a"), Message("q", 2, b"b")], 2)
    assert historic.line_for(None, True) is historic.chunked_line
    assert historic.line_for(None, False) is historic.line
    assert historic.line_for("cb", True) is historic.line_for("cb", True)
    once = batch.encoded(historic.line_for("cb", False))
    assert batch.encoded(historic.line_for("cb", False)) is once
    assert once == (b'cb({"key": "q:1", "value": "a"});\r\ncb({"key": "q:2", "value": "b"});\r\n')
    assert batch.encoded(historic.line_for("cb", True)).startswith(b"23\r\ncb({")


def test_callbacks_cannot_fill_the_memory():
    for number in range(2 * historic.KEPT_CALLBACKS):
        historic.line_for(f"cb{number}", True)
    assert historic.line_for.cache_info().currsize <= historic.KEPT_CALLBACKS
