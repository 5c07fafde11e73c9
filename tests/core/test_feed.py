"""A feed between a fake port and fake clients: no store, no socket, every order of events by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from restmq.core import delivery
from restmq.core.dealt import ACKS
from restmq.core.delivery import LAG_MESSAGES, Feed
from restmq.core.port import ROOM, Hello, Joined, Report, Settled, Window
from restmq.message import Batch

EPOCH = 7
OWNER = b"daemon-aaaaa"


class Port:
    """Notes what the feed asks; a test answers when it likes."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def subscribe(self, feed: Feed) -> None:
        self.asked.append(("subscribe",))

    def unsubscribe(self, feed: Feed) -> None:
        self.asked.append(("unsubscribe",))

    def join(self, feed: Feed, hello: Hello) -> None:
        self.asked.append(("join", hello))

    def window(self, feed: Feed, dealt: bool, after: int) -> None:
        self.asked.append(("window", dealt, after))

    def confirm(self, feed: Feed, report: Report) -> None:
        self.asked.append(("confirm", report))

    def leave(self, feed: Feed, report: Report) -> None:
        self.asked.append(("leave", report))


class Client:
    """A consumer; a frozen one keeps what it gets in its buffer."""

    def __init__(self, frozen: bool = False, acks: bool = False, room: int = ROOM) -> None:
        self.frozen = frozen
        self.acks = acks
        self.returns = False
        self.room = room
        self.ids: list[int] = []
        self.batches: list[Batch] = []
        self.missed = 0
        self.now = 0.0
        self.changed = 0
        self.ended = False

    def due(self, lease_ms: int | None = None) -> float:
        return self.now + (30 if lease_ms is None else lease_ms / 1000)

    def leases_changed(self) -> None:
        self.changed += 1

    def deliver(self, batch: Batch) -> bool:
        self.ids += [message.id for message in batch.messages]
        self.batches.append(batch)
        return not self.frozen

    def lost(self, count: int) -> None:
        self.missed += count

    def end(self) -> None:
        self.ended = True


def entry(number: int, body: bytes = b"x") -> bytes:
    return number.to_bytes(7, "big") + bytes(12) + b"\0" + body


def chunk(
    prev: int,
    ids: Sequence[int],
    epoch: int = EPOCH,
    numbers: Sequence[int] = (),
    pos: int | None = None,
    body: bytes = b"x",
    base: int = 0,
) -> bytes:
    """A chunk of messages after position ``prev``; with consumer numbers, a dealt one."""
    entries = [entry(number, body) for number in ids]
    pos = prev + len(ids) if pos is None else pos
    head = b"".join(n.to_bytes(7, "big") for n in (epoch, prev, pos, pos * 20))
    sizes = struct.pack(f">{len(ids)}I", *map(len, entries))
    dealt = struct.pack(f">{len(numbers)}I", *numbers)
    kind, owner = (b"r", OWNER) if numbers else (b"b", base.to_bytes(7, "big") + b"-----")
    return b"".join((kind, head, struct.pack(">I", len(ids)), owner, sizes, dealt, *entries))


class Stage:
    """A feed that is joined at position 0, and what its port was asked since."""

    def __init__(self, *clients: Client) -> None:
        self.port = Port()
        self.feed = Feed("q", self.port)
        self.clients = clients
        for client in clients:
            self.feed.attach(client)
        assert self.asked() == [("subscribe",)]
        self.feed.subscribed()
        self.answer_join()

    def asked(self) -> list[tuple[object, ...]]:
        """What was asked since the last look."""
        asked, self.port.asked = self.port.asked, []
        return asked

    def the(self, what: str) -> object:
        """The one thing that was asked."""
        ((kind, *arguments),) = self.asked()
        assert kind == what
        return arguments[0] if len(arguments) == 1 else tuple(arguments)

    def answer_join(
        self, known: bool = False, pos: int = 0, last: int = 0, dealt: int = 0, epoch: int = EPOCH
    ) -> Hello:
        """The feed joins, gets this reply, and confirms once, as it does after a join."""
        hello = self.the("join")
        assert isinstance(hello, Hello)
        self.feed.joined(Joined(known, epoch, pos, pos * 20, dealt, last))
        if [kind for kind, *_ in self.port.asked] == ["confirm"]:
            self.answer_confirm()
        return hello

    def answer_confirm(self, result: int = 1) -> Report:
        report = self.the("confirm")
        assert isinstance(report, Report)
        self.feed.confirmed(result)
        return report

    def answer_join_and_keep(self, known: bool, dealt: int) -> Hello:
        """As `answer_join`, but the confirm that follows is left for the test."""
        hello = self.the("join")
        assert isinstance(hello, Hello)
        self.feed.joined(Joined(known, EPOCH, 0, 0, dealt, 0))
        return hello

    @property
    def last_window(self) -> tuple[bool, int]:
        asked = self.the("window")
        assert isinstance(asked, tuple)
        return asked


# ---- broadcast


def test_chunks_in_turn_go_to_every_client_and_are_confirmed() -> None:
    one, two = Client(), Client()
    stage = Stage(one, two)
    stage.feed.received(chunk(0, [1, 2]))
    stage.feed.received(chunk(2, [3]))
    assert one.ids == two.ids == [1, 2, 3]
    assert stage.answer_confirm().safe_pos == 2, "asked at once, with the first"
    assert stage.answer_confirm().safe_pos == 3
    assert stage.asked() == [], "nothing more to say"


def test_a_chunk_that_comes_twice_is_delivered_once() -> None:
    client = Client()
    stage = Stage(client)
    for _ in range(3):
        stage.feed.received(chunk(0, [1, 2]))
    assert client.ids == [1, 2]


def test_a_gap_is_filled_from_the_window_and_what_came_meanwhile_follows() -> None:
    client = Client()
    stage = Stage(client)
    stage.feed.received(chunk(1, [2]))
    assert client.ids == []
    stage.feed.received(chunk(2, [3]))
    assert stage.last_window == (False, 0)
    stage.feed.received(chunk(3, [4]))
    stage.feed.window_read(False, Window(EPOCH, 2, False, [chunk(0, [1]), chunk(1, [2])]))
    assert client.ids == [1, 2, 3, 4]
    assert stage.answer_confirm().safe_pos == 4, "no other join, no other read"
    assert stage.feed.missed == 0


def test_under_load_reading_goes_on_while_it_brings_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More comes by than is held: read again, but no join between the reads."""
    monkeypatch.setattr(delivery, "HELD_CHUNKS", 0)
    client = Client()
    stage = Stage(client)
    stage.feed.received(chunk(1, [2]))
    for n in range(2, 6):
        assert stage.last_window == (False, n - 2 if n > 2 else 0)
        stage.feed.received(chunk(n, [n + 1]))
        stage.feed.window_read(
            False, Window(EPOCH, n - 1, False, [chunk(i, [i + 1]) for i in range(n - 1)])
        )
    assert client.ids == [1, 2, 3, 4]


def test_a_window_that_brings_nothing_leads_to_one_join() -> None:
    """What was announced is kept nowhere: the store is asked who we are."""
    client = Client()
    stage = Stage(client)
    stage.feed.received(chunk(5, [6]))
    assert stage.last_window == (False, 0)
    stage.feed.window_read(False, Window(EPOCH, 0, False, []))
    hello = stage.answer_join(known=False, pos=6, last=6)
    assert hello.again
    assert stage.asked() == []
    stage.feed.received(chunk(6, [7]))
    assert client.ids == [7]


def test_another_epoch_begins_anew() -> None:
    """The store lost time: positions mean nothing any more, low ones are no duplicates."""
    client = Client()
    stage = Stage(client)
    stage.feed.received(chunk(0, [1, 2, 3]))
    stage.answer_confirm()
    stage.feed.received(chunk(0, [1_000_004], epoch=EPOCH + 1))
    hello = stage.the("join")
    assert isinstance(hello, Hello)
    assert (hello.epoch, hello.pos, hello.last_id) == (EPOCH, 3, 3)
    stage.feed.joined(Joined(False, EPOCH + 1, 0, 0, 0, 1))
    assert stage.last_window == (False, 0)
    reply = Window(EPOCH + 1, 1, False, [chunk(0, [1_000_004], epoch=EPOCH + 1)])
    stage.feed.window_read(False, reply)
    assert client.ids == [1, 2, 3, 1_000_004]


def test_a_lost_subscription_is_mended_without_loss_or_repetition() -> None:
    client = Client()
    stage = Stage(client)
    stage.feed.received(chunk(0, [1]))
    stage.answer_confirm()
    stage.feed.unsubscribed()
    stage.feed.tick()
    assert stage.asked() == [], "it does not say that it is there while it hears nothing"
    stage.feed.subscribed()
    hello = stage.the("join")
    assert isinstance(hello, Hello)
    assert hello.again
    stage.feed.joined(Joined(True, EPOCH, 1, 20, 0, 3))
    assert stage.last_window == (False, 1)
    stage.feed.window_read(False, Window(EPOCH, 3, False, [chunk(1, [2, 3])]))
    assert client.ids == [1, 2, 3]


def test_a_failed_command_is_tried_again_by_the_tick() -> None:
    stage = Stage(Client())
    stage.feed.received(chunk(0, [1]))
    stage.the("confirm")
    stage.feed.failed()
    assert stage.asked() == []
    stage.feed.tick()
    stage.feed.joined(Joined(True, EPOCH, 0, 0, 0, 1)) if stage.the("join") else None
    assert stage.answer_confirm().safe_pos == 1, "said again, since nobody heard it"


def test_a_hung_client_delays_nobody() -> None:
    hung, well = Client(frozen=True), Client()
    stage = Stage(hung, well)
    for n in range(50):
        stage.feed.received(chunk(n, [n + 1]))
        assert well.ids[-1] == n + 1
        assert stage.answer_confirm().safe_pos == n + 1


def test_with_hung_clients_only_nothing_is_safe_until_one_is_through() -> None:
    hung, other = Client(frozen=True), Client(frozen=True)
    stage = Stage(hung, other)
    stage.feed.received(chunk(0, [1, 2]))
    report = stage.answer_confirm()
    assert (report.safe_pos, report.pos) == (0, 2)
    stage.feed.drained(other)
    assert stage.answer_confirm().safe_pos == 2


def test_a_newcomer_gets_what_is_with_no_kernel_and_nothing_older() -> None:
    """The only client before me froze: what it could not take I get, once, before the rest."""
    old = Client()
    stage = Stage(old)
    stage.feed.received(chunk(0, [1]))
    stage.answer_confirm()
    old.frozen = True
    stage.feed.received(chunk(1, [2, 3]))
    stage.answer_confirm()
    new = Client()
    stage.feed.attach(new)
    stage.feed.received(chunk(3, [4]))
    assert (new.ids, old.ids) == ([], [1, 2, 3]), "not before what comes first"
    assert stage.last_window == (False, 1)
    stage.feed.window_read(False, Window(EPOCH, 3, False, [chunk(1, [2, 3])]))
    assert (new.ids, old.ids) == ([2, 3, 4], [1, 2, 3, 4])
    assert stage.answer_confirm().safe_pos == 4


def test_a_newcomer_while_the_window_is_read_makes_it_be_read_from_further_back() -> None:
    old = Client(frozen=True)
    stage = Stage(old)
    stage.feed.received(chunk(0, [1]))
    stage.answer_confirm()
    stage.feed.received(chunk(LAG_MESSAGES + 1, [9]))  # so far behind, it reads although all hang
    assert stage.last_window == (False, 1)
    new = Client()
    stage.feed.attach(new)
    stage.feed.window_read(False, Window(EPOCH, 3, False, [chunk(1, [2]), chunk(2, [3])]))
    assert stage.last_window == (False, 0)
    chunks = [chunk(0, [1]), chunk(1, [2]), chunk(2, [3])]
    stage.feed.window_read(False, Window(EPOCH, 3, False, chunks))
    assert (old.ids, new.ids) == ([1, 2, 3], [1, 2, 3])
    assert stage.feed.missed == 0


def test_while_all_hang_the_store_keeps_what_comes() -> None:
    """The fastest consumer sets the pace; the window is read on when it has room again."""
    client = Client(frozen=True)
    stage = Stage(client)
    stage.feed.received(chunk(0, [1]))
    stage.feed.received(chunk(1, [2]))
    stage.feed.received(chunk(2, [3]))
    assert client.ids == [1]
    client.frozen = False
    stage.feed.drained(client)
    stage.answer_confirm()
    assert stage.last_window == (False, 1)
    stage.feed.window_read(False, Window(EPOCH, 3, False, [chunk(1, [2]), chunk(2, [3])]))
    assert client.ids == [1, 2, 3]
    assert stage.feed.missed == 0


def test_what_others_have_is_not_read_again() -> None:
    """My hung client's messages are with a kernel elsewhere: the window is empty, go on behind."""
    hung = Client(frozen=True)
    stage = Stage(hung)
    stage.feed.received(chunk(0, [1, 2]))
    stage.answer_confirm()
    new = Client()
    stage.feed.attach(new)
    assert stage.last_window == (False, 0)
    stage.feed.window_read(False, Window(EPOCH, 2, False, []))
    stage.feed.received(chunk(2, [3]))
    assert (hung.ids, new.ids) == ([1, 2, 3], [3])
    assert stage.feed.missed == 0


def test_messages_that_return_go_to_those_who_have_not_had_them() -> None:
    """After a fault 1 and 2 come again: once per connection, and to the newcomer too."""
    old = Client(frozen=True)
    stage = Stage(old)
    stage.feed.received(chunk(0, [1, 2]))
    stage.answer_confirm()
    stage.feed.subscribed()
    stage.answer_join(known=False, pos=2, last=2)
    new = Client()
    stage.feed.attach(new)
    stage.answer_confirm()
    stage.feed.received(chunk(2, [1]))
    stage.feed.received(chunk(3, [2, 3]))
    assert (old.ids, new.ids) == ([1, 2, 3], [1, 2, 3])


def test_who_came_back_gets_again_what_is_placed_and_sorts_it_out_itself() -> None:
    """1 and 2 were with a kernel before it came: it alone knows whether it had them. What comes late it does not."""
    stage = Stage(Client())
    stage.feed.received(chunk(0, [1, 2, 3]))
    stage.answer_confirm()
    new, back = Client(), Client()
    back.returns = True
    for client in (new, back):
        stage.feed.attach(client)
    stage.feed.received(chunk(3, [1, 2, 3, 4], base=0))
    stage.feed.received(chunk(7, [3, 5], base=4))
    assert (new.ids, back.ids) == ([4, 5], [1, 2, 3, 4, 5])
    assert [m.placed for m in back.batches[0].messages] == [True] * 4


def test_returned_messages_are_encoded_once_for_all() -> None:
    """A thousand clients and a returned chunk: one Batch, not a thousand."""
    batches: set[int] = set()
    kept: list[Batch] = []

    class Noting(Client):
        def deliver(self, batch: Batch) -> bool:
            kept.append(batch)
            batches.add(id(batch))
            return super().deliver(batch)

    stage = Stage(*[Noting() for _ in range(50)])
    stage.feed.received(chunk(0, [2]))
    stage.answer_confirm()
    stage.feed.received(chunk(1, [1, 2]))
    assert len(batches) == 2
    assert all(client.ids == [2, 1] for client in stage.clients)


def test_purge_ends_every_client() -> None:
    clients = [Client(), Client()]
    stage = Stage(*clients)
    stage.feed.received(b"P")
    assert all(client.ended for client in clients)


# ---- coming and going


def test_the_last_one_who_goes_makes_the_feed_leave_and_stop_listening() -> None:
    client = Client()
    stage = Stage(client)
    stage.feed.received(chunk(0, [1]))
    stage.answer_confirm()
    stage.feed.detach(client)
    report = stage.the("leave")
    assert isinstance(report, Report)
    assert report.safe_pos == 1
    assert not stage.feed.idle
    stage.feed.left()
    assert stage.asked() == [("unsubscribe",)]
    assert stage.feed.idle


def test_someone_comes_while_the_feed_is_leaving() -> None:
    first, second = Client(), Client()
    stage = Stage(first)
    stage.feed.detach(first)
    stage.the("leave")
    stage.feed.attach(second)
    assert stage.asked() == []
    stage.feed.left()
    hello = stage.answer_join()
    assert (hello.again, hello.slots) == (False, [(2, ROOM)])
    stage.feed.received(chunk(0, [1]))
    assert second.ids == [1]


@pytest.mark.parametrize("dealt", [False, True], ids=["broadcast", "dealt"])
def test_what_came_while_nobody_was_here_is_read_by_who_comes_before_we_left(dealt: bool) -> None:
    """No later message comes to the rescue: the last one must not hang in the store."""
    first, second = Client(), Client()
    stage = Stage(first)
    stage.feed.tick()
    stage.feed.detach(first)
    late = chunk(0, [1], numbers=[1] if dealt else ())
    stage.feed.received(late)
    stage.feed.attach(second)
    stage.answer_confirm()
    assert stage.last_window == (dealt, 0)
    stage.feed.window_read(dealt, Window(EPOCH, 1, False, [late]))
    report = stage.answer_confirm()
    assert (second.ids == [1]) != dealt
    assert [number for s in report.settled for number in s.back] == [1] * dealt


def test_one_who_went_before_the_subscription_was_confirmed_asks_for_nothing_more() -> None:
    port = Port()
    feed = Feed("q", port)
    client = Client()
    feed.attach(client)
    feed.detach(client)
    assert port.asked == [("subscribe",)]
    assert feed.idle


# ---- round robin


def test_dealt_messages_go_to_their_clients_and_give_room_back() -> None:
    one, two = Client(), Client()
    stage = Stage(one, two)
    stage.feed.received(chunk(0, [1, 2, 3], numbers=[1, 2, 1]))
    assert (one.ids, two.ids) == ([1, 3], [2])
    report = stage.answer_confirm()
    assert sorted(report.slots) == [(1, 2), (2, 1)]
    assert report.settled == [Settled(3, True, [], [])]


def test_what_a_hung_client_holds_is_kept_and_told_apart() -> None:
    well, hung = Client(), Client(frozen=True)
    stage = Stage(well, hung)
    stage.feed.received(chunk(0, [1, 2, 3], numbers=[1, 2, 1]))
    report = stage.answer_confirm()
    assert report.slots == [(1, 2)]
    assert report.settled == [Settled(3, False, [1, 3], [])]
    stage.feed.drained(hung)
    report = stage.answer_confirm()
    assert report.slots == [(2, 1)]
    assert report.settled == [Settled(3, True, [], [])]


def test_who_goes_gives_back_what_it_had_in_hand() -> None:
    well, hung = Client(), Client(frozen=True)
    stage = Stage(well, hung)
    stage.feed.received(chunk(0, [1, 2, 3], numbers=[2, 2, 1]))
    stage.answer_confirm()
    stage.feed.detach(hung)
    report = stage.answer_confirm()
    assert report.slots == [(2, -1)]
    assert report.settled == [Settled(3, True, [], [1, 2])]


def test_what_is_dealt_to_one_who_went_goes_back_at_once() -> None:
    stays, went = Client(), Client()
    stage = Stage(stays, went)
    stage.feed.detach(went)
    stage.answer_confirm()
    stage.feed.received(chunk(0, [1], numbers=[2]))
    assert stage.answer_confirm().settled == [Settled(1, True, [], [1])]


def test_what_is_said_in_a_lost_confirm_is_said_again_of_chunks() -> None:
    client = Client()
    stage = Stage(client)
    stage.feed.received(chunk(0, [1], numbers=[1]))
    first = stage.the("confirm")
    stage.feed.store_back()
    hello = stage.answer_join_and_keep(known=True, dealt=1)
    assert hello.slots == [(1, ROOM)], "the room is set anew by the join"
    again = stage.answer_confirm()
    assert isinstance(first, Report)
    assert again.settled == first.settled
    assert again.slots == []


def test_room_freed_while_a_join_is_under_way_is_not_forgotten() -> None:
    """The client got through just then: its slot must not stay full for ever."""
    client = Client(frozen=True)
    stage = Stage(client)
    stage.feed.received(chunk(0, range(1, 11), numbers=[1] * 10))
    stage.feed.subscribed()
    hello = stage.the("join")
    assert isinstance(hello, Hello)
    assert hello.slots == [(1, ROOM - 10)]
    stage.feed.drained(client)
    stage.feed.joined(Joined(True, EPOCH, 0, 0, 10, 0))
    assert stage.answer_confirm().slots == [(1, 10)]


def test_one_who_goes_while_a_join_is_under_way_leaves_no_ghost() -> None:
    stays, goes = Client(), Client()
    stage = Stage(stays, goes)
    stage.feed.subscribed()
    stage.the("join")
    stage.feed.detach(goes)
    stage.feed.joined(Joined(True, EPOCH, 0, 0, 0, 0))
    assert stage.answer_confirm().slots == [(2, -1)]


def test_chunks_read_after_a_join_do_not_raise_the_room_above_its_bound() -> None:
    """The join set the room anew; what was dealt before it was taken from the old one."""
    client = Client()
    stage = Stage(client)
    stage.feed.subscribed()
    stage.the("join")
    stage.feed.joined(Joined(True, EPOCH, 0, 0, 5, 0))
    assert stage.last_window == (True, 0)
    before = chunk(0, range(1, 6), numbers=[1] * 5)
    after = chunk(5, range(6, 8), numbers=[1] * 2)
    stage.feed.window_read(True, Window(EPOCH, 7, False, [before, after]))
    assert client.ids == [1, 2, 3, 4, 5, 6, 7]
    assert stage.answer_confirm().slots == [(1, 2)]


def test_a_window_full_of_chunks_of_others_is_read_to_its_end() -> None:
    client = Client()
    stage = Stage(client)
    stage.feed.received(chunk(2, [3], numbers=[1], pos=5000))
    assert stage.last_window == (True, 0)
    stage.feed.window_read(True, Window(EPOCH, 1000, True, []))
    assert stage.last_window == (True, 1000)
    stage.feed.window_read(True, Window(EPOCH, 5000, False, [chunk(0, [3], numbers=[1], pos=5000)]))
    assert client.ids == [3]


def test_a_confirm_settles_a_bounded_number_of_chunks() -> None:
    client = Client(frozen=True)
    stage = Stage(client)
    for n in range(1500):
        stage.feed.received(chunk(n, [n + 1], numbers=[1]))
    stage.feed.drained(client)
    assert len(stage.answer_confirm().settled) == 1000
    assert len(stage.answer_confirm().settled) == 500
    assert stage.asked() == []


def test_call_again_is_heeded_and_ends() -> None:
    stage = Stage(Client())
    stage.feed.tick()
    assert stage.answer_confirm(result=2).look
    assert not stage.answer_confirm(result=2).look
    stage.answer_confirm(result=1)
    assert stage.asked() == []


@pytest.mark.parametrize("dealt", [False, True], ids=["broadcast", "dealt"])
def test_memory_of_what_passed_is_bounded(dealt: bool) -> None:
    client = Client()
    stage = Stage(client)
    for n in range(9000):
        stage.feed.received(chunk(n, [n + 1], numbers=[1] if dealt else ()))
        stage.answer_confirm()
        client.ids.clear()
    assert len(stage.feed._recent) <= delivery.WINDOW + 1
    assert not stage.feed._hands._chunks
    assert not stage.feed._hands._unanswered


# ---- consumers that acknowledge


def leased(count: int) -> tuple[Stage, Client]:
    """A stage on which so many messages were dealt to one client that acknowledges."""
    worker = Client(acks=True)
    stage = Stage(worker)
    numbers = [ACKS + 1] * count
    stage.feed.received(chunk(0, range(1, count + 1), numbers=numbers))
    return stage, worker


def mark(*ids: int, pos: int, epoch: int = EPOCH, lease_ms: int | None = None) -> bytes:
    lease = () if lease_ms is None else (lease_ms,)
    numbers = (epoch, *lease, *(x for i in ids for x in (pos, i)))
    return (b"E" if lease else b"A") + b"".join(n.to_bytes(7, "big") for n in numbers)


def test_a_leased_message_is_done_when_the_store_says_so() -> None:
    stage, worker = leased(3)
    assert worker.batches[0].dealt_pos == 3
    stage.feed.drained(worker)
    assert stage.asked() == [], "that the client has it is not enough"
    stage.feed.received(mark(1, 3, pos=3))
    report = stage.answer_confirm()
    assert report.slots == [(ACKS + 1, 2)]
    assert report.settled == [Settled(3, False, [1, 3], [])]
    stage.feed.received(mark(1, 2, 99, pos=3))
    report = stage.answer_confirm()
    assert report.slots == [(ACKS + 1, 1)]
    assert report.settled == [Settled(3, True, [], [])]


def test_marks_of_another_life_or_chunk_change_nothing() -> None:
    stage, _ = leased(1)
    stage.feed.received(mark(1, pos=1, epoch=EPOCH + 1))
    stage.feed.received(mark(1, pos=7))
    assert stage.asked() == []


def test_what_was_not_acknowledged_in_time_goes_back_once() -> None:
    stage, worker = leased(3)
    stage.feed.received(mark(2, pos=3))
    stage.answer_confirm()
    assert stage.feed.give_back(worker, 29) == 30
    assert stage.asked() == []
    assert stage.feed.give_back(worker, 30) is None
    report = stage.answer_confirm()
    assert report.slots == [(ACKS + 1, 2)]
    assert report.settled == [Settled(3, True, [], [], (1, 3))]
    assert stage.feed.give_back(worker, 99) is None
    stage.feed.received(mark(1, pos=3))
    assert stage.asked() == []


def test_a_worker_that_goes_gives_back_what_it_did_not_acknowledge() -> None:
    stage, worker = leased(2)
    stays = Client()
    stage.feed.attach(stays)
    stage.answer_confirm()
    stage.feed.received(mark(1, pos=2))
    stage.answer_confirm()
    stage.feed.detach(worker)
    assert stage.answer_confirm().settled == [Settled(2, True, [], [], (2,))]


def test_the_room_of_a_worker_is_its_buffer() -> None:
    worker = Client(acks=True, room=5)
    port = Port()
    feed = Feed("q", port)
    feed.attach(worker)
    feed.subscribed()
    hello = port.asked[-1][1]
    assert isinstance(hello, Hello)
    assert hello.slots == [(ACKS + 1, 5)]


def test_a_worker_of_a_daemon_that_was_forgotten_has_all_its_room_again() -> None:
    """The store took the messages back: their receipts are stale, and nobody waits for them."""
    stage, worker = leased(4)
    stage.feed.subscribed()
    hello = stage.the("join")
    assert isinstance(hello, Hello)
    assert hello.slots == [(ACKS + 1, ROOM - 4)]
    stage.feed.joined(Joined(False, EPOCH, 0, 0, 4, 0))
    assert stage.answer_confirm().slots == [(ACKS + 1, 4)]
    assert stage.feed.give_back(worker, 99) is None


def test_a_lease_that_is_extended_ends_later_and_one_that_is_cut_sooner() -> None:
    stage, worker = leased(4)
    worker.now = 10.0
    stage.feed.received(mark(2, 99, pos=4, lease_ms=60_000))
    stage.feed.received(mark(3, pos=4, lease_ms=5_000))
    stage.feed.received(mark(1, pos=4, lease_ms=60_000, epoch=EPOCH + 1))
    assert worker.changed == 2
    assert stage.feed.give_back(worker, 15) == 30
    assert stage.answer_confirm().settled == [Settled(4, False, [], [], (3,))]
    assert stage.feed.give_back(worker, 30) == 70
    assert stage.answer_confirm().settled == [Settled(4, False, [], [], (1, 4))]
    stage.feed.received(mark(2, pos=4))
    assert stage.answer_confirm().settled == [Settled(4, True, [], [])]
    assert stage.feed.give_back(worker, 70) is None


def test_leases_end_one_after_the_other() -> None:
    stage, worker = leased(1)
    worker.now = 10.0
    stage.feed.received(chunk(1, [2, 3], numbers=[ACKS + 1] * 2))
    stage.feed.received(mark(2, pos=3))
    stage.answer_confirm()
    assert stage.feed.give_back(worker, 35) == 40
    assert stage.answer_confirm().settled == [Settled(1, True, [], [], (1,))]
    assert stage.feed.give_back(worker, 40) is None
    assert stage.answer_confirm().settled == [Settled(3, True, [], [], (3,))]
