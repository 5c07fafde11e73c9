"""The settings of a queue: one table of what there is, and the rules by which values are found.

A value is the queue's own, or that of a profile whose pattern chooses the queue, or the default; ``merge``
says which, and from where. The store keeps the *effective* values as fields of the queue's hash, each
only where it is not the default, and in the field ``own`` which of them are the queue's own. So the
scripts read a field, and need not know any of this.

In JSON durations are seconds and a null means "as if never set"; in the store durations are milliseconds.
``FIELDS`` are those of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from restmq.errors import BadMember, BadRequest

Fields = Mapping[str, str]
"""Store fields by name. An empty text: nothing, and somebody said so."""
Changes = Mapping[str, str | None]
"""Store fields by name; None: no longer said here."""

DEAD: Final = ".dead"
"""How the names of dead-letter queues end."""
NO_DEAD_LETTERS: Final = "-"
MAX_COUNT: Final = 2**53 - 1
DAY: Final = 86400
OPEN, JOBS = "1", "2"
BROADCAST: Final = "1"


# -- kinds of values: JSON <-> the text of a field, or a ValueError says what it must be ----------


class Words(NamedTuple):
    """One of a few words."""

    texts: Mapping[str, str]

    def read(self, value: Any) -> str:
        """The field's text. Raises ValueError."""
        if not isinstance(value, str) or value not in self.texts:
            raise ValueError(f"must be one of {', '.join(self.texts)}")
        return self.texts[value]

    def show(self, text: str) -> Any:
        """The value in JSON."""
        return next(word for word, each in self.texts.items() if each == text)

    def schema(self) -> dict[str, Any]:
        """The values in JSON Schema."""
        return {"enum": list(self.texts)}


class Number(NamedTuple):
    """A number within bounds, times ``scale`` in the store; ``off``: 0 means no bound."""

    least: float
    most: float
    scale: int = 1
    whole: bool = False
    off: bool = False

    def read(self, value: Any) -> str:
        """The field's text. Raises ValueError."""
        kinds = int if self.whole else int | float
        within = isinstance(value, kinds) and self.least <= value <= self.most
        if not within or isinstance(value, bool):
            raise ValueError(f"must be {self._name()} from {self.least:.16g} to {self.most:.16g}")
        if self.off and value == 0:
            return ""
        if self.scale == 1000:
            return str(round(value * 1000))
        return str(value) if self.whole else f"{value:.15g}"

    def _name(self) -> str:
        if self.whole:
            return "a whole number"
        return "a number of seconds" if self.scale == 1000 else "a number"

    def show(self, text: str) -> Any:
        """The value in JSON."""
        if self.whole or not text:
            return int(text or 0)
        value = float(text) / self.scale
        return int(value) if value == int(value) else value

    def schema(self) -> dict[str, Any]:
        """The values in JSON Schema."""
        kind = "integer" if self.whole else "number"
        return {"type": kind, "minimum": self.least, "maximum": self.most}


class Flag:
    """True or false; 1 and 0 are taken, too."""

    def read(self, value: Any) -> str:
        """The field's text. Raises ValueError."""
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise ValueError("must be true or false")
        return "1" if value else "0"

    def show(self, text: str) -> Any:
        """The value in JSON."""
        return text == "1"

    def schema(self) -> dict[str, Any]:
        """The values in JSON Schema."""
        return {"enum": [True, False, 1, 0]}


class DeadLetters:
    """The name of a queue, or false: what failed for good is dropped."""

    def read(self, value: Any) -> str:
        """The field's text. Raises ValueError; whether a queue may bear the name is not looked at."""
        if value is False:
            return NO_DEAD_LETTERS
        if not isinstance(value, str) or value in ("", NO_DEAD_LETTERS):
            raise ValueError("must be the name of a queue, or false to drop what failed for good")
        return value

    def show(self, text: str) -> Any:
        """The value in JSON."""
        return False if text == NO_DEAD_LETTERS else text

    def schema(self) -> dict[str, Any]:
        """The values in JSON Schema."""
        return {
            "type": ["string", "boolean"],
            "minLength": 1,
            "maxLength": 255 + len(DEAD),
            "not": {"const": True},
        }


Kind = Words | Number | Flag | DeadLetters


# -- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One line of the table. ``word`` is its name in JSON; ``default`` what holds where nothing is set."""

    word: str
    field: str
    kind: Kind
    default: Any

    @property
    def pointer(self) -> str:
        """Where it is in the JSON (RFC 6901)."""
        return "/" + self.word.replace(".", "/")


def _seconds(least: float, most: float) -> Number:
    return Number(least, most, scale=1000)


_COUNT: Final = Number(0, MAX_COUNT, whole=True, off=True)
_RATE: Final = Number(0, 1_000_000, off=True)

SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("delivery", "pol", Words({"broadcast": BROADCAST, "roundrobin": "2"}), "roundrobin"),
    Setting("mode", "mode", Words({"open": OPEN, "jobs": JOBS}), "jobs"),
    Setting("paused", "st", Words({"none": "1", "all": "0", "push": "2"}), "none"),
    Setting("lease", "lease_ms", _seconds(0.05, DAY / 2), 30),
    Setting("ttl", "ttl_ms", Number(0, 3650 * DAY, scale=1000, off=True), 0),
    Setting("max_attempts", "max_attempts", Number(0, 1000, whole=True), 5),
    Setting("backoff.first", "backoff_first_ms", _seconds(0, DAY), 1),
    Setting("backoff.factor", "backoff_factor", Number(1, 100), 2),
    Setting("backoff.max", "backoff_max_ms", _seconds(0, 30 * DAY), 300),
    Setting("backoff.jitter", "backoff_jitter", Number(0, 1), 0.2),
    Setting("dead_letter", "dead", DeadLetters(), None),
    Setting("max_length", "max_length", _COUNT, 0),
    Setting("max_bytes", "max_bytes", _COUNT, 0),
    Setting("overflow", "overflow", Words({"reject": "1", "drop-oldest": "2"}), "reject"),
    Setting("max_in_flight", "max_flight", _COUNT, 0),
    Setting("put_rate", "put_rate", _RATE, 0),
    Setting("receive_rate", "receive_rate", _RATE, 0),
    Setting("dedup", "dedup_ms", _seconds(0, 30 * DAY), DAY),
    Setting("replay", "replay", _seconds(0, 3600), 60),
    Setting("replay_messages", "replay_n", Number(0, 10000, whole=True), 1000),
    Setting("priorities", "prio", Flag(), False),
)
"""Every setting, in the order in which it is shown. A dot: a member of an object."""

BY_FIELD: Final = {setting.field: setting for setting in SETTINGS}
FIELDS: Final = tuple(BY_FIELD)
KEPT: Final = (*FIELDS, "own", "born", "lim")
"""The fields of a queue's hash that are settled by these rules."""
BOUNDS: Final = ("ttl_ms", "max_length", "max_bytes", "put_rate")
"""With one of these a put must be looked at: the field ``lim`` says so to the script of the fast way."""

_OBJECTS: Final = {word.partition(".")[0] for word in (s.word for s in SETTINGS) if "." in word}
_WORDS: Final = {setting.word: setting for setting in SETTINGS}
_NAMES: Final = tuple(dict.fromkeys(setting.word.partition(".")[0] for setting in SETTINGS))


# -- reading JSON ---------------------------------------------------------------------------------


def read(value: Any, queue_name: Callable[[str], str], pointer: str = "") -> dict[str, str | None]:
    """What a merge-patch (RFC 7396) of settings says: fields and texts, None where it says null.

    ``queue_name`` gives back a name that a queue may bear, or raises a BadRequest; ``pointer`` is where the
    object stands. Members that begin with ``_`` are passed over. Raises BadMember, which names the member and
    what it may be, for what is no object, an unknown member, and a value out of its bounds.
    """
    found: dict[str, str | None] = {}
    for word, each in _members(value, pointer):
        setting = _WORDS[word]
        if each is None:
            found[setting.field] = None
            continue
        try:
            text = setting.kind.read(each)
            if setting.field == "dead" and text != NO_DEAD_LETTERS:
                queue_name(text)
        except ValueError as error:
            raise BadMember(pointer + setting.pointer, f"{error}, not {_shown(each)}") from None
        except BadRequest as error:
            raise BadMember(pointer + setting.pointer, str(error)) from None
        found[setting.field] = text
    return found


def _members(value: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    """The words of the table with their values; a null for an object is one for each of its members."""
    for name, each in _object(value, pointer):
        if name in _OBJECTS:
            words = [word for word in _WORDS if word.startswith(f"{name}.")]
            if each is None:
                yield from ((word, None) for word in words)
                continue
            for inner, one in _object(each, f"{pointer}/{name}"):
                if f"{name}.{inner}" not in _WORDS:
                    known = ", ".join(word.partition(".")[2] for word in words)
                    raise BadMember(f"{pointer}/{name}/{inner}", f"unknown; known here: {known}")
                yield f"{name}.{inner}", one
        elif name in _WORDS:
            yield name, each
        else:
            raise BadMember(f"{pointer}/{name}", f"unknown; known here: {', '.join(_NAMES)}")


def _object(value: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise BadMember(pointer or "/", f"must be an object, not {_shown(value)}")
    return ((name, each) for name, each in value.items() if not name.startswith("_"))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


# -- merging --------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """What the store has of one queue.

    ``gathers`` says that it was made for dead letters, whatever its name; ``born`` is the mode the queue was made with, noted when something else began to set it; ``token``
    changes whenever any of this does.
    """

    known: bool
    own: frozenset[str]
    fields: Fields
    born: str = ""
    token: str = ""
    gathers: bool = False

    @property
    def own_fields(self) -> dict[str, str]:
        """The queue's own."""
        return {field: self.fields.get(field, "") for field in self.own}

    @property
    def first_mode(self) -> str:
        """The mode of the door that made it; ``/v1`` makes one that is not there yet."""
        if self.born:
            return self.born
        found = self.fields.get("mode", "") if "mode" not in self.own else ""
        return found or (OPEN if self.known else JOBS)


class Named(NamedTuple):
    """The settings of a profile."""

    name: str
    fields: Fields


class Merged(NamedTuple):
    """What holds for a queue: its effective fields, and where each comes from that is not the default."""

    queue: str
    first_mode: str
    fields: dict[str, str]
    sources: dict[str, str]


OWN: Final = "own"
CREATION: Final = "creation"
"""The source of a mode that came from the door which made the queue."""


def is_dead_letter(queue: str) -> bool:
    """Whether a name is that of a dead-letter queue."""
    return queue.endswith(DEAD)


def merge(
    queue: str,
    first_mode: str,
    profiles: Sequence[Named],
    own: Fields,
    *,
    gathers: bool = False,
) -> Merged:
    """What holds: defaults, profiles (the later win), the queue's own.

    A profile's value that makes no sense with what is more exact is left out: delivery broadcast where
    the mode is jobs, mode jobs where the delivery is broadcast.
    """
    fields, sources = {"mode": first_mode}, {"mode": CREATION}
    if gathers or is_dead_letter(queue):
        fields |= {"max_attempts": "0", "dead": NO_DEAD_LETTERS}
    for name, each in [*((f"profile:{p.name}", p.fields) for p in profiles), (OWN, own)]:
        fields |= each
        sources |= dict.fromkeys(each, name)
    if is_contradiction(fields):
        for field, instead in (("pol", ""), ("mode", first_mode)):
            if is_contradiction(fields) and sources.get(field, OWN) not in (OWN, CREATION):
                fields[field] = instead
                sources.pop(field)
        sources.setdefault("mode", CREATION)
    return Merged(queue, first_mode, fields, sources)


def is_contradiction(fields: Fields) -> bool:
    """A queue in mode jobs deals its messages: it can't broadcast."""
    return fields.get("mode") == JOBS and fields.get("pol") == BROADCAST


def check(merged: Merged, pointer: str = "") -> None:
    """Raise BadMember for settings that make no sense together."""
    fields, queue = merged.fields, merged.queue
    if is_contradiction(fields):
        raise BadMember(
            f"{pointer}/delivery", "a queue in mode jobs is dealt round robin: set mode to open"
        )
    first, most = (float(_text(fields, f"backoff_{which}_ms")) for which in ("first", "max"))
    if first > most:
        raise BadMember(
            f"{pointer}/backoff/max",
            f"{most / 1000:g} s is less than the first pause, {first / 1000:g} s",
        )
    if queue and fields.get("dead") == queue:
        raise BadMember(f"{pointer}/dead_letter", "a queue is no dead-letter queue of its own")


def _text(fields: Fields, field: str) -> str:
    return fields.get(field) or BY_FIELD[field].kind.read(BY_FIELD[field].default)


def effective(merged: Merged) -> dict[str, str]:
    """The fields that the store shall have, and no others of KEPT."""
    own = [field for field in FIELDS if merged.sources.get(field) == OWN]
    told = {"st": "1", **merged.fields}
    fields = {field: told[field] for field in FIELDS if told.get(field)}
    if merged.sources["mode"] != CREATION:
        fields["born"] = merged.first_mode
    if own:
        fields["own"] = ",".join(own)
    if any(field in fields for field in BOUNDS):
        fields["lim"] = "1"
    return fields


# -- writing JSON ---------------------------------------------------------------------------------


def described(merged: Merged, lease: float) -> dict[str, Any]:
    """All settings in JSON; ``lease`` is the default one, in seconds."""
    return _nested({s.word: _value(s, merged, lease) for s in SETTINGS})


def explained(merged: Merged, lease: float) -> dict[str, Any]:
    """For each setting its ``value`` and its ``source``: own, ``profile:NAME``, creation or default."""
    return _nested(
        {
            s.word: {
                "value": _value(s, merged, lease),
                "source": merged.sources.get(s.field, "default"),
            }
            for s in SETTINGS
        }
    )


def _value(setting: Setting, merged: Merged, lease: float) -> Any:
    field, fields = setting.field, merged.fields
    if field in fields and (fields[field] or field in merged.sources):
        return setting.kind.show(fields[field])
    if fields["mode"] != JOBS and field in ("pol", "max_attempts"):
        return "broadcast" if field == "pol" else 0
    if field == "lease_ms":
        return lease
    return merged.queue + DEAD if field == "dead" else setting.default


def shown(fields: Fields) -> dict[str, Any]:
    """Only what is said, in JSON: the settings of a profile."""
    return _nested({s.word: s.kind.show(fields[s.field]) for s in SETTINGS if s.field in fields})


def _nested(by_word: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word, value in by_word.items():
        name, dot, inner = word.partition(".")
        if dot:
            found.setdefault(name, {})[inner] = value
        else:
            found[name] = value
    return found


def schema(*, explain: bool = False, nulls: bool = False) -> dict[str, Any]:
    """The settings in JSON Schema: as shown, explained, or (``nulls``) as a merge-patch says them."""

    def one(setting: Setting) -> dict[str, Any]:
        found = setting.kind.schema()
        if explain:
            members = {"value": found, "source": {"type": "string"}}
            return {"type": "object", "properties": members, "required": ["value", "source"]}
        return {"anyOf": [found, {"type": "null"}]} if nulls else found

    def closed(members: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": "object",
            "properties": members,
            "additionalProperties": False,
        }
        more: dict[str, Any] = {"patternProperties": {"^_": {}}}
        return found | (more if nulls else {"required": list(members)})

    members = _nested({setting.word: one(setting) for setting in SETTINGS})
    for name in _OBJECTS:
        members[name] = closed(members[name])
        if nulls:
            members[name] = {"anyOf": [members[name], {"type": "null"}]}
    return closed(members)
