"""Parameters come out exactly as they went in."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.errors import BadRequest
from restmq.web.forms import MAX_FIELDS, body_fields, urlencoded


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"", {}),
        (b"value=a", {b"value": b"a"}),
        (b"value=a&value=b", {b"value": b"b"}),
        (b"value=a&value=", {b"value": b"a"}),
        (b"value=", {}),
        (b"value", {}),
        (b"=x", {b"": b"x"}),
        (b"value=a;b=c", {b"value": b"a", b"b": b"c"}),
        (b"value=a=b", {b"value": b"a=b"}),
        (b"value=a+b%2Bc%zz%", {b"value": b"a b+c%zz%"}),
        (b"va%6Cue=%00%ff", {b"value": b"\x00\xff"}),
        (b"&&;value=x&", {b"value": b"x"}),
    ],
)
def test_url_encoded(data: bytes, fields: dict[bytes, bytes]) -> None:
    assert urlencoded(data) == fields


@given(st.dictionaries(st.binary(max_size=8), st.binary(min_size=1, max_size=30), max_size=8))
def test_every_byte_survives_the_form(fields: dict[bytes, bytes]) -> None:
    assert urlencoded(urlencode(fields).encode()) == fields


def test_too_many_fields_are_no_form() -> None:
    assert len(urlencoded(b"&".join(b"%d=1" % n for n in range(MAX_FIELDS)))) == MAX_FIELDS
    with pytest.raises(BadRequest):
        urlencoded(b"&".join(b"%d=1" % n for n in range(MAX_FIELDS + 1)))


def test_the_content_type_decides() -> None:
    for kind in (
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=UTF-8",
        "APPLICATION/X-WWW-FORM-URLENCODED",
    ):
        assert body_fields(kind, b"value=x") == {b"value": b"x"}
    for kind in ("text/plain", "application/json", "", "application/x-www-form-urlencodedx"):
        assert body_fields(kind, b"value=x") == {}


MULTIPART = (
    b'--cut\r\nContent-Disposition: form-data; name="value"\r\n\r\na\r\n--\xff\x00\r\n'
    b"--cut\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; filename=f; name=ttl"
    b"\r\n\r\n5\r\n--cut\r\nContent-Disposition: form-data; name=blank\r\n\r\n\r\n--cut--\r\n"
)


@pytest.mark.parametrize("kind", ["; boundary=cut", '; charset=x; Boundary="cut"'])
def test_multipart(kind: str) -> None:
    fields = body_fields("multipart/form-data" + kind, MULTIPART)
    assert fields == {b"value": b"a\r\n--\xff\x00", b"ttl": b"5"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", MULTIPART),
        ("multipart/form-data; boundary=cut", MULTIPART[:-6]),
        ("multipart/form-data; boundary=other", MULTIPART),
        ("multipart/form-data; boundary=cut", b"--cut\r\nX: 1\r\n\r\na\r\n--cut--"),
        ("multipart/form-data; boundary=cut", b"--cut\r\nno head at all\r\n--cut--"),
    ],
)
def test_broken_multipart_is_a_bad_request(kind: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        body_fields(kind, body)
