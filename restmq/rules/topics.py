"""Topics, the patterns that choose among them, and a trie that finds the patterns of a topic.

A topic is words with dots between them: ``log.worker.1``. In a pattern the word ``*`` stands for one
word and ``**`` for any number, none too; ``#`` is read as ``**``, as AMQP 0-9-1 writes it. A wildcard
is a whole word. Words are kept as sent: ``Log`` and ``log`` are two.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from restmq.errors import BadRequest

MAX_WORDS: Final = 32
MAX_BYTES: Final = 255
ONE: Final = "*"
MANY: Final = "**"
FEW: Final = 16
"""So many patterns of a node wait unfolded. With fewer, long patterns cost a node for each word."""

_CONTROL: Final = "\x00-\x1f\x7f-\x9f\ud800-\udfff"
_TOPIC: Final = re.compile(rf"[^{_CONTROL}./*#]+(?:\.[^{_CONTROL}./*#]+){{0,{MAX_WORDS - 1}}}")
_BAD: Final = re.compile(f"[{_CONTROL}]")
_FRAGMENT: Final = "in a URL a bare # begins the fragment and is lost: write %23, or **"


def parse_topic(text: str, name: str = "topic") -> str:
    """The topic itself, if it is one.

    ``name`` is the parameter that held it. Raises BadRequest, which names the parameter and the fault:
    an empty word, a control character, ``/``, a wildcard, more than 32 words or 255 bytes.
    """
    if _TOPIC.fullmatch(text) is None or _size(text) > MAX_BYTES:
        for word in _words(text, name, "/"):
            if ONE in word or "#" in word:
                raise BadRequest(f"{name}: a topic has no wildcards, {word!r} is for patterns")
    return text


def parse_pattern(text: str, name: str = "topic", *, slashes: bool = False) -> Pattern:
    """The pattern that a text stands for.

    ``name`` is the parameter that held it. ``slashes``: they may be in a word, as in names of queues.
    Raises BadRequest, which names the parameter and the fault, as `parse_topic` does.
    """
    words = _words(text, name, "" if slashes else "/")
    words = [MANY if word == "#" else word for word in words]
    for word in words:
        if word not in (ONE, MANY) and (ONE in word or "#" in word):
            raise BadRequest(f"{name}: a wildcard is a whole word, unlike in {word!r}")
    return Pattern(tuple(_in_order(words)))


def _words(text: str, name: str, forbidden: str) -> list[str]:
    if not text:
        raise BadRequest(f"{name} is empty; {_FRAGMENT}")
    if _BAD.search(text):
        raise BadRequest(f"{name} has no control characters, and is valid UTF-8")
    if (size := _size(text)) > MAX_BYTES:
        raise BadRequest(f"{name} has at most {MAX_BYTES} bytes, this one {size}")
    words = text.split(".")
    if len(words) > MAX_WORDS:
        raise BadRequest(f"{name} has at most {MAX_WORDS} words, this one {len(words)}")
    if "" in words:
        hint = f"; {_FRAGMENT}" if words[-1] == "" else ""
        raise BadRequest(f"{name}: {text!r} has an empty word{hint}")
    if forbidden and forbidden in text:
        raise BadRequest(f"{name}: a word holds no {forbidden}; between words there is a dot")
    return words


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _in_order(words: Sequence[str]) -> Iterator[str]:
    """The words with each run of wildcards as ``*`` ... ``**``: the same topics, one way to say it."""
    many = False
    for word in words:
        if word == MANY:
            many = True
            continue
        if many and word != ONE:
            yield MANY
            many = False
        yield word
    if many:
        yield MANY


class Pattern(NamedTuple):
    """A pattern as `parse_pattern` made it: two that choose the same topics by runs of wildcards are equal."""

    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The pattern in its one form: ``#.#.*`` is ``*.**``."""
        return ".".join(self.words)

    @property
    def exact(self) -> bool:
        """It has no wildcards, so it is a topic."""
        return ONE not in self.words and MANY not in self.words

    def matches(self, topic: str) -> bool:
        """Whether it chooses this topic."""
        return _matches(self.words, topic.split("."), 0)


def _matches(pattern: Sequence[str], words: Sequence[str], at: int) -> bool:
    """Whether a pattern chooses the words from ``at`` on, in at most len(pattern) * len(words) steps.

    Only the last ``**`` is ever tried again: what stood before it can match no better later.
    """
    place, again, mark = 0, -1, at
    end, last = len(words), len(pattern)
    while at < end:
        word = pattern[place] if place < last else ""
        if word == MANY:
            again, mark = place, at
            place += 1
        elif word == ONE or (word == words[at] and place < last):
            place += 1
            at += 1
        elif again < 0:
            return False
        else:
            mark += 1
            place, at = again + 1, mark
    return place == last or (place == last - 1 and pattern[place] == MANY)


T = TypeVar("T", bound=Hashable)
Kept: TypeAlias = tuple[T, ...] | set[T]


class _Node(Generic[T]):
    """A place in the trie, reached by the words before it.

    ``few`` holds the rest of each pattern that goes on from here, as text, until there are more than
    FEW: then it is None for good, and they are unfolded into the nodes below.
    """

    __slots__ = ("below", "few", "many", "one", "values")

    def __init__(self) -> None:
        self.values: Kept[T] = ()
        self.few: dict[str, Kept[T]] | None = {}
        self.below: dict[str, _Node[T]] | None = None
        self.one: _Node[T] | None = None
        self.many: _Node[T] | None = None

    @property
    def empty(self) -> bool:
        return not (self.values or self.few or self.below or self.one or self.many)

    def child(self, word: str) -> _Node[T] | None:
        if word == ONE:
            return self.one
        if word == MANY:
            return self.many
        return None if self.below is None else self.below.get(word)

    def make_child(self, word: str) -> _Node[T]:
        node = self.child(word)
        if node is None:
            node = _Node[T]()
            self._put(word, node)
        return node

    def _put(self, word: str, node: _Node[T]) -> None:
        if word == ONE:
            self.one = node
        elif word == MANY:
            self.many = node
        else:
            if self.below is None:
                self.below = {}
            self.below[word] = node

    def drop_child(self, word: str) -> None:
        if word == ONE:
            self.one = None
        elif word == MANY:
            self.many = None
        elif self.below is not None:
            del self.below[word]
            self.below = self.below or None

    def add(self, words: Sequence[str], values: Iterable[T]) -> None:
        node: _Node[T] = self
        for at, word in enumerate(words):
            if node.few is not None:
                rest = ".".join(words[at:])
                node.few[rest] = _with(node.few.get(rest, ()), values)
                if len(node.few) > FEW:
                    node._unfold()
                return
            node = node.make_child(word)
        node.values = _with(node.values, values)

    def _unfold(self) -> None:
        few, self.few = self.few, None
        for rest, values in (few or {}).items():
            self.add(rest.split("."), values)

    def remove(self, words: Sequence[str], value: T) -> None:
        path: list[tuple[_Node[T], str]] = []
        node: _Node[T] = self
        for at, word in enumerate(words):
            if node.few is not None:
                _drop(node.few, ".".join(words[at:]), value)
                break
            path.append((node, word))
            below = node.child(word)
            if below is None:
                return
            node = below
        else:
            node.values = _without(node.values, value)
        while path and node.empty:
            node, word = path.pop()
            node.drop_child(word)

    def find(self, words: Sequence[str], found: set[T]) -> None:
        """Add to ``found`` the values of all patterns that choose these words.

        A node is looked at no more than once for each word: there is one way to it, and those behind
        ``**``, which stay until the last word, are noted in ``lasting`` once.
        """
        lasting: dict[_Node[T], None] = {}
        here = [self]
        for at, word in enumerate(words):
            _look(here, words, at, lasting, found)
            here = [below for node in (*here, *lasting) for below in node._next(word)]
            if not here and not lasting:
                return
        _look(here, words, len(words), lasting, found)
        for node in (*here, *lasting):
            found.update(node.values)

    def _next(self, word: str) -> Iterator[_Node[T]]:
        if self.one is not None:
            yield self.one
        if self.below is not None and (below := self.below.get(word)) is not None:
            yield below


def _look(
    here: Iterable[_Node[T]],
    words: Sequence[str],
    at: int,
    lasting: dict[_Node[T], None],
    found: set[T],
) -> None:
    """What these nodes have to say of the words from ``at`` on, and where a ``**`` begins here."""
    for node in here:
        if node.few:
            for rest, values in node.few.items():
                if _matches(rest.split("."), words, at):
                    found.update(values)
        many = node.many
        if many is not None and many not in lasting:
            lasting[many] = None
            if many.few:
                for rest, values in many.few.items():
                    if _matches([MANY, *rest.split(".")], words, at):
                        found.update(values)


class Patterns(Generic[T]):
    """Which values are kept under patterns that choose a topic; each (pattern, value) once.

    The cost of `match` is that of walking the topic's words, not that of the patterns that do not
    match: those without wildcards lie in a dict, the others in a trie.
    """

    def __init__(self) -> None:
        self._exact: dict[str, Kept[T]] = {}
        self._root = _Node[T]()

    def __bool__(self) -> bool:
        return bool(self._exact) or not self._root.empty

    def add(self, pattern: Pattern, value: T) -> None:
        """Keep a value under a pattern; nothing changes when it is there already."""
        if pattern.exact:
            text = pattern.text
            self._exact[text] = _with(self._exact.get(text, ()), (value,))
        else:
            self._root.add(pattern.words, (value,))

    def remove(self, pattern: Pattern, value: T) -> None:
        """Forget a value under a pattern; nothing changes when it is not there."""
        if pattern.exact:
            _drop(self._exact, pattern.text, value)
        else:
            self._root.remove(pattern.words, value)
        if self._root.empty and self._root.few is None:
            self._root = _Node[T]()

    def match(self, topic: str) -> set[T]:
        """The values of all patterns that choose the topic (any text: words between dots)."""
        found = set(self._exact.get(topic, ()))
        self._root.find(topic.split("."), found)
        return found


def _with(values: Kept[T], more: Iterable[T]) -> Kept[T]:
    """One value is kept as a tuple, which takes a quarter of a set's memory."""
    together = set(values) if isinstance(values, tuple) else values
    together.update(more)
    return together if len(together) > 1 else tuple(together)


def _without(values: Kept[T], value: T) -> Kept[T]:
    left = set(values) if isinstance(values, tuple) else values
    left.discard(value)
    return left if len(left) > 1 else tuple(left)


def _drop(kept: dict[str, Kept[T]], text: str, value: T) -> None:
    left = _without(kept.get(text, ()), value)
    if left:
        kept[text] = left
    else:
        kept.pop(text, None)
