"""Write examples/lines.txt again: about three thousand lines that are hard on a message broker.

    python examples/make_lines.py > examples/lines.txt

The same text every time. Each line is one message: none is empty, since an empty form field
counts as absent, and none has a line break inside (split the bytes at LF: Python's
``str.splitlines`` also breaks at U+2028 and its like). All else is allowed, and there.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

LINES = 3000

DEDICATION = (
    "This text was made by examples/make_lines.py for the RestMQ project.",
    "It is dedicated to the public domain (CC0 1.0): do with it what you like.",
)

SUBJECTS = (
    "the postman", "a heron", "nobody", "the last train", "my grandmother", "an old radio",
    "the night shift", "a broker", "Señor Peña", "die Füchsin", "l'élève", "Żółw", "Ågot",
    "η θάλασσα", "почтальон", "猫", "🐢",
)  # fmt: skip
VERBS = (
    "carries", "forgets", "counts", "waits for", "hands over", "misses", "repeats", "keeps",
    "überbringt", "cherche", "доставляет", "待つ",
)  # fmt: skip
OBJECTS = (
    "a letter", "the third parcel", "what was promised", "an empty box", "two tickets", "the news",
    "ein Päckchen", "un œuf", "½ a loaf", "20 € change", "手紙", "a \N{SNOWMAN}", "naïve poems",
)  # fmt: skip
ENDINGS = (".", "!", "?", " ...", ";", " \N{EM DASH} again.", "", " (twice)", ", said the crow.")

AWKWARD = (
    "007", "1.10", "+5", "1e5", "0x10", "-0", "100000000000000000000.5", "NaN", "null", "true",
    "  padded on both sides  ", " ", "\t", "\ttab first", "tab last\t", "a\tb\tc", "   3 before",
    '"quoted"', "it's", "\\", "\\n is no line break", 'C:\\temp\\"new"\\', "\\u00e9", "</b>",
    "</script><script>alert(1)</script>", "<b>bold</b> & <i>brave</i>", "&amp;lt;", "a&b=c;d+e%20f",
    "%", "%zz", "%00", "+", "value=hello", "?callback=x", '{"cmd": "take", "queue": "x"}', "[1, 2",
    "$(rm -rf nothing)", "`date`", "; DROP TABLE queues;", "*1", "$-1", "+OK", "-ERR", "\x7f",
    "e\N{COMBINING ACUTE ACCENT} and é", "\N{ZERO WIDTH JOINER}", "\N{BYTE ORDER MARK}mark first",
    "\N{NO-BREAK SPACE}no-break\N{NO-BREAK SPACE}", "\N{RIGHT-TO-LEFT OVERRIDE}abc", "𝔘𝔫𝔦", "👩‍👩‍👧‍👦",
    "\N{LINE SEPARATOR}is no line end here", "\x01\x02\x1f control", "bell \x07", "esc \x1b[31mred",
)  # fmt: skip


def lines(count: int = LINES) -> Iterator[str]:
    """``count`` lines without their ends: the dedication, the awkward ones, then a story."""
    made = [*DEDICATION, *AWKWARD]
    yield from made
    chance = random.Random(2010)  # no secret: the same every time
    for number in range(len(made) + 1, count + 1):
        yield _line(number, chance)


def _line(number: int, chance: random.Random) -> str:
    sentence = _sentence(chance)
    match number % 50:
        case 0:
            return " ".join(_sentence(chance) for _ in range(chance.randrange(20, 120)))
        case 10:
            return f"  {sentence}\t"
        case 20:
            return f'"{sentence}" \\ <i>{number:05d}</i>'
        case 30:
            return str(chance.randrange(10**15)).zfill(17)
        case 40:
            return chance.choice(AWKWARD)
        case _:
            return f"{number:04d} {sentence}"


def _sentence(chance: random.Random) -> str:
    words = (chance.choice(SUBJECTS), chance.choice(VERBS), chance.choice(OBJECTS))
    return " ".join(words) + chance.choice(ENDINGS)


def text() -> bytes:
    """The whole file."""
    return "".join(f"{line}\n" for line in lines()).encode("utf-8")


if __name__ == "__main__":
    sys.stdout.buffer.write(text())
