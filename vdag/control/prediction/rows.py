"""Rows: what a profile says of a task over all resolutions, as arrays.

A profile keeps what it has worked out as objects and drops them when it learns something. A row is
made of these objects and remembers one of them: as long as the profile returns that very object,
nothing was learned and the row still holds. So nothing is ever out of date, and a decision does not
have to ask for hundreds of numbers one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from vdag.control.prediction.outlook import Outlook
from vdag.control.profile import Profile
from vdag.control.scheduling.events import NodeInfo

__all__ = ["accuracy_row", "cost_rows"]

#: Rows of a profile; beyond, they are made anew.
MAX_ROWS = 20_000

Array = NDArray[np.float64]


@dataclass(slots=True)
class _Row:
    """A row, and the object whose being there says that it holds."""

    token: Any
    values: Array


_ROWS: WeakKeyDictionary[Profile, dict[Any, _Row]] = WeakKeyDictionary()


def cost_rows(
    outlook: Outlook,
    models: tuple[tuple[int, ...], ...],
    had: list[list[tuple[int, ...]]],
    nodes: tuple[NodeInfo, ...],
    resolutions: tuple[str, ...],
) -> Array:
    """Return, of all tasks: seconds without objects, per object, deviation, objects measured.

    Args:
        outlook: with the tasks.
        models: of each task.
        had: those of each task that each node has.
        nodes: in their order.
        resolutions: likewise.

    Returns:
        Float64 `(4, task, resolution, model, node)`, for reading; NaN for models that are not had.
    """
    rows = _ROWS.setdefault(outlook.profile, {})
    key = (outlook.tasks, tuple(node.node_addr for node in nodes), models, resolutions)
    first = resolutions[0]
    token = [
        outlook.cost(task, model_id, first, node)
        for task, by_node in zip(outlook.tasks, had, strict=True)
        for node, known in zip(nodes, by_node, strict=True)
        for model_id in known
    ]
    row = rows.get(key)
    # Costs are compared by being the same objects, not by being equal: that is quicker.
    if row is None or len(row.token) != len(token) or not all(map(is_, row.token, token)):
        shape = (len(outlook.tasks), max(map(len, models)), len(nodes), len(resolutions), 4)
        values = np.full(shape, np.nan)
        for t, task in enumerate(outlook.tasks):
            for n, node in enumerate(nodes):
                for m, model_id in enumerate(models[t]):
                    if model_id in had[t][n]:
                        values[t, m, n] = _cost_row(outlook, task, model_id, node, resolutions)
        row = _keep(rows, key, _Row(token, values.transpose(4, 0, 3, 1, 2).copy()))
    return row.values


def _cost_row(
    outlook: Outlook, task: str, model_id: int, node: NodeInfo, resolutions: tuple[str, ...]
) -> Array:
    rows = _ROWS.setdefault(outlook.profile, {})
    key = (task, model_id, node.node_addr, resolutions)
    row, token = rows.get(key), outlook.cost(task, model_id, resolutions[0], node)
    if row is None or row.token is not token:
        costs = [outlook.cost(task, model_id, name, node) for name in resolutions]
        values = np.array(
            [
                (c.compute_s, c.per_object_s, max(c.compute_p95_s - c.compute_s, 0.0), c.obj_n)
                for c in costs
            ]
        )
        row = _keep(rows, key, _Row(token, values))
    return row.values


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
    # The profile takes scenes that are alike for the same, and returns the same object for them.
    row, token = rows.get(key), outlook.accuracy(task, model_id, resolutions[0], rates[0])
    if row is None or row.token is not token:
        values = np.array(
            [[outlook.accuracy(task, model_id, name, fps) for fps in rates] for name in resolutions]
        )
        row = _keep(rows, key, _Row(token, values))
    return row.values


def _octave(value: float | None) -> int | None:
    return None if value is None else round(8 * math.log2(value)) if value > 1e-6 else -1 << 19


def _keep(rows: dict[Any, _Row], key: Any, row: _Row) -> _Row:
    if len(rows) >= MAX_ROWS:
        rows.clear()
    rows[key] = row
    return row
