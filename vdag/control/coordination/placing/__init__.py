"""Placing: which handler goes on which node.

    placement = place(service, nodes, costs)              by the algorithm that the service names
    placement = ALGORITHMS["greedy"](service, nodes, costs)

An algorithm keeps handlers where a `node_id` ties them, and puts others where a node offers their
type. What a placement comes to is told by one model for all of them (see `model`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from vdag.control.coordination.placing.costs import Costs, CostTable
from vdag.control.coordination.placing.greedy import greedy
from vdag.control.coordination.placing.min_delay import min_delay
from vdag.control.coordination.placing.placement import Alternative, Part, Placement
from vdag.control.coordination.placing.static import static
from vdag.control.coordination.values import Node, Service
from vdag.errors import PlanError

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Alternative",
    "CostTable",
    "Costs",
    "Part",
    "Placement",
    "greedy",
    "min_delay",
    "place",
    "static",
]

Algorithm = Callable[[Service, Sequence[Node], Costs], Placement]

#: All but `policy`, which asks the scheduler.
ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {"static": static, "greedy": greedy, "min_delay": min_delay}
)


def place(service: Service, nodes: Sequence[Node], costs: Costs) -> Placement:
    """Place a service by the algorithm that it names.

    Raises:
        PlanError: that is none of `ALGORITHMS`, or there is no placement.
    """
    algorithm = ALGORITHMS.get(service.algorithm)
    if algorithm is None:
        raise PlanError(f"algorithm {service.algorithm!r} is none of {', '.join(ALGORITHMS)}")
    return algorithm(service, nodes, costs)
