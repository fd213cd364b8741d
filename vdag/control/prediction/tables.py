"""`Tables`: all configurations at all nodes at once, by the arithmetic of `predicting`.

Here is gathered what a question says of nodes, links and tasks; the arithmetic, and the search
through it, is compiled: `native.forecast`.
"""

from __future__ import annotations

import math
from copy import copy
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag.control.prediction.candidates import Candidate
from vdag.control.prediction.outlook import Outlook
from vdag.control.prediction.queueing import Z95
from vdag.control.prediction.rows import Models, accuracy_rows, corrections, cost_blocks
from vdag.control.prediction.ways import WAY_S, codec_s
from vdag.control.profile.learning import Learned

__all__ = ["Config", "Tables", "combinations"]

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
#: Indexes of resolution, rate and combination of models.
Config = tuple[int, int, int]

#: Combinations of models that are looked at; with more, all tasks take the same step.
MAX_COMBINATIONS = 32
#: What a task in the cloud costs, in tasks on another edge: any number of those is cheaper.
COST_CLOUD = 100.0
#: What nobody has taught anything of.
UNTAUGHT = Learned()


class Tables:
    """What each task takes at each node under each configuration.

    Args:
        outlook: that it is made from.
        encoder: of pixels between hosts.
        free_only: a query may take what is free, and not its fair share.

    Attributes:
        forecast: the numbers, see `reference_forecast`.
        models: of each task.
        combos: of models, intp `(combination, task)`: indexes.
        fps: float64 `(rate,)`.
    """

    def __init__(self, outlook: Outlook, encoder: str = "JPEG", *, free_only: bool = False) -> None:
        self.outlook = outlook
        self.encoder = encoder
        self.free_only = free_only
        self.resolutions = outlook.resolutions
        self.rates = outlook.rates
        self.fps = np.array(self.rates)
        self.nodes = outlook.nodes
        self._names = [node.node_addr for node in self.nodes]
        self._host = outlook.question.around.host.node_addr
        had = [tuple(outlook.models(t, node) for t in outlook.tasks) for node in self.nodes]
        self.models: Models = _union(tuple(had))
        self.combos = combinations(tuple(map(len, self.models)))
        self.forecast = native.forecast.Forecast(self._givens(had))

    def _givens(self, had: list[Models]) -> native.forecast.Givens:
        outlook, calibration = self.outlook, self.outlook.calibration
        learned = self._learned()
        sent, obj_n = outlook.sent_by(self._host), outlook.measured.obj_n
        return native.forecast.Givens(
            costs=cost_blocks(outlook, self.models, had, self.nodes),
            corrections=[*corrections(learned, self.models, self.resolutions)],
            spots=self._spots(learned),
            sites=self._sites(),
            accuracies=accuracy_rows(outlook, self.models),
            frames=self._frames(),
            fps=self.fps,
            combos=self.combos,
            branches=outlook.branches,
            objects=math.nan if obj_n is None else obj_n,
            spread=Z95 * calibration.spread_ratio,
            sent=(sent.queries, sent.busy),
            host=self._names.index(self._host) if self._host in self._names else -1,
            now=self._now(),
            links=self._links,
        )

    def _learned(self) -> list[list[Learned]]:
        """Return what nodes have taught, by task and node."""
        profile, nodes = self.outlook.profile, self.nodes
        return [
            [profile.learned(task, node) for node in nodes]
            if profile.knows(task)
            else [UNTAUGHT] * len(nodes)
            for task in self.outlook.tasks
        ]

    def _spots(self, learned: list[list[Learned]]) -> Array:
        """Return what is said of each task at each node; corrections are few."""
        outlook, calibration = self.outlook, self.outlook.calibration
        rooms = [[outlook.room(task, node) for node in self.nodes] for task in outlook.tasks]
        each = [room for row in rooms for room in row]
        known = [one for row in learned for one in row]
        rows = [
            [room.total for room in each],
            [room.others for room in each],
            [room.queries for room in each],
            [one.log_factor for one in known],
            [one.tail for one in known],
            *[[1.0] * len(each)] * 2,
        ]
        spots = np.array(rows, dtype=np.float64).reshape(-1, len(rooms), len(self.nodes))
        places = {name: n for n, name in enumerate(self._names)}
        tasks = {task: t for t, task in enumerate(outlook.tasks)}
        for array, found in (
            (spots[5], calibration.compute_ratios()),
            (spots[6], calibration.queue_ratios()),
            (spots[5], outlook.forgiven.items()),
        ):
            for (task, addr), value in found:
                if task in tasks and addr in places:
                    array[tasks[task], places[addr]] = value
        return spots

    def _sites(self) -> Array:
        """Return what is said of each node, and of the ways from the video there and back."""
        outlook, host, names = self.outlook, self._host, self._names
        rooms = [outlook.node_room(node) for node in self.nodes]
        return np.array(
            [
                [math.inf if room is None else room.free for room in rooms],
                [math.inf if room is None else room.share for room in rooms],
                self._speeds(host),
                self._excesses(host, names),
                [math.inf if name == host else outlook.bandwidth(name, host) for name in names],
                [WAY_S + outlook.calibration.excess_s(name, f"{host}/home") for name in names],
                [
                    0.0 if node.node_addr == host else COST_CLOUD if node.role == "cloud" else 1.0
                    for node in self.nodes
                ],
            ]
        )

    def _speeds(self, sender: str) -> list[float]:
        """Return bytes per second as corrected; infinite from a node to itself."""
        bandwidth, calibration = self.outlook.bandwidth, self.outlook.calibration
        row = [math.inf if name == sender else bandwidth(sender, name) for name in self._names]
        if calibration.knows_links_of(sender):
            for n, name in enumerate(self._names):
                if name != sender:
                    row[n] /= calibration.link_ratio(sender, name, row[n])
        return row

    def _excesses(self, sender: str, receivers: list[str]) -> list[float]:
        calibration = self.outlook.calibration
        if not calibration.knows_ways_of(sender):
            return [0.0] * len(receivers)
        return [calibration.excess_s(sender, receiver) for receiver in receivers]

    def _links(self) -> tuple[Array, Array, Array]:
        """Return what is said of the ways between nodes: see `forecast_terms.Links`."""
        names = self._names
        loads = [self.outlook.sent_by(name) for name in names]
        return (
            np.array([self._speeds(name) for name in names]),
            np.array([self._excesses(name, names) for name in names]),
            np.array([[float(load.queries) for load in loads], [load.busy for load in loads]]),
        )

    def _frames(self) -> Array:
        """Return bytes of a frame, and seconds of a way beside those on the link."""
        nbytes, encoder = self.outlook.frame_nbytes, self.encoder
        return np.array(
            [
                [nbytes(name, encoder) for name in self.resolutions],
                [WAY_S + codec_s(name, encoder) for name in self.resolutions],
            ]
        )

    def _now(self) -> list[int]:
        """Return the nodes of the plan in force, -1 for none."""
        plan = self.outlook.question.previous
        placed = {} if plan is None else plan.flow_mapping
        return self.indexes_of({task: each.node_addr for task, each in placed.items()}, -1)

    def indexes_of(self, placed: dict[str, str], unplaced: int) -> list[int]:
        """Return the node of each task, -1 for another one, `unplaced` where none is named."""
        names = self._names
        found = []
        for task in self.outlook.tasks:
            addr = placed.get(task)
            if addr is None:
                found.append(unplaced)
            else:
                found.append(names.index(addr) if addr in names else -1)
        return found

    @property
    def accuracy(self) -> Array:
        """Accuracy of configurations, `(resolution, rate, combination)`; for reading."""
        return self.forecast.accuracy

    def taking(self, *, free_only: bool) -> Tables:
        """Return these tables with another idea of what the query may take."""
        if free_only == self.free_only:
            return self
        other = copy(self)
        other.free_only = free_only
        return other

    def candidate(self, config: Config, placed: tuple[int, ...]) -> Candidate:
        """Return a candidate by its indexes; `placed`: the node of each task."""
        (r, f, c), tasks = config, self.outlook.tasks
        return Candidate(
            self.resolutions[r],
            self.rates[f],
            self.encoder,
            {task: self.models[t][self.combos[c, t]] for t, task in enumerate(tasks)},
            {task: self._names[placed[t]] for t, task in enumerate(tasks)},
        )


@lru_cache(maxsize=1024)
def _union(had: tuple[Models, ...]) -> Models:
    """Return the models of each task that any node has."""
    return tuple(tuple(sorted({m for has in each for m in has})) for each in zip(*had, strict=True))


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
