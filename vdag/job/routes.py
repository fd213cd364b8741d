"""`Routes`: the itineraries of a job under its plans, as the nodes know each other."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from types import MappingProxyType

from vdag.errors import PlanError
from vdag.graph import Graph
from vdag.itinerary import Itinerary, plan_itinerary
from vdag.job.mailbox import home_address

__all__ = ["Routes"]


class Routes:
    """Lays out the routes of one job.

    Args:
        graph: of the job.
        exchange: address of this node's exchange.
        job: id of the job.
        alias: address under which other nodes know this one; None if frames cannot leave it.

    Attributes:
        home: where the job's frames come home to, on this node.

    Raises:
        ConfigError: the exchange is not of this host.
    """

    def __init__(self, graph: Graph, exchange: str, job: str, alias: str | None) -> None:
        self.home = home_address(exchange, job)
        self._graph, self._exchange, self._job, self._alias = graph, exchange, job, alias
        self._stream = secrets.randbits(63)

    def lay_out(
        self,
        plan: int,
        placement: Mapping[str, str],
        models: Mapping[str, int] = MappingProxyType({}),
    ) -> Itinerary:
        """Return the routes under a plan.

        Raises:
            GraphError: the graph has too many branches or tasks to travel.
            PlanError: placement or models do not fit the graph, or frames cannot leave this node.
        """
        if placement and self._alias is None:
            raise PlanError("placement names other nodes, and this one has no alias for them")
        here = self._alias if placement else None
        return plan_itinerary(
            self._graph,
            exchange=here or self._exchange,
            home=here or self.home,
            job=self._job,
            stream=self._stream,
            placement=placement,
            models=models,
            plan=plan,
        )

    def first_tasks_here(self, itinerary: Itinerary) -> tuple[str, ...]:
        """Return the tasks that frames go to first and that this node's exchange does."""
        here = (self._exchange, self._alias)
        return tuple(route[0].task for route in itinerary.routes if route[0].endpoint in here)
