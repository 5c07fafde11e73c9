"""What Linux tells about a process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Resident bytes now."""
    return _status(pid, "VmRSS")


def peak_memory(pid: int) -> int:
    """The most resident bytes it ever had."""
    return _status(pid, "VmHWM")


def proportional_memory(pid: int) -> int:
    """Pss: resident bytes now, those shared with other processes divided by their number."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise LookupError("Pss")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def cpu_seconds(pid: int) -> float:
    """Processor time used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def open_files(pid: int) -> int:
    """How many descriptors it holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children(pid: int) -> list[int]:
    """The processes that it has started, and that still run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, found) if is_alive(child)]


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> str:
    """Its words; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def serving(pid: int) -> list[int]:
    """Those of a broker's children that serve, by their process numbers."""
    return sorted(child for child in children(pid) if "restmq.child" in command_line(child))


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that stand still meanwhile."""
    send_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send_all(pids, signal.SIGCONT)


def send_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes that may have ended."""
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, number)
