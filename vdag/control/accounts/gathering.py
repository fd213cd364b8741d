"""`gather`: an `Account` from what is recorded of a session.

Its size is bounded, whatever the session's. Of more sequences than `MAX_FRAMES`, every second,
third and so on is looked at, and the page says so; time is cut into `STRETCHES`, of which means
and percentiles are kept; handlers, nodes, plans and placements have their limits too.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vdag.control.accounts.account import Account, Change, Histogram, Load, Series, Stack
from vdag.control.records import NodeSample, PlanRecord
from vdag.control.records.inspection import Extent, Inspection, Subject
from vdag.control.tracing import PARTS, Frame, Part, Role, Roster, Summary, Tally, frames_of
from vdag.control.tracing.reading import read_roster
from vdag.control.tracing.summary import parts_of, rank

__all__ = ["MAX_FRAMES", "gather"]

#: Sequences that are looked at.
MAX_FRAMES = 100_000
#: Of the time axis, and of the histogram.
STRETCHES, BINS = 120, 50
#: Of each, how many are shown: by the time they take, by number, the newest.
MAX_HANDLERS, MAX_NODES, MAX_CHANGES, MAX_PLACEMENTS = 12, 12, 100, 200
#: Plans that are read, so many as are kept of a query.
PLANS = 1100
#: A sample stands for what follows it, so long at most.
HOLD_S = 5.0
#: The histogram ends here in multiples of the 99th percentile: a few stragglers would flatten it.
TAIL = 1.5


def gather(inspection: Inspection, subject: Subject, *, max_frames: int = MAX_FRAMES) -> Account:
    """Return the account of a session.

    Args:
        inspection: of the records.
        subject: the session.
        max_frames: sequences that are looked at, at most.
    """
    extent = inspection.extent(subject.session_id)
    roster = read_roster(inspection, subject, extent)
    placements = inspection.placements(subject.session_id)
    begin_s, end_s = _axis(extent, subject)
    step = 1
    tally, seen = Tally(), _Seen(begin_s, end_s)
    if extent is not None:
        step = max(1, -(-(extent.last - extent.first + 1) // max_frames))
        rows = inspection.packets(
            subject.session_id, first=extent.first, last=extent.last, step=step
        )
        for frame in frames_of(rows, roster):
            tally.add(frame)
            seen.add(frame)
    summary = tally.summary()
    plans = _plans(inspection, subject)
    nodes = seen.nodes | {each.node_id for each in placements}
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
        [_change(plan) for plan in plans[-MAX_CHANGES:]],
        max(0, len(plans) - MAX_CHANGES),
        _loads(inspection.samples(begin_s, end_s), nodes, begin_s, end_s),
        placements[-MAX_PLACEMENTS:],
        max(0, len(placements) - MAX_PLACEMENTS),
        _dropped(inspection, subject),
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


def stretch_of(since_s: float, scale: float) -> int:
    """Return the stretch that a time since the begin is in; what is outside is in the next one."""
    return min(max(int(since_s * scale), 0), STRETCHES - 1)


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


def _plans(inspection: Inspection, subject: Subject) -> list[PlanRecord]:
    number = subject.session.query_id if subject.session is not None else None
    return [] if number is None else inspection.plans(number, limit=PLANS)


def _dropped(inspection: Inspection, subject: Subject) -> dict[str, int]:
    number = subject.session.query_id if subject.session is not None else None
    return {} if number is None else inspection.dropped(number)


def _change(plan: PlanRecord) -> Change:
    explanation = _object(plan.decision.get("explanation"))
    why = explanation.get("why")
    return Change(
        plan.number,
        plan.at_s,
        plan.cause,
        why if isinstance(why, str) else "",
        ", ".join(_settings(_object(plan.documents.get("video_conf")))),
        ", ".join(_places(_object(plan.documents.get("flow_mapping")))),
    )


def _settings(conf: Mapping[str, Any]) -> Iterator[str]:
    size = conf.get("resolution", conf.get("reso"))
    for value, unit in ((size, ""), (conf.get("fps"), " fps"), (conf.get("encoder"), "")):
        if value is not None:
            yield f"{value}{unit}"


def _places(mapping: Mapping[str, Any]) -> Iterator[str]:
    for task, place in mapping.items():
        found = _object(place)
        where = found.get("node_addr") or found.get("node_ip") or "?"
        yield f"{task} on {where}, model {found.get('model_id', '?')}"


def _object(value: Any) -> Mapping[str, Any]:
    """Return an object of a document that others have made."""
    return value if isinstance(value, Mapping) else {}


def _loads(
    samples: Iterable[NodeSample], nodes: Iterable[int], begin_s: float, end_s: float
) -> list[Load]:
    wanted = frozenset(sorted(nodes)[:MAX_NODES])
    scale = STRETCHES / (end_s - begin_s)
    sums: dict[tuple[int, str], list[list[float]]] = {}
    for sample in samples:
        if sample.node_id not in wanted:
            continue
        index = stretch_of(sample.timestamp - begin_s, scale)
        measured = {"cpu": sample.cpu_util, "memory": sample.mem_util, "gpu": sample.gpu_util}
        for name, value in measured.items():
            if value is not None and math.isfinite(value):
                key = (sample.node_id, name)
                cells = sums.setdefault(key, [[0.0, 0.0] for _ in range(STRETCHES)])
                cells[index][0] += value
                cells[index][1] += 1
    found: dict[int, dict[str, Series]] = {}
    for (node_id, name), cells in sums.items():
        means = [total / count if count else None for total, count in cells]
        found.setdefault(node_id, {})[name] = _held(means, int(HOLD_S * scale))
    return [Load(node_id, found[node_id]) for node_id in sorted(found)]


def _held(means: Iterable[float | None], count: int) -> list[float | None]:
    """Return a series in which a value goes on for so many stretches, while there is no other."""
    found: list[float | None] = []
    last, left = None, 0
    for mean in means:
        if mean is not None:
            last, left = mean, count
        found.append(mean if mean is not None or left <= 0 else last)
        left -= mean is None
    return found
