"""Which way a graph's frames travel: from its tasks and where each is done to routes.

A graph splits into *branches*: sets of tasks that no edge connects, the generator aside. Branches
need nothing from each other, so each gets a descriptor of its own and they travel at the same time.
Inside a branch a frame visits the tasks one after the other, each after its producers, so that what
a task needs is in the context when the frame gets there; also where a branch forks and joins.
Every route ends at the job's home.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from vdag._native import header
from vdag.errors import FrameFormatError, GraphError, PlanError
from vdag.frame import Frame
from vdag.graph import Graph
from vdag.results import PICTURES
from vdag.transport import codec
from vdag.transport.codec import Descriptor, Envelope, Hop

if TYPE_CHECKING:
    from vdag._native.ring import SlotRef
    from vdag.transport.context import Context

__all__ = [
    "HOME",
    "MAX_BRANCHES",
    "Itinerary",
    "branches",
    "briefing",
    "lighten",
    "onward",
    "plan_itinerary",
    "shed",
]

#: What the last hop of a route is called; no task, as tasks are identifiers.
HOME = "~home"
#: A slot has room for 56 leases. A frame needs one for the job and, per branch, one for the
#: exchange, one for the worker, and one that a lost worker held until it is reaped.
MAX_BRANCHES = 18
#: Tasks that take another task's pictures only when they do not have the frame.
FRAME_FIRST = frozenset({"face_alignment"})
#: Names of streams whose envelopes an itinerary remembers.
MAX_KNOWN_NAMES = 64
_UINT8 = header.DTYPES.index("uint8")


@dataclass(frozen=True, slots=True)
class Itinerary:
    """The routes of a job's frames under one plan.

    Attributes:
        job: id of the job.
        stream: number of its stream, unique on the node.
        plan: number of the plan.
        routes: per branch the hops of its tasks, then home.
        branch_of: task to the index of its branch in `routes`.
        exchange: endpoint of the node that the frames come home to.
    """

    job: str
    stream: int
    plan: int
    routes: tuple[tuple[Hop, ...], ...]
    branch_of: Mapping[str, int]
    exchange: str = ""
    _known: dict[str, tuple[Envelope, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def is_here(self, task: str) -> bool:
        """Whether a task is done by the node that the frames come home to, by its clock."""
        route = self.routes[self.branch_of[task]]
        return any(hop.task == task and hop.endpoint == self.exchange for hop in route)

    def visits(self, endpoints: Collection[str]) -> bool:
        """Whether a task is done at one of these."""
        return any(hop.endpoint in endpoints for route in self.routes for hop in route[:-1])

    @property
    def first_tasks(self) -> tuple[str, ...]:
        """The tasks that frames go to first, one per branch."""
        return tuple(route[0].task for route in self.routes)

    def descriptors(self, frame: Frame, reference: SlotRef, deadline_ns: int) -> Iterator[bytes]:
        """Yield a frame's descriptors, one per route, each a message of one part.

        Args:
            frame: what it is.
            reference: where its pixels are, with a lease for each route.
            deadline_ns: when its results are worth nothing, 0 for none.

        Raises:
            FrameFormatError: a field of the frame is out of the range of a header.
        """
        fixed = header.Header(
            kind=header.KIND_SLOT,
            dtype=_UINT8,
            shape=frame.pixels.shape,
            plan=self.plan,
            stream=self.stream,
            seq=frame.seq,
            cam_frame_id=frame.cam_frame_id,
            capture_ns=frame.capture_ns,
            deadline_ns=deadline_ns,
            pts_ns=None if frame.pts_s is None else round(frame.pts_s * 1e9),
            payload_nbytes=reference.nbytes,
            arena=reference.arena_id,
            slot=reference.slot,
            generation=reference.generation,
            offset=reference.offset,
        )
        for envelope in self._known.get(frame.stream) or self._envelopes(frame.stream):
            yield envelope.seal(fixed)

    def _envelopes(self, stream: str) -> tuple[Envelope, ...]:
        """Return an envelope per route, and remember them."""
        # The name is for people; that of a file may be longer than a descriptor carries.
        name = stream.encode("utf-8", "replace")[: codec.MAX_NAME_NBYTES].decode(errors="ignore")
        if len(self._known) == MAX_KNOWN_NAMES:
            self._known.clear()
        envelopes = tuple(Envelope(self.job, name, route) for route in self.routes)
        self._known[stream] = envelopes
        return envelopes

    def branch_home(self, descriptor: Descriptor) -> int:
        """Return the branch that a descriptor brings home.

        Raises:
            FrameFormatError: it is another job's, is not at its end, or a task's outputs lack.
        """
        fixed, route = descriptor.header, descriptor.route
        if descriptor.job != self.job or fixed.stream != self.stream:
            raise FrameFormatError(f"descriptor is of job {descriptor.job!r}")
        if not 0 < fixed.hop == len(route) - 1:
            raise FrameFormatError(f"hop {fixed.hop} of {len(route)} is not home")
        tasks = [hop.task for hop in route[:-1]]
        branch = self.branch_of.get(tasks[0])
        if branch is None or tasks != [hop.task for hop in self.routes[branch][:-1]]:
            raise FrameFormatError(f"tasks {', '.join(tasks):.200} are no branch of this job")
        if missing := set(tasks) - descriptor.context.keys():
            raise FrameFormatError(f"descriptor comes home without {min(missing)}")
        return branch


def branches(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Split a graph into its independent branches.

    Returns:
        Each task once; the tasks of a branch in the order of the flow, the branches in the order of
        their first tasks.
    """
    found: list[set[str]] = []
    for task in graph.tasks:
        needed = set(graph.producers(task))
        joined = [branch for branch in found if branch & needed]
        found = [branch for branch in found if not branch & needed]
        found.append({task}.union(*joined))
    ordered = [tuple(task for task in graph.tasks if task in branch) for branch in found]
    return tuple(sorted(ordered, key=lambda branch: graph.tasks.index(branch[0])))


def lighten(graph: Graph) -> Graph:
    """Return the graph without inputs that would only make its frames heavier.

    Inputs that a graph leaves out are matched by name, so `face_alignment` is given the `faces` of
    `face_detection` beside the `image` that it looks at.
    """
    edges = dict(graph.edges)
    for task in FRAME_FIRST & edges.keys():
        if any(edge.name == "image" for edge in edges[task]):
            edges[task] = tuple(
                edge
                for edge in edges[task]
                if edge.producer == graph.generator or edge.field not in PICTURES
            )
    return Graph(graph.generator, graph.tasks, edges)


def briefing(graph: Graph) -> bytes:
    """Return what workers are told of a job's graph: a `messages.Dag`."""
    return json.dumps(lighten(graph).to_dag()).encode()


def shed(graph: Graph, context: Context, ahead: Collection[str]) -> None:
    """Take those pictures out of a frame's context that no task ahead of it takes.

    They are mostly regions of the frame, whose pixels every task has anyway, or large, and would
    make a small message a large one.

    Args:
        graph: of the job.
        context: of the frame; changed in place, the fields of its tasks are not.
        ahead: the tasks that it still goes to.
    """
    for task in graph.tasks:
        fields = context.get(task)
        if fields is None or PICTURES.isdisjoint(fields):
            continue
        taken = {
            edge.field
            for following in ahead
            for edge in graph.edges.get(following, ())
            if edge.producer == task
        }
        context[task] = {
            name: value for name, value in fields.items() if name not in PICTURES - taken
        }


def onward(graph: Graph, placement: Mapping[str, str]) -> dict[str, set[str]]:
    """Return where frames go on to from other nodes, by address, other than home or back to here.

    Args:
        graph: a checked graph.
        placement: task to the address of the other node that does it.
    """
    found: dict[str, set[str]] = {}
    for branch in branches(graph):
        for task, following in itertools.pairwise(branch):
            here, there = placement.get(task), placement.get(following)
            if here is not None and there is not None and here != there:
                found.setdefault(here, set()).add(there)
    return found


def plan_itinerary(
    graph: Graph,
    *,
    exchange: str,
    home: str,
    job: str = "",
    stream: int = 0,
    placement: Mapping[str, str] = MappingProxyType({}),
    models: Mapping[str, int] = MappingProxyType({}),
    plan: int = 0,
) -> Itinerary:
    """Lay out the routes of a graph's frames.

    Args:
        graph: a checked graph.
        exchange: endpoint of the exchange that does every task not in `placement`.
        home: endpoint that the results come back to.
        job: id of the job.
        stream: number of its stream.
        placement: task to the endpoint of the exchange that does it.
        models: task to the number of its model, where it is not left to the workers.
        plan: number of the plan.

    Raises:
        GraphError: the graph has more branches, or a branch more tasks, than a frame can carry.
        PlanError: `placement` or `models` names no task of the graph, or something is no endpoint.
    """
    for what, named in (("placement", placement.keys()), ("models", models.keys())):
        if unknown := named - set(graph.tasks):
            raise PlanError(f"{what} names {min(unknown)!r}, which is no task of the graph")
    split = branches(graph)
    if len(split) > MAX_BRANCHES:
        raise GraphError(f"graph of {len(split)} independent branches exceeds {MAX_BRANCHES}")
    longest = max(map(len, split))
    if longest >= header.MAX_HOP:
        raise GraphError(f"branch of {longest} tasks exceeds {header.MAX_HOP - 1}")
    routes = tuple(
        (
            *(Hop(task, placement.get(task, exchange), models.get(task)) for task in branch),
            Hop(HOME, home),
        )
        for branch in split
    )
    try:
        number = header.Header(plan=plan, stream=stream)
        for route in routes:
            Envelope(job, "", route).seal(number)
    except FrameFormatError as err:
        raise PlanError(f"plan {plan} cannot travel: {err}") from err
    branch_of = {task: index for index, branch in enumerate(split) for task in branch}
    return Itinerary(job, stream, plan, routes, MappingProxyType(branch_of), exchange)
