"""The books of an edge: every frame it accepted is in exactly one column, at every moment.

accepted = arrived + dropped[reason] + waiting + travelling

Pure: no socket, no thread, no clock. A frame waits, is taken to be encoded, travels under a number,
and arrives when a receipt has its number. As numbers travel in order, a receipt that has a later
one says of a frame that it got lost; without any receipt it is given up after a time-out. Either
way it is dropped as `link`. Should it turn out later that it had arrived after all, that is counted
as `late`, beside the sum: its home has been told that it will not come.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vdag._native import header as native_header
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vdag.frame import Lease
    from vdag.transport.codec import Head

__all__ = [
    "MAX_DEPTH",
    "Departures",
    "Drop",
    "EdgeStats",
    "Parcel",
    "Policy",
    "Reason",
    "Receipts",
    "Trip",
]

Policy = Literal["latest", "block"]
Reason = Literal["superseded", "full", "encoder", "link", "closed"]
#: Most frames that wait, and that travel; a landing holds more messages of each edge.
MAX_DEPTH = 16
#: Streams of which it is remembered when a frame of theirs was last taken.
MAX_STREAMS = 1_024
#: Numbers of lost frames that are remembered, to notice those that come late.
MAX_LOST = 4_096


@dataclass(slots=True, eq=False)
class Parcel:
    """A frame that waits to be sent.

    Attributes:
        head: of its descriptor.
        message: the first part of its descriptor.
        pixels: what its slot holds; None if the descriptor is all there is.
        lease: on the memory of `pixels`.
    """

    head: Head
    message: bytes
    pixels: NDArray[Any] | None = None
    lease: Lease | None = None

    def release(self) -> None:
        """Let go of the memory of the pixels; may be called again."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()


class Drop(NamedTuple):
    """A frame that will not arrive; the lease, if there still is one, has to be released."""

    head: Head
    reason: Reason
    lease: Lease | None = None


class Trip(NamedTuple):
    """A frame on its way.

    Attributes:
        head: of its descriptor.
        sent_ns: when it was given to the socket.
        alone: nothing else was on its way then.
        was_full: as much was on its way as the window lets, this frame included.
    """

    head: Head
    sent_ns: int
    alone: bool
    was_full: bool


class Receipts(NamedTuple):
    """What a receipt has shown: trips that ended well, the latest last, and frames lost."""

    arrived: list[Trip]
    lost: list[Drop]


@dataclass(frozen=True, slots=True)
class EdgeStats:
    """Where the frames of an edge are.

    Attributes:
        accepted: frames taken.
        arrived: frames the other node has confirmed.
        waiting: frames not yet sent, one that is being encoded included.
        travelling: frames sent and not yet confirmed.
        dropped: `superseded`: a newer one of its stream came first; `full`: too many streams;
            `encoder`: it could not be encoded; `link`: lost on the way; `closed`.
        late: frames that arrived after they were counted as `link`; not a column of the sum.
        nbytes: of the messages given to the socket.
        window: most frames that may travel at once, at present.
        notices_lost: notices that there was no room for.
    """

    accepted: int
    arrived: int
    waiting: int
    travelling: int
    dropped: Mapping[Reason, int]
    late: int
    nbytes: int = 0
    window: int = 0
    notices_lost: int = 0

    @property
    def sent(self) -> int:
        """Frames that went out and are not known to be lost."""
        return self.arrived + self.travelling

    @property
    def balance(self) -> int:
        """Frames that are in no column: 0, or the books are wrong."""
        known = self.arrived + self.travelling + self.waiting + sum(self.dropped.values())
        return self.accepted - known


class Departures:
    """See above; the caller holds a lock where several threads use it.

    Args:
        policy: `latest`: a frame replaces the one of its stream, for the same task, that waits. If
            more streams than `depth` have one, that frame goes whose stream had its turn last, so
            that all of them get turns. `block`: frames wait in line, and nothing is taken when
            `depth` of them do.
        depth: most frames that wait, 1 to `MAX_DEPTH`.
        confirm_timeout_s: a frame without a receipt for so long is given up.
    """

    def __init__(self, policy: Policy, depth: int, confirm_timeout_s: float) -> None:
        if policy not in ("latest", "block"):
            raise ConfigError(f"policy {policy!r} is none of latest, block")
        if not 1 <= depth <= MAX_DEPTH:
            raise ConfigError(f"depth of {depth} is not between 1 and {MAX_DEPTH}")
        if not 0.0 < confirm_timeout_s <= 3600.0:
            raise ConfigError(f"confirm_timeout_s of {confirm_timeout_s} is not in 0..3600")
        self._policy = policy
        self._depth = depth
        self._timeout_ns = int(confirm_timeout_s * 1e9)
        self._waiting: OrderedDict[Hashable, Parcel] = OrderedDict()
        self._loading: Parcel | None = None
        #: Of streams, the number of their last turn, in that order.
        self._turns: OrderedDict[Hashable, int] = OrderedDict()
        self._turn = 0
        self._travelling: OrderedDict[int, Trip] = OrderedDict()
        self._lost: OrderedDict[int, None] = OrderedDict()
        self._accepted = self._arrived = self._late = 0
        self._dropped: Counter[Reason] = Counter()

    @property
    def waiting(self) -> int:
        """Frames not yet sent."""
        return len(self._waiting) + (self._loading is not None)

    @property
    def travelling(self) -> int:
        """Frames sent and not confirmed."""
        return len(self._travelling)

    def offer(self, parcel: Parcel) -> list[Drop] | None:
        """Take a frame.

        Returns:
            The frames dropped for it, or None if there is no place for it: it is not taken then.
        """
        key = self._key(parcel)
        if key in self._waiting:
            self._accepted += 1
            old, self._waiting[key] = self._waiting[key], parcel  # in its place: streams are fair
            return [self._drop(old, "superseded")]
        drops: list[Drop] = []
        if len(self._waiting) >= self._depth:
            if self._policy == "block":
                return None
            # If none of them had a turn it is the newcomer: those that wait have theirs first.
            victim = max((key, *self._waiting), key=self._turn_of)
            if victim == key:
                self._accepted += 1
                return [self._drop(parcel, "full")]
            drops.append(self._drop(self._waiting.pop(victim), "full"))
        self._accepted += 1
        self._waiting[key] = parcel
        return drops

    def take(self) -> Parcel | None:
        """Take the next frame, to encode it; then comes `sent` or `fail`.

        It is the one that waits longest, of a stream whose last turn was longest ago.
        """
        assert self._loading is None
        if self._waiting:
            key = min(self._waiting, key=self._turn_of)
            self._loading = self._waiting.pop(key)
            self._note_turn(key)
        return self._loading

    def sent(self, number: int, now_ns: int, window: int) -> None:
        """Note that the frame taken was sent under a number, higher than all before."""
        assert self._loading is not None
        alone, is_full = not self._travelling, len(self._travelling) + 1 >= window
        self._travelling[number] = Trip(self._loading.head, now_ns, alone, is_full)
        self._loading = None

    def fail(self, reason: Reason) -> Drop:
        """Drop the frame taken."""
        assert self._loading is not None
        parcel, self._loading = self._loading, None
        return self._drop(parcel, reason)

    def confirm(self, ranges: Sequence[tuple[int, int]]) -> Receipts:
        """Note which numbers have come: first and last of each range, ascending."""
        receipts = Receipts([], [])
        if not ranges:
            return receipts
        self._find_late(ranges)
        for number in [n for n in self._travelling if n <= ranges[-1][1]]:
            trip = self._travelling.pop(number)
            if _is_in(number, ranges):
                self._arrived += 1
                receipts.arrived.append(trip)
            else:
                receipts.lost.append(self._lose(number, trip))
        return receipts

    def expire(self, now_ns: int) -> list[Drop]:
        """Give up the frames that have travelled for too long."""
        drops = []
        while self._travelling and now_ns >= self._due_ns():
            drops.append(self._lose(*self._travelling.popitem(last=False)))
        return drops

    def due_ns(self) -> int | None:
        """Return when `expire` will next find a frame, or None."""
        return self._due_ns() if self._travelling else None

    def close(self) -> list[Drop]:
        """Drop what waits as `closed`, and what travels as `link`."""
        parcels = list(self._waiting.values())
        if self._loading is not None:
            parcels.append(self._loading)
        drops = [self._drop(parcel, "closed") for parcel in parcels]
        self._waiting.clear()
        self._loading = None
        while self._travelling:
            drops.append(self._lose(*self._travelling.popitem(last=False)))
        return drops

    def stats(self) -> EdgeStats:
        """Return the columns."""
        return EdgeStats(
            accepted=self._accepted,
            arrived=self._arrived,
            waiting=self.waiting,
            travelling=self.travelling,
            dropped=dict(self._dropped),
            late=self._late,
        )

    def _key(self, parcel: Parcel) -> Hashable:
        head = parcel.head
        if self._policy == "block" or head.header.kind == native_header.KIND_NONE:
            return id(parcel)  # nothing replaces it: what was found in a frame is not repeated
        task = head.here.task if head.here is not None else ""
        return head.job, head.header.stream, task

    def _note_turn(self, key: Hashable) -> None:
        if isinstance(key, tuple):  # of a stream
            self._turn += 1
            self._turns.pop(key, None)
            self._turns[key] = self._turn
            if len(self._turns) > MAX_STREAMS:
                self._turns.popitem(last=False)

    def _turn_of(self, key: Hashable) -> int:
        return self._turns.get(key, 0)

    def _due_ns(self) -> int:
        return next(iter(self._travelling.values())).sent_ns + self._timeout_ns

    def _drop(self, parcel: Parcel, reason: Reason) -> Drop:
        self._dropped[reason] += 1
        return Drop(parcel.head, reason, parcel.lease)

    def _lose(self, number: int, trip: Trip) -> Drop:
        self._dropped["link"] += 1
        self._lost[number] = None
        if len(self._lost) > MAX_LOST:
            self._lost.popitem(last=False)
        return Drop(trip.head, "link")

    def _find_late(self, ranges: Sequence[tuple[int, int]]) -> None:
        for number in [number for number in self._lost if _is_in(number, ranges)]:
            del self._lost[number]
            self._late += 1


def _is_in(number: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= number <= last for first, last in ranges)
