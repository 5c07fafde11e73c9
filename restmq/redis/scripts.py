"""The Lua scripts: read from ``lua/``, put together with ``common.lua``, named by their SHA-1."""

import hashlib
from importlib.resources import files
from typing import NamedTuple

NAMES = (
    "add",
    "confirm",
    "delete",
    "inspect",
    "join",
    "leave",
    "peek",
    "pop",
    "purge",
    "status",
    "window",
)


class Script(NamedTuple):
    """A script as the server gets it; ``sha`` is its SHA-1 in hexadecimal digits."""

    name: str
    source: bytes
    sha: bytes


def load() -> dict[str, Script]:
    """Read and assemble all scripts, by name."""
    folder = files("restmq.redis") / "lua"
    common = (folder / "common.lua").read_text("utf-8")
    return {
        name: _assemble(name, (folder / f"{name}.lua").read_text("utf-8"), common) for name in NAMES
    }


def _assemble(name: str, text: str, common: str) -> Script:
    """The shebang of the script stays first, as the server asks."""
    shebang, body = text.split("\n", 1)
    source = f"{shebang}\n{common}\n{body}".encode()
    name_of_server = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return Script(name, source, name_of_server.encode())
