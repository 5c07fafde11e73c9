"""What a feed and its surroundings say to each other: consumers on one side, the store on the other.

``Feed`` (``restmq.core.delivery``) asks a ``Port``, hands batches to ``Consumer`` objects, and is told
outcomes in the tuples below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from restmq.message import Batch

if TYPE_CHECKING:
    from restmq.core.delivery import Feed

ROOM = 1000
"""What a slot may hold of dealt messages, in units: one a message and one for each whole KiB."""


class Consumer(Protocol):
    """An open stream, as the delivery sees it.

    ``room``: how many units of dealt messages it may have in hand, at most ROOM. ``acks``: a dealt
    message is done when it is acknowledged (else when every byte of it is with the kernel).
    ``returns``: it came back and knows by itself what it had of the messages that are placed.
    """

    @property
    def room(self) -> int:
        """See above; it never changes."""

    @property
    def acks(self) -> bool:
        """See above; it never changes."""

    @property
    def returns(self) -> bool:
        """See above; it never changes."""

    def due(self, lease_ms: int | None = None) -> float:
        """When a message that is handed out now must be acknowledged; asked of ``acks`` only.

        ``lease_ms`` counts instead of the lease of the stream.
        """

    def leases_changed(self) -> None:
        """A lease was extended: what is due first may be something else, at another time."""

    def deliver(self, batch: Batch) -> bool:
        """Take messages; True if every byte is with the kernel, else `Feed.drained` is called later."""

    def lost(self, count: int) -> None:
        """So many broadcast messages went by that this daemon could not get."""

    def end(self) -> None:
        """The queue was deleted: finish the response."""


class Hello(NamedTuple):
    """What a daemon says when it joins.

    ``again``: it was registered before. The numbers are what it knows of the queue (epoch 0:
    nothing); more than the store knows of itself proves that the store lost time. Slots are
    (number, room).
    """

    again: bool
    epoch: int
    pos: int
    dealt_pos: int
    last_id: int
    slots: list[tuple[int, int]]


class Joined(NamedTuple):
    """What ``join.lua`` tells; ``known`` when the store remembered this daemon."""

    known: bool
    epoch: int
    pos: int
    bpos: int
    dealt_pos: int
    last_pos: int


class Window(NamedTuple):
    """What ``window.lua`` tells: chunks after a position, and whether there are more."""

    epoch: int
    reached: int
    more: bool
    chunks: list[bytes]


class Settled(NamedTuple):
    """What this daemon is through with of a dealt chunk, by message id.

    ``done`` were got, ``back`` nobody here got, of ``over`` the lease ended; ``whole``: all that is neither in
    ``back`` nor in ``over`` is done.
    Said twice it changes nothing more, and ids that left the chunk meanwhile are passed over.
    """

    pos: int
    whole: bool
    done: list[int]
    back: list[int]
    over: tuple[int, ...] = ()


class Report(NamedTuple):
    """What is said in a confirm or leave: positions, changed slots, dealt chunks.

    Up to ``safe_pos`` everything is with a kernel, up to ``pos`` with consumers.
    """

    epoch: int
    safe_pos: int
    safe_bpos: int
    pos: int
    bpos: int
    look: bool
    slots: list[tuple[int, int]]
    settled: list[Settled]


class Port(Protocol):
    """What a feed asks of the outside. Each call is answered by one call back, in any later turn."""

    def subscribe(self, feed: Feed) -> None:
        """Listen to both channels; then `Feed.subscribed`, and again after every reconnect."""

    def unsubscribe(self, feed: Feed) -> None:
        """Stop listening; no answer."""

    def join(self, feed: Feed, hello: Hello) -> None:
        """``join.lua``; then `Feed.joined`."""

    def window(self, feed: Feed, dealt: bool, after: int) -> None:
        """``window.lua``; then `Feed.window_read`."""

    def confirm(self, feed: Feed, report: Report) -> None:
        """``confirm.lua``; then `Feed.confirmed`."""

    def leave(self, feed: Feed, report: Report) -> None:
        """``leave.lua`` until it is done; then `Feed.left`."""
