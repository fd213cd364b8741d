"""`LimitBook`: what the plans in force limit tasks to, and what each node was told of it.

Workers of a task are shared by all queries that have it done at a node, so one limit holds there:
the largest that any of their plans names, and none at all as soon as one plan names none. A node is
told whenever that changes. What it has already it says when it joins, as it does of its jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vdag.control.scheduling.cases import Case
from vdag.control.scheduling.events import NodeInfo
from vdag.control.scheduling.instructions import Instruction, LimitTask, RecordFault
from vdag.plan import ResourceLimit

__all__ = ["LimitBook"]

#: Characters of a node's reason that are written down.
MAX_REASON = 300


@dataclass(slots=True)
class _Place:
    """A task at a node: by query the limits of plans, and the queries whose plans have none."""

    limits: dict[str, ResourceLimit] = field(default_factory=dict)
    free: dict[str, None] = field(default_factory=dict)

    def wanted(self) -> ResourceLimit | None:
        """Return the limit that gives nobody less than his plan does; O(limits)."""
        return None if self.free else ResourceLimit.largest(self.limits.values())


class LimitBook:
    """See above; O(tasks of the query) for each change, times the queries that limit them there.

    Nodes that speak only the documented REST are told nothing: they find the limits in the plans.
    """

    def __init__(self) -> None:
        self._places: dict[str, dict[str, _Place]] = {}  # by node and task
        self._held: dict[str, list[tuple[str, str]]] = {}  # by query: node and task
        self._ordered: dict[str, dict[str, ResourceLimit]] = {}  # by live node of the channel
        self._refused: dict[str, dict[str, str]] = {}  # by node and task: why it cannot
        self._out: list[Instruction] = []

    def drain(self) -> list[Instruction]:
        """Return the instructions since the last call."""
        out, self._out = self._out, []
        return out

    def update(self, case: Case) -> None:
        """Take note of a query's plan, in place of the one before."""
        before = self._take_out(case.query_id)
        plan = case.plan
        held = self._held[case.query_id] = [
            (placement.node_addr, task)
            for task, placement in (plan.flow_mapping.items() if plan is not None else ())
        ]
        for node_addr, task in held:
            place = self._places.setdefault(node_addr, {}).setdefault(task, _Place())
            limit = None if plan is None else plan.resource_limit.get(task)
            if limit is None or limit == ResourceLimit():
                place.free[case.query_id] = None
                continue
            place.limits[case.query_id] = limit
            reason = self._refused.get(node_addr, {}).get(task)
            if reason and not before.get((node_addr, task)):
                self._complain(node_addr, task, reason, [case.query_id])
        self._settle(dict.fromkeys([*before, *held]))

    def remove(self, query_id: str) -> None:
        """Forget a query."""
        before = self._take_out(query_id)
        self._held.pop(query_id, None)
        self._settle(before)

    def greet(self, node: NodeInfo) -> None:
        """Take a node that has joined, with the limits it says it has."""
        self._refused.pop(node.node_addr, None)
        if node.dialect != "channel":
            self._ordered.pop(node.node_addr, None)
            return
        ordered = self._ordered[node.node_addr] = dict(node.limits)
        tasks = dict.fromkeys([*ordered, *self._places.get(node.node_addr, ())])
        self._settle((node.node_addr, task) for task in tasks)

    def lose(self, node_addr: str) -> None:
        """Tell a node nothing any more: it is lost."""
        self._ordered.pop(node_addr, None)
        self._refused.pop(node_addr, None)

    def hear(self, node_addr: str, refusals: Mapping[str, str]) -> None:
        """Take note of why a live node cannot limit tasks; of no reason, that it can."""
        refused = self._refused.setdefault(node_addr, {})
        for task, reason in refusals.items():
            if not reason:
                refused.pop(task, None)
                continue
            refused[task] = reason
            place = self._places.get(node_addr, {}).get(task, _Place())
            self._complain(node_addr, task, reason, place.limits)
        if not refused:
            del self._refused[node_addr]

    def check(self, cases: Iterable[Case], nodes: Iterable[NodeInfo]) -> list[str]:
        """Return where nodes were told something else than the plans say, for tests; O(n)."""
        shares: dict[tuple[str, str], list[ResourceLimit | None]] = {}
        for case in cases:
            if case.plan is None or case.state.is_final:
                continue
            for task, placement in case.plan.flow_mapping.items():
                limit = case.plan.resource_limit.get(task)
                shares.setdefault((placement.node_addr, task), []).append(limit)
        wrong = []
        for node in nodes:
            expected = {
                task: limit
                for (node_addr, task), each in shares.items()
                if node_addr == node.node_addr
                and (limit := ResourceLimit.largest(each)) is not None
            }
            known = self._ordered.get(node.node_addr)
            if known != (expected if node.dialect == "channel" else None):
                wrong.append(f"limits of {node.node_addr}")
        return wrong

    def _take_out(self, query_id: str) -> dict[tuple[str, str], bool]:
        """Forget a query's plan; return the places where it was, and whether it had a limit."""
        before = {}
        for node_addr, task in self._held.get(query_id, ()):
            tasks = self._places[node_addr]
            place = tasks[task]
            before[node_addr, task] = place.limits.pop(query_id, None) is not None
            place.free.pop(query_id, None)
            if not (place.limits or place.free):
                del tasks[task]
            if not tasks:
                del self._places[node_addr]
        return before

    def _settle(self, places: Iterable[tuple[str, str]]) -> None:
        """Tell the nodes of these places what holds there, if they know something else."""
        for node_addr, task in places:
            ordered = self._ordered.get(node_addr)
            if ordered is None:
                continue
            place = self._places.get(node_addr, {}).get(task)
            wanted = None if place is None else place.wanted()
            if ordered.get(task) == wanted:
                continue
            if wanted is None:
                del ordered[task]
            else:
                ordered[task] = wanted
            self._out.append(LimitTask(node_addr, task, wanted))

    def _complain(self, node_addr: str, task: str, reason: str, queries: Iterable[str]) -> None:
        text = f"node {node_addr} cannot limit task {task}: {reason[:MAX_REASON]}"
        self._out += [RecordFault(query_id, text) for query_id in queries]
