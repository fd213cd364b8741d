"""Sessions as they are asked for, carried out, and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.control.coordination.placing import Placement
from vdag.control.coordination.values import HandlerSpec, Link, Service, Speaks
from vdag.control.coordinator.graphs import Chart

__all__ = ["Deployment", "SessionRequest", "SessionView", "pinned", "placement_document", "written"]


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A session as a user asks for it.

    Attributes:
        service_id: what it runs.
        name: for people; empty for the service's.
        algorithm: that places its handlers; empty for the service's.
        pins: handlers to the nodes that they have to be on, beside those of the service.
        start: whether it shall run as soon as it can.
    """

    service_id: int
    name: str = ""
    algorithm: str = ""
    pins: Mapping[int, int] = field(default_factory=dict)
    start: bool = False


@dataclass(slots=True)
class Deployment:
    """A session as it is carried out; the coordinator's thread changes it.

    Attributes:
        session_id: its number.
        name: for people.
        service: with pins written into it.
        speaks: what all of its nodes speak.
        placement: that it follows.
        target: that it moves to; None for none.
        target_cause: why.
        cause: of the placement that it follows.
        chart: as a job; None on nodes that speak http.
        query_id: of that job; empty before it starts.
        blueprints: per node, on nodes that speak http.
        changed_s: when the placement came into force, seconds since the epoch.
        created_s: likewise, when it was made.
        open_to: nodes to the handlers that a policy may place there; empty without one.
        trouble: what it has to put up with while it runs.
    """

    session_id: int
    name: str
    service: Service
    speaks: Speaks
    placement: Placement
    target: Placement | None = None
    target_cause: str = ""
    cause: str = "created"
    chart: Chart | None = None
    query_id: str = ""
    blueprints: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    changed_s: float = 0.0
    created_s: float = 0.0
    open_to: Mapping[int, frozenset[int]] = field(default_factory=dict)
    trouble: str = ""

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes that have to do with it."""
        return tuple(sorted({*self.placement.nodes.values(), *self.open_to}))

    def tasks_on(self, node_id: int, placement: Placement | None = None) -> frozenset[str]:
        """Return the tasks that a node has to be able to do for it under a placement."""
        if self.chart is None:
            return frozenset()
        placed = (placement or self.placement).nodes
        return frozenset(
            task
            for number, task in self.chart.tasks.items()
            if placed[number] == node_id or number in self.open_to.get(node_id, ())
        )

    @property
    def home(self) -> int:
        """The node that captures."""
        assert self.chart is not None, "it is one of our nodes"
        return self.placement.nodes[self.chart.capture]


@dataclass(frozen=True, slots=True)
class SessionView:
    """How a session stands.

    Attributes:
        session_id: its number.
        name: for people.
        service_id: what it runs.
        service: the name of that.
        algorithm: that places it.
        speaks: what its nodes speak.
        state: see `State`.
        reason: why it has failed or stopped, or what it has to put up with.
        query_id: of its job; empty for none.
        placement: where its handlers are, and why, as a document.
        is_settled: nothing is under way.
        is_moving: its handlers are about to be placed otherwise.
        created_s: seconds since the epoch.
    """

    session_id: int
    name: str
    service_id: int
    service: str
    algorithm: str
    speaks: Speaks
    state: str
    reason: str
    query_id: str
    placement: Mapping[str, Any]
    is_settled: bool
    is_moving: bool
    created_s: float

    def to_document(self) -> dict[str, Any]:
        """Return it without the placement's details."""
        return {
            "session_id": self.session_id,
            "session_name": self.name,
            "service_id": self.service_id,
            "service_name": self.service,
            "algorithm": self.algorithm,
            "speaks": self.speaks,
            "state": self.state,
            "reason": self.reason,
            "query_id": self.query_id,
            "is_settled": self.is_settled,
            "is_moving": self.is_moving,
            "created_s": self.created_s,
            "nodes": sorted(set(self.placement["nodes"].values())),
        }


def pinned(service: Service, pins: Mapping[int, int], algorithm: str = "") -> Service:
    """Return a service whose handlers have to be on more nodes than it says itself."""
    handlers = tuple(
        HandlerSpec(
            each.handler_id,
            each.name,
            each.kind,
            each.params,
            pins.get(each.handler_id, each.node_id),
        )
        for each in service.handlers
    )
    return Service(
        service.service_id,
        service.name,
        handlers,
        service.links,
        algorithm or service.algorithm,
        service.cuts,
    )


def written(service: Service) -> dict[str, Any]:
    """Return the document of a service, in the form that has no template."""
    return {
        "service_id": service.service_id,
        "service_name": service.name,
        "algorithm": service.algorithm,
        "handlers": [
            {
                "handler_id": each.handler_id,
                "handler_name": each.name,
                "handler_type": each.kind,
                "params": dict(each.params),
                **({} if each.node_id is None else {"node_id": each.node_id}),
            }
            for each in service.handlers
        ],
        "links": [_link(each) for each in service.links],
    }


def placement_document(placement: Placement, cause: str, changed_s: float) -> dict[str, Any]:
    """Return where the handlers are, what that comes to, why, and what else there was."""
    return {
        "nodes": {str(number): node for number, node in sorted(placement.nodes.items())},
        "algorithm": placement.algorithm,
        "cause": cause,
        "changed_s": changed_s,
        "delay_s": _finite(placement.delay_s),
        "bound_s": _finite(placement.bound_s),
        "why": placement.why,
        "overloads": list(placement.overloads),
        "parts": [
            {
                "what": part.what,
                "handler_id": part.handler_id,
                "node_id": part.node_id,
                "seconds": _finite(part.seconds),
            }
            for part in placement.parts
        ],
        "alternatives": [
            {
                "handler_id": each.handler_id,
                "node_id": each.node_id,
                "delay_s": _finite(each.delay_s),
                "why": each.why,
            }
            for each in placement.alternatives
        ],
    }


def _link(link: Link) -> dict[str, int]:
    return {
        "source_handler": link.source_handler,
        "source_output": link.source_output,
        "target_handler": link.target_handler,
        "target_input": link.target_input,
    }


def _finite(seconds: float) -> float | None:
    """Return a number that JSON has; None for infinite."""
    return seconds if seconds < float("inf") else None
