"""`kept`: the plan in force, whoever made it; at first the one that was fixed.

For who plans by himself, from outside: other than `static` it does not go back to the first plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdag.control.policies.static import documents_of
from vdag.errors import PlanError
from vdag.plan import Plan

__all__ = ["kept"]


def kept(
    job_uid: str, dag: Mapping[str, Any], fixed: Plan | None, previous: Plan | None
) -> dict[str, Any]:
    """Return the plan in force; without one, the fixed one.

    While a node of it is away it cannot be had: the scheduler then moves that node's tasks, and
    what it has made of the plan is kept from then on.

    Raises:
        PlanError: there is neither.
    """
    plan = previous or fixed
    if plan is None:
        raise PlanError(f"{job_uid} was submitted without a plan")
    return documents_of(plan)
