"""Connections to a real Valkey: how they come, go, hang and come back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import valkey as valkey_client
from twisted.internet import protocol, reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, UNIXServerEndpoint
from twisted.logger import globalLogPublisher
from twisted.protocols.portforward import ProxyFactory
from twisted.trial.unittest import TestCase

from restmq.errors import OutcomeUnknown, StoreAway, StoreError, StoreRefused
from restmq.redis.connection import Store
from restmq.redis.pipeline import encode
from restmq.redis.scripts import load
from restmq.store_address import StoreAddress, parse_redis_url
from tests.support import ValkeyServer, make_certificate
from tests.turns import until

SCRIPTS = load()


class Stores(TestCase):
    """A store of ours, stopped at the end of each test, and what it told."""

    @pytest.fixture(autouse=True)
    def _valkeys(self, valkey: ValkeyServer, start_valkey: Callable[..., ValkeyServer]) -> None:
        self.valkey, self.start_valkey = valkey, start_valkey

    def store(self, address: StoreAddress) -> Store:
        self.told: list[str] = []
        self.heard: list[Any] = []
        store = Store(reactor, SCRIPTS.values())
        store.on_ready = lambda: self.told.append("ready")
        store.on_lost = lambda: self.told.append("lost")
        store.on_channel = lambda up: self.told.append("channel up" if up else "channel down")
        store.on_message = self.heard.append
        store.start(address)
        self.addCleanup(self.end, store)
        return store

    async def end(self, store: Store) -> None:
        if not any(factory.disconnectCalled for factory in store._factories):
            await store.stop()

    async def connected(self, server: ValkeyServer | None = None, **rest: Any) -> Store:
        path = str((server or self.valkey).socket)
        store = self.store(StoreAddress(path=path, **rest))
        await self.all_up(store)
        return store

    async def all_up(self, store: Store) -> None:
        await until(lambda: all(f.connection for f in store._factories), "three connections")

    def ask(self, store: Store, *arguments: bytes) -> Deferred[Any]:
        """The reply, or the StoreError as the failure."""
        done: Deferred[Any] = Deferred()

        def replied(reply: Any) -> None:
            done.errback(reply) if isinstance(reply, StoreError) else done.callback(reply)

        store.send(encode(*arguments), replied)
        return done

    def look(self, server: ValkeyServer | None = None) -> valkey_client.Valkey:
        client = (server or self.valkey).client()
        self.addCleanup(client.close)
        return client

    def log(self) -> list[str]:
        """What is logged from here on, as text."""
        lines: list[str] = []

        def observe(event: Any) -> None:
            if event.get("log_format"):
                lines.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines


class Coming(Stores):
    """How a connection becomes usable."""

    async def test_scripts_are_there_before_the_first_command(self) -> None:
        self.look().script_flush()
        store = await self.connected()
        shas = [script.sha for script in SCRIPTS.values()]
        assert await self.ask(store, b"SCRIPT", b"EXISTS", *shas) == [1] * len(shas)
        assert sorted(self.told) == ["channel up", "ready"]

    async def test_before_the_start_and_without_a_server_commands_fail_at_once(self) -> None:
        never = Store(reactor, SCRIPTS.values())
        with pytest.raises(StoreAway):
            await self.ask(never, b"PING")
        assert not never.ready
        nowhere = self.store(StoreAddress(path="/nonexistent/socket"))
        with pytest.raises(StoreAway):
            await self.ask(nowhere, b"PING")
        assert not nowhere.listen(encode(b"SUBSCRIBE", b"a"))

    async def test_over_tcp_and_in_a_database(self) -> None:
        store = self.store(StoreAddress(host="127.0.0.1", port=self.valkey.port, db=3))
        await self.all_up(store)
        await self.ask(store, b"SET", b"a", b"007")
        assert self.look().execute_command("SELECT", 3)
        assert await self.ask(store, b"GET", b"a") == b"007"

    async def test_replies_stay_bytes_and_in_order(self) -> None:
        store = await self.connected()
        values = [b"007", b"1.0", b"", b"\xff\0\r\n", b"x" * 300_000]
        for n, value in enumerate(values):
            self.ask(store, b"SET", b"%d" % n, value)
        replies = [self.ask(store, b"GET", b"%d" % n) for n in range(len(values))]
        assert [await reply for reply in replies] == values

    async def test_a_turn_is_one_write(self) -> None:
        store = await self.connected()
        written: list[bytes] = []
        connection = store._writes.connection
        assert connection is not None
        transport = connection.transport
        connection.transport = type(
            "Noting", (), {
                "write": lambda _, data: (written.append(data), transport.write(data)),
                "__getattr__": lambda _, name: getattr(transport, name),
            },
        )()  # fmt: skip
        replies = [self.ask(store, b"PING") for _ in range(100)]
        for reply in replies:
            await reply
        connection.transport = transport
        assert len(written) == 1


class Refused(Stores):
    """The password is wrong, or changes."""

    async def test_a_wrong_password_is_said_once_and_mended_by_the_right_one(self) -> None:
        server = self.start_valkey()
        client = self.look(server)
        client.config_set("requirepass", "right")
        client.execute_command("AUTH", "right")
        lines = self.log()
        store = self.store(StoreAddress(path=str(server.socket), password="wrong"))
        attempts = lambda: client.info("stats")["total_connections_received"]  # noqa: E731
        before = attempts()
        await until(lambda: attempts() > before + 8, "several tries")
        assert not store.ready
        refusals = [line for line in lines if "refuses us" in line]
        (line,) = refusals
        assert "WRONGPASS" in line
        assert "wrong\b" not in line
        client.config_set("requirepass", "wrong")
        await self.all_up(store)
        assert await self.ask(store, b"PING") == b"PONG"

    async def test_a_server_that_wants_a_password_is_not_ready(self) -> None:
        server = self.start_valkey()
        self.look(server).config_set("requirepass", "secret")
        lines = self.log()
        store = self.store(StoreAddress(path=str(server.socket)))
        await until(lambda: any("NOAUTH" in line for line in lines), "the reason")
        with pytest.raises(StoreAway):
            await self.ask(store, b"PING")


class Proxy(ProxyFactory):
    """Counts who connects."""

    noisy = False
    tries = 0

    def buildProtocol(self, addr: Any) -> Any:
        self.tries += 1
        return super().buildProtocol(addr)


class Encrypted(Stores):
    """``rediss://``: a Valkey behind TLS, with a user."""

    @pytest.fixture(autouse=True)
    def _certificates(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.key, self.certificate = make_certificate(tmp_path)
        self.trust = lambda: monkeypatch.setenv("SSL_CERT_FILE", self.certificate)

    async def behind_tls(self) -> int:
        """The port of a Valkey where nobody but alice, password ``p@ss``, may do anything."""
        server = self.start_valkey()
        client = self.look(server)
        client.execute_command("ACL", "SETUSER", "alice", "on", ">p@ss", "~*", "&*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "-@all", "+ping", "+acl")
        context = ssl.DefaultOpenSSLContextFactory(self.key, self.certificate)
        endpoint = SSL4ServerEndpoint(reactor, 0, context, interface="127.0.0.1")
        self.proxy = Proxy("127.0.0.1", server.port)
        port = await endpoint.listen(self.proxy)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def test_a_trusted_certificate_a_user_and_a_password(self) -> None:
        self.trust()
        port = await self.behind_tls()
        store = self.store(parse_redis_url(f"rediss://alice:p%40ss@localhost:{port}/3"))
        await self.all_up(store)
        assert await self.ask(store, b"ACL", b"WHOAMI") == b"alice"

    async def test_a_certificate_nobody_trusts_is_said_once_and_named(self) -> None:
        lines = self.log()
        port = await self.behind_tls()
        self.store(parse_redis_url(f"rediss://alice:p%40ss@localhost:{port}"))
        await until(lambda: any("refuses us" in line for line in lines), "the reason")
        await until(lambda: self.proxy.tries > 8, "several tries")
        (line,) = (line for line in lines if "refuses us" in line)
        assert "certificate verify failed" in line

    async def test_a_certificate_for_another_name_is_named(self) -> None:
        self.trust()
        lines = self.log()
        port = await self.behind_tls()
        self.store(parse_redis_url(f"rediss://alice:p%40ss@127.0.0.1:{port}"))
        await until(lambda: any("another name" in line for line in lines), "the reason")

    async def test_plain_text_to_a_store_that_speaks_tls(self) -> None:
        lines = self.log()
        port = await self.behind_tls()
        self.store(parse_redis_url(f"redis://alice:p%40ss@localhost:{port}"))
        await until(lambda: any("rediss://" in line for line in lines), "what to do")


class Going(Stores):
    """Connections that break."""

    async def test_killed_connections_come_back(self) -> None:
        store = await self.connected()
        client = self.look()
        for _ in range(3):
            del self.told[:]
            client.client_kill_filter(_type="normal", skipme=True)
            await until(lambda: "lost" in self.told, "the loss")
            await self.all_up(store)
            assert await self.ask(store, b"PING") == b"PONG"
        del self.told[:]
        client.publish("nobody", "")
        assert store.listen(encode(b"SUBSCRIBE", b"a"))
        await until(lambda: self.heard, "the confirmation")
        client.client_kill_filter(_type="pubsub")
        await until(lambda: self.told == ["channel down", "channel up"], "another channel")

    async def test_what_was_sent_is_unknown_and_what_was_not_is_away(self) -> None:
        server = self.start_valkey()
        store = await self.connected(server)
        os.kill(server.pid, signal.SIGSTOP)
        sent = self.ask(store, b"INCR", b"a")
        store.flush()
        gathered = self.ask(store, b"INCR", b"a")
        server.kill()
        with pytest.raises(OutcomeUnknown):
            await sent
        with pytest.raises((StoreAway, OutcomeUnknown)):
            await gathered
        server.start()
        await self.all_up(store)
        assert await self.ask(store, b"GET", b"a") is None, "nothing is sent twice"

    async def test_a_server_that_hangs_is_given_up_after_seconds(self) -> None:
        server = self.start_valkey()
        store = await self.connected(server)
        lines = self.log()
        self.look(server).execute_command("CLIENT", "PAUSE", 60_000, "ALL")
        start = reactor.seconds()
        with pytest.raises(OutcomeUnknown):
            await self.ask(store, b"SET", b"a", b"1")
        assert 4 < reactor.seconds() - start < 12
        assert any("owes a reply" in line for line in lines)

    async def test_a_channel_on_which_nothing_comes_is_asked_and_given_up(self) -> None:
        """The server stopped without a word: a listener that waits for ever would miss everything."""
        server = self.start_valkey()
        store = await self.connected(server)
        store.listen(encode(b"SUBSCRIBE", b"a"))
        await until(lambda: self.heard, "the confirmation")
        os.kill(server.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, server.pid, signal.SIGCONT)
        await until(lambda: "channel down" in self.told, "the end of the channel", 15)

    async def test_a_quiet_channel_stays(self) -> None:
        """Before the first SUBSCRIBE a PONG looks different from after it; neither is a message."""
        store = await self.connected()
        channel = store._channel.connection
        assert channel is not None
        for count in (0, 1):
            channel._heard_at = heard_at = reactor.seconds() - 60
            channel._check_silence()
            assert channel._pinged_at is not None
            await until(lambda: channel._pinged_at is None, "a PONG")
            assert channel._heard_at > heard_at
            assert len(self.heard) == count
            store.listen(encode(b"SUBSCRIBE", b"%d" % count))
            await until(lambda count=count: len(self.heard) == count + 1, "the confirmation")
        assert store._channel.connection is channel

    async def test_our_own_pause_is_not_blamed_on_the_server(self) -> None:
        """The process slept for a minute with a reply on the way: it is read, not thrown away."""
        store = await self.connected()
        connection = store._writes.connection
        assert connection is not None
        reply = self.ask(store, b"PING")
        connection.pipeline._heard -= 60
        connection._check_silence()
        assert await reply == b"PONG"
        assert store._writes.connection is connection

    async def test_nonsense_ends_a_connection(self) -> None:
        class Nonsense(protocol.Protocol):
            def connectionMade(self) -> None:
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        path = str(self.start_valkey().folder / "nonsense")
        factory = protocol.Factory.forProtocol(Nonsense)
        port = await UNIXServerEndpoint(reactor, path).listen(factory)
        self.addCleanup(port.stopListening)
        lines = self.log()
        store = self.store(StoreAddress(path=path))
        await until(lambda: any("does not speak RESP" in line for line in lines), "the reason")
        assert not store.ready

    async def test_stop_sends_what_has_gathered_and_ends_the_tries(self) -> None:
        store = await self.connected()
        self.ask(store, b"SET", b"a", b"1").addErrback(lambda failure: failure.trap(StoreError))
        await store.stop()
        assert self.look().get("a") == b"1"
        assert not store.ready
        assert all(factory.connection is None for factory in store._factories)

    async def test_dead_connections_are_not_kept(self) -> None:
        store = await self.connected()
        client = self.look()
        for _ in range(3):
            del self.told[:]
            client.client_kill_filter(_type="normal", skipme=True)
            await until(lambda: "lost" in self.told, "the loss")
            await self.all_up(store)
        assert len(store._writes.connectionQueue.pending) <= 1


class Listening(Stores):
    """The channel."""

    async def test_each_subscription_is_confirmed_and_messages_are_bytes(self) -> None:
        store = await self.connected()
        assert store.listen(encode(b"SUBSCRIBE", b"a", b"b"))
        await until(lambda: len(self.heard) == 2, "two confirmations")
        assert self.heard == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]
        for body in (b"007", b"", b"\xff\0", b"x" * 2_000_000):
            self.look().publish("b", body)
            await until(lambda body=body: self.heard[-1] == [b"message", b"b", body], "it")
        store.listen(encode(b"UNSUBSCRIBE", b"b"))
        await until(lambda: self.heard[-1] == [b"unsubscribe", b"b", 1], "its end")


class Scripts(Stores):
    """SCRIPT FLUSH by somebody else."""

    async def test_flushed_scripts_are_loaded_again(self) -> None:
        store = await self.connected()
        self.look().script_flush()
        lines = self.log()
        replies = [self.ask(store, b"EVALSHA", SCRIPTS["pop"].sha, b"0") for _ in range(5)]
        for reply in replies:
            with pytest.raises(StoreAway):
                await reply
        with pytest.raises(StoreRefused):  # it is there, and misses its keys
            await self.ask(store, b"EVALSHA", SCRIPTS["pop"].sha, b"0")
        assert sum("lost its scripts" in line for line in lines) == 1
