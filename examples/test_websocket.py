"""A consumer by WebSocket, with autobahn (which the daemon brings along).

    python examples/test_websocket.py [--url http://localhost:8888]      checks itself and ends
    python examples/test_websocket.py --queue greetings                  prints what comes, for ever

Each message of the queue is a text frame of JSON; what the client sends comes back to it.
"""

from __future__ import annotations

import asyncio
import json
import os
from urllib.parse import quote, urlsplit

from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol
from consumer import expect, parse

from restmq.client import Queues


class Consumer(WebSocketClientProtocol):
    """Hands frames to the queue ``got``; ``None`` is the end."""

    def onOpen(self) -> None:
        self.factory.got.put_nowait(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803 - autobahn's name
        self.factory.got.put_nowait(json.loads(payload))

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:  # noqa: N803
        self.factory.got.put_nowait(None)


def main() -> None:
    options = parse(__doc__)
    work = check(options.url) if options.queue is None else show(options.url, options.queue)
    asyncio.run(work)


async def connect(url: str, queue: str) -> tuple[Consumer, asyncio.Queue]:
    parts = urlsplit(url)
    factory = WebSocketClientFactory(f"ws://{parts.netloc}/ws/{quote(queue, safe='')}")
    factory.protocol = Consumer
    factory.got = asyncio.Queue()
    loop = asyncio.get_running_loop()
    await loop.create_connection(factory, parts.hostname, parts.port or 80)
    consumer = await asyncio.wait_for(factory.got.get(), 30)
    if consumer is None:
        raise SystemExit("the broker refused the handshake")
    return consumer, factory.got


async def show(url: str, queue: str) -> None:
    _, got = await connect(url, queue)
    while (message := await got.get()) is not None:
        print(message["key"], message["value"], flush=True)


async def check(url: str) -> None:
    queue = f"test_websocket_{os.getpid()}"
    consumer, got = await connect(url, queue)
    consumer.sendMessage(b'{"echo": "what I send comes back"}')
    expect(await asyncio.wait_for(got.get(), 30), {"echo": "what I send comes back"})
    with Queues(url) as queues:
        for n in range(1, 11):
            await asyncio.to_thread(queues.put, queue, f"message {n}")
            message = await asyncio.wait_for(got.get(), 30)
            print(message)
            expect(message, {"key": f"{queue}:{n}", "value": f"message {n}"})
    consumer.sendClose(1000)
    expect(await asyncio.wait_for(got.get(), 30), None)
    print("ok")


if __name__ == "__main__":
    main()
