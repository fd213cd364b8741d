"""What replies are made of, in the documents' words; each has what any version's clients read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Raw

from vdag.control.desk import KnownNode, QueryView
from vdag.control.records import PlanRecord, QueryRecord, ResultRecord

__all__ = [
    "STATES",
    "all_status",
    "bound_of",
    "explained",
    "job_info",
    "job_plan",
    "latest_result",
    "listed",
    "older_results",
    "plan_document",
    "planned",
    "results",
    "video_info",
]

#: By number.
STATES = ("unscheduled", "ready", "running", "ended", "failed")
NO_LIMIT = {"cpu_util_limit": 1.0, "mem_util_limit": 1.0}

Document = dict[str, Any]


def plan_document(plan: Mapping[str, Any]) -> Document:
    """Return `video_conf`, `flow_mapping` and `resource_limit`, and nothing that is no object.

    `video_conf` has the resolution under both of its names.
    """
    conf = dict(plan.get("video_conf") or {})
    for name, other in (("resolution", "reso"), ("reso", "resolution")):
        if name not in conf and other in conf:
            conf[name] = conf[other]
    return {
        "video_conf": conf,
        "flow_mapping": plan.get("flow_mapping") or {},
        "resource_limit": plan.get("resource_limit") or {},
    }


def planned(view: QueryView) -> Document:
    """Return the reply of `get_plan`."""
    found: Document = {"bound": bound_of(view)}
    if view.plan is None:
        names = ("flow_mapping", "video_conf", "resource_limit", "number")
        return {**found, **dict.fromkeys(names)}
    return {**found, **plan_document(view.plan), "number": view.plan.get("number")}


def bound_of(view: QueryView) -> Document | None:
    """Return which bound of a query is not kept and by how much, None if all are."""
    told = view.decision.get("latest") or view.decision.get("explanation") or {}
    bound = told.get("bound")
    return dict(bound) if isinstance(bound, Mapping) else None


def history(plans: Sequence[PlanRecord]) -> list[Document]:
    """Return the plans of a query, oldest first."""
    return [
        {**plan_document(plan.documents), "number": plan.number, "cause": plan.cause,
         "at": plan.at_s}
        for plan in plans
    ]  # fmt: skip


def explained(view: QueryView, plans: Sequence[PlanRecord]) -> Document:
    """Return why a query has the plans it had, oldest first, and what became of each.

    Args:
        view: of the query.
        plans: its newest, oldest first; what is in force is told as `view` has it.
    """
    decisions = []
    for plan in plans:
        is_present = view.decision.get("number") == plan.number
        told = view.decision if is_present else plan.decision
        document = {"cause": plan.cause, **told, "number": plan.number}
        decisions.append({**document, "at": plan.at_s, "plan": plan_document(plan.documents)})
    return {
        "status": 0,
        "query_id": view.query_id,
        "policy": view.policy,
        "user_constraint": view.constraint,
        "state": view.state,
        "runtime": view.runtime,
        "decisions": decisions,
    }


def results(view: QueryView, found: Sequence[ResultRecord], newest: ResultRecord) -> Document:
    """Return the reply of `get_result` and of `get_agg_info`.

    Args:
        view: of the query.
        found: what was asked for, oldest first; it is written as it is.
        newest: of all.
    """
    return {
        "appended_result": [Raw(result.document) for result in found],
        "latest_result": latest_result(view, newest),
    }


def latest_result(view: QueryView, newest: ResultRecord) -> Document:
    """Return what is shown beside results: the plan, the delays of its tasks, the runtime."""
    frame = newest.read()
    measured = frame.get("ext_runtime") or {}
    plan = view.plan if view.plan is not None else frame.get("ext_plan") or {}
    runtime = view.runtime or measured
    plan_result = runtime.get("plan_result") or measured.get("plan_result") or {"delay": {}}
    shown = {name: value for name, value in runtime.items() if name != "plan_result"}
    return {"plan": plan_document(plan), "plan_result": plan_result, "runtime": shown}


def older_results(view: QueryView, found: Sequence[ResultRecord], newest: ResultRecord) -> Document:
    """Return the `result` of the older `sync_job_result`, for whoever wrote the query so."""
    latest = latest_result(view, newest)
    appended: list[Any] = []
    for result in found:
        counts = result.read().get("count_result") or {}
        if view.form == "flow":
            appended.append(counts.get("total", sum(counts.values()) if counts else None))
        else:
            appended.append({**counts, "n_loop": result.n_loop})
    plan = {name: latest["plan"][name] for name in ("video_conf", "flow_mapping")}
    return {"appended_result": appended, "plan": plan, "latest_result": latest}


def listed(record: QueryRecord) -> Document:
    """Return a query of the list."""
    asked = record.asked
    return {
        "query_id": record.query_id,
        "node_addr": asked.node_addr,
        "video_id": asked.video_id,
        "pipeline": list(asked.dag.get("flow", ())),
        "dag": asked.dag,
        "user_constraint": asked.constraint,
        "policy": asked.policy,
        "state": record.state,
        "state_name": STATES[record.state],
        "reason": record.reason,
        "suspended": record.suspended,
        "fault": record.fault,
        "created": record.created_s,
        "ended": record.ended_s,
        "plan_number": record.plan.number if record.plan is not None else None,
    }


def job_info(view: QueryView) -> Document:
    """Return a query as a node is told to run it."""
    return {
        "job_uid": view.query_id,
        "node_addr": view.node_addr,
        "video_id": view.video_id,
        "pipeline": list(view.graph.tasks),
        "dag": view.graph.to_dag(),
        "user_constraint": view.constraint,
    }


def job_plan(view: QueryView) -> Document:
    """Return a plan as a node that asks for it reads it: every task has limits."""
    plan = plan_document(view.plan or {})
    limits = {task: plan["resource_limit"].get(task, NO_LIMIT) for task in view.graph.tasks}
    return {"job_uid": view.query_id, **plan, "resource_limit": limits}


def video_info(nodes: Sequence[KnownNode]) -> Document:
    """Return the reply of `get_video_info`: the videos of the nodes that are there."""
    return {node.node_addr: _videos(node) for node in nodes if node.is_alive and node.videos}


def all_status(nodes: Sequence[KnownNode]) -> Document:
    """Return the reply of `get_all_status`."""
    data = {
        node.node_addr: {"video": _videos(node), "job_uid_list": list(node.job_uids)}
        for node in nodes
        if node.is_alive
    }
    return {"data": data, "status": 0}


def _videos(node: KnownNode) -> Document:
    return {str(number): {"type": video.type} for number, video in sorted(node.videos.items())}
