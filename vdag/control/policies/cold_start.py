"""`cold_start`: the most accurate plan that is predicted to keep the constraint, once for all.

It goes by the profile alone. What was measured since changes nothing, nor does the time: the plan
stays until a node of it is gone, a node comes or the constraint changes. Other policies of ours
begin likewise and then look at what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdag.control.policies.calling import Answer
from vdag.control.policies.choosing import is_there
from vdag.control.policies.explaining import Weighed, answer_with
from vdag.control.prediction import (
    Aim,
    Candidate,
    Outlook,
    Tables,
    search,
    search_closest,
)
from vdag.control.scheduling.events import VideoInfo
from vdag.control.scheduling.instructions import Question
from vdag.control.scheduling.surroundings import Surroundings
from vdag.plan import Constraint, Plan

__all__ = ["cold_start"]


def cold_start(
    job_uid: str,
    dag: Mapping[str, Any],
    around: Surroundings,
    constraint: Constraint,
    video: VideoInfo,
    now_s: float,
    previous: Plan | None = None,
    cause: str = "submitted",
) -> Answer:
    """Return the most accurate feasible plan, else the one that is closest to feasible.

    Raises:
        PlanError: no node offers a task.
    """
    question = Question(
        job_uid,
        dag,
        around,
        constraint=constraint,
        now_s=now_s,
        video=video,
        previous=previous,
        cause=cause,
    )
    outlook = Outlook(question)
    if cause == "period" and previous is not None and is_there(previous, outlook):
        return answer_with(Candidate.of_plan(previous), outlook, "nothing has changed")
    return start(outlook)


def start(outlook: Outlook) -> Answer:
    """Return the answer of a policy that has nothing to go by but the profile."""
    tables = Tables(outlook)
    found = search(tables, Aim(outlook.bound_s))
    why = "the most accurate that keeps the delay"
    if found is None:
        found = search_closest(tables, Aim(outlook.bound_s))
        why = "nothing keeps the constraint; this comes closest"
    weighed: list[Weighed] = [(each, "") for each in found.runners_up]
    return answer_with(found.candidate, outlook, why, weighed=weighed)
