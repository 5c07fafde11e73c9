"""What is said to the scripts and what their answers mean: arguments out, values in. No I/O.

Every function ``x_arguments`` gives ARGV of ``lua/x.lua`` without the clock that comes first;
every ``x_answer`` reads its reply. Both are spelt in the header of the script.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from restmq.core.port import Hello, Joined, Report, Settled, Window
from restmq.core.wire import decode_entry, encode_numbers
from restmq.errors import BadRequest
from restmq.message import Message, Mode, Peeked, Policy, Put, QueueInfo

LEASE_MS = 15000
"""How long a daemon that says nothing counts as there."""


class Popped(NamedTuple):
    """What a pop took, and whether the script wants to be called again for more."""

    messages: list[Message]
    again: bool


def _number(n: int) -> bytes:
    return b"%d" % n


def _slots(slots: Sequence[tuple[int, int]]) -> list[bytes]:
    return [b"%d" % n for pair in slots for n in pair]


def _settled(settled: Sequence[Settled]) -> list[bytes]:
    out = [_number(len(settled))]
    for item in settled:
        whole = b"1" if item.whole else b"0"
        ids = (item.done, item.back, item.over)
        out += [_number(item.pos), whole, *map(encode_numbers, ids)]
    return out


def _positions(report: Report) -> list[bytes]:
    positions = (report.safe_pos, report.safe_bpos, report.pos, report.bpos)
    return [_number(report.epoch), *map(_number, positions)]


def join_arguments(daemon: bytes, hello: Hello) -> list[bytes]:
    """The answer: see `join_answer`."""
    known = (hello.epoch, hello.pos, hello.dealt_pos, hello.last_id)
    again = b"again" if hello.again else b""
    return [daemon, _number(LEASE_MS), again, *map(_number, known), *_slots(hello.slots)]


def join_answer(reply: Any) -> Joined | None:
    """None when it must be called again."""
    if reply[0] == 0:
        return None
    return Joined(reply[0] == 2, *map(int, reply[1:6]))


def confirm_arguments(daemon: bytes, report: Report) -> list[bytes]:
    """The answer is the number itself: see `Feed.confirmed`."""
    return [
        daemon,
        _number(LEASE_MS),
        *_positions(report),
        b"look" if report.look else b"",
        _number(len(report.slots)),
        *_slots(report.slots),
        *_settled(report.settled),
    ]


def leave_arguments(daemon: bytes, report: Report) -> list[bytes]:
    """The answer is 1 when done, 0 to call again."""
    return [daemon, *_positions(report), *_settled(report.settled)]


def window_arguments(daemon: bytes, dealt: bool, after: int) -> list[bytes]:
    """``dealt`` chooses the round-robin window."""
    return [daemon, b"r" if dealt else b"b", _number(after)]


def window_answer(reply: Any) -> Window:
    """The chunks found."""
    return Window(int(reply[0]), int(reply[1]), reply[2] == 1, reply[3:])


class Replay(NamedTuple):
    """What ``replay.lua`` tells: the highest id that was broadcast, the one before what is kept, chunks.

    ``last_id`` is the last that was given. All ids above ``solid``, up to the highest, were broadcast.
    """

    epoch: int
    highest: int
    kept_from: int
    solid: int
    last_id: int
    chunks: list[bytes]


def replay_arguments(epoch: int, after: int) -> list[bytes]:
    """What was broadcast above that id; in another life of the store all that is kept."""
    return [_number(after), _number(epoch)]


def replay_answer(reply: Any) -> Replay:
    """The chunks with ids above the one that was asked for."""
    epoch, highest, kept_from, solid, last_id = map(int, reply[:5])
    return Replay(epoch, highest, kept_from, solid, last_id, reply[5:])


def pop_answer(queue: str, reply: Any) -> Popped:
    """Messages in order."""
    return Popped([decode_entry(queue, entry) for entry in reply[2:]], reply[1] == 1)


class Received(NamedTuple):
    """What receive.lua tells: for each who asked when the lease ends, and the entries."""

    now_ms: int
    epoch: int
    again: bool
    retry_ms: int
    groups: list[tuple[int, list[bytes]]]


def receive_answer(reply: Any) -> Received:
    """See the header of receive.lua."""
    groups, at = [], 4
    while at < len(reply):
        until, count = int(reply[at]), reply[at + 1]
        groups.append((until, reply[at + 2 : at + 2 + count]))
        at += 2 + count
    return Received(int(reply[0]), int(reply[1]), reply[2] == 1, int(reply[3]), groups)


def put_answer(text: bytes) -> Put:
    """What put.lua says of one message."""
    if text[:1] == b"r" and text[1:].isdigit():
        return Put(int(text[1:]), replayed=True)
    if text.isdigit():
        return Put(int(text))
    word, _, retry_ms = text.decode("ascii").partition(" ")
    return Put(error=word, retry_ms=int(retry_ms or 0))


def browse_cursor(state: str, text: str) -> bytes:
    """A cursor as browse.lua reads it. Raises BadRequest for one that is none of ours."""
    if not text:
        return b""
    found = re.fullmatch(r"([0-9]{1,16})-([0-9]{1,16})", text, re.ASCII)
    if found is None:
        raise BadRequest("cursor is not one that this list gave")
    first, second = map(int, found.groups())
    if state != "ready":
        return b"%d %d" % (first, second)
    if first > 9 or second >= 1 << 53:
        raise BadRequest("cursor is not one that this list gave")
    return bytes((first,)) + second.to_bytes(7, "big")


def cursor_text(state: str, last: bytes) -> str | None:
    """As clients get it; None at the end."""
    if not last:
        return None
    if state == "ready":
        return f"{last[0]}-{int.from_bytes(last[1:8], 'big')}"
    return last.decode("ascii").replace(" ", "-")


def peek_answer(queue: str, reply: Any) -> Peeked | None:
    """None when there is none; the caller has looked at the call-again mark, ``reply[1]``."""
    if len(reply) < 4:
        return None
    return Peeked(decode_entry(queue, reply[3]), reply[2])


def inspect_answer(queue: str, reply: Any) -> QueueInfo:
    """Numbers and settings; unknown words in the store count as not set."""
    length, status, policy, in_flight, daemons, last_id = reply[:6]
    info = QueueInfo(
        queue,
        int(length),
        {b"1": True, b"0": False, b"2": False}.get(status),
        {b"1": Policy.BROADCAST, b"2": Policy.ROUNDROBIN}.get(policy),
        int(in_flight),
        int(daemons),
        int(last_id),
        {b"1": Mode.OPEN, b"2": Mode.JOBS}.get(reply[6]),
        int(reply[7]),
        int(reply[8]),
        int(reply[9]),
        int(reply[10]),
        _presence(reply[11]),
        int(reply[12]),
    )
    leased, delayed, oldest, redelivered, dropped, expired, now = map(int, reply[13:20])
    return info._replace(
        leased=leased,
        delayed=delayed,
        oldest_ms=oldest,
        redelivered=redelivered,
        dropped=dropped,
        expired=expired,
        now_ms=now,
        settings=_pairs(reply[20]),
    )


def _pairs(flat: Sequence[bytes]) -> Mapping[str, bytes]:
    return {name.decode("ascii"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _presence(texts: Sequence[bytes]) -> dict[str, int]:
    """The sum of what all daemons say, by transport."""
    counts: dict[str, int] = {}
    for text in texts:
        for part in text.decode("ascii").split(","):
            transport, _, count = part.partition("=")
            counts[transport] = counts.get(transport, 0) + int(count)
    return dict(sorted(counts.items()))


def newest_answer(reply: Any) -> list[int]:
    """The newest waiting ids, newest first."""
    return list(map(int, reply[21:]))
