"""Topics and patterns: what may be one, which topics a pattern chooses, and the trie that finds them."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import topics as bench_topics
from restmq.errors import BadRequest
from restmq.rules import topics
from restmq.rules.topics import FEW, Patterns, parse_pattern, parse_topic


@pytest.mark.parametrize(
    "text",
    ["a", "log.worker.1", "Größe.日本", "a b.c", "-._.~", ".".join("a" * 32), "x" * 255],
)
def test_a_topic_is_kept_as_sent(text):
    assert parse_topic(text) == text
    assert parse_pattern(text).text == text
    assert parse_pattern(text).exact


BAD_NAMES = [
    ("", "empty"),
    (".", "empty word"),
    ("a..b", "empty word"),
    (".a", "empty word"),
    ("a.", "bare #"),
    ("a/b", "holds no /"),
    ("a\nb", "control"),
    ("a\x7f", "control"),
    ("a\x9f", "control"),
    ("a\ud800", "UTF-8"),
    (".".join("a" * 33), "32 words"),
    ("x" * 256, "255 bytes"),
    ("é" * 128, "255 bytes"),
]


@pytest.mark.parametrize(("text", "why"), BAD_NAMES)
@pytest.mark.parametrize("parse", [parse_topic, parse_pattern])
def test_what_is_no_topic_and_no_pattern_is_told_with_the_parameters_name(parse, text, why):
    with pytest.raises(BadRequest, match=why) as told:
        parse(text, "channel")
    assert str(told.value).startswith("channel")


@pytest.mark.parametrize("text", ["", "log."])
def test_an_empty_word_at_the_end_is_told_of_the_lost_fragment(text):
    with pytest.raises(BadRequest, match="%23"):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["*", "a.**", "#.b", "a*.b", "#x"])
def test_a_topic_has_no_wildcards(text):
    with pytest.raises(BadRequest, match="no wildcards"):
        parse_topic(text)


@pytest.mark.parametrize("text", ["a*", "a.b*.c", "***", "##", "*#", "#a"])
def test_a_wildcard_is_a_whole_word(text):
    with pytest.raises(BadRequest, match="whole word"):
        parse_pattern(text)


def test_names_of_queues_may_have_slashes():
    assert parse_pattern("jobs/eu.*", slashes=True).matches("jobs/eu.1")


@pytest.mark.parametrize(
    ("text", "one_form"),
    [
        ("#", "**"),
        ("**.**.**.*", "*.**"),
        ("a.#.*.#.*.b", "a.*.*.**.b"),
        ("**.a.**", "**.a.**"),
        ("*.*", "*.*"),
    ],
)
def test_a_run_of_wildcards_has_one_form(text, one_form):
    assert parse_pattern(text).text == one_form
    assert parse_pattern(text) == parse_pattern(one_form)


MATCHES = [
    ("log.*", ["log.a"], ["log", "log.a.b", "logs.a"]),
    ("log.**", ["log", "log.a", "log.a.b"], ["logs", "a.log"]),
    ("**", ["a", "a.b.c"], []),
    ("*", ["a"], ["a.b"]),
    ("**.error", ["error", "a.error", "a.b.error"], ["a.error.b", "error.a"]),
    ("a.**.b.**.c", ["a.b.c", "a.x.b.b.y.c"], ["a.c", "a.b", "a.x.c.b"]),
    ("**.a.*.**.b", ["a.x.b", "a.a.x.y.b"], ["a.b"]),
    ("#.log.#", ["log", "x.log.y"], ["x"]),
]


@pytest.mark.parametrize(("text", "chosen", "others"), MATCHES)
def test_a_pattern_chooses(text, chosen, others):
    pattern = parse_pattern(text)
    kept = Patterns[str]()
    kept.add(pattern, text)
    for topic in chosen:
        assert pattern.matches(topic)
        assert kept.match(topic) == {text}
    for topic in others:
        assert not pattern.matches(topic)
        assert kept.match(topic) == set()


# ---- laws

word = st.sampled_from(["a", "b", "c"])
topic_texts = st.lists(word, min_size=1, max_size=7).map(".".join)
pattern_texts = st.lists(
    st.sampled_from(["a", "b", "c", "*", "**", "#"]), min_size=1, max_size=7
).map(".".join)


def chooses(pattern: list[str], words: list[str]) -> bool:
    """What the wildcards mean, said as plainly as can be."""
    if not pattern:
        return not words
    if pattern[0] in ("**", "#"):
        return any(chooses(pattern[1:], words[n:]) for n in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and chooses(pattern[1:], words[1:])


@given(pattern_texts, topic_texts)
def test_a_pattern_chooses_what_its_words_mean(text, topic):
    """A law: the one form of a pattern, matched without recursion, means what was written."""
    assert parse_pattern(text).matches(topic) == chooses(text.split("."), topic.split("."))


@given(
    st.lists(st.tuples(st.booleans(), pattern_texts, st.integers(0, 3)), max_size=120),
    st.lists(topic_texts, min_size=1, max_size=8),
)
def test_the_trie_finds_what_the_patterns_choose_one_by_one(steps, asked):
    """A law, whatever was added and removed before, folded or not."""
    kept, model = Patterns[int](), set()
    for adds, text, value in steps:
        pattern = parse_pattern(text)
        if adds:
            kept.add(pattern, value)
            model.add((pattern, value))
        else:
            kept.remove(pattern, value)
            model.discard((pattern, value))
    for topic in asked:
        expected = {value for pattern, value in model if pattern.matches(topic)}
        assert kept.match(topic) == expected
    assert bool(kept) == bool(model)


@given(st.lists(pattern_texts, min_size=FEW, max_size=80))
def test_a_trie_of_which_all_was_removed_is_as_new(texts):
    """Memory is given back: nothing is left of what was unfolded."""
    kept = Patterns[int]()
    for text in texts:
        kept.add(parse_pattern(text), 1)
    for text in texts:
        kept.remove(parse_pattern(text), 1)
    assert not kept
    assert kept._root.empty
    assert kept._root.few == {}
    assert kept._exact == {}


# ---- bounds, in steps and bytes


def steps_of(call) -> int:
    """How many lines of topics.py a call runs: a bound that no busy machine changes."""
    ran: Counter[str] = Counter()

    def trace(frame, event, _):
        if frame.f_code.co_filename != topics.__file__:
            return None
        ran[event] += 1
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return ran["line"]


def test_many_wildcards_take_no_more_steps_than_words_by_words():
    """`**.a.**.a...` against `a.a.a...b`: backtracking would take billions of steps."""
    hard = [".".join(["**", "a"] * n + ["c"]) for n in range(1, 16)]
    hard += [".".join(["*", "**", "a"] * n + ["c"]) for n in range(1, 11)]
    kept = Patterns[str]()
    for text in hard:
        kept.add(parse_pattern(text), text)
    topic = ".".join(["a"] * 31 + ["b"])
    assert steps_of(lambda: kept.match(topic)) < len(hard) * 32 * 32 * 8
    assert kept.match(topic) == set()


def test_a_match_costs_no_more_with_more_patterns_that_do_not_match():
    kept = Patterns[int]()
    for number in range(200):
        kept.add(parse_pattern(f"tenant.{number}.**.error"), number)
        kept.add(parse_pattern(f"tenant.{number}.orders.*"), number)
    before = steps_of(lambda: kept.match("tenant.7.orders.3"))
    for number in range(200, 2000):
        kept.add(parse_pattern(f"tenant.{number}.**.error"), number)
        kept.add(parse_pattern(f"tenant.{number}.orders.*"), number)
    assert steps_of(lambda: kept.match("tenant.7.orders.3")) == before
    assert kept.match("tenant.7.orders.3") == {7}


def bytes_each(texts: list[str]) -> float:
    """What one of these patterns takes of memory."""
    parsed = [parse_pattern(text) for text in texts]
    tracemalloc.start()
    try:
        kept = Patterns[int]()
        for number, pattern in enumerate(parsed):
            kept.add(pattern, number)
        return tracemalloc.get_traced_memory()[0] / len(texts)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["t{}.*.created", "shop.eu.{}.orders.*.items.**.error", "log.{}"])
def test_a_pattern_takes_less_than_a_kibibyte(text):
    assert bytes_each([text.format(number) for number in range(5000)]) < 1024


def test_long_patterns_that_differ_at_their_end_take_less_than_a_kibibyte():
    """The worst there is: long ways for few patterns each."""
    way = "abcdefghi*" * 3
    texts = [
        ".".join([str(number), *way, f"{end}"]) for number in range(200) for end in range(FEW + 1)
    ]
    assert bytes_each(texts) < 1024


def test_the_benchmark_finds_what_it_asks_for():
    rows = {case.name: case for case in bench_topics.cases(400, 40, random.Random(1))}
    for name in ("one shape", "no wildcards", "worst words"):
        assert bench_topics.measure(rows[name]).values == 1.0
    assert bench_topics.measure(rows["four shapes"]).values == 2.0
    assert "one shape" in bench_topics.report(400, 40)
