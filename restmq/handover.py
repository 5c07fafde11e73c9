"""What the parent and its processes tell each other: lines of JSON through pipes.

::

    parent to process, standard input      Begin, once and first; Rules; StoreAt
    process to parent, standard output     Said; Ready; Away

The end of its standard input tells a process to end: the parent wants it so, or is gone. Secrets
go this way, since command lines and environments can be read by others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from restmq.settings import Configuration, Settings

FIRST_DESCRIPTOR = 3
"""The sockets are this descriptor and those that follow, in the order of ``Begin``."""


class Place(NamedTuple):
    """An open socket: what the operator called it, its address family, and how to use it.

    ``wrapped``: its endpoint puts something between the socket and us, such as TLS.
    ``datagrams``: it does not listen, it receives (UDP).
    """

    name: str
    family: int
    wrapped: bool
    datagrams: bool = False


class Handed(NamedTuple):
    """Sockets of one kind: the first one's descriptor, the others follow, and what each of them is."""

    first: int
    places: Sequence[Place]


class Begin(NamedTuple):
    """Serve with these settings on these sockets, by the rules of this access file's text.

    ``daemon`` says which one: its name for twistd. ``places`` are HTTP's, ``door`` those of the
    daemon's other door; their descriptors follow on each other.
    """

    configuration: Configuration
    places: tuple[Place, ...]
    rules: str
    daemon: str = "restmq"
    door: tuple[Place, ...] = ()

    @property
    def handed(self) -> tuple[Handed, Handed]:
        """The sockets, as the process finds them: HTTP's and the door's."""
        behind = FIRST_DESCRIPTOR + len(self.places)
        return Handed(FIRST_DESCRIPTOR, self.places), Handed(behind, self.door)


class Rules(NamedTuple):
    """The access file's text is now this one."""

    text: str


class StoreAt(NamedTuple):
    """The embedded store answers on this socket."""

    path: str


class Said(NamedTuple):
    """An event for the log."""

    level: str
    namespace: str
    text: str


class Ready(NamedTuple):
    """The store answers this process."""


class Away(NamedTuple):
    """The store does not, for this reason."""

    reason: str


Message = Begin | Rules | StoreAt | Said | Ready | Away
_BY_NAME: Mapping[str, type[Message]] = {
    kind.__name__: kind for kind in (Begin, Rules, StoreAt, Said, Ready, Away)
}


def encode(message: Message) -> bytes:
    """The message as a line."""
    content: tuple[Any, ...] = message
    if isinstance(message, Begin):
        found = message.configuration
        content = (_settings_data(found.settings), dict(found.sources), *message[1:])
    return json.dumps([type(message).__name__, *content]).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line. Raises ValueError or LookupError when it is none."""
    found = json.loads(line)
    if not isinstance(found, list) or not found:
        raise ValueError("no message")
    name, *content = found
    if name == "Begin":
        settings, sources, places, rules, daemon, door = content
        configuration = Configuration(_settings(settings), sources)
        return Begin(configuration, _places(places), rules, daemon, _places(door))
    return _BY_NAME[name](*content)


def _places(found: list[list[Any]]) -> tuple[Place, ...]:
    return tuple(Place(*place) for place in found)


def _settings_data(settings: Settings) -> dict[str, Any]:
    return {**asdict(settings), "data_dir": str(settings.data_dir)}


def _settings(data: dict[str, Any]) -> Settings:
    for field in fields(Settings):
        kind = type(field.default)
        if kind is tuple:
            data[field.name] = tuple(data[field.name])
    return Settings(**{**data, "data_dir": Path(data["data_dir"])})
