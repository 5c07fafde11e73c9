"""Profiles: settings for all queues whose names a pattern chooses.

Patterns are those of topics (`restmq.rules.topics`); the words of a queue's name stand between dots or
slashes. Where several profiles choose a queue, the one with the higher order wins, of equals the one whose
name comes later. A dead-letter queue (``.dead`` at the end of its name) is chosen only by a pattern whose last
word is ``dead``: a bound on ``jobs.**`` must not reach what failed there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from restmq.errors import BadMember, BadRequest
from restmq.message import Mode
from restmq.rules import queue_settings
from restmq.rules.queue_settings import JOBS, OPEN, Fields, Merged, Named, is_dead_letter
from restmq.rules.topics import Pattern, Patterns, parse_pattern

MAX_ORDER: Final = 1_000_000
MEMBERS: Final = ("pattern", "order", "settings")
NAME_PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME: Final = re.compile(NAME_PATTERN)


class Profile(NamedTuple):
    """One profile; ``pattern`` as it was sent."""

    name: str
    pattern: str
    order: int
    fields: Fields

    def json(self) -> dict[str, Any]:
        """The value that `read` reads."""
        settings = queue_settings.shown(self.fields)
        return {"pattern": self.pattern, "order": self.order, "settings": settings}


def profile_name(text: str) -> str:
    """The name, if it is one. Raises BadRequest."""
    if not _NAME.fullmatch(text):
        raise BadRequest(
            "a profile's name has 1 to 64 letters, digits, dots, hyphens and underscores, and begins "
            "with a letter or a digit"
        )
    return text


def read(name: str, value: Any, queue_name: Callable[[str], str]) -> Profile:
    """A profile from its JSON. Raises BadRequest, which names the member and what it may be."""
    if not isinstance(value, dict):
        raise BadMember("/", "must be an object")
    for member in value:
        if member not in MEMBERS and not member.startswith("_"):
            raise BadMember(f"/{member}", f"unknown; known here: {', '.join(MEMBERS)}")
    pattern, order = value.get("pattern"), value.get("order", 0)
    if not isinstance(pattern, str):
        raise BadMember("/pattern", "must be a string: words, * and **, with dots between them")
    if not isinstance(order, int) or isinstance(order, bool) or abs(order) > MAX_ORDER:
        raise BadMember("/order", f"must be a whole number from -{MAX_ORDER} to {MAX_ORDER}")
    try:
        _pattern(pattern)
    except BadRequest as error:
        raise BadMember("/pattern", str(error)) from None
    said = queue_settings.read(value.get("settings", {}), queue_name, "/settings")
    fields = {field: text for field, text in said.items() if text is not None}
    if re.search(r"\s", fields.get("dead", "")):
        raise BadMember("/settings/dead_letter", "in a profile the name has no white space")
    mode = fields.get("mode", JOBS if fields.get("pol") != queue_settings.BROADCAST else OPEN)
    queue_settings.check(Merged("", mode, {"mode": mode, **fields}, {}), "/settings")
    return Profile(name, pattern, order, fields)


def _pattern(text: str) -> Pattern:
    return parse_pattern(text.replace("/", "."), "pattern")


class Table:
    """All profiles of one version; immutable."""

    def __init__(self, profiles: Iterable[Profile] = (), version: int = 0) -> None:
        self.version = version
        self.profiles: Mapping[str, Profile] = {p.name: p for p in sorted(profiles)}
        self._patterns = Patterns[tuple[int, str]]()
        for profile in self.profiles.values():
            self._patterns.add(_pattern(profile.pattern), (profile.order, profile.name))
        self._for_dead = {
            (p.order, p.name)
            for p in self.profiles.values()
            if _pattern(p.pattern).words[-1] == queue_settings.DEAD[1:]
        }

    def of(self, queue: str) -> list[Named]:
        """What is said about a queue, the later before the earlier."""
        if not self.profiles:
            return []
        found = self._patterns.match(queue.replace("/", "."))
        if is_dead_letter(queue):
            found &= self._for_dead
        return [Named(name, self.profiles[name].fields) for _, name in sorted(found)]

    def creation_fields(self, queue: str, mode: Mode | None) -> str:
        """What a new queue gets when it is made with this mode: ``name value name value``.

        Nothing where there is nothing to say.
        """
        profiles = self.of(queue)
        if not profiles and not is_dead_letter(queue):
            return "" if mode is None else f"mode {mode.value}"
        first_mode = OPEN if mode is None else str(mode.value)
        fields = queue_settings.effective(queue_settings.merge(queue, first_mode, profiles, {}))
        if mode is None and "born" not in fields:
            del fields["mode"]
        if profiles:
            fields["pv"] = str(self.version)
        return " ".join(f"{name} {value}" for name, value in fields.items())
