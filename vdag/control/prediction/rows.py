"""Rows: what a profile says of a task over all resolutions, as arrays.

A profile has what was measured before, which rarely changes, and what nodes teach, which changes
with every report. The first is kept here as arrays, by the profile's version, and shared by all
nodes of which the same is known; the second is a factor, and goes on top each time. So nothing is
ever out of date, and a decision does not have to ask for hundreds of numbers one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from vdag.control.prediction.outlook import UNKNOWN, Outlook
from vdag.control.profile import Cost, Profile
from vdag.control.profile.costs import MAX_COMPUTE_S, MIN_COMPUTE_S, pixels_of
from vdag.control.profile.learning import MAX_LOG, Learned
from vdag.control.scheduling.events import NodeInfo

__all__ = ["accuracy_row", "cost_rows"]

#: Rows of a profile; beyond, they are made anew.
MAX_ROWS = 20_000

Array = NDArray[np.float64]


@dataclass(slots=True)
class _Row:
    """A row, and the version of the profile that it is of."""

    version: int
    values: Array


_ROWS: WeakKeyDictionary[Profile, dict[Any, _Row]] = WeakKeyDictionary()


def cost_rows(
    outlook: Outlook,
    models: tuple[tuple[int, ...], ...],
    had: list[list[tuple[int, ...]]],
    nodes: tuple[NodeInfo, ...],
    resolutions: tuple[str, ...],
) -> Array:
    """Return, of all tasks: seconds without objects, per object, deviation, objects, bytes out.

    Args:
        outlook: with the tasks.
        models: of each task.
        had: those of each task that each node has.
        nodes: in their order.
        resolutions: likewise.

    Returns:
        Float64 `(5, task, resolution, model, node)`; NaN for models that are not had.
    """
    profile, tasks = outlook.profile, outlook.tasks
    places = tuple(profile.place(node) for node in nodes)
    key = (tasks, places, models, tuple(map(tuple, had)), resolutions)
    rows = _ROWS.setdefault(profile, {})
    row = rows.get(key)
    if row is None or row.version != profile.version:
        shape = (len(tasks), max(map(len, models)), len(nodes), len(resolutions), 5)
        values = np.full(shape, np.nan)
        for t, task in enumerate(tasks):
            for n, node in enumerate(nodes):
                for m, model_id in enumerate(models[t]):
                    if model_id in had[t][n]:
                        values[t, m, n] = _prior_row(profile, task, model_id, node, resolutions)
        values = values.transpose(4, 0, 3, 1, 2).copy()
        row = _keep(rows, key, _Row(profile.version, values))
    return _taught(outlook, row.values, models, nodes, resolutions)


def _taught(
    outlook: Outlook,
    prior: Array,
    models: tuple[tuple[int, ...], ...],
    nodes: tuple[NodeInfo, ...],
    resolutions: tuple[str, ...],
) -> Array:
    """Return rows with what the nodes have taught on top, as `Learned.applied` has it."""
    profile = outlook.profile
    all_learned = [
        [profile.learned(task, node) for node in nodes]
        if profile.knows(task)
        else [Learned()] * len(nodes)
        for task in outlook.tasks
    ]
    tail = np.array([[each.tail for each in row] for row in all_learned])[:, None, None]
    plain = np.array([[each.log_factor for each in row] for row in all_learned])
    log = np.repeat(plain[:, None, None], len(resolutions), axis=1)
    log = np.repeat(log, prior.shape[3], axis=2)
    for t, row in enumerate(all_learned):
        for n, learned in enumerate(row):
            for (model_id, pixels), more in learned.corrections.items():
                if model_id in models[t]:
                    at = [r for r, name in enumerate(resolutions) if pixels_of(name) == pixels]
                    log[t, at, models[t].index(model_id), n] += more
    factor = np.exp(np.clip(log, -MAX_LOG, MAX_LOG))
    compute = np.clip(prior[0] * factor, MIN_COMPUTE_S, MAX_COMPUTE_S)
    slope = np.minimum(prior[1] * factor, MAX_COMPUTE_S)
    seen = (tail - 1.0) * (compute + slope * prior[3])
    more = np.where(tail > 0, seen, prior[2] * factor)
    more = np.minimum(more, MAX_COMPUTE_S - compute)
    return np.stack([compute, slope, more, prior[3], prior[4]])


def _prior_row(
    profile: Profile, task: str, model_id: int, node: NodeInfo, resolutions: tuple[str, ...]
) -> Array:
    rows = _ROWS.setdefault(profile, {})
    key = (task, model_id, profile.place(node), resolutions)
    row = rows.get(key)
    if row is None or row.version != profile.version:
        costs = [profile.prior(task, model_id, name, node) or UNKNOWN for name in resolutions]
        values = np.array([_numbers(cost) for cost in costs])
        row = _keep(rows, key, _Row(profile.version, values))
    return row.values


def _numbers(cost: Cost) -> tuple[float, float, float, float, float]:
    deviation_s = max(cost.compute_p95_s - cost.compute_s, 0.0)
    return cost.compute_s, cost.per_object_s, deviation_s, cost.obj_n, cost.out_nbytes


def accuracy_row(
    outlook: Outlook,
    task: str,
    model_id: int,
    resolutions: tuple[str, ...],
    rates: tuple[float, ...],
) -> Array:
    """Return the accuracy of a task, float64 `(resolutions, rates)`, for reading."""
    rows = _ROWS.setdefault(outlook.profile, {})
    seen = outlook.measured
    scene = (_octave(seen.obj_size), _octave(seen.obj_speed), outlook.cam_fps)
    key = (task, model_id, resolutions, rates, scene)
    # The profile takes scenes that are as much alike for the same.
    row, version = rows.get(key), outlook.profile.version
    if row is None or row.version != version:
        values = outlook.accuracies(task, model_id, resolutions, rates)
        row = _keep(rows, key, _Row(version, np.clip(np.array(values), 0.0, 1.0)))
    return row.values


def _octave(value: float | None) -> int | None:
    return None if value is None else round(8 * math.log2(value)) if value > 1e-6 else -1 << 19


def _keep(rows: dict[Any, _Row], key: Any, row: _Row) -> _Row:
    if len(rows) >= MAX_ROWS:
        rows.clear()
    rows[key] = row
    return row
