"""The XML-RPC door with Python's own client: python examples/test_xmlrpc.py [--url http://localhost:8888].

Uses a queue of its own, named after this process, and ends with 1 when an answer is wrong.
"""

from __future__ import annotations

import argparse
import os
from xmlrpc.client import MultiCall, ServerProxy

from consumer import expect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8888", help="the broker")
    url = parser.parse_args().url.rstrip("/")
    queue = f"test_xmlrpc_{os.getpid()}"
    with ServerProxy(f"{url}/xmlrpc") as broker:
        key = broker.set(queue, "first")
        print("set:", key)
        expect(key, f"{queue}:1")
        expect(broker.add(queue, "second"), f"{queue}:2")
        expect(broker.length(queue), 2)
        expect(broker.peek(queue)["value"], "first")
        expect(queue in broker.queues(), True)

        message = broker.get(queue)
        print("get:", message)
        expect(message["value"], "first")
        expect(broker.take(queue)["value"], "second")

        many = MultiCall(broker)
        many.set(queue, "third")
        many.set(queue, "fourth")
        expect(list(many()), [f"{queue}:3", f"{queue}:4"])
        expect(broker.delete(queue, f"{queue}:3"), True)
        expect(broker.get(queue)["value"], "fourth")
    print("ok")


if __name__ == "__main__":
    main()
