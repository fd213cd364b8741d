"""Questions: what a policy is told of a query, in the documents' words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdag.control.scheduling.cases import Case
from vdag.control.scheduling.events import VideoInfo
from vdag.control.scheduling.instructions import Question
from vdag.control.scheduling.surroundings import Surroundings

__all__ = ["question_about"]


def question_about(case: Case, around: Surroundings, cause: str, now_ns: int) -> Question:
    """Return the question about a query whose host is alive."""
    query = case.query
    return Question(
        job_uid=query.query_id,
        dag=case.dag,
        around=around,
        runtime_info=case.runtime,
        measured=case.measured,
        last_plan_res=_last_plan_res(case.runtime),
        constraint=query.constraint,
        now_s=now_ns / 1e9,
        memory=case.memory,
        video=around.host.videos.get(query.video_id, VideoInfo()),
        previous=case.plan,
        fixed=query.plan,
        cause=cause,
    )


def _last_plan_res(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return the delay of each task as the older documents have it."""
    result = runtime.get("plan_result")
    delay = result.get("delay") if isinstance(result, Mapping) else None
    return {"delay": dict(delay)} if isinstance(delay, Mapping) else {}
