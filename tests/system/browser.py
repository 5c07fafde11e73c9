"""A headless Chromium, driven by the DevTools protocol: what a page's script sees, told by itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Final, Self

from tests.support import DEADLINE_SECONDS, wait_until
from tests.wire.websockets import Socket

FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


class Chromium:
    """A browser of its own, with one page."""

    def __init__(self, program: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="chromium-"))
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self._folder / 'data'}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={"HOME": str(self._folder), "PATH": "/usr/bin:/bin"},
        )
        self._count = 0
        self._socket: Socket | None = None

    def __enter__(self) -> Self:
        port_file = self._folder / "data" / "DevToolsActivePort"

        def port() -> int:
            text = port_file.read_text() if port_file.exists() else ""
            return int(text.split("\n")[0]) if "\n" in text else 0

        found = wait_until(port, lambda: f"chromium; its log:\n{self.log}", 60)
        with urllib.request.urlopen(f"http://127.0.0.1:{found}/json/list", timeout=60) as reply:
            pages = [target for target in json.load(reply) if target["type"] == "page"]
        path = "/" + pages[0]["webSocketDebuggerUrl"].split("/", 3)[3]
        self._socket = Socket(found, path)
        assert self._socket.status == 101
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(DEADLINE_SECONDS)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self._folder / "log").read_text(errors="replace")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        assert self._socket is not None
        self._count += 1
        self._socket.send(
            json.dumps({"id": self._count, "method": method, "params": parameters}).encode()
        )
        while True:
            answer = json.loads(self._socket.frame()[1])
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def go(self, url: str) -> None:
        """Load a page and wait until it is there."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, result
        wait_until(
            lambda: self.run("document.readyState === 'complete' && location.href") == url,
            f"{url} in the browser",
        )

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")
