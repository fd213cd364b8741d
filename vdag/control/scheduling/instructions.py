"""What the scheduler wants done: values, to be carried out in their order.

An instruction is an order, not a call: whoever carries it out reports what became of it as an
event, or not at all. The scheduler has moved on already; it does not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vdag.control.scheduling.events import QueryInfo, QueryState, VideoInfo
from vdag.control.scheduling.surroundings import Surroundings
from vdag.plan import Constraint, Plan, ResourceLimit

__all__ = [
    "AskPolicy",
    "Instruction",
    "LimitTask",
    "Order",
    "Question",
    "RecordDecision",
    "RecordFault",
    "RecordPlan",
    "RecordState",
    "SendPlan",
    "StartJob",
    "StopJob",
]


@dataclass(frozen=True, slots=True)
class Question:
    """What a policy is told. All of it is for reading: parts are shared between questions.

    Attributes:
        job_uid: the query's id.
        dag: the documents' `dag`: `generator`, `flow`, `input`.
        around: the nodes, their links, and what other queries take of them.
        runtime_info: what the job measured last, empty before the first frames.
        measured: number of the plan under which it did, 0 for none.
        last_plan_res: `{"delay": {task: seconds}}` of the last plan, empty likewise.
        constraint: what the results shall be like; its document has the user's own words.
        now_s: the time, on a clock that never falls and that no other query has another of.
        memory: what the policy has returned as such with its last answer about this query.
        video: that the query is about.
        previous: the plan in force, None for none.
        fixed: the plan that the user has fixed, None for none.
        cause: why it is asked: `submitted`, `constraint`, `preferred`, `period`, `node lost`,
            `node back`, `service gone`.
    """

    job_uid: str
    dag: Mapping[str, Any]
    around: Surroundings
    runtime_info: Mapping[str, Any] = field(default_factory=dict)
    measured: int = 0
    last_plan_res: Mapping[str, Any] = field(default_factory=dict)
    constraint: Constraint = field(default_factory=Constraint)
    now_s: float = 0.0
    memory: Mapping[str, Any] = field(default_factory=dict)
    video: VideoInfo = field(default_factory=VideoInfo)
    previous: Plan | None = None
    fixed: Plan | None = None
    cause: str = "submitted"

    @property
    def dag_flow(self) -> list[str]:
        """The tasks, in their order."""
        return list(self.dag["flow"])

    @property
    def user_constraint(self) -> Mapping[str, Any]:
        """The user's own words."""
        return self.constraint.to_document()


@dataclass(frozen=True, slots=True)
class StartJob:
    """Start a job on the node that owns the video, under its first plan, or again after a loss.

    Attributes:
        node_addr: of that node.
        query: what the job is about.
        plan: to start with.
        routes: task to the landing of the node it runs on, for tasks that run elsewhere.
    """

    node_addr: str
    query: QueryInfo
    plan: Plan
    routes: Mapping[str, str]

    @property
    def query_id(self) -> str:
        """The query's id."""
        return self.query.query_id


@dataclass(frozen=True, slots=True)
class SendPlan:
    """Give a running job another plan; it takes effect at a frame boundary.

    Attributes:
        node_addr: the node that runs the job.
        query_id: the job.
        plan: its number is larger than that of any plan sent before, unless it is that plan again.
        routes: as of `StartJob`.
        lost: landings of nodes in the routes sent before that are gone: no frame comes back.
        constraint: of the query, as it is now; None for what it was.
    """

    node_addr: str
    query_id: str
    plan: Plan
    routes: Mapping[str, str]
    lost: tuple[str, ...] = ()
    constraint: Constraint | None = None

    def applied_to(self, query: QueryInfo) -> QueryInfo:
        """Return the query as it is now."""
        if self.constraint is None or self.constraint == query.constraint:
            return query
        return replace(query, constraint=self.constraint)


@dataclass(frozen=True, slots=True)
class StopJob:
    """Stop a job, perhaps one that nobody knows any more; a job that is not there is stopped."""

    node_addr: str
    query_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LimitTask:
    """Have a node limit the workers of a task, or not any more.

    Attributes:
        node_addr: that node.
        task: of the workers.
        limit: for all of them together; None for no limit but the operator's own.
    """

    node_addr: str
    task: str
    limit: ResourceLimit | None


@dataclass(frozen=True, slots=True)
class AskPolicy:
    """Ask a policy for a plan: say `PlanProposed` or `PolicyFailed` with the same `round`.

    Attributes:
        query_id: for which query.
        round: of the question; the answer to any other is ignored.
        policy: its name.
        question: what it is told.
    """

    query_id: str
    round: int
    policy: str
    question: Question


@dataclass(frozen=True, slots=True)
class RecordState:
    """Write down how a query is.

    Attributes:
        query_id: which one.
        state: where it is now.
        reason: why it has ended or failed, or why it is suspended; empty otherwise.
        suspended: the node that owns the video is away; the query resumes when it is back.
    """

    query_id: str
    state: QueryState
    reason: str = ""
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """Write down that a plan is in force, and why: the `cause` of its question."""

    query_id: str
    plan: Plan
    cause: str


@dataclass(frozen=True, slots=True)
class RecordDecision:
    """Write down what a policy has decided, also if it was to leave everything as it is.

    Attributes:
        query_id: which query.
        number: of the plan that is in force by it.
        is_change: it was not in force before.
        cause: of the question.
        policy: who decided.
        now_s: when, on the scheduler's clock.
        runtime: what it was told of the job.
        explanation: what it said; empty for nothing.
    """

    query_id: str
    number: int
    is_change: bool
    cause: str
    policy: str
    now_s: float
    runtime: Mapping[str, Any]
    explanation: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RecordFault:
    """Write down that something went wrong that did not stop the query, such as a policy."""

    query_id: str
    what: str


#: What goes to a node about a job.
Order = StartJob | SendPlan | StopJob
Instruction = (
    Order | LimitTask | AskPolicy | RecordState | RecordPlan | RecordDecision | RecordFault
)
