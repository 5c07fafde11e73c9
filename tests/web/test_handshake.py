"""The opening handshake of a WebSocket: what is read of it, and what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.web import handshake
from restmq.web.handshake import Extension
from restmq.web.wire import Head, Limits, Refusal, read_head

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head(version: str = "HTTP/1.1", **changes: str | None) -> Head:
    """A good handshake with some fields changed; None leaves one out."""
    fields = GOOD | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    text = "\r\n".join([f"GET /ws/x {version}", "Host: localhost", *lines]) + "\r\n\r\n"
    return read_head(text.encode("latin-1"), Limits())


def test_a_good_handshake_gives_its_key_and_nothing_it_did_not_ask_for():
    assert handshake.read(head()) == (KEY, (), ())


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket", "a ,, WEBSOCKET"])
@pytest.mark.parametrize("connection", ["Upgrade", "keep-alive, Upgrade", "keep-alive,upgrade"])
def test_upgrade_and_connection_are_lists_in_any_case(upgrade, connection):
    asked = head(Upgrade=upgrade, Connection=connection)
    assert handshake.is_upgrade(asked.headers)
    assert handshake.read(asked).key == KEY


@pytest.mark.parametrize("upgrade", [None, "", "websocket2", "websocket/13", "h2c"])
def test_what_does_not_name_websocket_asks_for_none(upgrade):
    assert not handshake.is_upgrade(head(Upgrade=upgrade).headers)


@pytest.mark.parametrize("version", [None, "", "8", "14", "013", "13, 13", "thirteen"])
def test_another_version_is_told_which_one_is_spoken(version):
    with pytest.raises(Refusal) as refused:
        handshake.read(head(Sec_WebSocket_Version=version))
    assert refused.value.status == 426
    assert ("Sec-WebSocket-Version", "13") in refused.value.headers
    assert ("Upgrade", "websocket") in refused.value.headers


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "HTTP/1.0"}, "needs HTTP/1.1"),
        ({"Connection": None}, "Connection"),
        ({"Connection": "keep-alive"}, "Connection"),
        ({"Sec_WebSocket_Key": None}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": ""}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": KEY[:-2]}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": f"{KEY}, {KEY}"}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": "-" * 22 + "=="}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": "AAAA" + KEY}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Protocol": "a, b, a"}, "Sec-WebSocket-Protocol"),
        ({"Sec_WebSocket_Protocol": "a b"}, "Sec-WebSocket-Protocol"),
        ({"Sec_WebSocket_Protocol": "caf\xe9"}, "Sec-WebSocket-Protocol"),
        ({"Sec_WebSocket_Extensions": "; a"}, "Sec-WebSocket-Extensions"),
        ({"Sec_WebSocket_Extensions": "a; "}, "Sec-WebSocket-Extensions"),
        ({"Sec_WebSocket_Extensions": "a; b="}, "Sec-WebSocket-Extensions"),
        ({"Sec_WebSocket_Extensions": "a; b=1=2"}, "Sec-WebSocket-Extensions"),
        ({"Sec_WebSocket_Extensions": 'a; b="1 2"'}, "Sec-WebSocket-Extensions"),
        ({"Sec_WebSocket_Extensions": 'a; b="1'}, "Sec-WebSocket-Extensions"),
        ({"Sec_WebSocket_Extensions": 'a; b="' + "\\a" * 5000}, "Sec-WebSocket-Extensions"),
    ],
)
def test_what_is_wrong_is_400_and_named(changes, why):
    with pytest.raises(Refusal, match=why) as refused:
        handshake.read(head(**changes))
    assert refused.value.status == 400
    assert refused.value.why.isascii()


def test_offers_are_read_in_their_order():
    asked = head(
        Sec_WebSocket_Protocol="restmq.v1.json , , soap",
        Sec_WebSocket_Extensions='permessage-deflate; client_max_window_bits; s = "1\\0", foo , bar;b=1',
    )
    assert handshake.read(asked) == (
        KEY,
        ("restmq.v1.json", "soap"),
        (
            Extension("permessage-deflate", (("client_max_window_bits", None), ("s", "10"))),
            Extension("foo"),
            Extension("bar", (("b", "1"),)),
        ),
    )


def test_the_library_sees_a_head_with_nothing_but_what_was_checked():
    asked = handshake.read(head(Origin="http://[", Sec_WebSocket_Protocol="a,b"))
    seen = read_head(asked.head(), Limits())
    assert handshake.read(seen) == asked
    assert "origin" not in seen.headers


def refusal(**fields: str) -> Refusal | None:
    """What `handshake.read` says against these fields."""
    try:
        handshake.read(head(**fields))
    except Refusal as refused:
        return refused
    return None


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
PIECES = st.lists(st.sampled_from([" ", ",", ";", "=", '"', "\\", "a", "1"]), max_size=12)


@given(PRINTABLE, PRINTABLE, PRINTABLE | PIECES.map("".join))
def test_whatever_the_fields_hold_there_is_a_handshake_or_a_refusal(key, protocol, offers):
    fields = {"Sec_WebSocket_Protocol": protocol, "Sec_WebSocket_Extensions": offers}
    for given_key in (key, KEY):
        refused = refusal(Sec_WebSocket_Key=given_key, **fields)
        assert refused is None or refused.status == 400
