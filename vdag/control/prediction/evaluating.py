"""Evaluating: all placements of one configuration at once, by the arithmetic of `predicting`.

A placement is a row of node indexes, one per task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import product

import numpy as np

from vdag.control.prediction.predicting import FILLED
from vdag.control.prediction.queueing import Z95
from vdag.control.prediction.tables import NOTHING, Array, Ints, Tables

__all__ = ["crowding_of", "delays", "moves_of", "placements", "prices_of", "under_way"]

#: Placements of a configuration that are looked at: all of four tasks on eight nodes.
MAX_PLACEMENTS = 4096
#: What a task in the cloud costs, in tasks on another edge: any number of those is cheaper.
COST_CLOUD = 100
EPSILON = 1e-9


def placements(tables: Tables, r: int, f: int, c: int, crowding: float) -> Ints:
    """Return placements, `(placement, task)`: all there are, or if they are many the likely ones.

    Nodes that have not the model, or are over their share by this task alone, are left out.
    """
    able = []
    for t, m in enumerate(tables.combos[c]):
        fits = tables.crowding[t, r, f, m] <= crowding + EPSILON
        able.append(np.flatnonzero(fits & np.isfinite(tables.mean[t, r, f, m])))
    if any(not len(nodes) for nodes in able):
        return np.empty((0, len(able)), dtype=np.intp)
    if math.prod(map(len, able)) <= MAX_PLACEMENTS:
        grid = _grid(tuple(map(len, able)))
        return np.stack([nodes[grid[:, t]] for t, nodes in enumerate(able)], axis=1)
    return _likely(tables, able, r, f, c)


def _likely(tables: Tables, able: list[Ints], r: int, f: int, c: int) -> Ints:
    """Return placements of a graph of many tasks: two nodes at most, the graph cut in one place.

    Where a node cannot do a task, the fastest that can does it.
    """
    fastest = np.array(
        [
            nodes[np.argmin(tables.mean[t, r, f, tables.combos[c, t], nodes])]
            for t, nodes in enumerate(able)
        ]
    )
    count, tasks = len(tables.nodes), len(able)
    whole = np.tile(fastest, (count, 1))
    for t, nodes in enumerate(able):
        whole[nodes, t] = nodes
    cuts = np.arange(1, tasks)
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    split = [np.concatenate([whole[a][:k], whole[b][k:]]) for a, b in pairs for k in cuts]
    present = tables.outlook.question.previous
    now = [] if present is None else _present(tables, able)
    return np.array([*whole, *split, *now, fastest])[-2 * MAX_PLACEMENTS :]


def _present(tables: Tables, able: list[Ints]) -> list[Ints]:
    """Return the placement of the plan in force, if it can still be."""
    plan = tables.outlook.question.previous
    assert plan is not None, "the caller looked"
    names = {node.node_addr: n for n, node in enumerate(tables.nodes)}
    placed = []
    for t, task in enumerate(tables.outlook.tasks):
        where = plan.flow_mapping.get(task)
        n = names.get(where.node_addr) if where is not None else None
        if n is None or n not in able[t]:
            return []
        placed.append(n)
    return [np.array(placed)]


@lru_cache(maxsize=64)
def _grid(counts: tuple[int, ...]) -> Ints:
    return np.array([*product(*map(range, counts))], dtype=np.intp)


def delays(tables: Tables, r: int, f: int, c: int, placed: Ints) -> tuple[Array, Array]:
    """Return mean and 95th percentile of the delay of placements of a configuration."""
    first, first_var, _ = tables.ways_from_host(r, f)
    spread = Z95 * tables.outlook.calibration.spread_ratio
    delay = p95 = np.zeros(len(placed))
    for branch in tables.outlook.branches:
        at = placed[:, branch[0]]
        mean, var = first[at], first_var[at]
        for i, t in enumerate(branch):
            here, m = placed[:, t], tables.combos[c, t]
            if i:
                ways, ways_var, _ = tables.ways(r, f)
                before = placed[:, branch[i - 1]]
                mean, var = mean + ways[before, here], var + ways_var[before, here]
            mean = mean + tables.mean[t, r, f, m][here]
            var = var + tables.var[t, r, f, m][here]
        home, home_var = tables.homes(r, branch[-1], tables.combos[c, branch[-1]])
        mean, var = mean + home[here], var + home_var[here]
        delay = np.maximum(delay, mean)
        p95 = np.maximum(p95, mean + spread * np.sqrt(var))
    return delay, p95


def crowding_of(tables: Tables, r: int, f: int, c: int, placed: Ints) -> Array:
    """Return the largest ratio of what placements take to what they may: `Prediction.crowding`.

    Uplinks that all ways together could not fill are not looked at.
    """
    combo = tables.combos[c]
    worst = np.zeros(len(placed))
    for t, m in enumerate(combo):
        worst = np.maximum(worst, tables.crowding[t, r, f, m][placed[:, t]])
    share = tables.cores_share
    if np.isfinite(share).any():
        own = [tables.own[t, r, f, m][placed[:, t]] for t, m in enumerate(combo)]
        busy = _per_node(placed.T, own, len(share))
        worst = np.maximum(worst, (busy / np.maximum(share, NOTHING)).max(axis=1))
    return np.maximum(worst, _links(tables, r, f, placed))


def _per_node(at: Ints, amounts: list[Array], count: int) -> Array:
    """Return sums by node, `(placement, node)`; `at` and `amounts`: of each task or way."""
    size = at.shape[1]
    flat = (at + count * np.arange(size)).ravel()
    sums = np.bincount(flat, np.concatenate(amounts), minlength=size * count)
    return np.asarray(sums, dtype=np.float64).reshape(size, count)


def under_way(tables: Tables, f: int | Ints, delay: Array) -> Array:
    """Return the frames under way, over those that a job has at a time."""
    return np.asarray(tables.fps[f] * delay / (FILLED * (len(tables.outlook.tasks) + 1)))


def _links(tables: Tables, r: int, f: int, placed: Ints) -> Array:
    """Return the use of the busiest uplink of placements, over what may be used of it."""
    first = tables.ways_from_host(r, f)[2]
    chained = any(len(branch) > 1 for branch in tables.outlook.branches)
    use = tables.ways(r, f)[2] if chained else np.zeros((1, 1))
    if max(use.max(), first.max()) * placed.shape[1] <= 1.0:
        return np.zeros(len(placed))
    count = len(tables.nodes)
    # The host has an uplink also if it does no task; it is then one behind all nodes.
    home = tables.host_index if tables.host_index >= 0 else count
    senders, uses = [], []
    for branch in tables.outlook.branches:
        for i, t in enumerate(branch):
            here = placed[:, t]
            before = placed[:, branch[i - 1]] if i else np.full(len(placed), home)
            senders.append(before)
            uses.append(use[before, here] if i else first[here])
    return np.asarray(_per_node(np.stack(senders), uses, count + 1).max(axis=1))


def moves_of(tables: Tables, present: Mapping[str, str], placed: Ints) -> Ints:
    """Return how many tasks a placement moves."""
    moves = np.zeros(len(placed), dtype=np.intp)
    names = [node.node_addr for node in tables.nodes]
    for t, task in enumerate(tables.outlook.tasks):
        addr = present.get(task)
        if addr is not None:
            same = names.index(addr) if addr in names else -1
            moves += placed[:, t] != same
    return moves


def prices_of(tables: Tables, placed: Ints) -> Ints:
    """Return what a placement costs: nothing at the host, little at an edge, most in the cloud."""
    prices = np.array(
        [
            0 if n == tables.host_index else COST_CLOUD if node.role == "cloud" else 1
            for n, node in enumerate(tables.nodes)
        ],
        dtype=np.intp,
    )
    return np.asarray(prices[placed].sum(axis=1))
