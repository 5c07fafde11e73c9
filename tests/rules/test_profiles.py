"""Which profile says what about which queue."""

from __future__ import annotations

from typing import Any

import pytest

from restmq.errors import BadMember, BadRequest
from restmq.message import Mode
from restmq.names import queue_name
from restmq.rules.profiles import Profile, Table, profile_name, read


def profile(name: str, pattern: str, order: int = 0, **settings: Any) -> Profile:
    return read(name, {"pattern": pattern, "order": order, "settings": settings}, queue_name)


def names(table: Table, queue: str) -> list[str]:
    return [named.name for named in table.of(queue)]


def test_words_stand_between_dots_or_slashes() -> None:
    table = Table([profile("logs", "logs.**"), profile("one", "logs/*/errors")])
    for queue in ("logs", "logs/a", "logs.a/b", "logs.a.b.c"):
        assert names(table, queue) == ["logs"]
    assert names(table, "logs/web.errors") == ["logs", "one"]
    assert names(table, "log") == names(table, "") == []


def test_the_higher_order_wins_then_the_later_name() -> None:
    table = Table(
        [profile("a", "**", 5), profile("b", "**"), profile("c", "**"), profile("z", "x", -1)]
    )
    assert names(table, "x") == ["z", "b", "c", "a"]


@pytest.mark.parametrize(
    ("pattern", "reaches"),
    [("**", False), ("jobs.**", False), ("jobs.*", False), ("jobs.dead", True), ("**.dead", True),
     ("*.dead", True), ("jobs.dead.**", False)],
)  # fmt: skip
def test_a_dead_letter_queue_is_reached_by_its_last_word_only(pattern: str, reaches: bool) -> None:
    assert names(Table([profile("p", pattern)]), "jobs.dead") == (["p"] if reaches else [])


def test_what_a_new_queue_gets() -> None:
    nothing = Table().creation_fields
    assert nothing("q", None) == ""
    assert nothing("q", Mode.JOBS) == "mode 2"
    assert nothing("q.dead", Mode.JOBS) == "mode 2 st 1 max_attempts 0 dead -"
    table = Table([profile("a", "a.*", lease=5), profile("m", "m", mode="jobs")], 7)
    assert table.creation_fields("q", Mode.JOBS) == "mode 2", "nothing chooses it"
    assert table.creation_fields("a.b", None) == "st 1 lease_ms 5000 pv 7"
    assert table.creation_fields("m", None) == "mode 2 st 1 born 1 pv 7"


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ([], "/"),
        ({}, "/pattern"),
        ({"pattern": 1}, "/pattern"),
        ({"pattern": "a..b"}, "/pattern"),
        ({"pattern": "a*"}, "/pattern"),
        ({"pattern": "a", "order": 1.5}, "/order"),
        ({"pattern": "a", "order": True}, "/order"),
        ({"pattern": "a", "order": 10**9}, "/order"),
        ({"pattern": "a", "settings": []}, "/settings"),
        ({"pattern": "a", "settings": {"lease": -1}}, "/settings/lease"),
        ({"pattern": "a", "settings": {"dead_letter": "a b"}}, "/settings/dead_letter"),
        (
            {"pattern": "a", "settings": {"delivery": "broadcast", "mode": "jobs"}},
            "/settings/delivery",
        ),
        ({"pattern": "a", "colour": 1}, "/colour"),
    ],
)
def test_what_is_wrong_is_named(value: Any, pointer: str) -> None:
    with pytest.raises(BadMember) as caught:
        read("p", value, queue_name)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", ":version", "x" * 65, "é"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(BadRequest):
        profile_name(name)


def test_a_profile_is_shown_as_it_was_put() -> None:
    value = {"pattern": "a/#", "order": 3, "settings": {"backoff": {"first": 2}, "ttl": 0}}
    assert read("p", value, queue_name).json() == value
