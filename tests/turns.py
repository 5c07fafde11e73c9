"""Waiting inside a running reactor: look once a turn until the thing is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet import reactor, task

from tests.support import DEADLINE_SECONDS

_T = TypeVar("_T")


async def until(look: Callable[[], _T], what: str = "it", seconds: float = DEADLINE_SECONDS) -> _T:
    """Look again and again until there is something truthy to see, and return it."""
    deadline = reactor.seconds() + seconds
    while not (seen := look()):
        assert reactor.seconds() < deadline, f"not within {seconds:g} s: {what}"
        await task.deferLater(reactor, 0.005)
    return seen
