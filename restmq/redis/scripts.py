"""The Lua scripts: read from ``lua/``, put together with ``common.lua``, named by their SHA-1.

Those of a family have a common part of their own: ``log_common.lua``, ``schedule_common.lua``.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

NAMES = (
    "ack",
    "add",
    "browse",
    "claim",
    "confirm",
    "create",
    "delete",
    "expect",
    "find",
    "inspect",
    "join",
    "leave",
    "log_append",
    "log_bind",
    "log_drop",
    "log_read",
    "log_state",
    "log_trim",
    "observe",
    "peek",
    "pop",
    "presence",
    "profile",
    "purge",
    "put",
    "receive",
    "redrive",
    "release",
    "remove",
    "replay",
    "settle",
    "settings",
    "tick",
    "unwait",
    "window",
)
"""Those of the daemon. ``import`` is asked for by the one program that uses it."""

SCHEDULE_NAMES = (
    "schedule_change",
    "schedule_claim",
    "schedule_done",
    "schedule_look",
    "schedule_read",
    "schedule_set",
)

FAMILIES = ("log_", "schedule_")
"""With what the names of scripts begin that have other keys than a queue's."""

COMMON = "-- common.lua stands here\n"
"""Where a script wants common.lua; without this line it comes first."""

JOBS = "-- jobs.lua stands here\n"
"""Where a script wants jobs.lua, if it does."""

ALONE = ("claim", "expect", "profile")
"""Scripts that belong to no queue: without common.lua."""


class Script(NamedTuple):
    """A script as the server gets it; ``sha`` is its SHA-1 in hexadecimal digits."""

    name: str
    source: bytes
    sha: bytes


def load(names: Sequence[str] = NAMES) -> dict[str, Script]:
    """Read and assemble these scripts, by name."""
    folder = files("restmq.redis") / "lua"

    def read(name: str) -> str:
        return (folder / f"{name}.lua").read_text("utf-8")

    jobs = read("jobs")
    common = {family: read(f"{family}common") for family in ("", *FAMILIES)}
    return {
        name: _assemble(
            name,
            read(name).replace(JOBS, f"{jobs}\n"),
            "" if name in ALONE else common[_family(name)],
        )
        for name in names
    }


def _family(name: str) -> str:
    return next((family for family in FAMILIES if name.startswith(family)), "")


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
