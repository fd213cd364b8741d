"""`gather`: an `Account` from what is recorded of a session.

Its size is bounded, whatever the session's. Of more sequences than `MAX_FRAMES`, every second,
third and so on is looked at, and the page says so; time is cut into `STRETCHES`, of which means
and percentiles are kept; handlers have their limit too, and so has what `circumstances` tells.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

from vdag.control.accounts.account import STRETCHES, Account, Histogram, Series, Stack, stretch_of
from vdag.control.accounts.circumstances import Circumstances, circumstances_of
from vdag.control.records import Packet
from vdag.control.records.inspection import Extent, Inspection, Subject
from vdag.control.tracing import PARTS, Frame, Part, Role, Roster, Summary, Tally, frames_of
from vdag.control.tracing.reading import Look, read_roster
from vdag.control.tracing.summary import parts_of, rank

__all__ = ["MAX_FRAMES", "gather", "gather_from"]

#: Sequences that are looked at.
MAX_FRAMES = 100_000
#: Of the histogram.
BINS = 50
#: How many are shown, by the time they take.
MAX_HANDLERS = 12
#: The histogram ends here in multiples of the 99th percentile: a few stragglers would flatten it.
TAIL = 1.5


#: Tells what is recorded beside the packets, from one time to another, of these nodes among others.
Tell = Callable[[float, float, frozenset[int]], Circumstances]


class Records(Look, Protocol):
    """Where packets are read from: an `Inspection`, or a `SharedSession`."""

    def packets(
        self, session_id: int, *, first: int = 0, last: int | None = None, step: int = 1
    ) -> Iterator[Packet]:
        """Yield the rows of packets, of every `step`th sequence, in that order."""


def gather(inspection: Inspection, subject: Subject, *, max_frames: int = MAX_FRAMES) -> Account:
    """Return the account of a session.

    Args:
        inspection: of the records.
        subject: the session.
        max_frames: sequences that are looked at, at most.
    """
    tell = partial(circumstances_of, inspection, subject)
    return gather_from(inspection, subject, tell, max_frames=max_frames)


def gather_from(
    records: Records, subject: Subject, tell: Tell, *, max_frames: int = MAX_FRAMES
) -> Account:
    """Return the account of a session whose records are elsewhere; see `gather`."""
    extent = records.extent(subject.session_id)
    roster = read_roster(records, subject, extent)
    begin_s, end_s = _axis(extent, subject)
    step = 1
    tally, seen = Tally(), _Seen(begin_s, end_s)
    if extent is not None:
        step = max(1, -(-(extent.last - extent.first + 1) // max_frames))
        rows = records.packets(subject.session_id, first=extent.first, last=extent.last, step=step)
        for frame in frames_of(rows, roster):
            tally.add(frame)
            seen.add(frame)
    summary = tally.summary()
    around = tell(begin_s, end_s, frozenset(seen.nodes))
    return Account(
        subject,
        roster,
        extent,
        step,
        begin_s,
        end_s,
        summary,
        seen.stacks(_busiest(summary, roster)),
        seen.percentiles(50),
        seen.percentiles(95),
        _histogram(tally.delays_s, summary),
        around.changes,
        around.changes_left_out,
        around.loads,
        around.placements,
        around.placements_left_out,
        around.dropped,
    )


def _axis(extent: Extent | None, subject: Subject) -> tuple[float, float]:
    """Return the begin and the end of time: of the packets, or of the session without any."""
    if extent is not None:
        begin_s, end_s = extent.since_s, extent.until_s
    elif subject.session is not None:
        session = subject.session
        begin_s = session.started_s or session.created_s
        end_s = session.stopped_s or begin_s
    else:
        begin_s = end_s = 0.0
    return begin_s, max(end_s, begin_s + 1e-3)


class _Seen:
    """What is kept of frames, by stretch of time."""

    def __init__(self, begin_s: float, end_s: float) -> None:
        self._begin_s, self._scale = begin_s, STRETCHES / (end_s - begin_s)
        # Of no handler are the sums of all.
        self._sums: dict[tuple[int | None, Part], list[float]] = defaultdict(
            lambda: [0.0] * STRETCHES
        )
        self._counts: dict[int | None, list[int]] = defaultdict(lambda: [0] * STRETCHES)
        self._delays = [array("d") for _ in range(STRETCHES)]
        self.nodes: set[int] = set()

    def add(self, frame: Frame) -> None:
        """Count a frame in the stretch in which it was born."""
        self.nodes.update(v.node_id for v in frame.visits if v.node_id is not None)
        if not frame.is_whole:
            return
        index = stretch_of(frame.born_s - self._begin_s, self._scale)
        self._delays[index].append(frame.delay_s)
        present: set[int | None] = {None}
        for (handler_id, part), length_s in parts_of(frame).items():
            self._sums[handler_id, part][index] += length_s
            self._sums[None, part][index] += length_s
            present.add(handler_id)
        for each in present:
            self._counts[each][index] += 1

    def stacks(self, handlers: Iterable[int]) -> list[Stack]:
        """Return the means of all handlers together, and of these each."""
        return [self._stack(handler_id) for handler_id in (None, *handlers)]

    def percentiles(self, percent: int) -> Series:
        """Return a percentile of the delay, by nearest rank."""
        return [
            sorted(delays)[rank(percent, len(delays))] if delays else None
            for delays in self._delays
        ]

    def _stack(self, handler_id: int | None) -> Stack:
        counts = self._counts[handler_id]
        parts: dict[Part, Sequence[float]] = {}
        for part in PARTS:
            sums = self._sums.get((handler_id, part), ())
            if any(sums):
                parts[part] = [
                    total / max(count, 1) for total, count in zip(sums, counts, strict=True)
                ]
        return Stack(handler_id, counts, parts)


def _busiest(summary: Summary, roster: Roster) -> list[int]:
    """Return the handlers that take most of the time, in the order of their numbers."""
    totals: dict[int, float] = {}
    for (handler_id, _), figures in summary.parts.items():
        if roster.role(handler_id) is not Role.SOURCE:
            spent_s = figures.mean_s * figures.frames
            totals[handler_id] = totals.get(handler_id, 0.0) + spent_s
    return sorted(sorted(totals, key=lambda key: -totals[key])[:MAX_HANDLERS])


def _histogram(delays_s: Sequence[float], summary: Summary) -> Histogram | None:
    if summary.delay is None:
        return None
    top_s = min(summary.delay.max_s, summary.delay.p99_s * TAIL) or 1e-3
    counts, above = [0] * BINS, 0
    for delay_s in delays_s:
        if delay_s > top_s:
            above += 1
        else:
            counts[min(int(delay_s / top_s * BINS), BINS - 1)] += 1
    return Histogram(top_s, counts, above)
