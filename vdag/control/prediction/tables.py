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
#: Means, variances, and the ratios of what is used of uplinks to what may be.
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
        self.fps = np.array(self.rates)
        self.nodes = outlook.nodes
        #: Models by task.
        self._had = [[outlook.models(task, node) for node in self.nodes] for task in outlook.tasks]
        self.models = tuple(tuple(sorted({m for each in had for m in each})) for had in self._had)
        self.combos = combinations(tuple(map(len, self.models)))
        self._known_ways: dict[tuple[int, int], Ways] = {}
        self._known_first: dict[tuple[int, int], Ways] = {}
        #: What `searching` has worked out, to be used again.
        self.notes: dict[tuple[Any, ...], Array] = {}
        self._build()

    def _build(self) -> None:
        outlook = self.outlook
        tasks, nodes = outlook.tasks, self.nodes
        rows = cost_rows(outlook, self.models, self._had, nodes, self.resolutions)
        rooms = [[outlook.room(task, node) for node in nodes] for task in tasks]
        numbers = [[(room.total, room.others, room.queries) for room in row] for row in rooms]
        total, others, queries = np.array(numbers).transpose(2, 0, 1)[:, :, None, None, None]
        free = np.maximum(FULL * total - others, 0.0)
        self._shares = {True: free, False: np.maximum(free, FULL * total / (queries + 1))}
        ratio, waited = self._ratios()
        self._predict(rows, total, others, ratio, waited)

    def _ratios(self) -> tuple[Array, Array]:
        """Return the corrections of work and of waits; few are not 1."""
        outlook, calibration = self.outlook, self.outlook.calibration
        ratio, waited = np.ones((2, len(outlook.tasks), 1, 1, 1, len(self.nodes)))
        places = {node.node_addr: n for n, node in enumerate(self.nodes)}
        tasks = {task: t for t, task in enumerate(outlook.tasks)}
        for array, found in (
            (ratio, calibration.compute_ratios()),
            (waited, calibration.queue_ratios()),
            (ratio, outlook.forgiven.items()),
        ):
            for (task, addr), value in found:
                if task in tasks and addr in places:
                    array[tasks[task], 0, 0, 0, places[addr]] = value
        return ratio, waited

    def _predict(
        self, rows: Array, total: Array, others: Array, ratio: Array, waited: Array
    ) -> None:
        """Fill in what `predicting.stay_at` returns, for all; NaN for models not had."""
        base, slope, deviation, usual, _ = rows[:, :, :, None]
        #: Bytes of what is found, `(task, resolution, model, node)`.
        self.out_nbytes: Array = rows[4]
        obj_n = self.outlook.measured.obj_n
        work = np.maximum(
            (base + slope * (usual if obj_n is None else obj_n)) * ratio, LEAST_WORK_S
        )
        var = (deviation * (ratio / Z95)) ** 2
        own = self.fps[None, None, :, None, None] * work
        busy = np.minimum(own, MAX_BUSY * total)
        rest = np.maximum(np.minimum(others, FULL * total - busy), 0.0)
        wait, wait_var = wait_at(work, var, total, busy, rest)
        queue = np.maximum((wait + QUEUE_FLOOR_S) * waited - QUEUE_FLOOR_S, 0.0)
        #: Workers that the query would keep busy, and that over what it may.
        self.own: Array = own
        self.crowding: Array = self._crowding()
        #: Mean seconds, and their variance, of wait and work together.
        self.mean: Array = queue + work
        self.var: Array = wait_var * (waited * waited) + var

    def _crowding(self) -> Array:
        """Return what each task alone would take, over what it may of its workers and of cores."""
        share = np.minimum(self._shares[self.free_only], self.cores_share)
        return np.asarray(self.own / np.maximum(share, NOTHING))

    def taking(self, *, free_only: bool) -> Tables:
        """Return these tables with another idea of what the query may take."""
        if free_only == self.free_only:
            return self
        other = copy(self)
        other.free_only = free_only
        other._known_ways, other._known_first = {}, {}
        other.__dict__.pop("cores_share", None)
        other.crowding = other._crowding()
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
        names = [node.node_addr for node in self.nodes]
        return np.array([self._row(sender, names) for sender in names])

    @cached_property
    def from_host(self) -> Array:
        """Likewise from the node that owns the video, which may do no task itself: `(node,)`."""
        host = self.outlook.question.around.host.node_addr
        return np.array(self._row(host, [node.node_addr for node in self.nodes]))

    def _row(self, sender: str, receivers: list[str]) -> list[float]:
        bandwidth, calibration = self.outlook.bandwidth, self.outlook.calibration
        row = [np.inf if name == sender else bandwidth(sender, name) for name in receivers]
        if calibration.knows_links_of(sender):
            for n, name in enumerate(receivers):
                if name != sender:
                    row[n] /= calibration.link_ratio(sender, name, row[n])
        return row

    @cached_property
    def _excess(self) -> Array:
        excess_s = self.outlook.calibration.excess_s
        names = [node.node_addr for node in self.nodes]
        found = np.zeros((len(names), len(names)))
        for a, sender in enumerate(names):
            if self.outlook.calibration.knows_ways_of(sender):
                found[a] = [excess_s(sender, receiver) for receiver in names]
        return found

    @cached_property
    def _excess_from_host(self) -> Array:
        host = self.outlook.question.around.host.node_addr
        excess_s = self.outlook.calibration.excess_s
        return np.array([excess_s(host, node.node_addr) for node in self.nodes])

    def ways(self, r: int, f: int) -> Ways:
        """Return mean, variance and use of the ways between nodes, each `(node, node)`."""
        if (r, f) not in self._known_ways:
            traffic = self.bandwidth, self._sent[:, :, None], self._excess
            self._known_ways[r, f] = self._ways(r, f, *traffic)
        return self._known_ways[r, f]

    def ways_from_host(self, r: int, f: int) -> Ways:
        """Likewise of the ways from the video to the nodes, each `(node,)`."""
        if (r, f) not in self._known_first:
            traffic = self.from_host, self._sent_by_host[:, None], self._excess_from_host
            self._known_first[r, f] = self._ways(r, f, *traffic)
        return self._known_first[r, f]

    @cached_property
    def _sent_by_host(self) -> Array:
        """Of other queries that send frames from the video's node: how many, bytes per second."""
        return np.array(self.outlook.sent_by(self.outlook.question.around.host.node_addr))

    @cached_property
    def _sent(self) -> Array:
        """Likewise from each node, `(2, node)`."""
        loads = [self.outlook.sent_by(node.node_addr) for node in self.nodes]
        return np.array([[load.queries for load in loads], [load.busy for load in loads]])

    def _on_link(self, use: Array, bandwidth: Array, sent: Array) -> tuple[Array, Array, Array]:
        """Return this query's use of links, that of others, and the share that it may take."""
        queries, others = sent[0], sent[1] / bandwidth
        share = np.maximum(FULL - others, 0.0 if self.free_only else FULL / (queries + 1))
        own = np.minimum(use, MAX_LINK)
        return own, np.maximum(np.minimum(others, FULL - own), 0.0), np.maximum(share, NOTHING)

    def _ways(self, r: int, f: int, bandwidth: Array, sent: Array, excess: Array) -> Ways:
        bytes_s = self._nbytes[r] / bandwidth
        use = self.rates[f] * bytes_s
        own, others, share = self._on_link(use, bandwidth, sent)
        mean, var = link_time(bytes_s, own, others)
        is_here = np.isinf(bandwidth)
        mean = np.maximum(np.where(is_here, HOP_S, self._fixed_s[r] + mean) + excess, 0.0)
        return mean, np.where(is_here, HOP_S**2, var + WAY_S**2), use / share

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
        away = np.isfinite(self.from_host)
        if not away.any():
            nowhere = np.full((len(self.resolutions), len(self.rates)), np.inf)
            return nowhere, nowhere
        r, f = np.ogrid[: len(self.resolutions), : len(self.rates)]
        traffic = self.from_host[away], self._sent_by_host[:, None], self._excess_from_host[away]
        ways = self._many_ways(r, f, *traffic, crowding)
        return ways[0].min(-1), ways[1].min(-1)

    def shortest(self, configs: Ints, crowding: float) -> tuple[Array, Array]:
        """Return the least mean delay of configurations, over all ways through the nodes.

        Shortest paths, task by task; what several tasks together do to a node or an uplink is left
        out, so that it is a bound from below.

        Args:
            configs: `(configuration, 3)`: indexes of resolution, rate and combination.
            crowding: see `searching.Aim`.

        Returns:
            Means, infinite where there is no way, and a variance that no delay is below:
            `(configuration,)` each.
        """
        r, f, c = configs.T
        traffic = self.from_host, self._sent_by_host[:, None], self._excess_from_host
        first, _ = self._many_ways(r, f, *traffic, crowding)
        slowest, calmest = np.zeros(len(r)), np.full(len(r), np.inf)
        home = np.where(np.isinf(self._home[0]), HOP_S, np.maximum(self._home[1], 0.0))
        between: Array | None = None
        for branch in self.outlook.branches:
            var, reached = np.zeros(len(r)), first
            for i, t in enumerate(branch):
                m = self.combos[c, t]
                is_fit = self.crowding[t, r, f, m] <= crowding + 1e-9
                work = np.where(is_fit, self.mean[t, r, f, m], np.inf)
                var = var + np.fmin.reduce(self.var[t, r, f, m], axis=-1)
                if i and between is None:
                    traffic = self.bandwidth, self._sent[:, :, None], self._excess
                    between, _ = self._many_ways(r, f, *traffic, crowding)
                if i and between is not None:
                    reached = (reached[:, :, None] + between).min(1)
                reached = reached + work
            # Of the branches the slowest counts, and that may be any.
            slowest = np.maximum(slowest, (reached + home).min(-1))
            calmest = np.minimum(calmest, var)
        return slowest, calmest

    def _many_ways(
        self, r: Ints, f: Ints, bandwidth: Array, sent: Array, excess: Array, crowding: float
    ) -> tuple[Array, Array]:
        """Return means and variances as `_ways`, of many resolutions and rates, which are in front.

        A way that is over its share is infinitely long.
        """
        axes = (..., *(None for _ in range(bandwidth.ndim)))
        bytes_s = self._nbytes[r][axes] / bandwidth
        use = self.fps[f][axes] * bytes_s
        own, others, share = self._on_link(use, bandwidth, sent)
        mean, var = link_time(bytes_s, own, others)
        is_here = np.isinf(bandwidth)
        mean = np.where(is_here, HOP_S, self._fixed_s[r][axes] + mean)
        is_full = use > share * crowding + 1e-9
        mean = np.where(is_full, np.inf, np.maximum(mean + excess, 0.0))
        return mean, np.where(is_here, HOP_S**2, var + WAY_S**2)

    @cached_property
    def _nbytes(self) -> Array:
        """Bytes of a frame, `(resolution,)`."""
        frame_nbytes = self.outlook.frame_nbytes
        return np.array([frame_nbytes(name, self.encoder) for name in self.resolutions])

    @cached_property
    def _fixed_s(self) -> Array:
        """Seconds of a way beside those on the link, `(resolution,)`."""
        return np.array([WAY_S + codec_s(name, self.encoder) for name in self.resolutions])

    def homes(self, r: int, t: int, m: int) -> tuple[Array, Array]:
        """Return mean and variance of the way home from a task that is a branch's last."""
        speed, least, var = self._home
        away = np.maximum(least + self.out_nbytes[t, r, m] / speed, 0.0)
        mean = np.where(np.isinf(speed), HOP_S, away)
        return np.where(np.isnan(mean), np.inf, mean), var

    @cached_property
    def _home(self) -> tuple[Array, Array, Array]:
        """Of ways home: bytes per second, infinite for none, seconds without bytes, variance."""
        outlook, here = self.outlook, self.host_index
        host = outlook.question.around.host.node_addr
        names = [node.node_addr for node in self.nodes]
        is_here = np.arange(len(names)) == here
        speed = [np.inf if n == here else outlook.bandwidth(a, host) for n, a in enumerate(names)]
        excess_s = np.array([outlook.calibration.excess_s(a, f"{host}/home") for a in names])
        return np.array(speed), WAY_S + excess_s, np.where(is_here, HOP_S**2, WAY_S**2)

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
