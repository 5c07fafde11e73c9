"""What Linux tells about a process."""

from __future__ import annotations

import os
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
