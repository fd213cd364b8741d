"""`Outlook`: what a question means for predictions, read once.

Which tasks follow which, which nodes may do them, what of a node this query may take, how fast
links are. A frame visits the tasks of a branch one after the other; branches travel at the same
time (see `vdag.itinerary`).

What a query may take of workers, cores and links is the larger of what others leave free and of
its fair share, the capacity over the number of queries there. So one that comes later takes its
share, and the others shrink to theirs when they are asked next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

from vdag.control.prediction.calibration import Calibration
from vdag.control.prediction.candidates import Candidate
from vdag.control.prediction.measured import Measured
from vdag.control.prediction.ways import FULL
from vdag.control.profile import Cost, Profile
from vdag.control.scheduling.branching import branches_of
from vdag.control.scheduling.events import NodeInfo
from vdag.control.scheduling.instructions import Question
from vdag.control.scheduling.surroundings import TaskLoad
from vdag.errors import PlanError
from vdag.plan import VideoConf
from vdag.sampling import RESOLUTIONS

__all__ = ["FULL", "RATES", "Outlook", "Room"]

#: Frames per second that plans are made of, beside the camera's own.
RATES = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
#: Bytes per second of a link that nobody has measured: 100 Mbit/s, the slowest wire there is.
DEFAULT_BANDWIDTH = 12.5e6
MIN_BANDWIDTH = 1e3
#: Share of what may lack to a perfect accuracy that plans use, if they can.
CAUTION = 0.75
#: A camera that is slower says nonsense.
MIN_FPS = 0.01
#: Of a task that nobody knows anything about, in seconds.
UNKNOWN = Cost(0.05, 0.08)
#: Nodes that are looked at for one query; more would hardly be better and cost time.
MAX_NODES = 12
#: More cores than this are no answer of a machine.
MAX_CORES = 4096

Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class Room:
    """What there is of a task's workers, or of a node's cores.

    Attributes:
        total: of them.
        others: that other queries keep busy.
        queries: of them.
    """

    total: float
    others: float
    queries: int

    @property
    def free(self) -> float:
        """How many are left, of the share that is filled at most."""
        return max(FULL * self.total - self.others, 0.0)

    @property
    def share(self) -> float:
        """How many this query may keep busy: what is free, or its fair share."""
        return max(self.free, FULL * self.total / (self.queries + 1))


@dataclass
class Outlook:
    """See the module. Made for one question and one thread.

    Attributes:
        question: that it is about.
        calibration: what predictions are corrected by; none unless given.
        forgiven: `(task, node_addr)` to the factor that its work is expected to take of what the
            profile says, for nodes that were slow and get another chance.
        tasks: of the query, in their order.
        branches: indexes of the tasks of each branch, in their order.
        measured: what was measured last, under whatever plan.
    """

    question: Question
    calibration: Calibration = field(default_factory=Calibration)
    forgiven: Mapping[tuple[str, str], float] = field(default_factory=dict)
    tasks: tuple[str, ...] = field(init=False)
    branches: tuple[tuple[int, ...], ...] = field(init=False)
    measured: Measured = field(init=False)
    _costs: dict[tuple[str, int, str, str], Cost] = field(default_factory=dict)
    _rooms: dict[tuple[str, str], Room] = field(default_factory=dict)
    _node_rooms: dict[str, Room | None] = field(default_factory=dict)
    _bandwidths: dict[tuple[str, str], float] = field(default_factory=dict)
    _nbytes: dict[tuple[str, str], float] = field(default_factory=dict)
    _sent: dict[str, TaskLoad] = field(default_factory=dict)
    _known: dict[int, tuple[Candidate, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = tuple(self.question.dag_flow)
        self.branches = branches_of(self.tasks, self.question.dag)
        self.measured = Measured.read(self.question.runtime_info)

    def corrected(self, calibration: Calibration) -> Outlook:
        """Return the same outlook with another calibration, and nothing forgiven."""
        other = copy(self)
        other.calibration, other.forgiven, other._known = calibration, {}, {}
        return other

    def once(self, candidate: Candidate, make: Callable[[Candidate, Outlook], Known]) -> Known:
        """Return what is made of a candidate, made once until `forget`."""
        known = self._known.get(id(candidate))
        if known is None:
            known = self._known[id(candidate)] = (candidate, make(candidate, self))
        return cast("Known", known[1])

    def forget(self) -> None:
        """Make everything anew that depends on the calibration, which has changed."""
        self._known.clear()

    # The query.

    @property
    def is_current(self) -> bool:
        """Whether that was measured under the plan in force."""
        plan = self.question.previous
        return plan is not None and self.question.measured in (0, plan.number)

    @cached_property
    def bound_s(self) -> float:
        """The delay that results must not exceed, infinite for none."""
        high = self.question.constraint.delay_s[1]
        return high if high >= 0 else math.inf

    @cached_property
    def asked(self) -> float | None:
        """The accuracy that was asked for, None for none."""
        return self.question.constraint.accuracy

    @cached_property
    def wanted(self) -> float | None:
        """What a prediction has to say where it can, so that what was asked for is there.

        Nobody measures accuracy while a query runs, so an error of the profile never comes out.
        """
        return None if self.asked is None else 1 - CAUTION * (1 - self.asked)

    # What plans are made of.

    @cached_property
    def resolutions(self) -> tuple[str, ...]:
        """Resolutions that do not invent pixels, smallest first; or the one that has to be."""
        if self._fixed is not None:
            return (self._fixed.resolution,)
        video = self.question.video
        if not (video.width > 0 and video.height > 0):
            return tuple(RESOLUTIONS)
        fitting = tuple(
            name
            for name, (width, height) in RESOLUTIONS.items()
            if width <= video.width and height <= video.height
        )
        return fitting or (next(iter(RESOLUTIONS)),)

    @cached_property
    def cam_fps(self) -> float | None:
        """The camera's rate, None for unknown."""
        fps = self.question.video.fps
        return float(fps) if MIN_FPS <= fps < math.inf else None

    @cached_property
    def rates(self) -> tuple[float, ...]:
        """Frames per second that the camera gives, slowest first; or those that have to be."""
        if self._fixed is not None:
            return (self._fixed.fps,)
        if self.cam_fps is None or self.cam_fps >= RATES[-1]:
            return RATES
        return (*(rate for rate in RATES if rate < self.cam_fps), self.cam_fps)

    @property
    def _fixed(self) -> VideoConf | None:
        return self.question.constraint.video_conf

    @cached_property
    def nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes that tasks may run on, the host first if it offers any."""
        found: dict[str, NodeInfo] = {}
        lists = [self.question.around.candidates(task) for task in self.tasks]
        for rank in range(max(map(len, lists))):
            for nodes in lists:
                if rank < len(nodes) and len(found) < MAX_NODES:
                    found.setdefault(nodes[rank].node_addr, nodes[rank])
        for task, nodes in zip(self.tasks, lists, strict=True):
            if not nodes:
                raise PlanError(f"no live node offers {task}")
            if not any(node.node_addr in found for node in nodes):
                found[nodes[0].node_addr] = nodes[0]
        return tuple(found.values())

    @property
    def has_searched(self) -> bool:
        """Whether anybody has asked for the nodes yet."""
        return "nodes" in self.__dict__

    def models(self, task: str, node: NodeInfo) -> tuple[int, ...]:
        """Return the models of a task that a node has; none if it does not offer it."""
        if not node.offers(task):
            return ()
        service = node.services.get(task)
        return service.models or (0,) if service is not None else (0,)

    # What it costs.

    @property
    def profile(self) -> Profile:
        """What is known of tasks."""
        return self.question.around.profile

    def cost(self, task: str, model_id: int, resolution: str, node: NodeInfo) -> Cost:
        """Return what a frame takes, not corrected by what this query has measured."""
        key = (task, model_id, resolution, node.node_addr)
        found = self._costs.get(key)
        if found is None:
            known = self.profile.cost(task, model_id, resolution, node)
            found = self._costs[key] = UNKNOWN if known is None else known
        return found

    def work_ratio(self, task: str, node_addr: str) -> float:
        """Return what work takes over what the profile says, as far as this query knows."""
        forgiven = self.forgiven.get((task, node_addr))
        if forgiven is not None:
            return forgiven
        return self.calibration.compute_ratio(task, node_addr)

    def accuracy(self, task: str, model_id: int, resolution: str, fps: float) -> float:
        """Return how good a task's results would be in the scene as it was seen last."""
        seen = self.measured
        value = self.profile.accuracy(
            task,
            model_id,
            resolution,
            fps,
            obj_size=seen.obj_size,
            obj_speed=seen.obj_speed,
            cam_fps=self.cam_fps,
        )
        return min(max(value, 0.0), 1.0)

    def accuracies(
        self, task: str, model_id: int, resolutions: tuple[str, ...], rates: tuple[float, ...]
    ) -> list[list[float]]:
        """Return `accuracy` of all resolutions, at all rates each; not bounded."""
        scene = {"obj_size": self.measured.obj_size, "obj_speed": self.measured.obj_speed}
        return self.profile.accuracies_at(
            task, model_id, resolutions, rates, **scene, cam_fps=self.cam_fps
        )

    def frame_nbytes(self, resolution: str, encoder: str) -> float:
        """Return the bytes of a frame between hosts."""
        key = (resolution, encoder)
        if key not in self._nbytes:
            self._nbytes[key] = self.profile.frame_nbytes(resolution, encoder)
        return self._nbytes[key]

    # What there is.

    def room(self, task: str, node: NodeInfo) -> Room:
        """Return what there is of a task's workers on a node, never more than its cores."""
        key = (task, node.node_addr)
        if key not in self._rooms:
            service = node.services.get(task)
            workers = float(max(service.workers, 1)) if service is not None else 1.0
            load = self.question.around.load(node.node_addr, task)
            total = min(workers, self.cores(node) or workers)
            self._rooms[key] = Room(total, max(load.busy, 0.0), max(load.queries, 0))
        return self._rooms[key]

    def node_room(self, node: NodeInfo) -> Room | None:
        """Return what there is of a node's cores; None if nobody knows how many it has.

        A core that none of our tasks uses may be another's: all queries there count.
        """
        addr = node.node_addr
        if addr not in self._node_rooms:
            cores, around = self.cores(node), self.question.around
            room = None
            if cores is not None:
                busy = max(around.node_busy(addr), 0.0)
                room = Room(cores, busy, max(around.node_queries(addr), int(busy > 0)))
            self._node_rooms[addr] = room
        return self._node_rooms[addr]

    def cores(self, node: NodeInfo) -> float | None:
        """Return how many cores a node has, None for not known."""
        ratios = node.resources.get("cpu_ratio")
        if isinstance(ratios, (list, tuple)) and 0 < len(ratios) <= MAX_CORES:
            return float(len(ratios))
        return None

    def sent_by(self, sender: str) -> TaskLoad:
        """Return how many other queries send frames from a node, and their bytes per second."""
        if sender not in self._sent:
            self._sent[sender] = self.question.around.sent_by(sender)
        return self._sent[sender]

    def bandwidth(self, sender: str, receiver: str) -> float:
        """Return bytes per second from one node to another, as last measured by anybody."""
        key = (sender, receiver)
        if key not in self._bandwidths:
            known = self.question.around.bandwidth_between(sender, receiver)
            usable = known is not None and MIN_BANDWIDTH <= known < math.inf
            self._bandwidths[key] = known if usable and known is not None else DEFAULT_BANDWIDTH
        return self._bandwidths[key]
