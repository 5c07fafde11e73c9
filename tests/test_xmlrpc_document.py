"""XML-RPC documents, against Python's own reader and writer, and against those who mean harm."""

from __future__ import annotations

import encodings.aliases
import tracemalloc
import xmlrpc.client
from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.xmlrpc_document import (
    INVALID_CALL,
    MAX_DEPTH,
    MAX_ELEMENTS,
    PARSE_ERROR,
    PROLOG_BYTES,
    Call,
    Fault,
    Moment,
    read_call,
    text_if_possible,
    write_fault,
    write_response,
)

XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
        lambda c: c in "\t\n\r" or c >= " "
    )
)


def call(inner: str) -> bytes:
    return f"<methodCall><methodName>m</methodName>{inner}</methodCall>".encode()


def param(value: str) -> bytes:
    return call(f"<params><param>{value}</param></params>")


def one(value: str) -> object:
    (found,) = read_call(param(value)).params
    return found


def refusal(document: bytes) -> tuple[int, str]:
    with pytest.raises(Fault) as caught:
        read_call(document)
    return caught.value.code, str(caught.value)


# -- reading --------------------------------------------------------------------------------------


def test_a_call_as_python_writes_it():
    moment = datetime(2009, 11, 1, 12, 30)  # noqa: DTZ001 - XML-RPC has no time zones
    values = (
        "q",
        "<é&😀>",
        5,
        -7,
        True,
        False,
        1.5,
        None,
        b"\x00\xff",
        [1, ["x"]],
        {"a": {"b": 2}},
    )
    wire = tuple(xmlrpc.client.Binary(v) if isinstance(v, bytes) else v for v in values)
    document = xmlrpc.client.dumps((*wire, moment), "some.method", allow_none=True)
    assert read_call(document.encode()) == Call(
        "some.method", [*values, Moment("20091101T12:30:00")]
    )


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**31), 2**31 - 1)
        | XML_TEXT
        | st.floats(-1e9, 1e9),
        lambda inner: st.lists(inner) | st.dictionaries(XML_TEXT, inner),
        max_leaves=10,
    )
)
def test_whatever_python_writes_is_read_as_it_was(value):
    """But for carriage returns, which Python leaves bare and XML then turns into line feeds."""
    document = xmlrpc.client.dumps((value,), "m", allow_none=True)
    again = read_call(document.replace("\r", "&#13;").encode()).params
    assert again == [value]


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("<value>untyped  </value>", "untyped  "),
        ("<value></value>", ""),
        ("<value/>", ""),
        ("<value> <string> s </string> </value>", " s "),
        ("<value><string/></value>", ""),
        ("<value><string><![CDATA[<b>]]>&amp;&#65;</string></value>", "<b>&A"),
        ("<value><string>a<!-- not -->b<?nor this?></string></value>", "ab"),
        ("<value><i4> +12 </i4></value>", 12),
        ("<value><i8>-9223372036854775808</i8></value>", -(2**63)),
        ("<value><base64> AP8= \n</base64></value>", b"\x00\xff"),
        ("<value><base64/></value>", b""),
        ("<value><double>-.5e1</double></value>", -5.0),
        ("<value><array><data/></array></value>", []),
        ("<value><struct/></value>", {}),
        ("<value><ex:nil/></value>", None),
        ("<value x='1'><int>1</int></value>", 1),
    ],
)
def test_the_spellings_of_a_value(value, meant):
    assert one(value) == meant


def test_a_call_without_parameters_has_none():
    assert read_call(call("")) == read_call(call("<params/>")) == Call("m", [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252"])
def test_the_declared_encoding_counts(encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + param("<value>é</value>").decode()
    assert read_call(text.encode(encoding)).params == ["é"]


def test_an_encoding_that_python_knows_does_no_harm():
    for name in sorted(set(encodings.aliases.aliases.values()) | {"nonsense", "hex", "idna"}):
        document = f'<?xml version="1.0" encoding="{name}"?>'.encode() + param("<value>a</value>")
        with suppress(Fault):
            read_call(document)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"  ",
        b"no xml at all",
        b"<methodCall>",
        b"<methodCall></methodcall>",
        call("") + b"<more/>",
        param("<value>\x00</value>"),
        param("<value>&#0;</value>"),
        param("<value>&undeclared;</value>"),
        param("<value>\xff</value>").replace(b"\xc3\xbf", b"\xff"),
        b'<?xml version="1.0" encoding="utf-16"?>' + call(""),
    ],
)
def test_what_is_no_xml_is_a_parse_error(document):
    assert refusal(document)[0] == PARSE_ERROR


@pytest.mark.parametrize(
    "document",
    [
        b"<methodResponse/>",
        b"<methodCall/>",
        b"<methodCall><params/></methodCall>",
        b"<methodCall><methodName><b/></methodName></methodCall>",
        call("text"),
        call("<params/><params/>"),
        call("<methodName>n</methodName>"),
        call("<params><value/></params>"),
        param(""),
        param("<value/><value/>"),
        param("<int>1</int>"),
        param("<value>text<int>1</int></value>"),
        param("<value><int>1</int><int>2</int></value>"),
        param("<value><int></int></value>"),
        param("<value><int>2147483648</int></value>"),
        param("<value><i8>9223372036854775808</i8></value>"),
        param("<value><int>1.0</int></value>"),
        param("<value><int>٣</int></value>"),
        param("<value><int>" + "9" * 5000 + "</int></value>"),
        param("<value><boolean>true</boolean></value>"),
        param("<value><double>inf</double></value>"),
        param("<value><double>1e999</double></value>"),
        param("<value><double>0x1p3</double></value>"),
        param("<value><base64>a</base64></value>"),
        param("<value><base64>é</base64></value>"),
        param("<value><base64>AP8=AP8=</base64></value>"),
        param("<value><array/></value>"),
        param("<value><array><data/><data/></array></value>"),
        param("<value><array><value/></array></value>"),
        param("<value><struct><member/></struct></value>"),
        param("<value><struct><member><value/><name/></member></struct></value>"),
        param("<value><struct><member><name>a</name></member></struct></value>"),
        param("<value><nil>x</nil></value>"),
        param("<value><script>x</script></value>"),
    ],
)
def test_xml_that_is_no_call_is_an_invalid_one(document):
    assert refusal(document)[0] == INVALID_CALL


def test_a_long_name_is_not_repeated_in_full():
    assert len(refusal(param(f"<value><{'x' * 5000}/></value>"))[1]) < 200


@given(st.binary(max_size=300) | XML_TEXT.map(str.encode))
def test_no_input_does_anything_but_be_refused(document):
    with pytest.raises(Fault):
        read_call(document)


# -- those who mean harm --------------------------------------------------------------------------

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE m>",
        f'<!DOCTYPE m [<!ENTITY l0 "ha">{LAUGHS}]>',
        f'<!DOCTYPE m [<!ENTITY big "{"A" * 3000}">]>',
        '<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE m SYSTEM "http://127.0.0.1:1/never-fetched.dtd">',
        '<!DOCTYPE m [<!ENTITY % p SYSTEM "http://127.0.0.1:1/never">%p;]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused_before_it_does_anything(doctype, encoding):
    """A billion laughs, a quadratic one, a file of the server's, an address inside the network."""
    references = "&l9;&big;&x;" * 2000
    text = f"{doctype}<methodCall><methodName>{references}</methodName></methodCall>"
    tracemalloc.start()
    try:
        code, why = refusal(text.encode(encoding))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert (code, why[:15]) == (PARSE_ERROR, "a document type")


def test_a_document_type_inside_a_text_is_text():
    assert one("<value><![CDATA[<!DOCTYPE html>]]></value>") == "<!DOCTYPE html>"


def test_a_prolog_that_never_ends_is_refused():
    code, why = refusal(b"<!--" + b"x" * PROLOG_BYTES + b"-->" + call(""))
    assert (code, str(PROLOG_BYTES) in why) == (PARSE_ERROR, True)


def test_depth_is_bounded():
    depth = (MAX_DEPTH - 4) // 3
    inner = "<value>x</value>"
    for _ in range(depth):
        inner = f"<value><array><data>{inner}</data></array></value>"
    value = one(inner)
    for _ in range(depth):
        (value,) = value
    assert value == "x"
    assert refusal(b"<a>" * (MAX_DEPTH + 1))[0] == PARSE_ERROR
    assert refusal(call("") + b"<a>" * 1_000_000)[0] == PARSE_ERROR


def test_the_number_of_elements_is_bounded():
    many = "<value/>" * MAX_ELEMENTS
    code, why = refusal(param(f"<value><array><data>{many}</data></array></value>"))
    assert (code, str(MAX_ELEMENTS) in why) == (PARSE_ERROR, True)


def test_a_long_text_in_many_pieces_is_joined():
    text = "x\n&amp;<!-- -->" * 100_000
    assert one(f"<value>{text}</value>") == "x\n&" * 100_000


# -- writing --------------------------------------------------------------------------------------


@given(
    st.recursive(
        st.booleans() | st.integers(-(2**63), 2**63 - 1) | XML_TEXT | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(XML_TEXT, inner),
        max_leaves=10,
    )
)
def test_whatever_we_write_python_reads_as_it_was(value):
    (found,), method = xmlrpc.client.loads(write_response(value), use_builtin_types=True)
    assert (found, method) == (value, None)


def test_what_python_reads_of_a_fault():
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(write_fault(Fault(-32602, "queue: <é>\x00")))
    assert caught.value.faultCode == -32602
    assert caught.value.faultString == "queue: <é>\ufffd"


def test_bytes_go_as_text_where_xml_can_hold_it():
    assert text_if_possible("é\r\n\t😀".encode()) == "é\r\n\t😀"
    for body in (b"\xff", b"\x00", b"\x1b[1m", "\ufffe".encode(), b"\xed\xa0\x80"):
        assert text_if_possible(body) == body


@given(st.binary())
def test_no_byte_of_a_message_is_changed(body):
    (found,), _ = xmlrpc.client.loads(
        write_response(text_if_possible(body)), use_builtin_types=True
    )
    assert (found.encode() if isinstance(found, str) else found) == body
