"""Frames as a trace that Chrome and Perfetto show, in the JSON of the Trace Event Format.

The format: Nat Duca and Dan Sinclair, "Trace Event Format", the Chromium project.

A node is a process, a handler a thread of it. A visit is a slice (`X`), with the spans that lead to
it and make it inside; what was sent is an arrow (`s`, `f`) from the slice of the handler before to
that of the next. Slices of a thread may lie in one another, but not overlap, and of frames that
wait the visits do: a handler has as many *lanes*, each a thread, as it takes to lay them apart.

Times are microseconds since the first slice, whose own time is in `otherData`. Times of rows tell
no less than about a microsecond apart, and an arrow needs a slice to hold on to: none is shorter.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from vdag.control.tracing.frames import Frame, Visit
from vdag.control.tracing.roster import Roster

__all__ = ["chrome_events", "write_chrome"]

Event = dict[str, Any]
#: Of a slice.
SHORTEST_US = 1.0


@dataclass(frozen=True, slots=True)
class _Slice:
    """A visit as it is drawn, in microseconds since the first."""

    frame: Frame
    visit: Visit
    begin_us: float
    end_us: float

    @property
    def place(self) -> tuple[int, int]:
        node_id = self.visit.node_id
        return -1 if node_id is None else node_id, self.visit.handler_id

    def inside(self, at_us: float) -> float:
        """Return a time within the slice, for an arrow."""
        return min(max(at_us, self.begin_us), self.end_us - SHORTEST_US / 2)


@dataclass(slots=True)
class _Lanes:
    """The threads of a handler on a node: when each is free, soonest first."""

    free: list[tuple[float, int]] = field(default_factory=list)

    def take(self, begin_us: float, end_us: float) -> int:
        """Return the number of a lane that is free from begin to end, from 0."""
        if self.free and self.free[0][0] <= begin_us:
            _, lane = heapq.heappop(self.free)
        else:
            lane = len(self.free)
        heapq.heappush(self.free, (end_us, lane))
        return lane


def write_chrome(frames: Sequence[Frame], roster: Roster, file: TextIO) -> int:
    """Write a trace; return how many events it has.

    Args:
        frames: all of them, as they have to be put in the order of their times.
        roster: of their session.
        file: that it is written to.

    Raises:
        OSError: as of the file.
    """
    zero_s = _zero_s(frames)
    about = {"displayTimeUnit": "ms", "otherData": {"zero_s": f"{zero_s:.6f}"}}
    file.write(json.dumps(about)[:-1] + ', "traceEvents": [')
    count = 0
    for event in chrome_events(frames, roster):
        file.write(",\n" if count else "\n")
        file.write(json.dumps(event))
        count += 1
    file.write("\n]}\n")
    return count


def chrome_events(frames: Sequence[Frame], roster: Roster) -> Iterator[Event]:
    """Yield the events of a trace: names of processes and threads, slices and arrows."""
    slices = sorted(_slices(frames, _zero_s(frames)), key=lambda each: each.begin_us)
    processes = {node: n for n, node in enumerate(sorted({each.place[0] for each in slices}), 1)}
    lanes: dict[tuple[int, int], _Lanes] = {}
    threads: dict[tuple[int, int, int], int] = {}
    drawn: dict[tuple[int, int, int], tuple[_Slice, int]] = {}
    for each in slices:
        lane = lanes.setdefault(each.place, _Lanes()).take(each.begin_us, each.end_us)
        thread = threads.setdefault((*each.place, lane), len(threads) + 1)
        drawn[_key(each.frame, each.visit.handler_id)] = each, thread
    yield from _names(processes, threads, roster)
    zero_s = _zero_s(frames)
    for each, thread in drawn.values():
        yield from _slice_events(each, processes[each.place[0]], thread, roster, zero_s)
    count = 0
    for frame in frames:
        for arrow in frame.arrows:
            target = drawn.get(_key(frame, arrow.target))
            source = None if arrow.source is None else drawn.get(_key(frame, arrow.source))
            if source is None or target is None:
                continue
            count += 1
            ends = (("s", source, arrow.sent_s), ("f", target, arrow.recv_s))
            for phase, (each, thread), at_s in ends:
                at_us = each.inside(_us(at_s - zero_s))
                event = _event(phase, "packet", processes[each.place[0]], thread, at_us)
                event |= {"id": count, "args": {"nbytes": arrow.nbytes}}
                # The end holds on to the slice that it is in, not to the next one.
                yield event | ({"bp": "e"} if phase == "f" else {})


def _zero_s(frames: Iterable[Frame]) -> float:
    begins = (_begin_s(visit) for frame in frames for visit in frame.visits)
    return min(begins, default=0.0)


def _begin_s(visit: Visit) -> float:
    return visit.spans[0].begin_s if visit.spans else min(visit.begin_s, visit.done_s)


def _slices(frames: Iterable[Frame], zero_s: float) -> Iterator[_Slice]:
    for frame in frames:
        for visit in frame.visits:
            begin_us = _us(_begin_s(visit) - zero_s)
            end_us = max(_us(visit.done_s - zero_s), begin_us + SHORTEST_US)
            yield _Slice(frame, visit, begin_us, end_us)


def _names(
    processes: dict[int, int], threads: dict[tuple[int, int, int], int], roster: Roster
) -> Iterator[Event]:
    for node_id, process in processes.items():
        name = roster.node(None if node_id < 0 else node_id)
        yield _meta("process_name", process, 0, {"name": name})
        yield _meta("process_sort_index", process, 0, {"sort_index": process})
    for order, place in enumerate(sorted(threads)):
        node_id, handler_id, lane = place
        name = roster.handler(handler_id) + (f" ({lane + 1})" if lane else "")
        yield _meta("thread_name", processes[node_id], threads[place], {"name": name})
        index = {"sort_index": order}
        yield _meta("thread_sort_index", processes[node_id], threads[place], index)


def _slice_events(
    each: _Slice, process: int, thread: int, roster: Roster, zero_s: float
) -> Iterator[Event]:
    visit, frame = each.visit, each.frame
    whole = _event("X", f"frame {frame.sequence}", process, thread, each.begin_us)
    whole["dur"] = _round(each.end_us - each.begin_us)
    whole["args"] = {
        "sequence": frame.sequence,
        "run": frame.run,
        "handler": roster.handler(visit.handler_id),
        "node": roster.node(visit.node_id),
    }
    yield whole
    for span in visit.spans:
        begin_us = _us(span.begin_s - zero_s)
        length_us = _us(span.end_s - zero_s) - begin_us
        if length_us >= SHORTEST_US:
            yield _event("X", span.part, process, thread, begin_us) | {"dur": _round(length_us)}


def _event(phase: str, name: str, process: int, thread: int, at_us: float) -> Event:
    return {
        "ph": phase,
        "name": name,
        "cat": "frame" if phase == "X" else "network",
        "pid": process,
        "tid": thread,
        "ts": _round(at_us),
    }


def _meta(name: str, process: int, thread: int, args: Event) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "ts": 0, "args": args}


def _key(frame: Frame, handler_id: int) -> tuple[int, int, int]:
    return frame.sequence, frame.run, handler_id


def _us(length_s: float) -> float:
    return _round(length_s * 1e6)


def _round(length_us: float) -> float:
    return round(length_us, 3)
