"""The numbers of `reference_forecast`: what each task takes at each node, and the ways between.

Axes, where an array has them, are in this order: task, resolution, rate, model, node; or
resolution, rate, combination, where a combination is a model for each task. The formulas are those
that `vdag.control.prediction` explains: `queueing` and `ways`.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vdag._native.forecast_terms import SITES, SPOTS, Givens

__all__ = [
    "EPSILON",
    "FILLED",
    "HOP_S",
    "NOTHING",
    "WAY_S",
    "Numbers",
    "Ways",
    "gather",
    "link_time",
    "wait_at",
]

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
#: Means, variances, and shares of the links that are used; the latter over what may be.
Ways = tuple[Array, Array, Array, Array]

#: What each of these is, `vdag.control.prediction` says.
FULL, MAX_BUSY, MAX_LINK = 0.8, 0.98, 0.98
PACED_WORK, PACED_LINK, JITTER, Z95 = 0.05, 0.1, 0.15, 1.6449
HOP_S, WAY_S, QUEUE_FLOOR_S = 0.001, 0.003, 0.002
LEAST_WORK_S, FILLED = 1e-6, 0.9
MIN_COMPUTE_S, MAX_COMPUTE_S, MAX_LOG = 1e-6, 600.0, math.log(1000.0)
#: In place of no workers at all, where something is divided by them.
NOTHING = 1e-9
#: What rounding may be off by.
EPSILON = 1e-9


def wait_at(
    work: Array, var: Array, workers: Array, own: Array, others: Array
) -> tuple[Array, Array]:
    """Return mean and variance of the wait: M/G/c, see `prediction.queueing`."""
    busy = own + others
    rho = busy / workers
    ca2 = PACED_WORK + (1 - PACED_WORK) * others / (busy + 1e-12)
    share = 0.5 * (ca2 + var / (work * work))
    drain = work / (workers * (1 - rho))
    mean = share * rho ** ((2 * (workers + 1)) ** 0.5 - 1) * drain
    return mean, mean * (2 * share * drain - mean)


def gather(
    work: Array, var: Array, workers: Array, own: Array, others: Array, share: Array
) -> tuple[Array, Array, Array]:
    """Return mean and variance of the wait, and how much longer a batch takes: `queueing`."""
    busy = own + others
    stretch = np.maximum((1 - share) / (1 - busy / workers), 1.0)
    batch = work * stretch
    more = np.where(share < 1, np.minimum(1 / share, MAX_BUSY * workers / (busy + 1e-12)), 1.0)
    single, single_var = wait_at(work, var, workers, own * more, others * more)
    mean, wait_var = wait_at(work, var, workers, own, others)
    most, most_var = mean + 0.5 * batch, wait_var + batch * batch / 12
    is_single = (share >= 1) | (single < most)
    return np.where(is_single, single, most), np.where(is_single, single_var, most_var), stretch


def link_time(bytes_s: Array, own: Array, others: Array) -> tuple[Array, Array]:
    """Return mean and variance of the time on a link, see `prediction.ways`."""
    wait_s = bytes_s * 0.5 * (PACED_LINK * own + others) / (1 - own - others)
    jitter_s = JITTER * bytes_s
    return bytes_s + wait_s, jitter_s * jitter_s + wait_s * wait_s


class Numbers:
    """What each task takes at each node under each configuration.

    Args:
        givens: see `forecast_terms.Givens`.
    """

    def __init__(self, givens: Givens) -> None:
        self.givens = givens
        self.fps, self.combos, self.branches = givens.fps, givens.combos, givens.branches
        self.spots: dict[str, Array] = dict(zip(SPOTS, givens.spots, strict=True))
        self.sites: dict[str, Array] = dict(zip(SITES, givens.sites, strict=True))
        #: `(6, task, resolution, model, node)`, see `forecast_terms.COSTS`.
        self.costs: Array = np.stack(givens.costs, axis=-1)
        self.out_nbytes: Array = self.costs[4]
        self.work, self.work_var = self._taught()
        #: What a frame of the best batch takes of a worker, over what one alone takes.
        self.busy_share: Array = self.costs[5]
        taken = self.work * self.busy_share
        own = self.fps[None, None, :, None, None] * taken[:, :, None]
        #: Workers that the query would keep busy.
        self.own: Array = own
        self.mean, self.var = self._stays(own)

    def _taught(self) -> tuple[Array, Array]:
        """Return seconds of work and their variance, as nodes have taught them."""
        base, slope, deviation, usual = self.costs[:4]
        log = np.repeat(self._spot("log_factor"), base.shape[1], axis=1)
        log = np.repeat(log, base.shape[2], axis=2)
        for index, more in self.givens.corrections:
            log.ravel()[index] += more
        factor = np.exp(np.clip(log, -MAX_LOG, MAX_LOG))
        compute = np.clip(base * factor, MIN_COMPUTE_S, MAX_COMPUTE_S)
        slope = np.minimum(slope * factor, MAX_COMPUTE_S)
        tail, ratio = self._spot("tail"), self._spot("work_ratio")
        seen = (tail - 1.0) * (compute + slope * usual)
        more = np.minimum(np.where(tail > 0, seen, deviation * factor), MAX_COMPUTE_S - compute)
        objects = usual if math.isnan(self.givens.objects) else self.givens.objects
        work = np.maximum((compute + slope * objects) * ratio, LEAST_WORK_S)
        return work, (more * (ratio / Z95)) ** 2

    def _spot(self, name: str) -> Array:
        """Return a row of spots, `(task, 1, 1, node)`."""
        return np.asarray(self.spots[name][:, None, None])

    def _stays(self, own: Array) -> tuple[Array, Array]:
        """Return mean and variance of wait and work together; NaN for models not had."""
        work, var = self.work[:, :, None], self.work_var[:, :, None]
        names = ("workers", "others", "wait_ratio")
        total, others, waited = (self._spot(name)[:, None] for name in names)
        busy = np.minimum(own, MAX_BUSY * total)
        rest = np.maximum(np.minimum(others, FULL * total - busy), 0.0)
        share = self.busy_share[:, :, None]
        wait, wait_var, stretch = gather(work, var, total, busy, rest, share)
        queue = np.maximum((wait + QUEUE_FLOOR_S) * waited - QUEUE_FLOOR_S, 0.0)
        return queue + work * stretch, wait_var * (waited * waited) + var * (stretch * stretch)

    @cached_property
    def accuracy(self) -> Array:
        """Accuracy, `(resolution, rate, combination)`: see `predicting.accuracy_of`."""
        worst = None
        for branch in self.branches:
            whole = np.ones(1)
            for t in branch:
                rows = np.stack(self.givens.accuracies[t], axis=-1)
                whole = whole * rows[:, :, self.combos[:, t]]
            worst = whole if worst is None else np.minimum(worst, whole)
        assert worst is not None, "a graph has a branch"
        return np.asarray(worst)

    def cores(self, *, free_only: bool) -> Array:
        """Return the workers that this query may keep busy on each node: `(node,)`."""
        return self.sites["cores_free" if free_only else "cores_share"]

    def crowding(self, *, free_only: bool) -> Array:
        """Return what each task alone would take, over what it may of its workers and of cores."""
        spots = self.spots
        share = np.maximum(FULL * spots["workers"] - spots["others"], 0.0)
        if not free_only:
            share = np.maximum(share, FULL * spots["workers"] / (spots["queries"] + 1))
        share = np.maximum(np.minimum(share, self.cores(free_only=free_only)), NOTHING)
        return np.asarray(self.own / share[:, None, None, None])

    @cached_property
    def _links(self) -> tuple[Array, Array, Array]:
        bandwidth, excess, sent = self.givens.links()
        return bandwidth, sent[:, :, None], excess

    def ways(self, r: Ints, f: Ints, *, free_only: bool) -> Ways:
        """Return the ways between nodes of resolutions and rates: `(..., node, node)` each."""
        return self._ways(r, f, *self._links, free_only=free_only)

    def ways_from_host(self, r: Ints, f: Ints, *, free_only: bool) -> Ways:
        """Likewise from the video to the nodes, each `(..., node)`."""
        speed, excess = self.sites["speed"], self.sites["excess_s"]
        sent = np.array(self.givens.sent)[:, None]
        return self._ways(r, f, speed, sent, excess, free_only=free_only)

    def _ways(
        self, r: Ints, f: Ints, speed: Array, sent: Array, excess: Array, *, free_only: bool
    ) -> Ways:
        axes = (..., *(None for _ in range(speed.ndim)))
        nbytes, fixed_s = self.givens.frames
        bytes_s = nbytes[r][axes] / speed
        use = self.fps[f][axes] * bytes_s
        queries, others = sent[0], sent[1] / speed
        fair = 0.0 if free_only else FULL / (queries + 1)
        share = np.maximum(np.maximum(FULL - others, fair), NOTHING)
        own = np.minimum(use, MAX_LINK)
        mean, var = link_time(bytes_s, own, np.maximum(np.minimum(others, FULL - own), 0.0))
        is_here = np.isinf(speed)
        mean = np.where(is_here, HOP_S, fixed_s[r][axes] + mean)
        mean = np.maximum(mean + excess, 0.0)
        return (
            mean,
            np.where(is_here, HOP_S**2, var + WAY_S**2),
            use,
            np.broadcast_to(share, use.shape),
        )

    def homes(self, out_nbytes: Array) -> Array:
        """Return seconds of the way home from each node with so many bytes."""
        speed, least = self.sites["home_speed"], self.sites["home_s"]
        return np.where(np.isinf(speed), HOP_S, np.maximum(least + out_nbytes / speed, 0.0))
