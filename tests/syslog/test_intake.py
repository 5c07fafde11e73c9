"""The intake: batches in order, a bound on what is in hand, and a store that comes and goes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from restmq.core.packs import Pack
from restmq.errors import OutcomeUnknown, StoreAway, StoreError, StoreFull, StoreRefused
from restmq.syslog.intake import ALL_BYTES, EACH_BYTES, GROUP_BYTES, RETRY_SECONDS, Intake


class Source:
    """One that notes what it is told."""

    def __init__(self) -> None:
        self.held = 0
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Store:
    """Calls that wait for the test to answer them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], Deferred[int]]] = []
        self.kept: dict[str, list[str]] = {}
        self.packs: list[list[int]] = []

    def add_texts(self, queue: str, texts: Sequence[str]) -> Deferred[int]:
        done: Deferred[int] = Deferred()
        self.calls.append((queue, list(texts), done))
        return done

    def add_packs(self, queue: str, packs: Sequence[Pack]) -> Deferred[int]:
        self.packs.append([pack.messages for pack in packs])
        return self.add_texts(queue, [b.decode() for pack in packs for b in pack.bodies()])

    def answer(self, error: StoreError | None = None) -> None:
        """Answer the oldest call."""
        queue, texts, done = self.calls.pop(0)
        if error is None:
            self.kept.setdefault(queue, []).extend(texts)
            done.callback(1)
        else:
            done.errback(error)


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Store()
        self.intake = Intake(self.clock, self.store.add_texts, self.store.add_packs)
        self.source = self.new_source()

    def new_source(self) -> Source:
        source = Source()
        self.intake.attach(source)
        return source


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_turns_messages_of_a_queue_are_one_call(scene):
    for number in range(3):
        scene.intake.put(scene.source, "a", [str(number)])
    scene.intake.put(scene.source, "b", ["x"])
    assert scene.store.calls == []
    scene.clock.advance(0)
    assert [call[:2] for call in scene.store.calls] == [("a", ["0", "1", "2"]), ("b", ["x"])]


def test_what_comes_while_a_call_is_out_waits_for_it(scene):
    scene.intake.put(scene.source, "a", ["1"])
    scene.clock.advance(0)
    scene.intake.put(scene.source, "a", ["2"])
    scene.intake.put(scene.source, "a", ["3"])
    scene.clock.advance(0)
    assert len(scene.store.calls) == 1
    scene.store.answer()
    assert [call[1] for call in scene.store.calls] == [["2", "3"]]
    scene.store.answer()
    assert scene.store.kept == {"a": ["1", "2", "3"]}
    assert (scene.source.held, scene.intake.held, scene.intake._lanes) == (0, 0, {})


def test_a_call_has_at_most_a_thousand_messages_and_a_mebibyte(scene):
    for bodies in (["x"] * 2500, ["y"] * 600, ["z"] * 400, ["z"], ["y" * 600_000] * 3):
        scene.intake.put(scene.source, "a", bodies)
    scene.clock.advance(0)
    assert [len(call[1]) for call in scene.store.calls] == [1000, 1000, 500, 1000, 1, 1, 1, 1]
    while scene.store.calls:
        scene.store.answer()
    assert len(scene.store.kept["a"]) == 3504


def pack(lines: list[str]) -> Pack:
    return Pack({b"": (b"", b"")}, "\n".join(lines).encode(), len(lines))


def test_packs_and_single_messages_keep_their_order(scene):
    numbers = iter(range(100_000))

    def some(count: int) -> list[str]:
        return [str(next(numbers)) for _ in range(count)]

    def put(how, count: int) -> None:
        scene.intake.put(scene.source, "a", how(some(count)))

    for how, count in ((list, 3), (pack, 600), (pack, 400), (pack, 1), (list, 2), (pack, 2500)):
        put(how, count)
    assert scene.source.held > 3503
    scene.clock.advance(0)
    assert [len(call[1]) for call in scene.store.calls] == [3, 1000, 1, 2, 1000, 1000, 500]
    assert scene.store.packs == [[600, 400], [1], [1000], [1000], [500]]
    scene.store.answer()
    for _ in range(6):
        scene.store.answer(StoreAway("away"))
    scene.clock.advance(RETRY_SECONDS)
    while scene.store.calls:
        scene.store.answer()
    assert scene.store.packs[5:] == scene.store.packs[:5]
    assert scene.store.kept["a"] == [str(number) for number in range(3506)]
    assert scene.intake.held == scene.source.held == 0


def test_a_pack_counts_in_hand_as_what_is_read_of_it(scene):
    each = Pack({b"": (b"x" * 100, b"y" * 100)}, b"\n" * 999, 1000)
    scene.intake.put(scene.source, "a", each)
    assert 200_000 <= scene.intake.held < 202_000
    for _ in range(10):
        scene.intake.put(scene.source, "a", each)
    assert scene.source.paused


def test_the_store_works_while_more_is_read(scene):
    """What waits goes in groups; the sources of each go on when it is taken."""
    for _ in range(3):
        scene.intake.put(scene.source, "a", ["x" * GROUP_BYTES])
    scene.clock.advance(0)
    for left in (2, 1, 0):
        assert len(scene.store.calls) == 1
        scene.store.answer()
        assert scene.intake.held == left * GROUP_BYTES
    assert len(scene.store.kept["a"]) == 3


def test_a_source_with_too_much_in_hand_is_paused_and_goes_on_later(scene):
    other = scene.new_source()
    scene.intake.put(scene.source, "a", ["x" * (EACH_BYTES + 1)])
    scene.intake.put(other, "a", ["y"])
    assert (scene.source.paused, other.paused) == (True, False)
    scene.clock.advance(0)
    while scene.store.calls:
        scene.store.answer()
    assert not scene.source.paused


def test_all_sources_are_paused_when_all_together_have_too_much(scene):
    sources = [scene.new_source() for _ in range(20)]
    for source in sources:
        scene.intake.put(source, "a", ["x" * (ALL_BYTES // 18)])
    late = scene.new_source()
    assert all(source.paused for source in (*sources, late, scene.source))
    scene.clock.advance(0)
    while scene.store.calls:
        scene.store.answer()
    assert not any(source.paused for source in (*sources, late, scene.source))
    assert scene.intake.held == 0


def test_a_source_that_left_is_not_told_anything(scene):
    scene.intake.put(scene.source, "a", ["x" * (EACH_BYTES + 1)])
    scene.intake.detach(scene.source)
    scene.clock.advance(0)
    scene.store.answer()
    assert scene.source.paused
    assert scene.store.kept["a"]


@pytest.mark.parametrize("error", [StoreAway("away"), StoreFull("full")])
def test_a_store_that_takes_nothing_is_asked_again_in_order(scene, error):
    scene.intake.put(scene.source, "a", ["1"] * 1000 + ["2"])
    scene.clock.advance(0)
    scene.store.answer(error)
    for _ in range(3):
        scene.store.answer(error)
        scene.intake.put(scene.source, "a", ["3"])
        scene.clock.advance(RETRY_SECONDS / 2)
        assert scene.store.calls == []
        assert scene.source.held > 1000
        scene.clock.advance(RETRY_SECONDS / 2)
        assert [len(call[1]) for call in scene.store.calls] == [1000]
    while scene.store.calls:
        scene.store.answer()
    assert scene.store.kept["a"] == ["1"] * 1000 + ["2"] + ["3"] * 3
    assert scene.intake.held == 0


def test_a_store_that_has_room_now_and_then_gets_what_it_refused_in_order(scene):
    """It is at its limit, and a consumer takes some from time to time: my lines must not change places."""
    for start in range(3):
        scene.intake.put(scene.source, "a", [str(start)] * 1000)
    scene.clock.advance(0)
    for _ in range(3):
        scene.store.answer(StoreFull("full"))
    for answers in ((StoreFull("full"), None), (None, StoreFull("full"), None), (None, None)):
        scene.clock.advance(RETRY_SECONDS)
        for answer in answers:
            if scene.store.calls:
                scene.store.answer(answer)
    assert scene.store.calls == []
    assert scene.store.kept["a"] == ["0"] * 1000 + ["1"] * 1000 + ["2"] * 1000
    assert scene.intake.held == 0


@pytest.mark.parametrize("error", [OutcomeUnknown("lost"), StoreRefused("WRONGTYPE")])
def test_what_may_be_there_already_is_never_sent_again(scene, error):
    scene.intake.put(scene.source, "a", ["1"])
    scene.clock.advance(0)
    scene.store.answer(error)
    scene.clock.advance(10)
    assert scene.store.calls == []
    assert scene.intake.held == scene.source.held == 0


def test_it_tells_when_nothing_is_in_hand(scene):
    assert scene.intake.when_idle().called
    scene.intake.put(scene.source, "a", ["1"])
    idle = scene.intake.when_idle()
    scene.clock.advance(0)
    assert not idle.called
    scene.store.answer()
    assert idle.called
