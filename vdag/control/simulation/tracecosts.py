"""What tasks cost in a trace: in the median, and by how much frames differ from each other.

A few slow seconds, in which a machine had something else to do, would make every frame of a
simulation a little unsteady if they were put into a mean and a 95 % quantile. So what is fitted is
what most seconds are like: the median, and the median of the slowest of a few frames in a row.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from vdag.control.profile import Cost
from vdag.control.profile.costs import MAX_COMPUTE_S, MIN_COMPUTE_S
from vdag.control.simulation.accounts import Accounts, accounts_of
from vdag.control.simulation.traces import Trace, TraceFrame
from vdag.control.simulation.truth import Z95
from vdag.control.simulation.waits import work_under_quota
from vdag.plan import Plan

__all__ = ["costs_of"]

#: Frames in a row of which the slowest is looked at: those of a second, within these bounds.
MIN_RUN, MAX_RUN = 4, 16
#: Fewer runs than this say nothing of the usual one.
MIN_RUNS = 3
#: Of frames under a quota, which stalls make slower but never faster: the quantile that tells.
LOW, Z_LOW = 0.1, -statistics.NormalDist().inv_cdf(0.1)
#: Standard deviation of the logarithm of what frames take, where stalls hide it, and the most.
USUAL_SPREAD, MAX_SPREAD = 0.05, 0.5
#: Frames that take this much longer than their work have been stalled.
STALLED = 1.1

#: Task, model, resolution and node.
Key = tuple[str, int, str, str]


class _Seen(NamedTuple):
    """Frames of one key: objects, seconds that they took, and CPU seconds of a plan's frames.

    `run` is how many of them there are in a second.
    """

    counts: list[float]
    seconds: list[float]
    work_s: list[float]
    run: int


class _Fit(NamedTuple):
    """Seconds without objects in the median, of each object, and the spread of their logarithm."""

    typical_s: float
    slope_s: float
    spread: float


def costs_of(trace: Trace, plans: Mapping[int, Plan]) -> dict[Key, Cost]:
    """Return the cost of each task, model and resolution on each node that was seen at it."""
    accounts = accounts_of(trace, plans)
    # With a whole core there is no stall for a worker that is alone.
    stalling = {addr for addr, quota in accounts.quotas.items() if quota.cores < 1.0}
    seen = _seen(trace, plans, accounts)
    fits = {key: _fit(each, may_stall=key[3] in stalling) for key, each in seen.items()}
    fits |= dict(_shaken(trace, plans, fits, stalling))
    works = {
        key: _work_s(each, fits[key], key[3], accounts)
        if key[3] in stalling
        else fits[key].typical_s
        for key, each in seen.items()
    }
    steady: defaultdict[str, list[float]] = defaultdict(list)
    for key, fit in fits.items():
        if fit.typical_s <= STALLED * works[key]:
            steady[key[0]].append(fit.spread)
    return {
        key: _cost(seen[key], _unstalled(fit, works[key], steady[key[0]]))
        for key, fit in fits.items()
    }


def _shaken(
    trace: Trace, plans: Mapping[int, Plan], fits: Mapping[Key, _Fit], stalling: Collection[str]
) -> Iterator[tuple[Key, _Fit]]:
    """Yield the fits with a spread that explains that of whole delays.

    Ways and queues are unsteady as well. Nothing but tasks is in a simulation: they stand for all.
    """
    frames: defaultdict[int, list[TraceFrame]] = defaultdict(list)
    for frame in trace.frames:
        frames[frame.plan].append(frame)
    found: defaultdict[Key, list[float]] = defaultdict(list)
    for number, plan in plans.items():
        keys = [_key(task, plan, trace.node_addr) for task in plan.flow_mapping]
        if not all(key in fits and key[3] not in stalling for key in keys):
            continue
        slope_s = sum(fits[key].slope_s for key in keys)
        delays = [each.delay - slope_s * (each.obj_n or 0.0) for each in frames[number]]
        run = _run(plan.video_conf.fps)
        slowest = list(_slowest(delays, run))
        if len(slowest) >= MIN_RUNS:
            excess_s = statistics.median(slowest) - statistics.median(delays)
            work_s = math.hypot(*(fits[key].typical_s for key in keys))
            for key in keys:
                found[key].append(math.log1p(excess_s / work_s) / _z(run))
    for key, spreads in found.items():
        spread = max(statistics.median(spreads), fits[key].spread)
        yield key, fits[key]._replace(spread=min(spread, MAX_SPREAD))


def _key(task: str, plan: Plan, home: str) -> Key:
    place = plan.flow_mapping[task]
    return task, place.model_id, plan.conf_of(task).resolution, place.node_addr or home


def _seen(trace: Trace, plans: Mapping[int, Plan], accounts: Accounts) -> dict[Key, _Seen]:
    seen: dict[Key, _Seen] = {}
    for frame in trace.frames:
        plan = plans.get(frame.plan)
        for task, parts in frame.tasks.items() if plan is not None else ():
            if plan is None or task not in plan.flow_mapping:
                continue
            key = _key(task, plan, trace.node_addr)
            into = seen.setdefault(key, _Seen([], [], [], _run(plan.video_conf.fps)))
            into.counts.append(frame.obj_n or 0.0)
            into.seconds.append(parts.compute)
            if (frame.plan, task) in accounts.work_s:
                into.work_s.append(accounts.work_s[frame.plan, task])
    return seen


def _fit(seen: _Seen, *, may_stall: bool) -> _Fit:
    """Return how frames are, in the order in which they came."""
    counts, seconds, slope_s = seen.counts, seen.seconds, 0.0
    if len(counts) > 2 and statistics.pstdev(counts) > 0:
        slope_s = max(statistics.linear_regression(counts, seconds).slope, 0.0)
    bare = [
        max(took_s - slope_s * count, MIN_COMPUTE_S)
        for count, took_s in zip(counts, seconds, strict=True)
    ]
    typical_s = statistics.median(bare)
    spread = _spread(bare, typical_s, seen.run)
    if may_stall:
        low_s = sorted(bare)[int(LOW * len(bare))]
        spread = min(spread, math.log(typical_s / low_s) / Z_LOW)
    return _Fit(typical_s, slope_s, min(max(spread, 0.0), MAX_SPREAD))


def _spread(bare: Sequence[float], typical_s: float, run: int) -> float:
    """Return the standard deviation of the logarithm, by the slowest of some frames in a row."""
    slowest = list(_slowest(bare, run))
    if len(slowest) >= MIN_RUNS:
        return math.log(statistics.median(slowest) / typical_s) / _z(run)
    ranked = sorted(bare)
    return math.log(ranked[max(math.ceil(0.95 * len(ranked)) - 1, 0)] / typical_s) / Z95


def _slowest(bare: Sequence[float], run: int) -> Iterator[float]:
    for start in range(0, len(bare) - run + 1, run):
        yield max(bare[start : start + run])


def _run(fps: float) -> int:
    return min(max(round(fps), MIN_RUN), MAX_RUN)


def _z(run: int) -> float:
    """Return where the slowest of so many is in the median, in standard deviations."""
    return statistics.NormalDist().inv_cdf(0.5 ** (1.0 / run))


def _work_s(seen: _Seen, fit: _Fit, addr: str, accounts: Accounts) -> float:
    """Return the work of a frame without objects: what it takes where nothing stalls it."""
    quota = accounts.quotas[addr]
    if seen.work_s:
        work_s = statistics.median(seen.work_s)
    else:
        # Nobody has told what its workers have used: then it is as much as explains the mean.
        mean_s, own_load = statistics.fmean(seen.seconds), accounts.own_load[addr]
        work_s = work_under_quota(mean_s, quota.cores, quota.period_s, own_load)
    bare = fit.typical_s / (fit.typical_s + fit.slope_s * statistics.fmean(seen.counts))
    return min(max(work_s * bare, MIN_COMPUTE_S), fit.typical_s)


def _unstalled(fit: _Fit, work_s: float, steady: Sequence[float]) -> _Fit:
    """Return how frames would be without stalls."""
    share = work_s / fit.typical_s
    if share * STALLED >= 1.0:
        return fit._replace(typical_s=work_s)
    spread = min(fit.spread, *steady) if steady else USUAL_SPREAD
    return _Fit(work_s, fit.slope_s * share, spread)


def _cost(seen: _Seen, fit: _Fit) -> Cost:
    """Return the cost: mean and quantile of the lognormal that fits."""
    mean_s = _bounded(fit.typical_s * math.exp(0.5 * fit.spread**2))
    return Cost(
        mean_s,
        max(_bounded(fit.typical_s * math.exp(Z95 * fit.spread)), mean_s),
        min(fit.slope_s, MAX_COMPUTE_S),
        samples=len(seen.seconds),
        obj_n=statistics.fmean(seen.counts),
        compute_p50_s=_bounded(fit.typical_s),
    )


def _bounded(seconds: float) -> float:
    return min(max(seconds, MIN_COMPUTE_S), MAX_COMPUTE_S)
