"""`Errands`: what the controller has ordered, carried out once each and in order."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vdag.control import wire
from vdag.control.agent.acquaintances import Acquaintances
from vdag.control.scheduling.events import QueryState
from vdag.errors import ConfigError, VdagError
from vdag.graph import Graph
from vdag.plan import Constraint

if TYPE_CHECKING:
    from vdag.control.agent.notebook import Notebook
    from vdag.control.jobs import Jobs
    from vdag.control.service.openings import Openings
    from vdag.control.service.plan_limits import PlanLimits
    from vdag.plan import ResourceLimit

__all__ = ["Errands"]

logger = logging.getLogger(__name__)


class Errands:
    """See above; for one thread.

    Args:
        jobs: of the node; None if it runs none, then every order about one is refused.
        notebook: is told which jobs could not be started and which tasks not be limited, and why.
        limits: of the node's tasks; None if it does none.
        openings: tasks that it is ordered to do; likewise.

    Attributes:
        last: number of the latest order that was carried out, or could not be.
        count: of such orders, since the start.
    """

    def __init__(
        self,
        jobs: Jobs | None,
        notebook: Notebook,
        limits: PlanLimits | None = None,
        openings: Openings | None = None,
    ) -> None:
        self._jobs, self._notebook, self._limits = jobs, notebook, limits
        self._openings = openings
        self.last = self.count = 0
        self._acquaintances = Acquaintances()

    def hear(self, cloud: str, view: wire.View | None) -> None:
        """Take note of what a controller says of the nodes; give up frames that are lost there."""
        lost = self._acquaintances.hear(cloud, view)
        if lost and self._jobs is not None:
            for info in self._jobs.infos():
                self._jobs.give_up(info.job_uid, lost)

    def limits(self) -> dict[str, ResourceLimit]:
        """Return what tasks shall be limited to."""
        return {} if self._limits is None else dict(self._limits.ordered())

    def opened(self) -> dict[str, int]:
        """Return the tasks that shall be open, with the number of their workers."""
        return {} if self._openings is None else dict(self._openings.ordered())

    def start_over(self) -> None:
        """Be ready for the orders of another session, which begin with 1."""
        self.last = 0

    def carry_out(self, orders: Iterable[wire.Order]) -> None:
        """Do what has not been done yet; what cannot be done is noted, and not tried again."""
        for order in orders:
            if order.number <= self.last:
                continue
            self.last = order.number
            self.count += 1
            try:
                self._do(order)
            except VdagError as err:
                logger.warning("%s of %s: %s", type(order).__name__, _subject(order), err)
                self._refuse(order, str(err))
            except Exception as err:  # a fault of ours, but no reason to stop the other jobs
                logger.exception("%s of %s failed", type(order).__name__, _subject(order))
                self._refuse(order, f"{type(err).__name__}: {err}")

    def _refuse(self, order: wire.Order, reason: str) -> None:
        if isinstance(order, wire.StartJob):
            self._notebook.report_refusal(order.job_uid, QueryState.FAILED, reason)
        elif isinstance(order, wire.LimitTask):
            self._notebook.report_limit(order.task, reason)
        elif isinstance(order, wire.OpenTask):
            self._notebook.report_opening(order.task, order.number, reason)

    def _do(self, order: wire.Order) -> None:
        if isinstance(order, wire.LimitTask):
            if self._limits is None:
                raise ConfigError("this node does no tasks")
            self._limits.order(order.task, order.limit, self._notebook.report_limit)
            return
        if isinstance(order, wire.OpenTask):
            if self._openings is None:
                raise ConfigError("this node does no tasks")
            tell = self._notebook.report_opening
            self._openings.order(order.task, order.workers, order.number, tell, order.trial)
            return
        if self._jobs is None:
            raise ConfigError("this node runs no jobs")
        if isinstance(order, wire.StopJob):
            self._jobs.stop(order.job_uid, order.reason)
            return
        if isinstance(order, wire.StartJob):
            constraint = Constraint.from_document(wire.read_document(order.constraint))
            graph = Graph.from_dag(wire.read_document(order.dag))
            self._jobs.submit(order.job_uid, order.video_id, graph, constraint)
        elif order.constraint:
            constraint = Constraint.from_document(wire.read_document(order.constraint))
            self._jobs.change_constraint(order.job_uid, constraint)
        if order.plan is not None:
            self._jobs.update_plan(order.job_uid, order.plan, order.routes, order.names)
        if isinstance(order, wire.SendPlan) and order.lost:
            self._jobs.give_up(order.job_uid, order.lost)


def _subject(order: wire.Order) -> str:
    return order.task if isinstance(order, (wire.LimitTask, wire.OpenTask)) else order.job_uid
