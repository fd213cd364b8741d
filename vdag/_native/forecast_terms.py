"""What a `Forecast` is made of and asked for, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError

__all__ = [
    "COSTS",
    "MAX_LOOKS",
    "MAX_PLACEMENTS",
    "MAX_SIZE",
    "RUNNERS_UP",
    "SITES",
    "SPOTS",
    "Config",
    "Givens",
    "Goal",
    "Hit",
    "Links",
    "Refusal",
    "Search",
    "check_givens",
    "check_goal",
]

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
#: Indexes of resolution, rate and combination of models.
Config = tuple[int, int, int]
#: Bandwidth and excess of ways between nodes, `(node, node)` each, bandwidth infinite from a node
#: to itself; how many others send from a node and their bytes per second, `(2, node)`.
Links = tuple[Array, Array, Array]
#: Whether a placement, a node for each task, of a configuration shall not be.
Refusal = Callable[[Config, tuple[int, ...]], bool]

#: Rows of `Givens.costs`: seconds without objects, per object, 95th percentile over the mean,
#: objects while it was measured, bytes of what is found; what a frame of the best batch takes of a
#: worker over what one alone takes, 1 where nothing was measured of batches.
COSTS = ("compute_s", "per_object_s", "deviation_s", "obj_n", "out_nbytes", "busy_share")
#: Rows of `Givens.spots`: workers, those that others keep busy, queries of others; logarithm of the
#: slowdown and 95th percentile over the mean that the node has taught, 0 for none; corrections of
#: work and waits.
SPOTS = ("workers", "others", "queries", "log_factor", "tail", "work_ratio", "wait_ratio")
#: Rows of `Givens.sites`: workers that may be kept busy of those that are free, or of the fair
#: share, infinite for not known; bytes per second and excess of the way from the video, the former
#: infinite at the video's own node; of the way home likewise, with all seconds but those of bytes;
#: what a task costs there.
SITES = ("cores_free", "cores_share", "speed", "excess_s", "home_speed", "home_s", "price")

#: Nobody has more tasks, nodes or anything else of a forecast.
MAX_SIZE = 1024
#: Configurations that are looked at placement by placement.
MAX_LOOKS = 64
#: Placements of a configuration that are looked at: all of four tasks on eight nodes.
MAX_PLACEMENTS = 4096
#: Candidates that are told about because they would have been better.
RUNNERS_UP = 2


class Givens(NamedTuple):
    """All that a forecast needs to know. Arrays are float64 unless they say otherwise, C order.

    Attributes:
        costs: per node `(6, task, resolution, model)`, rows as `COSTS`; NaN for models not had.
        corrections: index into `(task, resolution, model, node)` and a logarithm that is added to
            the slowdown there; each index once.
        spots: `(7, task, node)`, see `SPOTS`.
        sites: `(7, node)`, see `SITES`.
        accuracies: per task and model `(resolution, rate)`.
        frames: `(2, resolution)`: bytes of a frame, seconds of a way beside those of bytes.
        fps: `(rate,)`, slowest first.
        combos: intp `(combination, task)`: indexes of models.
        branches: indexes of tasks, each task once.
        objects: in the scene, NaN for as many as while it was measured.
        spread: distance of the 95th percentile from the mean, in standard deviations.
        sent: how many others send frames from the video's node, and their bytes per second.
        host: index of that node, -1 if it does no task.
        now: nodes of the plan in force by task, -1 for none.
        links: asked once, when a frame may go from node to node.
    """

    costs: Sequence[Array]
    corrections: Sequence[tuple[int, float]]
    spots: Array
    sites: Array
    accuracies: Sequence[Sequence[Array]]
    frames: Array
    fps: Array
    combos: Ints
    branches: tuple[tuple[int, ...], ...]
    objects: float
    spread: float
    sent: tuple[float, float]
    host: int
    now: Sequence[int]
    links: Callable[[], Links]


class Goal(NamedTuple):
    """What is searched for.

    Attributes:
        limit_s: that the 95th percentile of the delay must not exceed.
        enough: accuracy beyond which more counts no more.
        least: accuracy below which nothing will do.
        crowding: ratio of what is taken to what may be, at most.
        free_only: what is free may be taken, else the fair share too.
        fewest_moves: fewest moves before the least price, else the other way round.
        present: nodes of the tasks so far, -1 for another one, -2 where any will do.
        only: bool `(resolution, rate, combination)`: configurations to search; None for all.
    """

    limit_s: float
    enough: float
    least: float
    crowding: float
    free_only: bool
    fewest_moves: bool
    present: tuple[int, ...]
    only: NDArray[np.bool_] | None = None


class Hit(NamedTuple):
    """A configuration, its placement, and mean and 95th percentile of its delay."""

    config: Config
    placed: tuple[int, ...]
    delay_s: float
    p95_s: float


class Search(NamedTuple):
    """What a search has found, how many configurations were looked at, and those that came near."""

    hit: Hit | None
    looks: int
    near: list[tuple[Config, tuple[int, ...]]]


def check_givens(givens: Givens) -> None:
    """Raise ConfigError unless shapes, dtypes and indexes fit each other."""
    for n, block in enumerate(givens.costs[:1] or [None]):
        _check_block(block, n)
    _, tasks, resolutions, models = givens.costs[0].shape
    nodes, rates, combos = len(givens.costs), len(givens.fps), len(givens.combos)
    sizes = (tasks, resolutions, rates, models, nodes, combos)
    if not all(0 < size <= MAX_SIZE for size in sizes) or len(givens.branches) > tasks:
        raise ConfigError(f"a forecast of sizes {sizes} is not of 1 to {MAX_SIZE} each")
    if not -1 <= givens.host < nodes:
        raise ConfigError(f"host {givens.host} is none of {nodes} nodes")
    shape = (len(COSTS), tasks, resolutions, models)
    for n, block in enumerate(givens.costs):
        _check_block(block, n)
        if block.shape != shape:
            raise ConfigError(f"costs of node {n} are not {shape}")
    check_array(givens.spots, (len(SPOTS), tasks, nodes), "spots")
    check_array(givens.sites, (len(SITES), nodes), "sites")
    check_array(givens.frames, (2, resolutions), "frames")
    check_array(givens.fps, (rates,), "fps")
    _check_accuracies(givens, (tasks, models, resolutions, rates))
    _check_indexes(givens, tasks * resolutions * models * nodes)


def check_goal(goal: Goal, tasks: int, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless a goal fits so many tasks and configurations of a shape."""
    if len(goal.present) != tasks:
        raise ConfigError(f"{len(goal.present)} present nodes do not fit {tasks} tasks")
    only = goal.only
    if only is not None and (only.shape != shape or only.dtype != np.bool_):
        raise ConfigError(f"only is bool {shape}, not {only.shape}")


def check_array(array: Any, shape: tuple[int, ...], name: str) -> None:
    """Raise ConfigError unless an array is float64 of a shape."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float64:
        raise ConfigError(f"{name} are float64 {shape}")
    if array.shape != shape:
        raise ConfigError(f"{name} are {shape}, not {array.shape}")


def _check_block(block: Any, n: int) -> None:
    fits = isinstance(block, np.ndarray) and block.dtype == np.float64 and block.ndim == 4
    if not fits or not block.flags.c_contiguous:
        raise ConfigError(f"costs of node {n} are float64 (6, task, resolution, model)")


def _check_accuracies(givens: Givens, sizes: tuple[int, int, int, int]) -> None:
    tasks, models, *shape = sizes
    if len(givens.accuracies) != tasks:
        raise ConfigError(f"accuracies of {len(givens.accuracies)} tasks do not fit {tasks}")
    for t, rows in enumerate(givens.accuracies):
        if not 0 < len(rows) <= models:
            raise ConfigError(f"task {t} has {len(rows)} models, not 1 to {models}")
        for row in rows:
            check_array(row, tuple(shape), "accuracies")


def _check_indexes(givens: Givens, cells: int) -> None:
    nodes, tasks = len(givens.costs), len(givens.accuracies)
    for i, combo in enumerate(givens.combos.tolist()):
        for t, m in enumerate(combo):
            if not 0 <= m < len(givens.accuracies[t]):
                raise ConfigError(f"combination {i} has model {m} of task {t}")
    if sorted(t for branch in givens.branches for t in branch) != [*range(tasks)]:
        raise ConfigError(f"branches {givens.branches} do not have {tasks} tasks once each")
    for t, n in enumerate(givens.now):
        if not -1 <= n < nodes:
            raise ConfigError(f"task {t} is on node {n} of {nodes}")
    for index, _ in givens.corrections:
        if not 0 <= index < cells:
            raise ConfigError(f"correction {index} is none of {cells}")
