"""`search`: the best candidate of all configurations and placements.

Configurations, that is a resolution, a rate and a model for each task, are ranked by their quality,
which does not depend on nodes. From the best down, each is first held against a bound that no
placement of it can beat: all tasks at the host, or one shortest way and the fastest node for each.
Only what passes is looked at placement by placement. The first configuration with a placement that
will do is the best, so most are never looked at, and none is left out that could have been it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from vdag.control.prediction.candidates import Candidate
from vdag.control.prediction.evaluating import (
    crowding_of,
    delays,
    moves_of,
    placements,
    prices_of,
    under_way,
)
from vdag.control.prediction.queueing import Z95
from vdag.control.prediction.tables import Array, Ints, Tables

__all__ = [
    "ACCURACY_STEP",
    "EPSILON",
    "Aim",
    "Config",
    "Found",
    "Refuse",
    "ladder",
    "place",
    "quality",
    "search",
    "search_closest",
]

#: Accuracies that differ by less are the same: neither prediction nor user could tell.
ACCURACY_STEP = 0.01
#: What a rung of the ladder adds.
RUNG_STEP = 0.005
#: Configurations that are looked at placement by placement.
MAX_LOOKS = 64
#: A closer bound, which costs more, is worked out for so many at a time: the first will mostly do.
FIRST_CHUNK, CHUNK = 8, 64
#: How far the best of all delays may be missed by a plan of better quality, if none is in time.
SLACK = 1.05
#: Candidates that are told about because they would have been better.
RUNNERS_UP = 2
#: In place of no limit and of one of 0, where something is divided by it.
NO_LIMIT_S, LEAST_LIMIT_S = 1e6, 1e-6
#: What rounding may be off by.
EPSILON = 1e-9

Refuse = Callable[[Candidate], bool]
#: Indexes of resolution, rate and combination of models.
Config = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Aim:
    """What is searched for.

    Attributes:
        limit_s: that the 95th percentile of the delay must not exceed.
        enough: accuracy beyond which more counts no more; above 1 for never enough.
        least: accuracy below which nothing will do.
        crowding: ratio of what is taken to what may be, at most.
        present: the placement so far, task to `node_addr`.
        fewest_moves: whether to move as few tasks as possible before asking where they cost least;
            else the other way round.
        refuse: candidates that shall not be, whatever is predicted.
        only: configurations to search, as a mask `(resolution, rate, combination)`; None for all.
    """

    limit_s: float
    enough: float = 2.0
    least: float = 0.0
    crowding: float = 1.0
    present: dict[str, str] = field(default_factory=dict)
    fewest_moves: bool = True
    refuse: Refuse | None = None
    only: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate, with what was predicted for it and how many were looked at for it."""

    candidate: Candidate
    delay_s: float
    p95_s: float
    accuracy: float
    looks: int
    runners_up: tuple[Candidate, ...] = ()


def quality(accuracy: float, enough: float) -> int:
    """Return how many steps of accuracy count."""
    if accuracy >= enough - EPSILON:
        return math.floor(1 / ACCURACY_STEP) + 1
    return math.floor(accuracy / ACCURACY_STEP + EPSILON)


def search(tables: Tables, aim: Aim) -> Found | None:
    """Return the best candidate that an aim allows, None if there is none.

    Best is: the most accurate, in steps and up to what is enough; then the one with most frames per
    second; then that with the least work; then that whose tasks move least and run nearest to the
    video; then the fastest.
    """
    near: list[Candidate] = []
    possible = islice(_possible(tables, aim, _ranked(tables, aim)), MAX_LOOKS)
    for looks, (r, f, c) in enumerate(possible, start=1):
        found, fastest = _look(tables, aim, r, f, c)
        if found is not None:
            placed, delay_s, p95_s = found
            candidate = tables.candidate(r, f, c, placed)
            accuracy = float(tables.accuracy[r, f, c])
            return Found(candidate, delay_s, p95_s, accuracy, looks, tuple(near))
        if fastest is not None and len(near) < RUNNERS_UP:
            near.append(tables.candidate(r, f, c, fastest))
    return None


def place(tables: Tables, aim: Aim, config: Config) -> tuple[Found | None, Candidate | None]:
    """Return the best placement of one configuration; without one, the fastest there is.

    Returns:
        One of the two, or neither if nothing can run the configuration.
    """
    found, fastest = _look(tables, aim, *config)
    if found is None:
        return None, None if fastest is None else tables.candidate(*config, fastest)
    placed, delay_s, p95_s = found
    accuracy = float(tables.accuracy[config])
    return Found(tables.candidate(*config, placed), delay_s, p95_s, accuracy, 1), None


def ladder(tables: Tables) -> list[Config]:
    """Return configurations of rising quality: none below has more accuracy, or takes more work."""
    accuracy, work = tables.accuracy, _least_work(tables)
    steps = np.floor(accuracy.ravel() / RUNG_STEP)
    order = np.lexsort((-steps, work.ravel()))
    highest = np.maximum.accumulate(steps[order])
    is_rung = np.diff(highest, prepend=-1.0) > 0
    is_rung &= np.isfinite(work.ravel()[order])
    chosen = np.unravel_index(order[is_rung], accuracy.shape)
    return [(int(r), int(f), int(c)) for r, f, c in zip(*chosen, strict=True)]


def search_closest(tables: Tables, aim: Aim) -> Found:
    """Return the candidate that exceeds delay and capacity by least, of the best quality for that.

    How far it is off is the larger of delay over limit and use over share. Both only rise with the
    rate, so the slowest one tells how close it can be.
    """
    limit_s = min(max(aim.limit_s, LEAST_LIMIT_S), NO_LIMIT_S)
    best, closest = math.inf, None
    bounds = _bounds(tables, math.inf)[:, 0, :] / limit_s
    for index in np.argsort(bounds, axis=None, kind="stable"):
        r, c = divmod(int(index), bounds.shape[1])
        if bounds[r, c] >= best:
            break
        off, placed = _least_off(tables, limit_s, r, 0, c)
        if off < best and placed is not None:
            best, closest = off, (r, c, placed)
    assert closest is not None, "every task is offered somewhere, so something can be run"
    factor = max(best, 1.0) * SLACK
    wider = replace(aim, limit_s=limit_s * factor, least=0.0, crowding=factor, refuse=None)
    found = search(tables, wider)
    if found is not None:
        return found
    r, c, placed = closest
    delay, p95 = delays(tables, r, 0, c, placed[None])
    accuracy = float(tables.accuracy[r, 0, c])
    return Found(tables.candidate(r, 0, c, placed), float(delay[0]), float(p95[0]), accuracy, 0)


def _ranked(tables: Tables, aim: Aim) -> Ints:
    """Return the configurations that may do, best first, `(configuration, 3)`."""
    accuracy = tables.accuracy
    may = accuracy >= aim.least - EPSILON
    if aim.only is not None:
        may &= aim.only
    if not may.any():
        return np.empty((0, 3), dtype=np.intp)
    may &= _bounds(tables, aim.crowding) <= aim.limit_s * (1 + EPSILON)
    configs = np.argwhere(may)
    r, f, c = configs.T
    found = accuracy[r, f, c]
    steps = np.floor(found / ACCURACY_STEP + EPSILON)
    steps[found >= aim.enough - EPSILON] = math.floor(1 / ACCURACY_STEP) + 1
    work = _least_work(tables)[r, f, c]
    return configs[np.lexsort((work, -f, -steps))]


def _least_work(tables: Tables) -> Array:
    """Return the fewest workers that a configuration keeps busy."""
    if ("work",) not in tables.notes:
        tables.notes["work",] = _summed(tables, np.fmin.reduce(tables.own, axis=-1))
    return tables.notes["work",]


def _summed(tables: Tables, by_model: Array) -> Array:
    """Return sums over tasks: `(task, resolution, rate, model)` to `(resolution, rate, combo)`."""
    parts = [part[:, :, tables.combos[:, t]] for t, part in enumerate(by_model)]
    return np.asarray(np.add.reduce(parts))


def _bounds(tables: Tables, crowding: float) -> Array:
    """Return a 95th percentile that no placement of a configuration is below."""
    key = ("bounds", crowding, tables.free_only)
    if key not in tables.notes:
        tables.notes[key] = _bound(tables, crowding)
    return tables.notes[key]


def _bound(tables: Tables, crowding: float) -> Array:
    fits = tables.crowding <= crowding + EPSILON
    mean = np.where(fits, tables.mean, np.inf)
    var = np.where(fits, tables.var, np.inf)
    n = tables.host_index
    fastest, calmest = mean.min(-1), var.min(-1)
    way, way_var = tables.shortest_way(crowding)
    spread = Z95 * tables.outlook.calibration.spread_ratio
    worst = np.zeros(tables.accuracy.shape)
    for branch in tables.outlook.branches:
        picks = [(t, tables.combos[:, t]) for t in branch]
        away = way[:, :, None] + np.add.reduce([fastest[t][:, :, pick] for t, pick in picks])
        spare = way_var[:, :, None] + np.add.reduce([calmest[t][:, :, pick] for t, pick in picks])
        bound = away + spread * np.sqrt(spare)
        if n >= 0:
            here = np.add.reduce([mean[t][..., n][:, :, pick] for t, pick in picks])
            calm = np.add.reduce([var[t][..., n][:, :, pick] for t, pick in picks])
            bound = np.minimum(bound, here + spread * np.sqrt(calm))
        worst = np.maximum(worst, bound)
    return worst


def _possible(tables: Tables, aim: Aim, configs: Ints) -> Iterator[Config]:
    """Yield those of some configurations for which the fastest way of a frame is within an aim."""
    spread, size = Z95 * tables.outlook.calibration.spread_ratio, FIRST_CHUNK
    while len(configs):
        chunk, configs, size = configs[:size], configs[size:], CHUNK
        delay_s, var_s2 = tables.shortest(chunk, aim.crowding)
        flying = under_way(tables, chunk[:, 1], delay_s)
        may = delay_s + spread * np.sqrt(var_s2) <= aim.limit_s * (1 + EPSILON)
        for r, f, c in chunk[may & (flying <= aim.crowding + EPSILON)]:
            yield int(r), int(f), int(c)


def _look(
    tables: Tables, aim: Aim, r: int, f: int, c: int
) -> tuple[tuple[Ints, float, float] | None, Ints | None]:
    """Return the best placement of a configuration that an aim allows, and its delays.

    Returns:
        None for no such placement, and then the fastest of those there are.
    """
    placed = placements(tables, r, f, c, aim.crowding)
    if not len(placed):
        return None, None
    delay, p95 = delays(tables, r, f, c, placed)
    good = (p95 <= aim.limit_s) & (under_way(tables, f, delay) <= aim.crowding + EPSILON)
    if good.any():
        good &= crowding_of(tables, r, f, c, placed) <= aim.crowding + EPSILON
    chosen = np.flatnonzero(good)
    if not len(chosen):
        return None, placed[np.argmin(p95)]
    moves, cost = moves_of(tables, aim.present, placed[chosen]), prices_of(tables, placed[chosen])
    keys = (p95[chosen], cost, moves) if aim.fewest_moves else (p95[chosen], moves, cost)
    for i in chosen[np.lexsort(keys)]:
        if aim.refuse is None or not aim.refuse(tables.candidate(r, f, c, placed[i])):
            return (placed[i], float(delay[i]), float(p95[i])), None
    return None, placed[np.argmin(p95)]


def _least_off(tables: Tables, limit_s: float, r: int, f: int, c: int) -> tuple[float, Ints | None]:
    """Return how far the best placement of a configuration is off, and that placement."""
    placed = placements(tables, r, f, c, math.inf)
    if not len(placed):
        return math.inf, None
    delay, p95 = delays(tables, r, f, c, placed)
    use = np.maximum(crowding_of(tables, r, f, c, placed), under_way(tables, f, delay))
    off = np.maximum(p95 / limit_s, use)
    i = int(np.argmin(off))
    return float(off[i]), placed[i]
