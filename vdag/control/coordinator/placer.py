"""`Placer`: where the handlers of a session go, and which nodes may have them.

A session lies either on nodes that speak the plan channel or on nodes that speak http: the two send
each other packets in ways that neither reads. The node that captures decides which, and it has to
be known: a handler that captures goes where its video is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from vdag.control.coordination.placing import ALGORITHMS, Algorithm, CostTable, Placement, static
from vdag.control.coordination.types import HandlerType
from vdag.control.coordination.values import HandlerSpec, Node, Service
from vdag.control.coordinator.costs import HANDOVER_S, Situation, copied_nbytes, costs_of
from vdag.control.coordinator.graphs import capture_of
from vdag.control.coordinator.learned import Learned
from vdag.control.coordinator.measured import Parts, learn
from vdag.control.coordinator.roster import Roster, video_of
from vdag.control.coordinator.routes import routed
from vdag.control.coordinator.values import Deployment, pinned
from vdag.control.prediction.ways import HOP_S
from vdag.errors import PlanError

__all__ = ["POLICY", "Placer", "split_algorithm"]

logger = logging.getLogger(__name__)

#: The algorithm that asks a policy of the scheduler; a colon and its name may follow.
POLICY = "policy"
#: Busy seconds per second that a node is taken to have left if there is no other way.
LEAST_LEFT = (0.1, 0.25, 0.5, 1.0, 2.0)
#: Share of the time that a worker is busy which just about keeps up.
JUST_ABOUT = 0.9


class Placer:
    """See above; pure, but for what it has learned.

    Args:
        types: of handlers.
        learned: of before; None for nothing.
    """

    def __init__(self, types: Mapping[int, HandlerType], learned: Learned | None = None) -> None:
        self._types = types
        self.learned = Learned() if learned is None else learned

    def settle(self, service: Service, roster: Roster) -> tuple[Service, tuple[Node, ...]]:
        """Return a service whose capture is tied to a node, and the nodes that may have the rest.

        Raises:
            PlanError: nobody has the video, or a handler is tied to a node of the other make.
            GraphError: the service does not capture once.
        """
        capture = capture_of(service)
        if capture.node_id is None:
            service = pinned(service, {capture.handler_id: _owner(capture, roster)})
            capture = capture_of(service)
        assert capture.node_id is not None, "it has just been tied to one"
        home = roster.node(capture.node_id)
        for spec in service.handlers:
            if spec.node_id is not None:
                _check_make(spec, roster.node(spec.node_id), home)
        nodes = tuple(node for node in roster.nodes() if node.speaks == home.speaks)
        if home.speaks == "vdag":
            known = roster.known(home.node_id)
            if known is None or not known.is_alive:
                raise PlanError(f"node {home.node_id} {home.name} is not there, and captures")
            video_of(known, capture.params.get("source", 0))
        return service, nodes

    def place(
        self,
        service: Service,
        nodes: Collection[Node],
        situation: Situation,
        *,
        without: Collection[int] = (),
    ) -> Placement:
        """Return where the handlers go.

        Args:
            service: settled.
            nodes: that may have handlers.
            situation: how they are.
            without: nodes that are gone, whatever is tied to them.

        Raises:
            PlanError: there is no such placement.
        """
        there = [node for node in nodes if node.node_id not in without]
        service = routed(service, situation.route)
        costs = costs_of(service, there, self._types, self.learned, situation)
        name, _ = split_algorithm(service.algorithm)
        # A policy decides once the job is there; until then it is placed as is best known.
        algorithm = ALGORITHMS["min_delay" if name == POLICY else name]
        try:
            found = algorithm(service, there, costs)
        except PlanError as err:
            # What keeps nodes busy may end soon: they had better be too slow than be refused.
            found = self._place_beyond(algorithm, service, there, costs)
            logger.info("%s is placed beyond what nodes have left: %s", service.name, err)
            found = replace(found, overloads=(*found.overloads, str(err)))
        return replace(found, algorithm=service.algorithm)

    @staticmethod
    def _place_beyond(
        algorithm: Algorithm, service: Service, nodes: Sequence[Node], costs: CostTable
    ) -> Placement:
        """Return a placement on nodes that shall have at least so much left, or anything.

        If a handler keeps up nowhere, it is taken to do so just about, wherever that may be.
        """
        for least in LEAST_LEFT:
            left = {node: max(each, least) for node, each in costs.capacities.items()}
            try:
                return algorithm(service, nodes, replace(costs, capacities=left))
            except PlanError:
                continue
        idle = replace(costs, capacities=dict.fromkeys(costs.capacities, math.inf))
        most_s = JUST_ABOUT / costs.fps
        slow = {place: min(seconds, most_s) for place, seconds in costs.compute.items()}
        return algorithm(service, nodes, replace(idle, compute=slow))

    def tell(
        self, service: Service, placed: Mapping[int, int], nodes: Collection[Node], at: Situation
    ) -> Placement:
        """Return what a placement that somebody else has chosen comes to.

        Args:
            service: settled.
            placed: node of each handler.
            nodes: that are there.
            at: how they are.

        Raises:
            PlanError: one of the nodes is not among them.
        """
        service = routed(pinned(service, placed), at.route)
        costs = costs_of(service, nodes, self._types, self.learned, at)
        return static(service, tuple(nodes), costs)

    def expected(
        self, service: Service, nodes: Collection[Node], at: Situation
    ) -> dict[tuple[int, int], float]:
        """Return the seconds of a packet by handler and node, of those that may be there.

        They are told to policies, which reckon with `HOP_S` for a hand-over: what it takes beyond
        that is added.

        Args:
            service: settled.
            nodes: that are there.
            at: how they are.
        """
        compute = costs_of(service, nodes, self._types, self.learned, at).compute
        offers = {node.node_id: node for node in nodes}
        hops_s = {node: self.learned.hop_s(node, HANDOVER_S) for node in offers}
        return {
            (number, node_id): seconds + max(hops_s[node_id] - HOP_S, 0.0)
            for (number, node_id), seconds in compute.items()
            if offers[node_id].offers(service.by_id[number].kind) and math.isfinite(seconds)
        }

    def learn(self, deployment: Deployment, found: Mapping[int, Parts], at: Situation) -> None:
        """Take in what a session has measured under its placement.

        Args:
            deployment: of the session, on our nodes.
            found: what it has measured, by handler.
            at: how the nodes are.
        """
        copied = copied_nbytes(deployment.service, self._types, at.route)
        learn(self.learned, deployment, found, at.bandwidths, copied)

    def fps(self, service: Service) -> float:
        """Return the packets per second of a service."""
        return costs_of(service, (), self._types, self.learned, Situation()).fps


def split_algorithm(name: str) -> tuple[str, str]:
    """Return the algorithm, and the policy that it names; empty for the scheduler's own."""
    algorithm, _, policy = name.partition(":")
    return algorithm, policy


def _owner(capture: HandlerSpec, roster: Roster) -> int:
    """Return the one node that has the video."""
    source = capture.params.get("source", 0)
    found = []
    for node in roster.nodes():
        known = roster.known(node.node_id)
        if known is not None and known.is_alive:
            try:
                video_of(known, source)
            except PlanError:
                continue
            found.append(node.node_id)
    if len(found) != 1:
        raise PlanError(f"{capture} has no node_id, and {len(found) or 'no'} nodes have its video")
    return found[0]


def _check_make(spec: HandlerSpec, node: Node, home: Node) -> None:
    if node.speaks != home.speaks:
        raise PlanError(
            f"{spec} is on node {node.node_id} {node.name}, which speaks {node.speaks}, and the "
            f"capture on node {home.node_id} {home.name}, which speaks {home.speaks}: "
            "packets do not go between the two"
        )
