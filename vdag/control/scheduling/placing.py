"""Placing: which nodes a plan means, whether they can do it, and what to do if one is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vdag.control.scheduling.events import NodeInfo, PlanProposed, QueryInfo
from vdag.control.scheduling.nodes import Nodes, has_role
from vdag.errors import PlanError
from vdag.plan import Placement, Plan

__all__ = ["find_lost", "move_lost", "read_proposal", "routes_of"]


def read_proposal(
    query: QueryInfo, event: PlanProposed, previous: Plan | None, nodes: Nodes
) -> Plan:
    """Return the plan that a policy proposes, with each node it means written down.

    If the query says how frames have to be taken, they are, whatever the policy says.

    Raises:
        PlanError: a task is not placed, a value is out of range, or a node is not there, does not
            offer the task or cannot be sent frames.
    """
    plan = Plan.from_documents(
        query.graph.tasks,
        event.video_conf,
        event.flow_mapping,
        event.resource_limit,
        number=0,
        previous=previous,
    )
    mapping = {
        task: _chosen(task, placement, query.node_addr, nodes)
        for task, placement in plan.flow_mapping.items()
    }
    conf = query.constraint.video_conf
    if conf is None:
        return replace(plan, flow_mapping=mapping)
    return replace(plan, video_conf=conf, flow_mapping=mapping, task_conf={})


def find_lost(query: QueryInfo, plan: Plan, nodes: Nodes) -> list[str]:
    """Return the tasks that do not run where the plan says: the node is gone, or its task is."""
    host = nodes.get(query.node_addr)
    return [
        task
        for task, placement in plan.flow_mapping.items()
        if not _can(nodes.get(placement.node_addr), task, placement.model_id, host)
    ]


def move_lost(query: QueryInfo, plan: Plan, nodes: Nodes) -> Plan:
    """Return the plan with each lost task on another live node: the host if it can, else a server.

    The model stays if there is a node that has it; it is better to have a result by another one
    than none.

    Raises:
        PlanError: no live node offers a task.
    """
    moved = dict(plan.flow_mapping)
    for task in find_lost(query, plan, nodes):
        moved[task] = _substitute(task, moved[task].model_id, query.node_addr, nodes)
    return replace(plan, flow_mapping=moved, document={})


def routes_of(query: QueryInfo, plan: Plan, nodes: Nodes) -> dict[str, str]:
    """Return the landing of each task that does not run on the host."""
    routes = {}
    for task, placement in plan.flow_mapping.items():
        node = nodes.get(placement.node_addr)
        if node is not None and node.landing and node.node_addr != query.node_addr:
            routes[task] = node.landing
    return routes


def _can(node: NodeInfo | None, task: str, model_id: int | None, host: NodeInfo | None) -> bool:
    if node is None or host is None or not node.offers(task, model_id):
        return False
    # Jobs of nodes that only speak REST call services by HTTP; ours need a landing for frames.
    return node is host or host.dialect != "channel" or bool(node.landing)


def _chosen(task: str, placement: Placement, host_addr: str, nodes: Nodes) -> Placement:
    host = nodes.get(host_addr)
    named = nodes.named_by(placement, host_addr)
    for node in named:
        if _can(node, task, placement.model_id, host):
            return _placed(node, placement.node_role, placement.model_id, host_addr)
    raise PlanError(f"flow_mapping.{task}: {_why_not(task, placement, named)}")


def _why_not(task: str, placement: Placement, named: list[NodeInfo]) -> str:
    if not named:
        name = placement.node_addr or placement.node_ip or f"of role {placement.node_role}"
        return f"no live node {name}"
    node = named[0]
    if not node.offers(task):
        return f"node {node.node_addr} does not offer {task}"
    if not node.offers(task, placement.model_id):
        known = ", ".join(map(str, node.services[task].models))
        return f"node {node.node_addr} has no model {placement.model_id} of {task}, only {known}"
    return f"node {node.node_addr} takes no frames from other nodes"


def _placed(node: NodeInfo, role: str, model_id: int, host: str) -> Placement:
    """Write a node down, under the role that was said if it has it: it may have two."""
    if not has_role(node, role, host):
        role = next(name for name in ("host", "cloud", "edge") if has_role(node, name, host))
    return Placement(node.ip, role, model_id, node.node_addr)


def _substitute(task: str, model_id: int, host_addr: str, nodes: Nodes) -> Placement:
    host = nodes.get(host_addr)
    for wanted in (model_id, None):
        able = [
            node
            for node in nodes.alive()
            if _can(node, task, wanted, host) and _is_known_to(node, host)
        ]
        if able:
            node = min(able, key=lambda node: _distance(node, host_addr))
            models: Any = node.services[task].models if task in node.services else ()
            chosen = model_id if wanted is not None or not models else models[0]
            return _placed(node, "", chosen, host_addr)
    raise PlanError(f"no live node offers {task}")


def _is_known_to(node: NodeInfo, host: NodeInfo | None) -> bool:
    """Whether a node may be chosen unasked: of one that does not say what it offers, others do."""
    return node.dialect == "channel" or (host is not None and host.dialect != "channel")


def _distance(node: NodeInfo, host: str) -> tuple[bool, bool]:
    return node.node_addr != host, node.role != "cloud"
