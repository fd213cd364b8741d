"""`Intake`: jobs and plans in the words of the documented REST, as orders to a node's jobs.

A cloud posts them to the node, or the node asks for them: both end here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from vdag.errors import ConfigError
from vdag.plan import Constraint, Plan

if TYPE_CHECKING:
    from vdag.control.jobs import JobManager
    from vdag.graph import Graph

__all__ = ["Intake", "Resolve"]

MAX_UID = 255


class Resolve(Protocol):
    """Says how frames get to the nodes that a plan of the documented REST names."""

    def fit(self, plan: Plan) -> Plan:
        """Return the plan with models that its nodes have, as far as they have said.

        Clouds of that kind do not know what a node has; they try the models 0 to 2 of any task. In
        the place of one that is not there goes the next larger one, or else the largest.
        """

    def __call__(self, plan: Plan) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return task to address, and address to name, see `Jobs.update_plan`.

        Raises:
            ConfigError: there is no way to a node.
        """


class Intake:
    """See above; any thread may call it.

    Args:
        jobs: of the node.
        resolve: finds the nodes of plans.
    """

    def __init__(self, jobs: JobManager, resolve: Resolve) -> None:
        self._jobs, self._resolve = jobs, resolve

    def submit(self, job_uid: str, video_id: int, graph: Graph, constraint: Any) -> None:
        """Take a job in; its plan comes later.

        Args:
            job_uid: its id.
            video_id: of a video of this node.
            graph: its tasks.
            constraint: the user's document.

        Raises:
            VdagError: as of `Jobs.submit`; the id is too long, the constraint is none.
        """
        if not 0 < len(job_uid) <= MAX_UID:
            raise ConfigError(f"job_uid of {len(job_uid)} characters is not 1 to {MAX_UID}")
        self._jobs.submit(job_uid, video_id, graph, Constraint.from_document(constraint))

    def plan(self, job_uid: str, video_conf: Any, flow_mapping: Any, resource_limit: Any) -> None:
        """Give a job a plan that has no number; harmless if it has the same already.

        Raises:
            VdagError: as of `Jobs.update_plan`; the documents are no plan for this job.
        """
        before = self._jobs.plan_of(job_uid)
        plan = self._resolve.fit(
            Plan.from_documents(
                self._jobs.graph_of(job_uid).tasks,
                video_conf,
                flow_mapping,
                resource_limit,
                number=self._jobs.next_number(job_uid),
                previous=before,
                keep=True,
            )
        )
        if not plan.orders_as(before):  # clouds of this kind say the same every few seconds
            self._jobs.update_plan(job_uid, plan, *self._resolve(plan))
            self._jobs.claim_limits(job_uid)
