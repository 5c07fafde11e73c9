"""What is read from JSON, what holds of several sources, and what the store is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.errors import BadMember, BadQueueName
from restmq.names import queue_name
from restmq.rules import queue_settings
from restmq.rules.queue_settings import (
    BY_FIELD,
    FIELDS,
    JOBS,
    KEPT,
    OPEN,
    SETTINGS,
    Named,
    Number,
    Stored,
    check,
    described,
    effective,
    explained,
    merge,
    shown,
)

LEASE = 30.0


def read(value: Any) -> dict[str, str | None]:
    return queue_settings.read(value, queue_name)


# ---- reading


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ({}, {}),
        ({"lease": 1.5}, {"lease_ms": "1500"}),
        ({"delivery": "roundrobin", "mode": "open"}, {"pol": "2", "mode": "1"}),
        ({"paused": "push"}, {"st": "2"}),
        (
            {"backoff": {"first": 2, "jitter": 0}},
            {"backoff_first_ms": "2000", "backoff_jitter": "0"},
        ),
        (
            {"backoff": None},
            {f"backoff_{n}": None for n in ("first_ms", "factor", "max_ms", "jitter")},
        ),
        ({"ttl": 0, "max_length": 0}, {"ttl_ms": "", "max_length": ""}),
        ({"ttl": None}, {"ttl_ms": None}),
        ({"max_bytes": 2**53 - 1}, {"max_bytes": "9007199254740991"}),
        ({"put_rate": 0.5}, {"put_rate": "0.5"}),
        ({"dead_letter": False}, {"dead": "-"}),
        ({"dead_letter": "failed/jobs"}, {"dead": "failed/jobs"}),
        ({"priorities": True}, {"prio": "1"}),
        ({"priorities": 0}, {"prio": "0"}),
        ({"_note": "mine", "backoff": {"_why": 1}}, {}),
    ],
)
def test_json_becomes_fields(value: Any, fields: dict[str, str | None]) -> None:
    assert read(value) == fields


@pytest.mark.parametrize(
    ("value", "pointer", "says"),
    [
        ([], "/", "object"),
        ({"colour": "red"}, "/colour", "unknown; known here: delivery, mode"),
        ({"backoff": {"last": 1}}, "/backoff/last", "unknown; known here: first, factor"),
        ({"backoff": 3}, "/backoff", "object"),
        ({"backoff": {"first": "1"}}, "/backoff/first", "number of seconds from 0 to 86400"),
        ({"delivery": "all"}, "/delivery", "one of broadcast, roundrobin"),
        ({"delivery": 1}, "/delivery", "one of"),
        ({"mode": []}, "/mode", "one of open, jobs"),
        ({"lease": 0}, "/lease", "from 0.05 to 43200"),
        ({"lease": True}, "/lease", "number"),
        ({"lease": "30"}, "/lease", "number"),
        ({"ttl": -1}, "/ttl", "from 0"),
        ({"ttl": 1e300}, "/ttl", "to 315360000"),
        ({"ttl": float("nan")}, "/ttl", "number"),
        ({"max_attempts": 1.5}, "/max_attempts", "whole number from 0 to 1000"),
        ({"max_length": 2**53}, "/max_length", "9007199254740991"),
        ({"overflow": "drop-newest"}, "/overflow", "reject, drop-oldest"),
        ({"dead_letter": True}, "/dead_letter", "name of a queue, or false"),
        ({"dead_letter": ""}, "/dead_letter", "name of a queue"),
        ({"dead_letter": "x" * 20000}, "/dead_letter", "16384 bytes"),
        ({"priorities": "yes"}, "/priorities", "true or false"),
        ({"priorities": 2}, "/priorities", "true or false"),
    ],
)
def test_what_is_wrong_is_named_with_its_bound(value: Any, pointer: str, says: str) -> None:
    with pytest.raises(BadMember) as caught:
        read(value)
    assert caught.value.pointer == pointer
    assert says in caught.value.detail
    assert len(str(caught.value)) < 400, "a wrong value is not repeated at length"


def test_a_name_that_no_queue_may_bear_is_no_dead_letter_queue() -> None:
    def refuse(name: str) -> str:
        raise BadQueueName("no")

    with pytest.raises(BadMember, match="no"):
        queue_settings.read({"dead_letter": "x"}, refuse)


# ---- merging


def test_defaults_then_profiles_then_the_queues_own() -> None:
    low, high = (
        Named("low", {"lease_ms": "1000", "ttl_ms": "2000", "prio": "1"}),
        Named("high", {"lease_ms": "3000", "ttl_ms": "4000"}),
    )
    merged = merge("q", JOBS, [low, high], {"ttl_ms": ""})
    told = explained(merged, LEASE)
    assert told["lease"] == {"value": 3, "source": "profile:high"}
    assert told["ttl"] == {"value": 0, "source": "own"}, "for ever, whatever a profile says"
    assert told["priorities"] == {"value": True, "source": "profile:low"}
    assert told["mode"] == {"value": "jobs", "source": "creation"}
    assert told["dedup"] == {"value": 86400, "source": "default"}
    assert told["backoff"]["factor"] == {"value": 2, "source": "default"}


def test_what_holds_where_nothing_is_set() -> None:
    jobs, opened = (described(merge("q", mode, [], {}), LEASE) for mode in (JOBS, OPEN))
    assert jobs == {
        "delivery": "roundrobin",
        "mode": "jobs",
        "paused": "none",
        "lease": 30,
        "ttl": 0,
        "max_attempts": 5,
        "backoff": {"first": 1, "factor": 2, "max": 300, "jitter": 0.2},
        "dead_letter": "q.dead",
        "max_length": 0,
        "max_bytes": 0,
        "overflow": "reject",
        "max_in_flight": 0,
        "put_rate": 0,
        "receive_rate": 0,
        "dedup": 86400,
        "replay": 60,
        "replay_messages": 1000,
        "priorities": False,
    }
    assert opened == {**jobs, "delivery": "broadcast", "mode": "open", "max_attempts": 0}


def test_a_dead_letter_queue_keeps_its_messages_and_has_none_of_its_own() -> None:
    merged = merge("jobs.dead", JOBS, [], {})
    told = described(merged, LEASE)
    assert (told["ttl"], told["max_attempts"], told["dead_letter"]) == (0, 0, False)
    assert effective(merged) == {"mode": "2", "st": "1", "max_attempts": "0", "dead": "-"}


@pytest.mark.parametrize(
    ("said", "pointer"),
    [
        ({"delivery": "broadcast"}, "/delivery"),
        ({"delivery": "broadcast", "mode": "jobs"}, "/delivery"),
        ({"backoff": {"first": 10, "max": 5}}, "/backoff/max"),
        ({"backoff": {"first": 301}}, "/backoff/max"),
        ({"dead_letter": "q"}, "/dead_letter"),
    ],
)
def test_what_makes_no_sense_together_is_refused(said: Any, pointer: str) -> None:
    with pytest.raises(BadMember) as caught:
        check(merge("q", JOBS, [], read(said)))
    assert caught.value.pointer == pointer


def test_a_profile_gives_way_to_what_is_more_exact() -> None:
    loud = Named("loud", {"pol": "1"})
    strict = Named("strict", {"mode": JOBS})
    told = explained(merge("q", JOBS, [loud], {}), LEASE)
    assert told["delivery"] == {"value": "roundrobin", "source": "default"}
    told = explained(merge("q", OPEN, [strict], {"pol": "1"}), LEASE)
    assert told["mode"] == {"value": "open", "source": "creation"}
    assert told["delivery"] == {"value": "broadcast", "source": "own"}
    told = explained(merge("q", OPEN, [loud, strict], {}), LEASE)
    assert (told["mode"]["value"], told["delivery"]["value"]) == ("jobs", "roundrobin")


# ---- the store's fields


def test_the_store_has_what_is_not_the_default_and_which_is_own() -> None:
    merged = merge("q", OPEN, [Named("a", {"ttl_ms": "5000"})], {"max_length": "", "prio": "1"})
    assert effective(merged) == {
        "mode": "1",
        "st": "1",
        "ttl_ms": "5000",
        "prio": "1",
        "own": "max_length,prio",
        "lim": "1",
    }


def test_the_mode_of_its_making_is_noted_when_something_else_sets_it() -> None:
    fields = effective(merge("q", OPEN, [Named("a", {"mode": JOBS})], {}))
    assert (fields["mode"], fields["born"]) == (JOBS, OPEN)
    later = Stored(True, frozenset(), fields, fields["born"])
    back = effective(merge("q", later.first_mode, [], later.own_fields))
    assert back == {"mode": OPEN, "st": "1"}


@pytest.mark.parametrize(
    ("stored", "mode"),
    [
        (Stored(False, frozenset(), {}), JOBS),
        (Stored(True, frozenset(), {}), OPEN),
        (Stored(True, frozenset(), {"mode": JOBS}), JOBS),
        (Stored(True, frozenset({"mode"}), {"mode": JOBS}), OPEN),
        (Stored(True, frozenset({"mode"}), {"mode": OPEN}, JOBS), JOBS),
    ],
)
def test_the_mode_of_its_making(stored: Stored, mode: str) -> None:
    assert stored.first_mode == mode


def values(setting: queue_settings.Setting) -> st.SearchStrategy[Any]:
    kind = setting.kind
    if isinstance(kind, Number):
        if kind.whole:
            return st.integers(int(kind.least), int(kind.most))
        return st.integers(round(kind.least * 1000), round(kind.most * 1000)).map(
            lambda n: n / 1000
        )
    if isinstance(kind, queue_settings.Words):
        return st.sampled_from(list(kind.texts))
    if isinstance(kind, queue_settings.Flag):
        return st.booleans()
    return st.sampled_from([False, "a", "b.dead"])


PATCHES = st.fixed_dictionaries({}, optional={s.word: values(s) for s in SETTINGS}).map(
    queue_settings._nested
)


@given(PATCHES)
def test_what_was_said_is_shown(patch: Any) -> None:
    """A law: read, then shown, is the same again; and what is shown of a queue can be put back."""
    fields = {name: text for name, text in read(patch).items() if text is not None}
    assert shown(fields) == patch
    merged = merge("q", OPEN, [], fields)
    whole = described(merged, LEASE)
    for name, value in patch.items():
        wanted = whole[name]
        assert wanted == value if not isinstance(value, dict) else value.items() <= wanted.items()
    if not queue_settings.is_contradiction(merged.fields):
        again = {k: v for k, v in read(whole).items() if v is not None}
        assert described(merge("q", OPEN, [], again), LEASE) == whole


@given(PATCHES, PATCHES, st.sampled_from([OPEN, JOBS]))
def test_the_store_can_tell_what_was_meant(profile: Any, own: Any, mode: str) -> None:
    """A law: from the effective fields the own ones come back, whatever the profile says."""
    merged = merge("q", mode, [Named("p", read(profile))], read(own))  # type: ignore[arg-type]
    fields = effective(merged)
    assert set(fields) <= set(KEPT)
    stored = Stored(True, frozenset(filter(None, fields.get("own", "").split(","))), fields,
                    fields.get("born", ""))  # fmt: skip
    assert stored.own_fields == read(own)
    assert stored.first_mode == mode


def test_each_setting_has_a_field_of_its_own() -> None:
    assert len(BY_FIELD) == len(SETTINGS) == len(FIELDS)


def test_defaults_are_within_their_bounds() -> None:
    for setting in SETTINGS:
        if setting.default is not None:
            assert setting.kind.show(setting.kind.read(setting.default)) == setting.default
