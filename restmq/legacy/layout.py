"""How the RestMQ of 2010-2015 laid its queues out in Redis. Names are bytes: nobody checked them.

===================  ======  ==================================================================
key                  type    holds
===================  ======  ==================================================================
``QUEUESET``         set     names of the queues that ever got a message in the ordinary way
``Q:UUID``           string  the highest number given in queue Q
``Q:queue``          list    keys ``Q:N`` of the waiting messages, newest left
``Q:N``              string  the body of message N, perhaps with a time to live; stays after GET
``Q:N:lock``         string  the same, while it was taken: left only by a crash
``Q:N:refcount``     string  how often it was looked at
``queuestat::Q``     string  1 started, 0 stopped
``Q:queuepolicy``    string  1 broadcast, 2 round robin
===================  ======  ==================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

QUEUES = b"QUEUESET"

_COUNTER, _LIST, _POLICY, _LOCK = b":UUID", b":queue", b":queuepolicy", b":lock"

HIGHEST = 10**15
"""Numbers from here on are none of its: counting there would take it thirty years."""


def counter_key(name: bytes) -> bytes:
    """Where the queue's highest number stands."""
    return name + _COUNTER


def list_key(name: bytes) -> bytes:
    """Where the keys of the waiting messages stand."""
    return name + _LIST


def policy_key(name: bytes) -> bytes:
    """Where the policy stands."""
    return name + _POLICY


def status_key(name: bytes) -> bytes:
    """Where it stands whether the queue is stopped."""
    return b"queuestat::" + name


def body_key(name: bytes, number: int) -> bytes:
    """Where the body of a message stands."""
    return b"%s:%d" % (name, number)


def number(digits: bytes) -> int | None:
    """A number as the old broker wrote it, or None if this is none."""
    if not digits.isdigit() or len(digits) > 16 or (digits[:1] == b"0" and digits != b"0"):
        return None
    found = int(digits)
    return found if found < HIGHEST else None


def number_in_entry(name: bytes, entry: bytes) -> int | None:
    """The number in an entry of a queue's list, or None if it is no key of that queue."""
    prefix, _, digits = entry.rpartition(b":")
    return number(digits) if prefix == name and entry != digits else None


class Census:
    """What the keys of a database tell, looked at one by one.

    Queues are ``listed`` in QUEUESET, or have a counter (``counted``: a mistaken ttl on the first
    message left a queue out of the list for ever), or only a policy.
    """

    def __init__(self) -> None:
        self.listed: set[bytes] = set()
        self.counted: set[bytes] = set()
        self.with_policy: set[bytes] = set()
        self.locks = 0
        self._bodies: Counter[bytes] = Counter()

    def look(self, keys: Iterable[bytes]) -> None:
        """Take note of some keys."""
        for key in keys:
            before, _, last = key.rpartition(b":")
            if last.isdigit():
                self._bodies[before] += 1
            elif last == b"UUID":
                self.counted.add(before)
            elif last == b"queuepolicy":
                self.with_policy.add(before)
            elif last == b"lock" and number(before.rpartition(b":")[2]) is not None:
                self.locks += 1

    def bodies(self, names: Iterable[bytes]) -> int:
        """How many bodies these queues have, waiting or left behind."""
        return sum(self._bodies[name] for name in names)
