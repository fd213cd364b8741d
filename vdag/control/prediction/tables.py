"""`Tables`: all configurations at all nodes at once, by the arithmetic of `predicting`.

Axes, where an array has them, are in this order: task, resolution, rate, model, node; or
resolution, rate, combination, where a combination is a model for each task.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.control.prediction.calibration import QUEUE_FLOOR_S
from vdag.control.prediction.candidates import Candidate
from vdag.control.prediction.outlook import FULL, Outlook
from vdag.control.prediction.predicting import LEAST_WORK_S
from vdag.control.prediction.queueing import MAX_BUSY, Z95, wait_at
from vdag.control.prediction.rows import accuracy_row, cost_rows
from vdag.control.prediction.ways import HOP_S, MAX_LINK, WAY_S, codec_s, link_time

__all__ = ["Tables", "combinations"]

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
#: Means, variances, and uses of uplinks.
Ways = tuple[Array, Array, Array]

#: In place of no workers at all, where something is divided by them.
NOTHING = 1e-9
#: Combinations of models that are looked at; with more, all tasks take the same step.
MAX_COMBINATIONS = 32


class Tables:
    """What each task takes at each node under each configuration.

    Args:
        outlook: that it is made from.
        encoder: of pixels between hosts.
        free_only: a query may take what is free, and not its fair share.
    """

    def __init__(self, outlook: Outlook, encoder: str = "JPEG", *, free_only: bool = False) -> None:
        self.outlook = outlook
        self.encoder = encoder
        self.free_only = free_only
        self.resolutions = outlook.resolutions
        self.rates = outlook.rates
        self.nodes = outlook.nodes
        #: Models by task.
        self._had = [[outlook.models(task, node) for node in self.nodes] for task in outlook.tasks]
        self.models = tuple(tuple(sorted({m for each in had for m in each})) for had in self._had)
        self.combos = combinations(tuple(map(len, self.models)))
        self._known_ways: dict[tuple[int, int], tuple[Ways, Ways]] = {}
        self._known_paths: dict[tuple[float, bool], Array] = {}
        #: What `searching` has worked out, to be used again.
        self.notes: dict[tuple[Any, ...], Array] = {}
        self._build()

    def _build(self) -> None:
        outlook = self.outlook
        tasks, nodes = outlook.tasks, self.nodes
        rows = cost_rows(outlook, self.models, self._had, nodes, self.resolutions)
        shape = (len(tasks), 1, 1, 1, len(nodes))
        total, others, fair, ratio, waited = (np.ones(shape) for _ in range(5))
        for t, task in enumerate(tasks):
            for n, node in enumerate(nodes):
                room = outlook.room(task, node)
                total[t, 0, 0, 0, n], others[t, 0, 0, 0, n] = room.total, room.others
                fair[t, 0, 0, 0, n] = FULL * room.total / (room.queries + 1)
                ratio[t, 0, 0, 0, n] = outlook.work_ratio(task, node.node_addr)
                waited[t, 0, 0, 0, n] = outlook.calibration.queue_ratio(task, node.node_addr)
        free = np.maximum(FULL * total - others, 0.0)
        self._shares = {True: free, False: np.maximum(free, fair)}
        self._predict(rows, total, others, ratio, waited)

    def _predict(
        self, rows: Array, total: Array, others: Array, ratio: Array, waited: Array
    ) -> None:
        """Fill in what `predicting.stay_at` returns, for all; NaN for models not had."""
        base, slope, deviation, usual = rows[:, :, :, None]
        obj_n = self.outlook.measured.obj_n
        work = np.maximum(
            (base + slope * (usual if obj_n is None else obj_n)) * ratio, LEAST_WORK_S
        )
        var = (deviation * (ratio / Z95)) ** 2
        own = np.array(self.rates)[None, None, :, None, None] * work
        busy = np.minimum(own, MAX_BUSY * total)
        rest = np.maximum(np.minimum(others, FULL * total - busy), 0.0)
        wait, wait_var = wait_at(work, var, total, busy, rest)
        queue = np.maximum((wait + QUEUE_FLOOR_S) * waited - QUEUE_FLOOR_S, 0.0)
        #: Workers that the query would keep busy, and that over what it may.
        self.own: Array = own
        self.crowding: Array = own / np.maximum(self._shares[self.free_only], NOTHING)
        #: Mean seconds, and their variance, of wait and work together.
        self.mean: Array = queue + work
        self.var: Array = wait_var * (waited * waited) + var

    def taking(self, *, free_only: bool) -> Tables:
        """Return these tables with another idea of what the query may take."""
        other = copy(self)
        other.free_only = free_only
        other.crowding = self.own / np.maximum(self._shares[free_only], NOTHING)
        other.__dict__.pop("cores_share", None)
        return other

    @cached_property
    def accuracy(self) -> Array:
        """Accuracy, `(resolution, rate, combination)`: see `predicting.accuracy_of`."""
        worst = None
        for branch in self.outlook.branches:
            whole = np.ones(1)
            for t in branch:
                rows = np.stack(
                    [
                        accuracy_row(
                            self.outlook, self.outlook.tasks[t], m, self.resolutions, self.rates
                        )
                        for m in self.models[t]
                    ],
                    axis=-1,
                )
                whole = whole * rows[:, :, self.combos[:, t]]
            worst = whole if worst is None else np.minimum(worst, whole)
        assert worst is not None, "a graph has a branch"
        return np.asarray(worst)

    @cached_property
    def bandwidth(self) -> Array:
        """Bytes per second as corrected, `(node, node)`; infinite from a node to itself."""
        count = len(self.nodes)
        found = np.full((count, count), np.inf)
        for a, sender in enumerate(self.nodes):
            for b, receiver in enumerate(self.nodes):
                if a != b:
                    found[a, b] = self._corrected(sender.node_addr, receiver.node_addr)
        return found

    @cached_property
    def from_host(self) -> Array:
        """Likewise from the node that owns the video, which may do no task itself: `(node,)`."""
        host = self.outlook.question.around.host.node_addr
        return np.array(
            [
                np.inf if node.node_addr == host else self._corrected(host, node.node_addr)
                for node in self.nodes
            ]
        )

    def _corrected(self, sender: str, receiver: str) -> float:
        known = self.outlook.bandwidth(sender, receiver)
        return known / self.outlook.calibration.link_ratio(sender, receiver, known)

    @cached_property
    def _excess(self) -> Array:
        excess_s = self.outlook.calibration.excess_s
        names = [node.node_addr for node in self.nodes]
        if not self.outlook.calibration.hop:
            return np.zeros((len(names), len(names)))
        return np.array([[excess_s(a, b) for b in names] for a in names])

    @cached_property
    def _excess_from_host(self) -> Array:
        host = self.outlook.question.around.host.node_addr
        excess_s = self.outlook.calibration.excess_s
        return np.array([excess_s(host, node.node_addr) for node in self.nodes])

    def ways(self, r: int, f: int) -> Ways:
        """Return mean, variance and use of the ways between nodes, each `(node, node)`."""
        if (r, f) not in self._known_ways:
            self._known_ways[r, f] = (
                self._ways(r, f, self.bandwidth, self._excess),
                self._ways(r, f, self.from_host, self._excess_from_host),
            )
        return self._known_ways[r, f][0]

    def ways_from_host(self, r: int, f: int) -> Ways:
        """Likewise of the ways from the video to the nodes, each `(node,)`."""
        self.ways(r, f)
        return self._known_ways[r, f][1]

    def _ways(self, r: int, f: int, bandwidth: Array, excess: Array) -> Ways:
        bytes_s = self.outlook.frame_nbytes(self.resolutions[r], self.encoder) / bandwidth
        use = self.rates[f] * bytes_s
        mean, var = link_time(bytes_s, np.minimum(use, MAX_LINK))
        is_here = np.isinf(bandwidth)
        fixed_s = WAY_S + codec_s(self.resolutions[r], self.encoder)
        mean = np.maximum(np.where(is_here, HOP_S, fixed_s + mean) + excess, 0.0)
        return mean, np.where(is_here, HOP_S**2, var + WAY_S**2), use

    @cached_property
    def host_index(self) -> int:
        """Index of the node that owns the video, -1 if it does no task."""
        host = self.outlook.question.around.host.node_addr
        names = [node.node_addr for node in self.nodes]
        return names.index(host) if host in names else -1

    @cached_property
    def cores_share(self) -> Array:
        """Workers that this query may keep busy on each node, infinite for not known: `(node,)`."""
        rooms = [self.outlook.node_room(node) for node in self.nodes]
        return np.array(
            [
                np.inf if room is None else room.free if self.free_only else room.share
                for room in rooms
            ]
        )

    def shortest_way(self, crowding: float) -> tuple[Array, Array]:
        """Return mean and variance of the shortest way from the video to another node.

        Args:
            crowding: see `searching.Aim`; a way that is over its share is none.

        Returns:
            Two arrays `(resolution, rate)`.
        """
        nbytes = [self.outlook.frame_nbytes(name, self.encoder) for name in self.resolutions]
        away = np.isfinite(self.from_host)
        if not away.any():
            nowhere = np.full((len(self.resolutions), len(self.rates)), np.inf)
            return nowhere, nowhere
        bytes_s = np.array(nbytes)[:, None, None] / self.from_host[away]
        use = np.array(self.rates)[None, :, None] * bytes_s
        mean, var = link_time(bytes_s, np.minimum(use, MAX_LINK))
        fixed = np.array([WAY_S + codec_s(name, self.encoder) for name in self.resolutions])
        excess = self._excess_from_host[away]
        mean = np.maximum(mean + fixed[:, None, None] + excess, 0.0)
        mean[use > FULL * crowding + 1e-9] = np.inf
        return mean.min(-1), var.min(-1) + WAY_S**2

    def shortest(self, crowding: float) -> Array:
        """Return the least mean delay of configurations, over all ways through the nodes.

        Shortest paths, task by task; what several tasks together do to a node or an uplink is left
        out, so that it is a bound from below.

        Args:
            crowding: see `searching.Aim`.

        Returns:
            `(resolution, rate, combination)`; infinite where there is no way.
        """
        key = (crowding, self.free_only)
        if key not in self._known_paths:
            mean = np.where(self.crowding <= crowding + 1e-9, self.mean, np.inf)
            between = self._all_ways(self.bandwidth, self._excess, crowding)
            first = self._all_ways(self.from_host, self._excess_from_host, crowding)
            branches = [
                self._through(branch, mean, first, between) for branch in self.outlook.branches
            ]
            self._known_paths[key] = np.asarray(np.maximum.reduce(branches))
        return self._known_paths[key]

    def _through(self, branch: tuple[int, ...], mean: Array, first: Array, between: Array) -> Array:
        reached: Array | None = None
        for t in branch:
            work = mean[t][:, :, self.combos[:, t]]
            if reached is None:
                reached = first[:, :, None] + work
            else:
                reached = (reached[..., None] + between[:, :, None]).min(-2) + work
        assert reached is not None, "a branch has a task"
        host = self.outlook.question.around.host.node_addr
        excess_s = self.outlook.calibration.excess_s
        home = [
            HOP_S
            if n == self.host_index
            else max(WAY_S + excess_s(node.node_addr, f"{host}/home"), 0.0)
            for n, node in enumerate(self.nodes)
        ]
        return np.asarray((reached + np.array(home)).min(-1))

    def _all_ways(self, bandwidth: Array, excess: Array, crowding: float) -> Array:
        """Return means of ways as `_ways`, for all resolutions and rates in front."""
        axes = (slice(None), *(None for _ in range(bandwidth.ndim + 1)))
        nbytes = [self.outlook.frame_nbytes(name, self.encoder) for name in self.resolutions]
        fixed = [WAY_S + codec_s(name, self.encoder) for name in self.resolutions]
        bytes_s = np.array(nbytes)[axes] / bandwidth
        by_rate = (None, *axes[:-1])
        use = np.array(self.rates)[by_rate] * bytes_s
        mean, _ = link_time(bytes_s, np.minimum(use, MAX_LINK))
        mean = np.where(np.isinf(bandwidth), HOP_S, np.array(fixed)[axes] + mean)
        mean = np.maximum(mean + excess, 0.0)
        mean[use > FULL * crowding + 1e-9] = np.inf
        return np.asarray(mean)

    def homes(self, r: int, t: int, m: int) -> tuple[Array, Array]:
        """Return mean and variance of the way home from a task that is a branch's last."""
        outlook = self.outlook
        host = outlook.question.around.host.node_addr
        model_id, task = self.models[t][m], outlook.tasks[t]
        means = []
        for n, node in enumerate(self.nodes):
            if n == self.host_index:
                means.append(HOP_S)
            elif model_id not in self._had[t][n]:
                means.append(np.inf)
            else:
                nbytes = outlook.cost(task, model_id, self.resolutions[r], node).out_nbytes
                excess_s = outlook.calibration.excess_s(node.node_addr, f"{host}/home")
                seconds = nbytes / outlook.bandwidth(node.node_addr, host) + excess_s
                means.append(max(WAY_S + seconds, 0.0))
        var = [HOP_S**2 if n == self.host_index else WAY_S**2 for n in range(len(means))]
        return np.array(means), np.array(var)

    def candidate(self, r: int, f: int, c: int, placed: Ints) -> Candidate:
        """Return a candidate by its indexes; `placed`: the node of each task."""
        tasks = self.outlook.tasks
        return Candidate(
            self.resolutions[r],
            self.rates[f],
            self.encoder,
            {task: self.models[t][self.combos[c, t]] for t, task in enumerate(tasks)},
            {task: self.nodes[placed[t]].node_addr for t, task in enumerate(tasks)},
        )


@lru_cache(maxsize=64)
def combinations(counts: tuple[int, ...]) -> Ints:
    """Return the combinations of models, `(combination, task)`, as indexes.

    All there are if they are few; else all tasks go from large to small in step.
    """
    total = 1
    for count in counts:
        total *= count
        if total > MAX_COMBINATIONS:
            steps = range(max(counts))
            return np.array([[min(step, count - 1) for count in counts] for step in steps])
    return np.array([*product(*map(range, counts))], dtype=np.intp)
