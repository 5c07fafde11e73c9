"""The Lua scripts: read from ``lua/``, put together with ``common.lua`` (``log_common.lua``), named by their SHA-1."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

NAMES = (
    "ack",
    "add",
    "confirm",
    "delete",
    "inspect",
    "join",
    "leave",
    "log_append",
    "log_read",
    "log_state",
    "log_trim",
    "observe",
    "peek",
    "pop",
    "presence",
    "purge",
    "replay",
    "status",
    "window",
)
"""Those of the daemon. ``import`` is asked for by the one program that uses it."""

COMMON = "-- common.lua stands here\n"
"""Where a script wants common.lua; without this line it comes first."""


class Script(NamedTuple):
    """A script as the server gets it; ``sha`` is its SHA-1 in hexadecimal digits."""

    name: str
    source: bytes
    sha: bytes


def load(names: Sequence[str] = NAMES) -> dict[str, Script]:
    """Read and assemble these scripts, by name."""
    folder = files("restmq.redis") / "lua"
    common = {
        name: (folder / f"{name}.lua").read_text("utf-8") for name in ("common", "log_common")
    }
    return {
        name: _assemble(
            name,
            (folder / f"{name}.lua").read_text("utf-8"),
            common["log_common" if name.startswith("log_") else "common"],
        )
        for name in names
    }


def _assemble(name: str, text: str, common: str) -> Script:
    """The shebang stays first, as the server asks; what stands before COMMON runs without it.

    Making the functions of common.lua costs each call about as much as a short script's work.
    """
    shebang, body = text.split("\n", 1)
    before, mark, after = body.partition(COMMON)
    if not mark:
        before, after = "", body
    source = f"{shebang}\n{before}\n{common}\n{after}".encode()
    name_of_server = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return Script(name, source, name_of_server.encode())
