"""``/xmlrpc`` on a real daemon, with Python's xmlrpc.client and with Perl's RPC::XML."""

from __future__ import annotations

import json
import subprocess
import xmlrpc.client
from collections.abc import Callable
from xmlrpc.client import Binary, Fault, MultiCall, ProtocolError, ServerProxy

import pytest

from tests.support import DEADLINE_SECONDS, Daemon, ValkeyServer, wait_until
from tests.wire.clients import add, command, pop, post

XML = {"Content-Type": "text/xml"}
METHODS = ["get", "set", "add", "take", "peek", "delete", "length", "queues"]
METHODS += [
    f"system.{name}" for name in ("listMethods", "methodHelp", "methodSignature", "multicall")
]


def proxy_of(daemon: Daemon, user: str = "") -> ServerProxy:
    return ServerProxy(f"http://{user}127.0.0.1:{daemon.port}/xmlrpc", use_builtin_types=True)


@pytest.fixture
def proxy(server: Daemon):
    with proxy_of(server) as made:
        yield made


def fault(call: Callable[..., object], *arguments: object) -> tuple[int, str]:
    with pytest.raises(Fault) as caught:
        call(*arguments)
    return caught.value.faultCode, caught.value.faultString


# -- the methods ----------------------------------------------------------------------------------


def test_get_and_set_as_in_2009(proxy, queue):
    assert proxy.set(queue, "value") == f"{queue}:1"
    assert proxy.get(queue) == {"key": f"{queue}:1", "value": "value", "count": 0}
    assert fault(proxy.get, queue) == (404, "the queue is empty")


def test_the_other_methods(proxy, server, queue):
    keys = [proxy.add(queue, text) for text in ("one", "two", "three")]
    assert keys == [f"{queue}:{number}" for number in (1, 2, 3)]
    for looks in (1, 2):
        assert proxy.peek(queue) == {
            "queue": queue, "key": keys[0], "value": "one", "count": looks
        }  # fmt: skip
    assert proxy.length(queue) == 3
    assert queue in proxy.queues()
    assert proxy.delete(queue, keys[1]) is True
    assert proxy.delete(queue, keys[1]) is False
    assert proxy.take(queue) == {"queue": queue, "key": keys[0], "value": "one"}
    assert proxy.take(queue)["value"] == "three"
    assert fault(proxy.take, queue)[0] == fault(proxy.peek, queue)[0] == 404
    assert proxy.length(queue) == 0
    assert pop(server, queue) is None


def test_it_is_the_same_queue_as_on_every_other_door(proxy, server, queue, comet):
    add(server, queue, "by REST")
    assert proxy.get(queue)["value"] == "by REST"
    stream = comet(f"/c/{queue}")
    proxy.set(queue, "by XML-RPC")
    assert stream.message() == {"key": f"{queue}:2", "value": "by XML-RPC"}


def test_a_message_with_a_time_to_live(proxy, queue):
    proxy.add(queue, "soon gone", 0.05)
    proxy.add(queue, "stays", 3600)
    wait_until(lambda: outcome_of(proxy.peek, queue) == "fault 410", "the message to expire")
    assert proxy.get(queue)["value"] == "stays"


def test_what_was_deleted_is_passed_over(proxy, server, queue):
    for text in ("a", "b", "c"):
        add(server, queue, text)
    command(server, cmd="del", queue=queue, key=f"{queue}:1")
    command(server, cmd="del", queue=queue, key=f"{queue}:2")
    assert fault(proxy.peek, queue)[0] == 410
    assert proxy.get(queue)["value"] == "c"
    assert fault(proxy.get, queue)[0] == 404


@pytest.mark.parametrize(
    "body", [b"\x00\xff", b"", b" \t x \n", b"line\r\nline\r", "é😀".encode(), b"<&]]>", b"\x1b[0m"]
)
def test_every_byte_of_a_message_comes_through(proxy, server, queue, body):
    """Sent as base64; what comes back is text where XML can hold it."""
    proxy.set(queue, Binary(body))
    found = proxy.get(queue)["value"]
    assert (found.encode() if isinstance(found, str) else found) == body
    if body:
        add(server, queue, body)
        found = proxy.take(queue)["value"]
        assert (found.encode() if isinstance(found, str) else found) == body


@pytest.mark.parametrize("suffix", ["é/😀 <&>", "\n", ""])
def test_any_name_is_a_queue(proxy, queue, suffix):
    name = queue + suffix
    assert proxy.set(name, "v") == f"{name}:1"
    assert name in proxy.queues()
    assert proxy.get(name)["key"] == f"{name}:1"


def test_a_name_that_xml_can_not_hold_goes_as_base64(proxy, server, queue):
    name = f"{queue}\x01".encode()
    post(server, f"/q/{queue}%01", value="v")
    assert name in proxy.queues()
    assert proxy.get(Binary(name)) == {"key": name + b":1", "value": "v", "count": 0}


# -- the system's own -----------------------------------------------------------------------------


def test_it_tells_of_itself(proxy):
    assert proxy.system.listMethods() == METHODS
    assert all(len(proxy.system.methodHelp(name)) > 20 for name in METHODS)
    assert proxy.system.methodSignature("get") == [["struct", "string"], ["struct", "base64"]]
    assert ["string", "string", "base64", "double"] in proxy.system.methodSignature("add")
    assert proxy.system.methodSignature("queues") == [["array"]]
    assert fault(proxy.system.methodHelp, "nothing")[0] == -32601


def test_a_multicall_keeps_the_order_and_tells_each_fault(proxy, queue):
    calls = MultiCall(proxy)
    calls.get(queue)
    calls.set(queue, "a")
    calls.add(queue, Binary(b"\xff"))
    calls.length(queue)
    calls.get(queue)
    calls.set(queue, 5)
    calls.nonsense()
    calls.delete(queue, f"{queue}:2")
    results = calls().results
    assert results[0] == {"faultCode": 404, "faultString": "the queue is empty"}
    assert results[1:4] == [[f"{queue}:1"], [f"{queue}:2"], [2]]
    assert results[4] == [{"key": f"{queue}:1", "value": "a", "count": 0}]
    assert [result["faultCode"] for result in results[5:7]] == [-32602, -32601]
    assert results[7] == [True]


def test_a_multicall_of_a_thousand(proxy, queue):
    calls = MultiCall(proxy)
    for number in range(1000):
        calls.set(queue, str(number))
    assert list(calls())[-1] == f"{queue}:1000"
    calls = MultiCall(proxy)
    for _ in range(1000):
        calls.get(queue)
    assert [found["value"] for found in calls()] == [str(number) for number in range(1000)]
    calls.get(queue)
    assert fault(calls)[0] == -32602


def test_a_multicall_does_not_take_more_than_it_can_send(proxy, queue):
    body = b"\xff" * 1_000_000
    for _ in range(20):
        proxy.set(queue, body)
    calls = MultiCall(proxy)
    for _ in range(20):
        calls.get(queue)
    results = calls().results
    assert [result["faultCode"] for result in results if isinstance(result, dict)] == [413] * 3
    assert proxy.length(queue) == 3


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (5, -32600),
        ({}, -32600),
        ({"methodName": "get", "params": "q"}, -32600),
        ({"methodName": "system.multicall", "params": [[]]}, -32600),
        ({"methodName": "queues", "params": [1]}, -32602),
    ],
)
def test_a_wrong_call_in_a_multicall_is_a_fault_of_its_own(proxy, entry, code):
    (result,) = proxy.system.multicall([entry])
    assert result["faultCode"] == code


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments", "code"),
    [
        ("set", ("{q}",), -32602),
        ("set", ("{q}", "v", 5), -32602),
        ("set", ("{q}", 5), -32602),
        ("set", ("{q}", ["v"]), -32602),
        ("set", (5, "v"), -32602),
        ("set", (b"\xff", "v"), -32602),
        ("set", ("x" * 16385, "v"), -32602),
        ("add", ("{q}", "v", 0), -32602),
        ("add", ("{q}", "v", -1.5), -32602),
        ("add", ("{q}", "v", 1e300), -32602),
        ("add", ("{q}", "v", True), -32602),
        ("add", ("{q}", "v", "5"), -32602),
        ("set", ("{q}", b"x" * 1048577), 413),
        ("delete", ("{q}",), -32602),
        ("queues", ("{q}",), -32602),
        ("Get", ("{q}",), -32601),
        ("carry_out", (), -32601),
        ("system.multicall", ("x",), -32602),
    ],
)
def test_a_mistake_is_a_fault_and_changes_nothing(proxy, queue, method, arguments, code):
    given = [queue if argument == "{q}" else argument for argument in arguments]
    assert fault(getattr(proxy, method), *given)[0] == code
    assert proxy.length(queue) == 0


@pytest.mark.parametrize("key", ["{q}:01", "{q}:0", "{q}:2", "other:1", "1", ""])
def test_delete_deletes_nothing_but_a_message_of_its_queue(proxy, queue, key):
    proxy.set(queue, "kept")
    assert proxy.delete(queue, key.format(q=queue)) is False
    assert proxy.get(queue)["value"] == "kept"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"hello", -32700),
        (b"<methodCall>", -32700),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><methodCall><methodName>&a;</methodName></methodCall>', -32700),
        (b"<methodCall/>", -32600),
        (b"<methodResponse/>", -32600),
    ],
)  # fmt: skip
def test_what_is_no_call_is_a_fault(server, body, code):
    reply = server.request("POST", "/xmlrpc", body, XML)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/xml; charset=UTF-8")
    assert reply.headers["cache-control"] == "no-store"
    with pytest.raises(Fault) as caught:
        xmlrpc.client.loads(reply.body)
    assert caught.value.faultCode == code


def test_the_door_is_for_posted_xml(server):
    assert server.request("GET", "/xmlrpc").status == 405
    call = xmlrpc.client.dumps((), "queues")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "text/xmlish"):
        assert server.request("POST", "/xmlrpc", call, {"Content-Type": kind}).status == 415
    for kind in ("Text/XML; charset=utf-8", "application/xml"):
        assert server.request("POST", "/xmlrpc", call, {"Content-Type": kind}).status == 200
    foreign = {**XML, "Origin": "https://elsewhere.example"}
    assert server.request("POST", "/xmlrpc", call, foreign).status == 403


# -- who may --------------------------------------------------------------------------------------


def outcome_of(call: Callable[..., object], *arguments: object) -> str:
    try:
        call(*arguments)
    except ProtocolError as error:
        challenge = error.headers["WWW-Authenticate"].partition(",")[0]
        return f"refused {error.errcode} {challenge}"
    except Fault as error:
        return f"fault {error.faultCode}"
    return "done"


def test_each_method_asks_for_its_own_right(daemon, tmp_path):
    rules = tmp_path / "acl.conf"
    rules.write_text(
        "[rest:producer]\nusername = p\npassword = pp\n[rest:consumer]\nusername = c\npassword = cc\n"
    )
    server = daemon("--acl", str(rules))
    server.wait_for("/readyz")
    allowed = {
        "p:pp@": ["set", "add", "delete"],
        "c:cc@": ["get", "take", "peek", "length", "queues"],
    }
    arguments = {"set": 2, "add": 2, "delete": 2, "queues": 0}
    for user, methods in {**allowed, "": [], "p:cc@": []}.items():
        with proxy_of(server, user) as proxy:
            for method in METHODS[:8]:
                outcome = outcome_of(getattr(proxy, method), *["q"] * arguments.get(method, 1))
                if method in methods:
                    assert outcome in ("done", "fault 404"), (user, method)
                else:
                    assert outcome == 'refused 401 Basic realm="RestMQ"', (user, method)
            if methods:
                assert proxy.system.listMethods() == METHODS
    with proxy_of(server, "p:pp@") as proxy:
        calls = [{"methodName": name, "params": ["q"] * n} for name, n in (("set", 2), ("get", 1))]
        done, refused = proxy.system.multicall(calls)
        assert done == ["q:3"]
        assert refused["faultCode"] == 401


# -- the store ------------------------------------------------------------------------------------


def test_a_store_that_is_away_is_a_fault(daemon, start_valkey):
    store: ValkeyServer = start_valkey()
    server = daemon("--redis-url", store.url)
    server.wait_for("/readyz")
    with proxy_of(server) as proxy:
        proxy.set("q", "v")
        store.kill()
        server.wait_for("/readyz", 503)
        for call in (lambda: proxy.get("q"), lambda: proxy.set("q", "v"), proxy.queues):
            assert fault(call)[0] == 503
        assert (
            proxy.system.multicall([{"methodName": "get", "params": ["q"]}])[0]["faultCode"] == 503
        )


# -- another language -----------------------------------------------------------------------------

PERL = r"""
use strict; use warnings; use RPC::XML; use RPC::XML::Client; use JSON::PP;
my ($url, $queue) = @ARGV;
my $client = RPC::XML::Client->new($url);
sub call { my $r = $client->send_request(@_); die "no reply: $r" unless ref $r;
           return $r->is_fault ? {fault => $r->code} : $r->value; }
my @seen;
push @seen, call('set', $queue, RPC::XML::string->new('007 & <so> on'));
push @seen, call('add', $queue, RPC::XML::base64->new("\x00\xff"), RPC::XML::int->new(60));
push @seen, call('length', $queue), call('get', $queue);
my $binary = call('take', $queue);
push @seen, unpack('H*', $binary->{value}), call('get', $queue), call('nonsense');
push @seen, call('system.multicall', [
    {methodName => 'set', params => [$queue, 'm']}, {methodName => 'get', params => [$queue]}]);
push @seen, scalar(@{call('system.listMethods')});
print JSON::PP->new->canonical->encode(\@seen);
"""


def test_with_perl(server, queue, tool):
    perl = tool("perl")
    tool("make_method")  # which comes with RPC::XML
    ended = subprocess.run(
        [perl, "-e", PERL, f"{server.url}/xmlrpc", queue],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == [
        f"{queue}:1",
        f"{queue}:2",
        "2",  # Perl has no other numbers
        {"key": f"{queue}:1", "value": "007 & <so> on", "count": "0"},
        "00ff",
        {"fault": "404"},
        {"fault": "-32601"},
        [[f"{queue}:3"], [{"key": f"{queue}:3", "value": "m", "count": "0"}]],
        len(METHODS),
    ]
