"""`Case`: what the scheduler knows of one query; `Cases`: of all, and whom a node concerns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.control.scheduling.events import QueryInfo, QueryState
from vdag.plan import Plan

__all__ = ["Case", "Cases"]

#: Events of a query that an `InvalidTransition` can tell about.
STORY = 16


@dataclass(slots=True)
class Case:
    """One query. Only `Moves` changes it.

    Attributes:
        query: as submitted, with its present constraint.
        state: see `QueryState`.
        plan: in force, None before the first.
        next_number: of the next plan.
        taken: number of the latest plan under which frames left.
        suspended: the host is away.
        has_job: the host, in its present session, was told to start the job, or has it.
        told: number of the plan that the host was told last, or that its job has.
        routes: task to landing, as the host was told last.
        round: of the latest question.
        is_asked: that question is open.
        asked_ns: when it was asked.
        cause: of that question.
        pending: cause of the next question, which is to follow the open one; empty for none.
        failures: questions in a row that got no plan.
        version: of the nodes that the latest question told about.
        runtime: what the job measured last.
        is_fresh: it was measured since the latest question, and under the plan in force.
        measured: number of the plan under which it was measured, 0 for none.
        alarm: what of it could not wait, see `alarms`; empty for nothing.
        memory: what the policy wants to be told with the next question.
        dag: the documents' form of the graph, made once.
        story: the latest events.
    """

    query: QueryInfo
    state: QueryState = QueryState.UNSCHEDULED
    plan: Plan | None = None
    next_number: int = 1
    taken: int = 0
    suspended: bool = False
    has_job: bool = False
    told: int = 0
    routes: Mapping[str, str] = field(default_factory=dict)
    round: int = 0
    is_asked: bool = False
    asked_ns: int = 0
    cause: str = ""
    pending: str = ""
    failures: int = 0
    version: int = -1
    runtime: Mapping[str, Any] = field(default_factory=dict)
    is_fresh: bool = False
    measured: int = 0
    alarm: str = ""
    memory: Mapping[str, Any] = field(default_factory=dict)
    dag: Mapping[str, Any] = field(default_factory=dict)
    story: deque[str] = field(default_factory=lambda: deque(maxlen=STORY))

    @property
    def query_id(self) -> str:
        """The query's id."""
        return self.query.query_id

    @property
    def is_measured(self) -> bool:
        """Whether the runtime is that of the plan in force."""
        return self.plan is not None and self.measured == self.plan.number

    @property
    def host(self) -> str:
        """The node that owns the video."""
        return self.query.node_addr


class Cases:
    """All queries, found by id, by host, by the nodes their plans need, and by their hunger.

    Args:
        remembered: how many queries that are over are kept; older ones are forgotten.
    """

    def __init__(self, remembered: int) -> None:
        self._cases: dict[str, Case] = {}
        # Dicts in place of sets: what follows an event shall not depend on the hash of a name.
        self._hosted: dict[str, dict[str, None]] = {}
        self._placed: dict[str, dict[str, None]] = {}
        self._hungry: dict[str, None] = {}
        self._over: deque[str] = deque()
        self._remembered = remembered

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases.values())

    def get(self, query_id: str) -> Case | None:
        """Return a query, None if it is unknown."""
        return self._cases.get(query_id)

    def add(self, case: Case) -> None:
        """Take a query, with its plan if it has one."""
        case.dag = case.query.graph.to_dag()
        self._cases[case.query_id] = case
        if case.state.is_final:
            self._remember(case.query_id)
            return
        self._hosted.setdefault(case.host, {})[case.query_id] = None
        plan, case.plan = case.plan, None
        self.place(case, plan)

    def place(self, case: Case, plan: Plan | None) -> None:
        """Put a plan in force, in place of the one that was."""
        before = frozenset() if case.plan is None else case.plan.nodes()
        after = frozenset() if plan is None else plan.nodes()
        for node_addr in before - after:
            _discard(self._placed, node_addr, case.query_id)
        for node_addr in after - before:
            self._placed.setdefault(node_addr, {})[case.query_id] = None
        case.plan = plan

    def finish(self, case: Case) -> None:
        """Keep a query that is over, for as long as there is room."""
        self._unlink(case)
        self._remember(case.query_id)

    def forget(self, case: Case) -> None:
        """Know nothing of a query any more."""
        self._unlink(case)
        del self._cases[case.query_id]

    def set_hungry(self, case: Case, hungry: bool) -> None:
        """Note whether a query wants to be asked about as soon as a node has something new."""
        if hungry:
            self._hungry[case.query_id] = None
        else:
            self._hungry.pop(case.query_id, None)

    def hosted_by(self, node_addr: str) -> list[Case]:
        """Return the live queries whose video is on a node."""
        return [self._cases[query_id] for query_id in self._hosted.get(node_addr, ())]

    def placed_on(self, node_addr: str) -> list[Case]:
        """Return the live queries whose plan needs a node."""
        return [self._cases[query_id] for query_id in self._placed.get(node_addr, ())]

    def hungry(self) -> list[Case]:
        """Return the live queries that have no plan, or not the one they need."""
        return [self._cases[query_id] for query_id in self._hungry]

    def check(self) -> list[str]:
        """Return what is wrong with the indexes, for tests; O(n)."""
        wrong = []
        live = [case for case in self if not case.state.is_final]
        for node_addr in {*self._hosted, *(case.host for case in live)}:
            mine = {case.query_id for case in live if case.host == node_addr}
            if mine != set(self._hosted.get(node_addr, ())):
                wrong.append(f"queries of {node_addr}")
        plans = [(case.query_id, case.plan.nodes()) for case in live if case.plan is not None]
        for node_addr in {*self._placed, *(name for _, nodes in plans for name in nodes)}:
            mine = {query_id for query_id, nodes in plans if node_addr in nodes}
            if mine != set(self._placed.get(node_addr, ())):
                wrong.append(f"plans that need {node_addr}")
        if not self._hungry.keys() <= {case.query_id for case in live}:
            wrong.append("hungry queries that are over")
        return wrong

    def _unlink(self, case: Case) -> None:
        _discard(self._hosted, case.host, case.query_id)
        for node_addr in frozenset() if case.plan is None else case.plan.nodes():
            _discard(self._placed, node_addr, case.query_id)
        self._hungry.pop(case.query_id, None)

    def _remember(self, query_id: str) -> None:
        self._over.append(query_id)
        while len(self._over) > self._remembered:
            oldest = self._cases.get(self._over.popleft())
            # It may have been deleted meanwhile; ids are not used twice.
            if oldest is not None:
                del self._cases[oldest.query_id]


def _discard(index: dict[str, dict[str, None]], key: str, query_id: str) -> None:
    members = index.get(key, {})
    members.pop(query_id, None)
    if not members:
        index.pop(key, None)
