"""`static`: the plan that the user or the operator has fixed, whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdag.errors import PlanError
from vdag.plan import Plan

__all__ = ["documents_of", "static"]


def static(
    job_uid: str, dag: Mapping[str, Any], fixed: Plan | None, previous: Plan | None
) -> dict[str, Any]:
    """Return the fixed plan; without one, the plan in force.

    While a node of it is away it cannot be had: the scheduler then moves that node's tasks, and
    moves them back when the node is there again, for this goes on to ask for it.

    Raises:
        PlanError: there is neither.
    """
    plan = fixed or previous
    if plan is None:
        raise PlanError(f"{job_uid} was submitted without a plan")
    return documents_of(plan)


def documents_of(plan: Plan) -> dict[str, Any]:
    """Return a plan as policies return them."""
    documents = plan.to_documents()
    if plan.task_conf:
        documents["video_conf"] = {
            task: plan.conf_of(task).to_document() for task in plan.flow_mapping
        }
    return documents
