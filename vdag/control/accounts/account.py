"""`Account`: the numbers of a page, of which there are as many for a minute as for a year."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vdag.control.records import PlacementRecord
from vdag.control.records.inspection import Extent, Subject
from vdag.control.tracing import Part, Roster, Summary

__all__ = ["STRETCHES", "Account", "Change", "Histogram", "Load", "Series", "Stack", "stretch_of"]

#: Of the time axis.
STRETCHES = 120

#: A value per stretch of time; None where there was nothing to take it from.
Series = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the time of frames went at a handler, over time.

    Attributes:
        handler_id: of the handler; None for all of them together.
        counts: frames, by stretch.
        parts: mean seconds of these frames, by part and stretch; 0 where there were none.
    """

    handler_id: int | None
    counts: Sequence[int]
    parts: Mapping[Part, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many frames had which delay.

    Attributes:
        top_s: upper end of the last bin; the first begins at 0, and all are equally wide.
        counts: frames by bin.
        above: frames beyond the last one.
    """

    top_s: float
    counts: Sequence[int]
    above: int


@dataclass(frozen=True, slots=True)
class Change:
    """A plan that a query was given.

    Attributes:
        number: of the plan.
        at_s: when, seconds since the epoch.
        cause: of the change.
        why: what its policy says of it; empty for nothing.
        settings: of the video, in words.
        places: tasks and where they are, in words.
    """

    number: int
    at_s: float
    cause: str
    why: str
    settings: str
    places: str


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a node was, 0 to 100, mean by stretch.

    Attributes:
        node_id: of the node.
        values: by what was measured: `cpu`, `memory`, `gpu`; without those that never were.
    """

    node_id: int
    values: Mapping[str, Series]


@dataclass(frozen=True, slots=True)
class Account:
    """See above.

    Attributes:
        subject: what it is of.
        roster: of the session.
        extent: of its packets; None for none.
        step: every so manieth sequence was looked at; 1 for all.
        begin_s: of the time axis, seconds since the epoch.
        end_s: likewise; later.
        summary: of all frames looked at.
        stacks: of all handlers, whose parts add up to the mean delay; then of each in the order of
            the numbers, those that take most of the time.
        median_s: of the delay, by stretch.
        p95_s: likewise.
        histogram: of the delay; None without whole frames.
        changes: of plans, oldest first; the newest.
        changes_left_out: older ones.
        loads: of the nodes of the session.
        placements: of handlers, oldest first; the newest.
        placements_left_out: older ones.
        dropped: frames that the node has given up, by its reason.
    """

    subject: Subject
    roster: Roster
    extent: Extent | None
    step: int
    begin_s: float
    end_s: float
    summary: Summary
    stacks: Sequence[Stack] = ()
    median_s: Series = ()
    p95_s: Series = ()
    histogram: Histogram | None = None
    changes: Sequence[Change] = ()
    changes_left_out: int = 0
    loads: Sequence[Load] = ()
    placements: Sequence[PlacementRecord] = ()
    placements_left_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def stretches(self) -> int:
        """How many parts the time axis has."""
        return len(self.median_s)

    @property
    def stretch_s(self) -> float:
        """How long each is."""
        return (self.end_s - self.begin_s) / max(self.stretches, 1)


def stretch_of(since_s: float, scale: float) -> int:
    """Return the stretch that a time since the begin is in; what is outside is in the next one."""
    return min(max(int(since_s * scale), 0), STRETCHES - 1)
