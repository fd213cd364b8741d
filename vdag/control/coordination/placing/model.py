"""`Model`: how long packets take under a placement, and what it asks of nodes and links.

The delay of a packet is that of its longest way through the handlers:

    ready(h) = max over links s -> h of done(s) + transfer(s -> h)
    done(h)  = ready(h) + wait(h) + compute(h)
    delay    = max over h of done(h)

- `compute` is the mean of `Costs.compute_s`.
- `wait` is that of M/G/c at the handler's own workers (`vdag.control.prediction.queueing`, after
  Sakasegawa, and Allen and Cunneen), whose packets come in even steps and take times that scatter
  by `VARIATION`. It does not depend on where other handlers are. What they take from each other is
  bounded by the capacities instead.
- `transfer` within a node is `Costs.handover_s`. To another it is half the round trip and the bytes
  over the bandwidth, and more the fuller the link is (`vdag.control.prediction.ways`).

A placement is *possible* if no handler has more to do than its workers, no node more than its
capacity and no pair of nodes more than `MAX_LINK` of its bandwidth, all that goes between them
added. What one output gives to several handlers on a node goes there once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from vdag.control.coordination.placing.costs import Costs
from vdag.control.coordination.placing.placement import Part
from vdag.control.coordination.values import HandlerSpec, Link, Node, Service
from vdag.control.prediction.queueing import MAX_BUSY, wait_at
from vdag.control.prediction.ways import MAX_LINK, link_time
from vdag.errors import PlanError

__all__ = ["Estimate", "Model", "Resource", "exceeds"]

#: Standard deviation of a handler's time over its mean.
VARIATION = 0.25
#: By which sums of floats may exceed their limit.
EPSILON = 1e-9

#: A node, or the link from one node to another.
Resource: TypeAlias = "int | tuple[int, int]"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a placement comes to.

    Attributes:
        delay_s: of a packet.
        parts: of its longest way.
        overloads: one line each; empty if it is possible.
    """

    delay_s: float
    parts: tuple[Part, ...]
    overloads: tuple[str, ...]


class Model:
    """A service on some nodes, at some costs. Made for one call of an algorithm.

    Args:
        service: that is placed.
        nodes: that are there.
        costs: of it.

    Raises:
        PlanError: a handler has to be on a node that is not there, or no node has its type.
    """

    def __init__(self, service: Service, nodes: Iterable[Node], costs: Costs) -> None:
        self.service = service
        self.nodes: Mapping[int, Node] = {node.node_id: node for node in nodes}
        self.fps = costs.fps
        self._costs = costs
        self._ways: dict[tuple[Link, int, int], float] = {}
        self._stays: dict[tuple[int, int], tuple[float, float]] = {}
        self.offered = {each.handler_id: self._offering(each) for each in service.handlers}

    def _offering(self, spec: HandlerSpec) -> tuple[int, ...]:
        if spec.node_id is not None:
            if spec.node_id not in self.nodes:
                raise PlanError(f"{spec} has to be on node {spec.node_id}, which is not there")
            return (spec.node_id,)
        offering = tuple(number for number, node in self.nodes.items() if node.offers(spec.kind))
        if not offering:
            raise PlanError(f"{spec} is of type {spec.kind}, which no node has")
        return offering

    @cached_property
    def candidates(self) -> Mapping[int, tuple[int, ...]]:
        """The nodes where each handler keeps up.

        Raises:
            PlanError: one keeps up nowhere.
        """
        found = {}
        for spec in self.service.handlers:
            offered = self.offered[spec.handler_id]
            found[spec.handler_id] = tuple(
                node for node in offered if math.isfinite(sum(self.stay(spec.handler_id, node)))
            )
            if not found[spec.handler_id]:
                takes = ", ".join(self._pace(spec, node) for node in offered)
                raise PlanError(f"{spec} keeps up with {self.fps:g} fps nowhere: it takes {takes}")
        return found

    def _pace(self, spec: HandlerSpec, node_id: int) -> str:
        compute_s = self._costs.compute_s(spec.handler_id, node_id)
        return f"{compute_s * 1e3:.4g} ms on {self.name(node_id)}"

    def name(self, node_id: int) -> str:
        """Return a node's number and name."""
        return f"node {node_id} {self.nodes[node_id].name}"

    # What a handler, a link and a node take.

    def stay(self, handler_id: int, node_id: int) -> tuple[float, float]:
        """Return seconds of waiting and of computing; infinite where it does not keep up."""
        key = (handler_id, node_id)
        if key not in self._stays:
            compute_s = self._costs.compute_s(handler_id, node_id)
            workers = float(max(self._costs.workers(handler_id, node_id), 1))
            self._stays[key] = self._wait(compute_s, workers), compute_s
        return self._stays[key]

    def _wait(self, compute_s: float, workers: float) -> float:
        busy = self.fps * compute_s
        if not busy > 0:
            return 0.0
        if not busy <= MAX_BUSY * workers:
            return math.inf
        mean_s, _ = wait_at(compute_s, (VARIATION * compute_s) ** 2, workers, busy, 0.0)
        return mean_s

    def way(self, link: Link, sender: int, receiver: int) -> float:
        """Return seconds of a packet from node to node; infinite where the link is too thin."""
        if sender == receiver:
            return self._costs.handover_s(link, sender)
        key = (link, sender, receiver)
        if key not in self._ways:
            self._ways[key] = self._way(link, sender, receiver)
        return self._ways[key]

    def _way(self, link: Link, sender: int, receiver: int) -> float:
        nbytes = self._costs.nbytes(link)
        bandwidth = self._costs.bandwidth(sender, receiver)
        half_s = self._costs.rtt_s(sender, receiver) / 2
        if bandwidth is None or not nbytes > 0:
            return half_s
        bytes_s = nbytes / bandwidth if bandwidth > 0 else math.inf
        use = self.fps * bytes_s
        return half_s + link_time(bytes_s, use, 0.0)[0] if use <= MAX_LINK else math.inf

    def demand(self, spec: HandlerSpec, node_id: int) -> float:
        """Return the busy seconds per second of a handler on a node."""
        return self.fps * self._costs.compute_s(spec.handler_id, node_id)

    def flow(self, link: Link) -> float:
        """Return the bytes per second of a link."""
        return self.fps * self._costs.nbytes(link)

    def limit(self, resource: Resource) -> float:
        """Return the busy seconds per second of a node, or the bytes per second of a link."""
        if isinstance(resource, int):
            return self._costs.capacity(resource)
        bandwidth = self._costs.bandwidth(*resource)
        return math.inf if bandwidth is None else MAX_LINK * bandwidth

    @cached_property
    def reserved(self) -> Mapping[Resource, float]:
        """What those handlers ask of nodes that have to be there."""
        found: dict[Resource, float] = {}
        for spec in self.service.handlers:
            if spec.node_id is not None:
                demand = self.demand(spec, spec.node_id)
                found[spec.node_id] = found.get(spec.node_id, 0.0) + demand
        return found

    def asks(
        self, spec: HandlerSpec, node_id: int, placed: Mapping[int, int]
    ) -> dict[Resource, float]:
        """Return what a handler on a node adds to what is reserved and placed before it.

        Args:
            spec: the handler.
            node_id: where it goes.
            placed: nodes of handlers before it: of all that it takes from, and of all that take
                the same; to these a packet goes anyway, if they are on that node.
        """
        found: dict[Resource, float] = {}
        if spec.node_id is None:
            found[node_id] = self.demand(spec, node_id)
        flows: dict[tuple[int, int], float] = {}
        for link in self.service.inputs[spec.handler_id]:
            sender = placed[link.source_handler]
            beside = (placed.get(other) for other in self.sharing(link))
            if sender != node_id and node_id not in beside:
                flows[link.source_handler, link.source_output] = self.flow(link)
        for (source, _), flow in flows.items():
            pair = placed[source], node_id
            found[pair] = found.get(pair, 0.0) + flow
        return found

    def sharing(self, link: Link) -> list[int]:
        """Return the other handlers that take the same output."""
        return [
            other.target_handler
            for other in self.service.outputs[link.source_handler]
            if other.source_output == link.source_output
            and other.target_handler != link.target_handler
        ]

    # A placement as a whole.

    def estimate(self, placed: Mapping[int, int]) -> Estimate:
        """Return what a placement of all handlers comes to, possible or not."""
        done: dict[int, float] = {}
        last: dict[int, Link | None] = {}
        before: dict[int, int] = {}
        used = dict(self.reserved)
        for spec in self.service.order:
            done[spec.handler_id], last[spec.handler_id] = self.arrive(spec, placed, done)
            for resource, amount in self.asks(spec, placed[spec.handler_id], before).items():
                used[resource] = used.get(resource, 0.0) + amount
            before[spec.handler_id] = placed[spec.handler_id]
        slowest = max(done, key=lambda number: done[number])
        return Estimate(
            done[slowest], self._parts(slowest, placed, last), tuple(self._overloads(placed, used))
        )

    def arrive(
        self, spec: HandlerSpec, placed: Mapping[int, int], done: Mapping[int, float]
    ) -> tuple[float, Link | None]:
        """Return when a packet is done at a handler, and the link that it waited for longest."""
        here = placed[spec.handler_id]
        ready, last = 0.0, None
        for link in self.service.inputs[spec.handler_id]:
            came = done[link.source_handler] + self.way(link, placed[link.source_handler], here)
            if last is None or came > ready:
                ready, last = came, link
        wait_s, compute_s = self.stay(spec.handler_id, here)
        return ready + wait_s + compute_s, last

    def _parts(
        self, slowest: int, placed: Mapping[int, int], last: Mapping[int, Link | None]
    ) -> tuple[Part, ...]:
        parts: list[Part] = []
        number: int | None = slowest
        while number is not None:
            here = placed[number]
            wait_s, compute_s = self.stay(number, here)
            parts += [Part("compute", number, here, compute_s), Part("wait", number, here, wait_s)]
            link = last[number]
            if link is not None:
                way_s = self.way(link, placed[link.source_handler], here)
                parts.append(Part("transfer", number, here, way_s))
            number = None if link is None else link.source_handler
        return tuple(part for part in reversed(parts) if part.seconds > 0)

    def _overloads(
        self, placed: Mapping[int, int], used: Mapping[Resource, float]
    ) -> Iterable[str]:
        for spec in self.service.handlers:
            if math.isinf(sum(self.stay(spec.handler_id, placed[spec.handler_id]))):
                pace = self._pace(spec, placed[spec.handler_id])
                yield f"{spec} does not keep up with {self.fps:g} fps: it takes {pace}"
        for resource, amount in used.items():
            if exceeds(amount, self.limit(resource)):
                yield f"{self.names(resource)} would have {self.shares(resource, amount)}"

    def names(self, resource: Resource) -> str:
        """Return what a resource is called."""
        if isinstance(resource, int):
            return self.name(resource)
        return f"the link from {self.name(resource[0])} to {self.name(resource[1])}"

    def shares(self, resource: Resource, amount: float) -> str:
        """Return an amount of a resource beside its limit."""
        limit = self.limit(resource)
        if isinstance(resource, int):
            return f"{amount:.3g} of {limit:.3g} busy seconds per second"
        return f"{amount / 1e6:.3g} of {limit / 1e6:.3g} MB/s"

    def ordered(
        self, nodes: Sequence[int], spec: HandlerSpec, placed: Mapping[int, int]
    ) -> list[int]:
        """Return nodes, those first where something is that the handler takes from."""
        near = {placed[link.source_handler] for link in self.service.inputs[spec.handler_id]}
        return sorted(nodes, key=lambda node: (node not in near, node))


def exceeds(amount: float, limit: float) -> bool:
    """Whether an amount is more than its limit, by more than what floats lose."""
    return amount > limit * (1 + EPSILON) + EPSILON
