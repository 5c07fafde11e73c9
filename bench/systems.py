"""What is measured: our daemon, and the peers that are installed, each in a folder of its own.

All listen on loopback, on ports that were free. Peers that keep their data in Redis get a server
of their own, the same program with the same settings as the embedded one (append-only file,
written to disk every second).
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path

from bench.processes import (
    Child,
    cpu_seconds,
    free_port,
    peak_bytes,
    program,
    resident_bytes,
    with_children,
)
from restmq.redis.server import StoreUnusable, find_server

NCHAN_MODULES = (
    "/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib64/nginx/modules/ngx_nchan_module.so",
)
CONNECTIONS = 20_000
"""More than any row opens."""
STORES = ("valkey-server", "redis-server")


class Missing(Exception):
    """A system cannot be measured here; the text is a line that says why."""


class System:
    """Something that runs and answers on ``port``; the store it keeps its data in is told apart."""

    def __init__(self, name: str, port: int, children: Sequence[Child]) -> None:
        """``children`` are ended in reverse order."""
        self.name = name
        self.port = port
        self._children = children

    def _processes(self) -> tuple[list[int], list[int]]:
        """Of the daemon, and of the store."""
        pids = [pid for child in self._children for pid in with_children(child.pid)]
        stores = [pid for pid in pids if program(pid) in STORES]
        return [pid for pid in pids if pid not in stores], stores

    def cpu_seconds(self) -> tuple[float, float]:
        """Used until now, by the daemon and by its store."""
        daemon, store = self._processes()
        return cpu_seconds(daemon), cpu_seconds(store)

    def resident_bytes(self) -> tuple[int, int]:
        """In use now, by the daemon and by its store."""
        daemon, store = self._processes()
        return resident_bytes(daemon), resident_bytes(store)

    def peak_bytes(self) -> tuple[int, int]:
        """The most that was in use since their start, by the daemon and by its store."""
        daemon, store = self._processes()
        return peak_bytes(daemon), peak_bytes(store)

    def ask(self, method: str, path: str, body: str = "", content_type: str = "") -> int:
        """One request; the status of its reply."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Content-Type": content_type} if content_type else {}
        connection.request(method, path, body, headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def end(self) -> None:
        """End all its processes."""
        for child in reversed(self._children):
            child.end()


def _listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _status(system: System, path: str) -> int:
    try:
        return system.ask("GET", path)
    except OSError:
        return 0


def restmq(folder: Path, command: Sequence[str] = (), options: Sequence[str] = ()) -> System:
    """Our daemon with its embedded store; ``command`` starts another one than this package's.

    ``options`` are further words; Missing when the daemon does not know one of them.
    """
    port = free_port()
    start = command or (sys.executable, "-m", "restmq")
    _check_known(start, [word for word in options if word.startswith("--")])
    words = [*start, "--port", str(port), "--max-connections", str(CONNECTIONS), *options]
    child = Child([*words, "--data-dir", str(folder / "data")], folder / "log")
    system = System("restmq", port, [child])
    _wait(system, child, lambda: _status(system, "/readyz") == 200)
    return system


def _check_known(start: Sequence[str], options: Sequence[str]) -> None:
    if not options:
        return
    said = subprocess.run([*start, "--help"], capture_output=True, text=True, check=False).stdout
    for option in options:
        if option not in said:
            raise Missing(f"the daemon knows no {option}")


def _wait(system: System, child: Child, answers: Callable[[], bool]) -> None:
    try:
        child.wait_until(answers)
    except BaseException:
        system.end()
        raise


def store(folder: Path) -> tuple[Child, int]:
    """A store for a peer, on a port of its own."""
    try:
        server = find_server()
    except StoreUnusable as error:
        raise Missing(str(error)) from None
    port = free_port()
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes"}
    options |= {"appendfsync": "everysec", "save": "", "protected-mode": "yes"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    child = Child([server.path, *words], folder / "store.log")
    child.wait_until(lambda: _listening(port))
    return child, port


NGINX = """
load_module {module};
user {user};
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  nchan_shared_memory_size 1024M;
  nchan_message_buffer_length 1000;
  nchan_message_timeout 60s;
  upstream store {{ nchan_redis_server redis://127.0.0.1:{store}; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/pub/(\\w+)$ {{ nchan_publisher; nchan_channel_id $1; }}
    location ~ ^/sub/(\\w+)$ {{
      nchan_subscriber;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
    }}
    location ~ ^/rpub/(\\w+)$ {{ nchan_publisher; nchan_channel_id r$1; nchan_redis_pass store; }}
    location ~ ^/rsub/(\\w+)$ {{
      nchan_subscriber;
      nchan_channel_id r$1;
      nchan_redis_pass store;
      nchan_subscriber_first_message newest;
    }}
  }}
}}
"""


def nchan(folder: Path) -> System:
    """The server nginx with nchan: ``/pub/x`` and ``/sub/x`` in memory, ``/rpub/x`` and ``/rsub/x`` over Redis."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    module = next((path for path in NCHAN_MODULES if Path(path).exists()), None)
    if nginx is None or module is None:
        raise Missing("nchan: not installed (Debian: nginx and libnginx-mod-nchan)")
    store_child, store_port = store(folder)
    port = free_port()
    text = NGINX.format(
        module=module, user=getpass.getuser(), folder=folder, store=store_port, port=port
    )
    (folder / "nginx.conf").write_text(text)
    child = Child(
        [nginx, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")], folder / "log"
    )
    system = System("nchan", port, [store_child, child])
    _wait(system, child, lambda: _posted(system, "/rpub/ready"))
    return system


def _posted(system: System, path: str) -> bool:
    try:
        return 200 <= system.ask("POST", path, "x", "text/plain") < 300
    except OSError:
        return False


def webdis(folder: Path) -> System:
    """The server webdis with one thread, over a store of its own."""
    program_path = shutil.which("webdis")
    if program_path is None:
        raise Missing("webdis: not installed (Debian: webdis)")
    store_child, store_port = store(folder)
    port = free_port()
    settings = {
        "redis_host": "127.0.0.1",
        "redis_port": store_port,
        "http_host": "127.0.0.1",
        "http_port": port,
        "threads": 1,
        "pool_size": 5,
        "daemonize": False,
        "database": 0,
        "verbosity": 0,
        "logfile": os.devnull,
    }
    (folder / "webdis.json").write_text(json.dumps(settings))
    child = Child([program_path, str(folder / "webdis.json")], folder / "log", cwd=folder)
    system = System("webdis", port, [store_child, child])
    _wait(system, child, lambda: _status(system, "/PING") == 200)
    return system


class LineSystem(System):
    """Something that takes syslog lines over TCP on ``syslog_port``."""

    def __init__(
        self, name: str, port: int, syslog_port: int, child: Child, lines: Callable[[], int]
    ) -> None:
        """``lines`` says how many it has kept."""
        super().__init__(name, port, [child])
        self.syslog_port = syslog_port
        self.lines = lines


SYSLOG_QUEUE = "syslogd:127.0.0.1"


def syslogd(folder: Path) -> System:
    """Our syslogd with its embedded store."""
    port, syslog_port = free_port(), free_port()
    run = "from twisted.scripts.twistd import run; run()"
    words = [sys.executable, "-c", run, "--nodaemon", "--pidfile=", "syslogd"]
    words += ["--port", str(port), "--syslog-port", str(syslog_port)]
    child = Child([*words, "--data-dir", str(folder / "data")], folder / "log")

    def lines() -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", f"/stats/{SYSLOG_QUEUE}")
        kept = int(json.loads(connection.getresponse().read())["len"])
        connection.close()
        return kept

    system = LineSystem("syslogd", port, syslog_port, child, lines)
    _wait(system, child, lambda: _status(system, "/readyz") == 200)
    return system


RSYSLOG_CONF = """
global(workDirectory="{folder}")
module(load="imtcp")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="keep") {{ action(type="omfile" file="{folder}/lines" template="raw") }}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="keep")
"""


def rsyslog(folder: Path) -> System:
    """The server rsyslog, which writes lines to a file as they are."""
    program_path = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")
    if program_path is None:
        raise Missing("rsyslog: not installed (Debian: rsyslog)")
    port = free_port()
    (folder / "conf").write_text(RSYSLOG_CONF.format(folder=folder, port=port))
    words = [program_path, "-n", "-f", str(folder / "conf"), "-i", str(folder / "pid")]
    child = Child(words, folder / "log")

    def lines() -> int:
        file = folder / "lines"
        if not file.exists():
            return 0
        with file.open("rb") as kept:
            width = len(kept.readline())
        return file.stat().st_size // width if width else 0

    system = LineSystem("rsyslog", port, port, child, lines)
    _wait(system, child, lambda: _listening(port))
    return system


def used_memory(port: int) -> int:
    """What the store on this port says it has allocated."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"INFO memory\r\n")
        said = b""
        while b"used_memory_human:" not in said:
            said += connection.recv(65536)
    return int(said.partition(b"\r\nused_memory:")[2].partition(b"\r\n")[0])


class PipelineSystem(System):
    """A store alone, and the program that measures it."""

    def __init__(self, port: int, child: Child, benchmark: str) -> None:
        super().__init__("valkey-benchmark", port, [child])
        self.benchmark = benchmark


def valkey_benchmark(folder: Path) -> System:
    """The store by itself, under the load that comes with it."""
    names = ("valkey-benchmark", "redis-benchmark")
    benchmark = next(filter(None, map(shutil.which, names)), None)
    if benchmark is None:
        raise Missing("valkey-benchmark: not installed (Debian: valkey-tools or redis-tools)")
    child, port = store(folder)
    return PipelineSystem(port, child, benchmark)


def beanstalkd(folder: Path) -> System:
    """The server beanstalkd with its log on disk, written through once a second as the stores' are."""
    program_path = shutil.which("beanstalkd") or shutil.which("beanstalkd", path="/usr/sbin")
    if program_path is None:
        raise Missing("beanstalkd: not installed (Debian: beanstalkd)")
    port = free_port()
    words = [program_path, "-l", "127.0.0.1", "-p", str(port), "-b", str(folder), "-f", "1000"]
    child = Child(words, folder / "log")
    system = System("beanstalkd", port, [child])
    _wait(system, child, lambda: _listening(port))
    return system


RQ_VERSION = "2.12.0"
RQ_FOLDER = Path(__file__).resolve().parent / ".peers" / "rq"


class RqSystem(System):
    """RQ is a library over a store: ``python`` is the one that has it."""

    def __init__(self, port: int, child: Child, python: Path) -> None:
        super().__init__("rq", port, [child])
        self.python = str(python)


def install_rq() -> None:
    """Into an environment of its own: what it needs is not what we need."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", RQ_FOLDER], check=True)
    pip = [RQ_FOLDER / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"rq=={RQ_VERSION}"], check=True)


def rq(folder: Path) -> System:
    """RQ over a store of its own."""
    python = RQ_FOLDER / "bin" / "python"
    if not python.exists():
        raise Missing("RQ: not installed (python -m bench --install-rq, which asks PyPI)")
    child, port = store(folder)
    return RqSystem(port, child, python)


STARTS: Mapping[str, Callable[[Path], System]] = {
    "nchan": nchan,
    "webdis": webdis,
    "syslogd": syslogd,
    "rsyslog": rsyslog,
    "valkey-benchmark": valkey_benchmark,
    "beanstalkd": beanstalkd,
    "rq": rq,
}
"""The peers, and our syslogd, by name."""
