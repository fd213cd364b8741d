"""`Frame`: what became of a packet, put together from its rows; `frames_of`.

A frame visits handlers. What leads to a visit, and the visit itself, are *spans*, each from one
event to the next:

    end, sent -> recv    transfer   on its way from another node, coding and sending included
    recv, end -> start   queue      waits; on one node, being handed over is part of it
    start -> end         compute    is worked on
    any -> any           gap        a row between is missing, so that nobody can tell

All that leads to a sink is `home`. A tx and an rx are no visits but the way between two; an rx
numbers its own `start` and `end`, which say nothing of the packet once one has been lost.

The *way* of a frame is the visits that its delay is made of: from its last visit back to the one
that it had to wait for, and so on to the source. Each span of the way begins where the one before
ends, so that they add up to the delay. Which visit another had to wait for is told by the links of
the session, else by who has sent what was received, else by the time.

Clocks may differ by more than a span is long: then an end is moved up to its begin, as far as the
last row of the way allows, and that is counted. Rows that come again are passed over. A sequence
that begins again, as after a restart of the session, is another frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Literal, NamedTuple

from vdag.control.records import Packet
from vdag.control.tracing.passes import Hop, Pass, Stay, passes_of
from vdag.control.tracing.roster import Role, Roster

__all__ = ["PARTS", "Arrow", "Frame", "Part", "Span", "Visit", "frames_of"]

Part = Literal["transfer", "queue", "compute", "home", "gap"]
#: In the order of a frame's way.
PARTS: tuple[Part, ...] = ("transfer", "queue", "compute", "home", "gap")
#: What lies between two events; whatever is not here is a gap.
_BETWEEN: dict[tuple[str, str], Part] = {
    ("end", "sent"): "transfer",
    ("sent", "recv"): "transfer",
    ("end", "recv"): "transfer",
    ("recv", "start"): "queue",
    ("end", "start"): "queue",
    ("start", "end"): "compute",
}
#: Seconds that a double of seconds since the epoch does not tell apart.
RESOLUTION_S = 1e-6


class Span(NamedTuple):
    """A stretch of a frame's time, seconds since the epoch, credited to a handler."""

    handler_id: int
    node_id: int | None
    part: Part
    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """How long it is."""
        return self.end_s - self.begin_s


class Arrow(NamedTuple):
    """A packet that went from node to node, to a handler.

    Attributes:
        source: handler that had it before; None if that is not known.
        source_node: where.
        sent_s: when it was sent.
        target: handler that had it next.
        target_node: where.
        recv_s: when it had come.
        nbytes: that travelled; None if that is not known.
    """

    source: int | None
    source_node: int | None
    sent_s: float
    target: int
    target_node: int | None
    recv_s: float
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class Visit:
    """A handler that a frame came to.

    Attributes:
        handler_id: of the handler.
        node_id: where it is; None if that is not known.
        spans: from the end of the visit it had to wait for to its own end; empty for a source.
        before: index of that visit among the frame's; None for the first.
        begin_s: when the frame was there, the begin of waiting.
        done_s: of its last event.
    """

    handler_id: int
    node_id: int | None
    spans: tuple[Span, ...]
    before: int | None
    begin_s: float
    done_s: float


@dataclass(frozen=True, slots=True)
class Frame:
    """See above.

    Attributes:
        sequence: of the packet.
        run: how often this sequence had begun before.
        born_s: when the source had it, seconds since the epoch.
        visits: by time.
        way: indices of the visits that its delay is made of, first to last.
        arrows: between nodes, by time.
        last: handler and event of its last row.
        is_whole: it has come to its end.
        skewed: ends that were moved up.
        ignored: rows that were passed over.
    """

    sequence: int
    run: int
    born_s: float
    visits: tuple[Visit, ...]
    way: tuple[int, ...]
    arrows: tuple[Arrow, ...]
    last: tuple[int, str]
    is_whole: bool
    skewed: int
    ignored: int

    @property
    def done_s(self) -> float:
        """When it was done, as far as it came."""
        return self.visits[self.way[-1]].done_s if self.way else self.born_s

    @property
    def delay_s(self) -> float:
        """From the source to there."""
        return self.done_s - self.born_s

    def spans(self) -> Iterator[Span]:
        """Yield the spans of its way, which follow one another without a gap."""
        for index in self.way:
            yield from self.visits[index].spans


def frames_of(rows: Iterable[Packet], roster: Roster) -> Iterator[Frame]:
    """Yield the frames that rows are of.

    Args:
        rows: of one session, those of a sequence one after another, in any order among themselves.
        roster: of the session.
    """
    for _, group in groupby(rows, key=attrgetter("sequence")):
        for number, found in enumerate(passes_of(group, roster)):
            yield _Weaver(found, roster).frame(number)


class _Weaver:
    """Puts the visits of a pass in order, each after the one it had to wait for."""

    def __init__(self, found: Pass, roster: Roster) -> None:
        self._found, self._roster = found, roster
        self._stays = sorted(found.stays, key=self._order)
        self._hops = {hop.target: hop for hop in found.hops}  # the last that came
        self._visits: list[Visit] = []
        self._woven: dict[int, int] = {}  # visits by stay, and the other way round
        self._stay_of: list[Stay] = []
        self._skewed = 0

    def frame(self, run: int) -> Frame:
        for number in range(len(self._stays)):
            self._weave(number)
        way = self._way()
        self._cap(way)
        found = self._found
        born_s = self._born_s(way[0]) if way else found.last.timestamp
        finals = self._roster.finals
        is_whole = any(
            stay.end is not None and (not finals or stay.handler_id in finals)
            for stay in self._stays
        )
        return Frame(
            found.last.sequence,
            run,
            born_s,
            tuple(self._visits),
            way,
            tuple(self._arrow(hop) for hop in found.hops if hop.sent_s is not None),
            (found.last.handler_id, found.last.event),
            is_whole,
            self._skewed,
            found.ignored,
        )

    def _order(self, stay: Stay) -> tuple[float, float, bool, int]:
        is_source = self._roster.role(stay.handler_id) is Role.SOURCE
        return stay.first_s, stay.done_s, not is_source, stay.handler_id

    def _weave(self, number: int) -> None:
        """Add the visit of a stay, after those that it had to wait for."""
        chain: list[int] = []
        at: int | None = number
        # Where clocks disagree, two may seem to have waited for each other.
        while at is not None and at not in self._woven and at not in chain:
            chain.append(at)
            at = self._before(at)
        before = None if at is None else self._woven.get(at)
        for each in reversed(chain):
            visit = self._visit(self._stays[each], before)
            before = self._woven[each] = len(self._visits)
            self._visits.append(visit)
            self._stay_of.append(self._stays[each])

    def _visit(self, stay: Stay, before: int | None) -> Visit:
        if self._roster.role(stay.handler_id) is Role.SOURCE:
            # Before its end it waits for the camera, which is nobody's delay.
            return Visit(stay.handler_id, stay.node_id, (), None, stay.first_s, stay.done_s)
        points = list(self._points(stay, before))
        is_near = before is None or self._is_near(before, stay)
        spans: list[Span] = []
        for (event, at_s), (next_event, next_s) in pairwise(points):
            begin_s = spans[-1].end_s if spans else at_s
            if next_s < begin_s - RESOLUTION_S:
                self._skewed += 1
            part = self._part(stay, event, next_event, is_near)
            end_s = max(begin_s, next_s)
            spans.append(Span(stay.handler_id, stay.node_id, part, begin_s, end_s))
        done_s = spans[-1].end_s if spans else points[-1][1]
        return Visit(stay.handler_id, stay.node_id, tuple(spans), before, stay.first_s, done_s)

    def _points(self, stay: Stay, before: int | None) -> Iterator[tuple[str, float]]:
        """Yield the events that lead to a visit, and its own."""
        if before is not None:
            yield self._stay_of[before].last_event, self._visits[before].done_s
        hop = self._hops.get(stay.handler_id)
        if hop is not None:
            is_from = before is not None and self._stay_of[before].handler_id == hop.source
            if hop.sent_s is not None and is_from:
                yield "sent", hop.sent_s
            yield "recv", hop.recv_s
        if stay.start is not None:
            yield "start", stay.start
        if stay.end is not None:
            yield "end", stay.end
        elif stay.start is None and hop is None:
            yield stay.last_event, stay.done_s

    def _part(self, stay: Stay, event: str, following: str, is_near: bool) -> Part:
        part = _BETWEEN.get((event, following), "gap")
        if (event, following) == ("end", "start") and not is_near:
            part = "gap"  # it has travelled and waited
        is_home = part in ("transfer", "queue") and self._roster.role(stay.handler_id) is Role.SINK
        return "home" if is_home else part

    def _is_near(self, before: int, stay: Stay) -> bool:
        nodes = {self._stay_of[before].node_id, stay.node_id} - {None}
        return len(nodes) <= 1

    def _before(self, number: int) -> int | None:
        """Return which stay another had to wait for; None if that is a source's, or not known."""
        stays, stay = self._stays, self._stays[number]
        if self._roster.role(stay.handler_id) is Role.SOURCE:
            return None
        feeding = self._roster.before.get(stay.handler_id)
        if feeding:
            mine = [n for n, each in enumerate(stays) if each.handler_id in feeding]
            if mine:
                return max(mine, key=lambda n: stays[n].done_s)
        hop = self._hops.get(stay.handler_id)
        is_sink = self._roster.role(stay.handler_id) is Role.SINK and not self._roster.has_cuts
        # A sink of ours has all branches of a frame in one row; it waited for the last.
        if hop is not None and hop.source is not None and not is_sink:
            return next(n for n, each in enumerate(stays) if each.handler_id == hop.source)
        start_s = stay.start if stay.start is not None else stay.done_s
        earlier = [n for n in range(number) if stays[n].done_s <= start_s]
        beside = self._roster.beside
        ready = [n for n in earlier if (stays[n].handler_id, stay.handler_id) not in beside]
        # What nobody has received has been on the node, which has one clock.
        near = [n for n in ready if stays[n].node_id == stay.node_id]
        if is_sink or not near:
            near = ready
        # Of those that were done at the same time, the one that came last.
        latest = max(near, key=lambda n: (stays[n].done_s, n), default=None)
        return latest if latest is not None or not number else number - 1

    def _way(self) -> tuple[int, ...]:
        if not self._visits:
            return ()
        finals = self._roster.finals
        ended = [n for n, visit in enumerate(self._visits) if visit.handler_id in finals]
        among: Sequence[int] = ended or range(len(self._visits))
        index: int | None = max(among, key=lambda n: (self._visits[n].done_s, n))
        way: list[int] = []
        while index is not None:
            way.append(index)
            index = self._visits[index].before
        return tuple(reversed(way))

    def _cap(self, way: Sequence[int]) -> None:
        """Let no span of a way end after its last row, as where one was moved up too far."""
        end_s = self._stay_of[way[-1]].done_s if way else 0.0
        if not way or self._visits[way[-1]].done_s <= end_s:
            return
        end_s = max(end_s, self._born_s(way[0]))
        for index in way:
            visit = self._visits[index]
            spans = tuple(
                span._replace(begin_s=min(span.begin_s, end_s), end_s=min(span.end_s, end_s))
                for span in visit.spans
            )
            self._visits[index] = replace(visit, spans=spans, done_s=min(visit.done_s, end_s))

    def _born_s(self, first: int) -> float:
        visit = self._visits[first]
        return visit.spans[0].begin_s if visit.spans else visit.done_s

    def _arrow(self, hop: Hop) -> Arrow:
        assert hop.sent_s is not None
        return Arrow(
            hop.source, hop.source_node, hop.sent_s, hop.target, hop.target_node, hop.recv_s,
            hop.nbytes,
        )  # fmt: skip
