"""Where frames wait, in the order in which they will be served.

All policies share one idea, start-time fair queueing (Goyal, Vin and Cheng, "Start-Time Fair
Queuing", SIGCOMM 1996), with a cost of one per frame. A frame gets a start tag on arrival:

    start = max(virtual, finish[stream]),  finish[stream] = start + STRIDE / weight[stream]

where `virtual` is the largest start tag served so far. Frames are served by rising tags, so streams
that all have frames waiting take turns in proportion to their weights, and a stream that was quiet
comes back without credit from the past. The order also says whom to push out of a full
queue: the last in it is the newest frame of the stream that is furthest ahead of its share. With
a single stream that is always the frame that just arrived.

`deadline` puts the dead-line before the tag, and `latest` lets a newer frame of a stream
take over the place of the waiting one.

The order is kept in one sorted list: O(log n) comparisons, then a move of at most `8 * limit`
bytes, which up to the permitted limits is cheaper than a heap's comparisons, and both ends are at
hand. Frames are taken from the front in batches with one move.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

__all__ = ["REASONS", "DeadlineQueue", "FairQueue", "Item", "LatestQueue", "Reason", "Stream"]

Stream = int | str

Reason = Literal[
    "cancelled", "closed", "deadline", "failed", "full", "poison", "stray", "superseded"
]
#: Every reason a frame can be dropped for, for counters that exist before the first drop.
REASONS: tuple[Reason, ...] = (
    "cancelled",
    "closed",
    "deadline",
    "failed",
    "full",
    "poison",
    "stray",
    "superseded",
)

#: One frame of a stream of weight 1, in units of the tags; divisible by all small weights.
STRIDE = 720_720
#: Dead-line of a frame that has none: after all others.
NEVER_NS = 1 << 63


class Item(msgspec.Struct, frozen=True, eq=False):
    """One frame on its way to one task. Items are told apart by identity, not by value.

    A `msgspec.Struct`: one is made per frame, and a frozen dataclass takes ten times as long.

    Attributes:
        stream: number or name of the frame's stream, unique on this node.
        seq: position in the stream.
        task: name of the task the frame waits for.
        deadline_ns: `time.monotonic_ns()` by which the task must have finished; 0: no dead-line.
        plan: number of the plan the frame travels under.
        nbytes: memory the frame holds while it waits.
        job: the job it belongs to, for `Flow.cancel`.
        producer: who submits it, for the credit of policy `block`.
        token: whatever the caller wants back with the item; never looked at.
    """

    stream: Stream
    seq: int
    task: str
    deadline_ns: int = 0
    plan: int = 0
    nbytes: int = 0
    job: str = ""
    producer: str = ""
    token: Any = None


#: Dead-line (0 unless the policy looks at it), start tag, arrival, the frame. Arrivals are unique,
#: so that comparing two entries never reaches the items.
Entry = tuple[int, int, int, Item]
Victim = tuple[Item, Reason]


class FairQueue:
    """A bounded queue, fair between streams and first-in first-out within one (`block`, `fifo`).

    Args:
        limit: most frames that wait.
        limit_nbytes: most bytes that wait; no single frame may be larger.
        weights: weight per stream, 1 where missing. Read at each arrival; the caller may change it.

    Attributes:
        entries: what waits, next one first; for reading only. Empty is false.
        nbytes: bytes that wait.
    """

    def __init__(self, limit: int, limit_nbytes: int, weights: Mapping[Stream, int]) -> None:
        self.limit = limit
        self.limit_nbytes = limit_nbytes
        self.nbytes = 0
        self._weights = weights
        self.entries: list[Entry] = []
        self._finish: dict[Stream, int] = {}
        self._virtual = 0
        self._arrivals = 0

    def items(self) -> list[Item]:
        """Return the waiting frames, next one first."""
        return [entry[3] for entry in self.entries]

    def push(self, item: Item, now_ns: int) -> list[Victim]:
        """Add a frame; return what had to go for it, possibly the frame itself."""
        return self._add(self._tagged(item, 0))

    def take(self, count: int) -> list[Item]:
        """Remove and return the next frames, `count` at most."""
        if count < len(self.entries):
            self._virtual = max(self._virtual, self.entries[count - 1][1])
        return self._cut(count)

    def discard(self, wanted: Callable[[Item], bool]) -> list[Item]:
        """Remove and return the frames for which `wanted` is true, in order; O(n)."""
        gone = [entry[3] for entry in self.entries if wanted(entry[3])]
        if gone:
            self.entries[:] = [entry for entry in self.entries if not wanted(entry[3])]
            self.nbytes -= sum(item.nbytes for item in gone)
        return gone

    def expire(self, now_ns: int) -> list[Item]:
        """Remove and return the frames that can no longer be served in time."""
        return []

    def due_ns(self) -> int | None:
        """Return when `expire` will next find something, or None."""
        return None

    def newest(self, stream: Stream) -> Item | None:
        """Return the waiting frame of `stream` that makes older ones worthless, if any."""
        return None

    def _cut(self, count: int) -> list[Item]:
        """Remove the first `count` frames; an empty queue forgets whose turn it was."""
        items = [entry[3] for entry in self.entries[:count]]
        del self.entries[:count]
        for item in items:
            self.nbytes -= item.nbytes
        if not self.entries:
            self._finish.clear()
        return items

    def _tagged(self, item: Item, urgency_ns: int) -> Entry:
        """Give an arriving frame its place in the order."""
        start = self._finish.get(item.stream, 0)
        if start < self._virtual:
            start = self._virtual
        self._finish[item.stream] = start + STRIDE // self._weights.get(item.stream, 1)
        self._arrivals += 1
        return (urgency_ns, start, self._arrivals, item)

    def _add(self, entry: Entry) -> list[Victim]:
        entries = self.entries
        if not entries or entries[-1] < entry:
            entries.append(entry)
        else:
            insort(entries, entry)
        self.nbytes += entry[3].nbytes
        if len(self._finish) > 2 * self.limit:
            self._forget()
        if len(entries) <= self.limit and self.nbytes <= self.limit_nbytes:
            return []
        return self._push_out()

    def _push_out(self) -> list[Victim]:
        """Drop from the end until the rest fits."""
        victims: list[Victim] = []
        while len(self.entries) > self.limit or self.nbytes > self.limit_nbytes:
            _, start, _, item = self.entries.pop()
            self.nbytes -= item.nbytes
            if self._finish[item.stream] == start + STRIDE // self._weights.get(item.stream, 1):
                self._finish[item.stream] = start  # it was not served: its turn is still to come
            victims.append((item, "full"))
        return victims

    def _forget(self) -> None:
        """Forget the turns of streams that have nothing here; O(n) once in `limit` arrivals."""
        waiting = {entry[3].stream for entry in self.entries}
        self._finish = {s: finish for s, finish in self._finish.items() if s in waiting}


class LatestQueue(FairQueue):
    """At most one frame per stream, the newest (`latest`).

    A newer frame takes over the place of the one it supersedes, so that a fast stream does not
    push itself to the back for ever. A frame older than the waiting one is dropped itself.
    """

    def __init__(self, limit: int, limit_nbytes: int, weights: Mapping[Stream, int]) -> None:
        super().__init__(limit, limit_nbytes, weights)
        self._waiting: dict[Stream, Entry] = {}

    def push(self, item: Item, now_ns: int) -> list[Victim]:
        """Add a frame; return what it supersedes, or what had to go for it."""
        old = self._waiting.get(item.stream)
        if old is None:
            entry = self._waiting[item.stream] = self._tagged(item, 0)
            return self._left(self._add(entry))
        if item.seq < old[3].seq:
            return [(item, "superseded")]
        entry = self._waiting[item.stream] = (*old[:3], item)
        self.entries[bisect_left(self.entries, old)] = entry
        self.nbytes += item.nbytes - old[3].nbytes
        return [(old[3], "superseded"), *self._left(self._push_out())]

    def take(self, count: int) -> list[Item]:
        """Remove and return the next frames, `count` at most."""
        items = super().take(count)
        for item in items:
            del self._waiting[item.stream]
        return items

    def discard(self, wanted: Callable[[Item], bool]) -> list[Item]:
        """Remove and return the frames for which `wanted` is true, in order; O(n)."""
        items = super().discard(wanted)
        for item in items:
            del self._waiting[item.stream]
        return items

    def newest(self, stream: Stream) -> Item | None:
        """Return the waiting frame of `stream`, if any."""
        entry = self._waiting.get(stream)
        return None if entry is None else entry[3]

    def _left(self, victims: list[Victim]) -> list[Victim]:
        for item, _ in victims:
            del self._waiting[item.stream]
        return victims


class DeadlineQueue(FairQueue):
    """Earliest dead-line first, without the frames that cannot meet theirs (`deadline`).

    Frames of one dead-line, and those that have none, are served fairly among each other. A full
    queue drops the least urgent frame.

    Attributes:
        cost_ns: what the task is expected to take; a frame can be in time while
            `now_ns + cost_ns <= deadline_ns`. The caller may change it at any time.
    """

    def __init__(
        self, limit: int, limit_nbytes: int, weights: Mapping[Stream, int], cost_ns: int = 0
    ) -> None:
        super().__init__(limit, limit_nbytes, weights)
        self.cost_ns = cost_ns

    def push(self, item: Item, now_ns: int) -> list[Victim]:
        """Add a frame; return what had to go for it, possibly the frame itself."""
        if self.is_late(item, now_ns):
            return [(item, "deadline")]
        return self._add(self._tagged(item, item.deadline_ns or NEVER_NS))

    def is_late(self, item: Item, now_ns: int) -> bool:
        """Say whether the frame can no longer be served in time."""
        return item.deadline_ns != 0 and item.deadline_ns < now_ns + self.cost_ns

    def expire(self, now_ns: int) -> list[Item]:
        """Remove and return the frames that can no longer be served in time."""
        # As every frame costs the same, the late ones are the first of the list.
        late = bisect_left(self.entries, (now_ns + self.cost_ns,))
        return self._cut(late) if late else []

    def due_ns(self) -> int | None:
        """Return when `expire` will next find something, or None."""
        if not self.entries or self.entries[0][0] == NEVER_NS:
            return None
        return self.entries[0][0] - self.cost_ns + 1
