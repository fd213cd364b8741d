"""Which way a graph's frames travel: from its tasks and where each is done to routes.

A graph splits into *branches*: sets of tasks that no edge connects, the generator aside. Branches
need nothing from each other, so each gets a descriptor of its own and they travel at the same time.
Inside a branch a frame visits the tasks one after the other, each after its producers, so that what
a task needs is in the context when the frame gets there; also where a branch forks and joins.
Every route ends at the job's home.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vdag._native import header
from vdag.errors import FrameFormatError, GraphError, PlanError
from vdag.graph import Graph
from vdag.transport import codec
from vdag.transport.codec import Hop

__all__ = ["HOME", "MAX_BRANCHES", "Itinerary", "branches", "plan_itinerary"]

#: What the last hop of a route is called; no task, as tasks are identifiers.
HOME = "~home"
#: A slot has room for 56 leases. A frame needs one for the job and, per branch, one for the
#: exchange, one for the worker, and one that a lost worker held until it is reaped.
MAX_BRANCHES = 18


@dataclass(frozen=True, slots=True)
class Itinerary:
    """The routes of a graph's frames under one plan.

    Attributes:
        plan: number of the plan.
        routes: per branch the hops of its tasks, then home.
        branch_of: task to the index of its branch in `routes`.
    """

    plan: int
    routes: tuple[tuple[Hop, ...], ...]
    branch_of: Mapping[str, int]


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


def plan_itinerary(
    graph: Graph,
    *,
    exchange: str,
    home: str,
    placement: Mapping[str, str] = MappingProxyType({}),
    plan: int = 0,
) -> Itinerary:
    """Lay out the routes of a graph's frames.

    Args:
        graph: a checked graph.
        exchange: endpoint of the exchange that does every task not in `placement`.
        home: endpoint that the results come back to.
        placement: task to the endpoint of the exchange that does it.
        plan: number of the plan.

    Raises:
        GraphError: the graph has more branches, or a branch more tasks, than a frame can carry.
        PlanError: `placement` names no task of the graph, or something is no endpoint.
    """
    if unknown := placement.keys() - set(graph.tasks):
        raise PlanError(f"placement names {min(unknown)!r}, which is no task of the graph")
    split = branches(graph)
    if len(split) > MAX_BRANCHES:
        raise GraphError(f"graph of {len(split)} independent branches exceeds {MAX_BRANCHES}")
    longest = max(map(len, split))
    if longest >= header.MAX_HOP:
        raise GraphError(f"branch of {longest} tasks exceeds {header.MAX_HOP - 1}")
    routes = tuple(
        (*(Hop(task, placement.get(task, exchange)) for task in branch), Hop(HOME, home))
        for branch in split
    )
    try:
        for route in routes:
            codec.encode(codec.Descriptor(header.Header(plan=plan), route=route))
    except FrameFormatError as err:
        raise PlanError(f"plan {plan} cannot travel: {err}") from err
    branch_of = {task: index for index, branch in enumerate(split) for task in branch}
    return Itinerary(plan, routes, MappingProxyType(branch_of))
