"""Rows: what a profile says of tasks over all resolutions, as arrays.

A profile has what was measured before, which rarely changes, and what nodes teach, which changes
with every report. The first is kept here as arrays while the profile's version stays, and shared by
all nodes of which the same is known; the second goes on top each time. So nothing is ever out of
date, and a decision does not have to ask for hundreds of numbers one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from vdag.control.prediction.outlook import UNKNOWN, Outlook
from vdag.control.profile import Cost, Profile
from vdag.control.profile.costs import pixels_of
from vdag.control.profile.learning import Learned
from vdag.control.scheduling.events import NodeInfo

__all__ = ["Models", "accuracy_rows", "corrections", "cost_blocks"]

#: Arrays of a profile; beyond, they are made anew.
MAX_ROWS = 20_000

Array = NDArray[np.float64]
#: Models of each task.
Models = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class _Rows:
    """Arrays of a profile, and the version that they are of."""

    version: int
    arrays: dict[Any, Array] = field(default_factory=dict)


_ROWS: WeakKeyDictionary[Profile, _Rows] = WeakKeyDictionary()


def cost_blocks(
    outlook: Outlook, models: Models, had: Sequence[Models], nodes: Sequence[NodeInfo]
) -> list[Array]:
    """Return what each node takes, rows as `forecast_terms.COSTS`.

    Args:
        outlook: with the tasks and resolutions.
        models: of each task.
        had: those that each node has.
        nodes: in their order.

    Returns:
        Per node float64 `(6, task, resolution, model)`, NaN for models that are not had; without
        what nodes have taught; for reading.
    """
    profile, arrays = outlook.profile, _arrays_of(outlook.profile)
    kind, found = (outlook.tasks, models, outlook.resolutions), []
    for node, has in zip(nodes, had, strict=True):
        key = (kind, profile.place(node), has)
        block = arrays.get(key)
        if block is None:
            block = arrays[key] = _block(outlook, models, has, node)
        found.append(block)
    return found


def _block(outlook: Outlook, models: Models, has: Models, node: NodeInfo) -> Array:
    names = outlook.resolutions
    values = np.full((len(models), max(map(len, models)), len(names), 6), np.nan)
    for t, task in enumerate(outlook.tasks):
        for m, model_id in enumerate(models[t]):
            if model_id in has[t]:
                prior = outlook.profile.prior
                costs = [prior(task, model_id, name, node) or UNKNOWN for name in names]
                values[t, m] = [_numbers(cost) for cost in costs]
    return np.ascontiguousarray(values.transpose(3, 0, 2, 1))


def _numbers(cost: Cost) -> tuple[float, ...]:
    deviation_s = max(cost.compute_p95_s - cost.compute_s, 0.0)
    nbytes, share = cost.out_nbytes, cost.busy_share
    return cost.compute_s, cost.per_object_s, deviation_s, cost.obj_n, nbytes, share


def corrections(
    learned: Sequence[Sequence[Learned]], models: Models, resolutions: tuple[str, ...]
) -> Iterator[tuple[int, float]]:
    """Yield what nodes have taught of single models and resolutions, as `Learned.applied` has it.

    Args:
        learned: by task and node.
        models: of each task.
        resolutions: in their order.

    Yields:
        Index into `(task, resolution, model, node)`, and a logarithm.
    """
    size = max(map(len, models))
    for t, row in enumerate(learned):
        places, first = _places(models[t], resolutions, size), t * len(resolutions) * size
        for n, each in enumerate(row):
            for name, log in each.corrections.items():
                for at in places.get(name, ()):
                    yield (first + at) * len(row) + n, log


@lru_cache(maxsize=256)
def _places(
    models: tuple[int, ...], resolutions: tuple[str, ...], size: int
) -> dict[tuple[int, int], list[int]]:
    """Return model and pixels to indexes into `(resolution, model)`, of `size` models."""
    found: dict[tuple[int, int], list[int]] = {}
    for r, name in enumerate(resolutions):
        for m, model_id in enumerate(models):
            found.setdefault((model_id, pixels_of(name)), []).append(r * size + m)
    return found


def accuracy_rows(outlook: Outlook, models: Models) -> list[list[Array]]:
    """Return the accuracy of each task and model, float64 `(resolution, rate)`, for reading."""
    arrays, seen = _arrays_of(outlook.profile), outlook.measured
    # The profile takes scenes that are as much alike for the same.
    scene = (_octave(seen.obj_size), _octave(seen.obj_speed), outlook.cam_fps)
    kind = (outlook.resolutions, outlook.rates, scene)
    found = []
    for task, known in zip(outlook.tasks, models, strict=True):
        row = []
        for model_id in known:
            key = (task, model_id, kind)
            values = arrays.get(key)
            if values is None:
                grid = outlook.accuracies(task, model_id, outlook.resolutions, outlook.rates)
                values = arrays[key] = np.clip(np.array(grid, dtype=np.float64), 0.0, 1.0)
            row.append(values)
        found.append(row)
    return found


def _octave(value: float | None) -> int | None:
    return None if value is None else round(8 * math.log2(value)) if value > 1e-6 else -1 << 19


def _arrays_of(profile: Profile) -> dict[Any, Array]:
    """Return what is known of a profile as it is now."""
    rows = _ROWS.get(profile)
    if rows is None or rows.version != profile.version or len(rows.arrays) >= MAX_ROWS:
        rows = _ROWS[profile] = _Rows(profile.version)
    return rows.arrays
