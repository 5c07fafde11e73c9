"""A process with nothing but an embedded store: ``python -m tests.store_process FOLDER [FSYNC]``.

It says ``ready SOCKET`` or ``failed WHY`` on standard output, its log follows, and it ends in order
on SIGTERM and SIGINT, with exit code 1 if the store failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver

from restmq.redis.embedded import EmbeddedStore
from restmq.settings import Settings


def main(folder: str, appendfsync: str = "everysec") -> int:
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
    store = EmbeddedStore(reactor, Settings(data_dir=Path(folder), appendfsync=appendfsync))
    failures = []

    def failed(failure):
        failures.append(failure)
        print(f"failed {failure.value}", flush=True)
        reactor.stop()

    def start():
        store.start().addCallbacks(lambda path: print(f"ready {path}", flush=True), failed)

    reactor.callWhenRunning(start)
    reactor.addSystemEventTrigger("before", "shutdown", store.stopService)
    reactor.run()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
