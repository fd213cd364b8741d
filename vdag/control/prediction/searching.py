"""`search`: the best candidate of all configurations and placements.

Configurations, that is a resolution, a rate and a model for each task, are ranked by their quality,
which does not depend on nodes. From the best down, each is first held against a bound that no
placement of it can beat: all tasks at the host, or one shortest way and the fastest node for each.
Only what passes is looked at placement by placement. The first configuration with a placement that
will do is the best, so most are never looked at, and none is left out that could have been it.
The work is done by `native.forecast`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag.control.prediction.candidates import Candidate
from vdag.control.prediction.tables import Config, Tables

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
#: How far the best of all delays may be missed by a plan of better quality, if none is in time.
SLACK = 1.05
#: In place of no limit and of one of 0, where something is divided by it.
NO_LIMIT_S, LEAST_LIMIT_S = 1e6, 1e-6
#: What rounding may be off by.
EPSILON = 1e-9

Refuse = Callable[[Candidate], bool]


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
    found = tables.forecast.search(_goal(tables, aim), _refusal(tables, aim))
    if found.hit is None:
        return None
    near = tuple(tables.candidate(*each) for each in found.near)
    return _found(tables, found.hit, found.looks, near)


def place(tables: Tables, aim: Aim, config: Config) -> tuple[Found | None, Candidate | None]:
    """Return the best placement of one configuration; without one, the fastest there is.

    Returns:
        One of the two, or neither if nothing can run the configuration.
    """
    hit, fastest = tables.forecast.place(_goal(tables, aim), config, _refusal(tables, aim))
    if hit is None:
        return None, None if fastest is None else tables.candidate(config, fastest)
    return _found(tables, hit, 1), None


def ladder(tables: Tables) -> list[Config]:
    """Return configurations of rising quality: none below has more accuracy, or takes more work."""
    accuracy, work = tables.accuracy, tables.forecast.work()
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
    closest = tables.forecast.closest(limit_s, free_only=tables.free_only)
    assert closest is not None, "every task is offered somewhere, so something can be run"
    off, hit = closest
    factor = max(off, 1.0) * SLACK
    wider = replace(aim, limit_s=limit_s * factor, least=0.0, crowding=factor, refuse=None)
    found = search(tables, wider)
    return _found(tables, hit, 0) if found is None else found


def _goal(tables: Tables, aim: Aim) -> native.forecast.Goal:
    return native.forecast.Goal(
        aim.limit_s,
        aim.enough,
        aim.least,
        aim.crowding,
        tables.free_only,
        aim.fewest_moves,
        tuple(tables.indexes_of(aim.present, -2)),
        aim.only,
    )


def _refusal(tables: Tables, aim: Aim) -> Callable[[Config, tuple[int, ...]], bool] | None:
    refuse = aim.refuse
    if refuse is None:
        return None
    return lambda config, placed: refuse(tables.candidate(config, placed))


def _found(
    tables: Tables, hit: native.forecast.Hit, looks: int, near: tuple[Candidate, ...] = ()
) -> Found:
    accuracy = float(tables.accuracy[hit.config])
    candidate = tables.candidate(hit.config, hit.placed)
    return Found(candidate, hit.delay_s, hit.p95_s, accuracy, looks, near)
