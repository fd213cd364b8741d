"""What a trace tells of CPU time: quotas of nodes, and what frames took of them.

Under a quota the time from the beginning of work to its end is no measure of the work: it has the
stalls in it, more or fewer as it happened to fall into the periods. The CPU time that a worker has
used has none, and over all frames of a plan it tells what one takes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vdag.control.simulation.traces import Trace, TraceFrame, TraceQuota
from vdag.plan import Plan

__all__ = ["Accounts", "accounts_of", "ip_of"]

#: Shorter than this, what is between two states says little.
MIN_SPAN_S = 2.0
#: So long it takes at most until others hear of what a node has used: first states are of before.
LAG_S = 4.0
#: Of the highest rate to the lowest, at least, that tell what a frame costs.
MIN_RATIO = 1.5
#: Of the quota, at most, that a node is believed to need for itself.
MAX_OWN_SHARE = 0.8


@dataclass(slots=True)
class Accounts:
    """See above.

    Attributes:
        quotas: of the nodes that have one, by `node_addr`.
        own_load: likewise, the cores that they kept busy beside their tasks, whatever came.
        frame_s: likewise, CPU seconds that each frame of the query took beside its tasks.
        work_s: CPU seconds of a frame, by number of the plan and task.
    """

    quotas: dict[str, TraceQuota] = field(default_factory=dict)
    own_load: dict[str, float] = field(default_factory=dict)
    frame_s: dict[str, float] = field(default_factory=dict)
    work_s: dict[tuple[int, str], float] = field(default_factory=dict)


@dataclass(slots=True)
class _Span:
    """A plan's time: its frames per second, and accounts of its nodes at its begin and its end."""

    number: int
    frames: list[TraceFrame]
    fps: float
    first: Mapping[str, TraceQuota]
    last: Mapping[str, TraceQuota]


def ip_of(node_addr: str) -> str:
    """Return the address of a node without its port."""
    return node_addr.rpartition(":")[0].strip("[]")


def accounts_of(trace: Trace, plans: Mapping[int, Plan]) -> Accounts:
    """Return what a trace tells; nothing of nodes without a quota."""
    found = Accounts()
    known = {ip: quota for each in trace.states for ip, quota in each.quotas.items()}
    for addr in _nodes(trace, plans):
        if ip_of(addr) in known:
            found.quotas[addr] = known[ip_of(addr)]
    own: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    spans = list(_spans(trace)) if found.quotas else []
    for span in spans:
        _add_work(span, plans[span.number], trace.node_addr, found)
    _take_off_overhead(spans, found)
    for span in spans:
        for addr, load in _own_loads(span, plans[span.number], trace.node_addr, found):
            own[addr].append((span.fps, load))
    for addr, quota in found.quotas.items():
        load, found.frame_s[addr] = _divided(own[addr])
        found.own_load[addr] = min(max(load, 0.0), MAX_OWN_SHARE * quota.cores)
    return found


def _divided(loads: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Divide loads at rates of frames into cores that are always busy, and seconds of a frame."""
    rates = [fps for fps, _ in loads]
    usual = statistics.median([load for _, load in loads] or [0.0])
    if not rates or max(rates) < MIN_RATIO * min(rates):
        return usual, 0.0  # at one rate nobody can tell
    line = statistics.linear_regression(*zip(*loads, strict=True))
    frame_s = min(max(line.slope, 0.0), max(usual, 0.0) / statistics.median(rates))
    return usual - frame_s * statistics.median(rates), frame_s


def _nodes(trace: Trace, plans: Mapping[int, Plan]) -> Iterator[str]:
    yield trace.node_addr
    for plan in plans.values():
        for place in plan.flow_mapping.values():
            if place.node_addr:
                yield place.node_addr


def _spans(trace: Trace) -> Iterator[_Span]:
    by_plan: defaultdict[int, list[TraceFrame]] = defaultdict(list)
    for frame in trace.frames:
        by_plan[frame.plan].append(frame)
    for plan in trace.plans:
        frames = by_plan[plan.number]
        length_s = frames[-1].at_s - frames[0].at_s if len(frames) > 1 else 0.0
        if length_s < LAG_S:
            continue
        begin_s, end_s = frames[0].at_s + LAG_S, frames[-1].at_s
        inside = [each.quotas for each in trace.states if begin_s <= each.at_s <= end_s]
        if inside:
            yield _Span(plan.number, frames, (len(frames) - 1) / length_s, inside[0], inside[-1])


def _add_work(span: _Span, plan: Plan, home: str, found: Accounts) -> None:
    """Note the CPU seconds of a frame at each task, by what its workers have used."""
    for task, place in plan.flow_mapping.items():
        ip = ip_of(place.node_addr or home)
        first, last = span.first.get(ip), span.last.get(ip)
        pids = {str(frame.tasks[task].pid) for frame in span.frames if task in frame.tasks}
        if first is None or last is None or last.at_s - first.at_s < MIN_SPAN_S:
            continue
        if not pids or not all(pid in first.workers and pid in last.workers for pid in pids):
            continue
        used_s = sum(last.workers[pid] - first.workers[pid] for pid in pids)
        found.work_s[span.number, task] = used_s / (last.at_s - first.at_s) / span.fps


def _took_s(span: _Span, task: str) -> float:
    return statistics.median(
        frame.tasks[task].compute for frame in span.frames if task in frame.tasks
    )


def _take_off_overhead(spans: list[_Span], found: Accounts) -> None:
    """Leave of workers' CPU time what belongs to the task itself.

    A worker also reads and writes messages. What that takes is told by the tasks that were never
    stalled: they have used more CPU time than it took from their begin to their end. Nobody does
    more work than he takes time for, but with several threads; those run at once.
    """
    by_plan = {span.number: span for span in spans}
    took = {(number, task): _took_s(by_plan[number], task) for number, task in found.work_s}
    more = [found.work_s[key] - took_s for key, took_s in took.items()]
    overhead_s = statistics.median([each for each in more if each > 0] or [0.0])
    for key, took_s in took.items():
        found.work_s[key] = min(max(found.work_s[key] - overhead_s, 0.0), took_s)


def _own_loads(span: _Span, plan: Plan, home: str, found: Accounts) -> Iterator[tuple[str, float]]:
    """Yield each node and the cores that it has used beside its tasks."""
    for addr in found.quotas:
        first, last = span.first.get(ip_of(addr)), span.last.get(ip_of(addr))
        if first is None or last is None or last.at_s - first.at_s < MIN_SPAN_S:
            continue
        tasks = [
            task for task, place in plan.flow_mapping.items() if (place.node_addr or home) == addr
        ]
        if all((span.number, task) in found.work_s for task in tasks):
            work_s = sum(found.work_s[span.number, task] for task in tasks)
            cores = (last.used_s - first.used_s) / (last.at_s - first.at_s)
            yield addr, cores - work_s * span.fps
