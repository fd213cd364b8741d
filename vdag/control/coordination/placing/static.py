"""`static`: as it is written down."""

from __future__ import annotations

from collections.abc import Sequence

from vdag.control.coordination.placing.costs import Costs
from vdag.control.coordination.placing.explaining import explained
from vdag.control.coordination.placing.model import Model
from vdag.control.coordination.placing.placement import Placement
from vdag.control.coordination.values import Node, Service
from vdag.errors import PlanError

__all__ = ["static"]


def static(service: Service, nodes: Sequence[Node], costs: Costs) -> Placement:
    """Place every handler where its service says, whether or not it keeps up there.

    What does not is in `overloads`.

    Raises:
        PlanError: a handler has no `node_id`, or one of a node that is not there.
    """
    placed: dict[int, int] = {}
    for spec in service.handlers:
        if spec.node_id is None:
            raise PlanError(f"{spec} has no node_id, which static wants")
        placed[spec.handler_id] = spec.node_id
    model = Model(service, nodes, costs)
    return explained(model, placed, "static", "as written in the service")
