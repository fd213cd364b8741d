"""`greedy`: one handler after the other, where a packet is done with it soonest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vdag.control.coordination.placing.costs import Costs
from vdag.control.coordination.placing.explaining import explained
from vdag.control.coordination.placing.model import Model, Resource, exceeds
from vdag.control.coordination.placing.placement import Placement
from vdag.control.coordination.values import HandlerSpec, Node, Service
from vdag.errors import PlanError

__all__ = ["expect_room_for_the_tied", "finish", "greedy"]


def greedy(service: Service, nodes: Sequence[Node], costs: Costs) -> Placement:
    """Place the handlers in their order, each where a packet is done with it soonest.

    What comes after it is not looked at, but for the capacity that handlers need which are tied to
    a node. Of equal nodes it stays where it is. Takes `O(handlers * nodes)` steps.

    Raises:
        PlanError: a handler is left without a node that has room; another algorithm may find one.
    """
    model = Model(service, nodes, costs)
    placed = finish(model, {})
    return explained(model, placed, "greedy", "each handler where it is done soonest")


def finish(model: Model, placed: Mapping[int, int]) -> dict[int, int]:
    """Return a placement of all handlers that begins with some.

    Args:
        model: of the service.
        placed: nodes of the first handlers, in the order of the service.

    Raises:
        PlanError: as of `greedy`.
    """
    expect_room_for_the_tied(model)
    found: dict[int, int] = {}
    done: dict[int, float] = {}
    used = dict(model.reserved)
    for spec in model.service.order:
        number = spec.handler_id
        node = placed.get(number)
        if node is None:
            node = _soonest(model, spec, found, done, used)
        for resource, amount in model.asks(spec, node, found).items():
            used[resource] = used.get(resource, 0.0) + amount
        found[number] = node
        done[number], _ = model.arrive(spec, found, done)
    return found


def expect_room_for_the_tied(model: Model) -> None:
    """Raise a `PlanError` if a handler keeps up nowhere, or a node with what is tied to it."""
    _ = model.candidates
    for resource, amount in model.reserved.items():
        if exceeds(amount, model.limit(resource)):
            raise PlanError(
                f"{model.names(resource)} would have {model.shares(resource, amount)} "
                "by what has to be there"
            )


def _soonest(
    model: Model,
    spec: HandlerSpec,
    placed: Mapping[int, int],
    done: Mapping[int, float],
    used: Mapping[Resource, float],
) -> int:
    best: tuple[float, int] | None = None
    refused: list[str] = []
    for node in model.ordered(model.candidates[spec.handler_id], spec, placed):
        done_s, _ = model.arrive(spec, {**placed, spec.handler_id: node}, done)
        full = _too_full(model, spec, node, placed, used)
        if full or math.isinf(done_s):
            refused.append(full or f"no link to {model.name(node)} is fast enough")
            continue
        if best is None or done_s < best[0]:
            best = done_s, node
    if best is None:
        raise PlanError(f"{spec} is left without room: {', '.join(refused)}")
    return best[1]


def _too_full(
    model: Model,
    spec: HandlerSpec,
    node: int,
    placed: Mapping[int, int],
    used: Mapping[Resource, float],
) -> str:
    """Return what has no room for a handler on a node, empty if all have."""
    for resource, amount in model.asks(spec, node, placed).items():
        total = used.get(resource, 0.0) + amount
        if exceeds(total, model.limit(resource)):
            return f"{model.names(resource)} would have {model.shares(resource, total)}"
    return ""
