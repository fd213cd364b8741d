"""What the scheduler is told: values that say what has happened, and when.

An event is a fact about the past. Each carries `now_ns`, when it was taken note of, on the
monotonic clock of the controller; the scheduler has no other clock. `instructions` is the other
direction. Mappings and tuples in events belong to the event: nobody changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.control.scheduling.infos import (
    Dialect,
    JobInfo,
    NodeInfo,
    QueryInfo,
    QueryState,
    ServiceInfo,
    VideoInfo,
)
from vdag.plan import Constraint, Plan

__all__ = [
    "ConstraintChanged",
    "Dialect",
    "DispatchFailed",
    "Event",
    "JobInfo",
    "JobReported",
    "NodeEvent",
    "NodeInfo",
    "NodeJoined",
    "NodeLeft",
    "NodeReported",
    "PlanProposed",
    "PlanTaken",
    "PolicyFailed",
    "QueryDeleted",
    "QueryEvent",
    "QueryInfo",
    "QueryRestored",
    "QueryState",
    "QueryStopped",
    "QuerySubmitted",
    "RuntimeReported",
    "ServiceInfo",
    "Tick",
    "VideoInfo",
]


# Of nodes.


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node is there: for the first time, again, or with other videos or services.

    A node that was alive and joins again in another session has lost its jobs but for those in
    `node.jobs`; so has one that was lost. Those it runs and should not are stopped.
    """

    now_ns: int
    node: NodeInfo


@dataclass(frozen=True, slots=True)
class NodeReported:
    """A live node has said how it is. From one that is not alive it is ignored: it has to join.

    Attributes:
        now_ns: when.
        node_addr: who.
        resources: the documents' `device_state`; None for unchanged.
        services: what it offers now; None for unchanged.
        bandwidth: `node_addr` of another node to the bytes per second towards it; None likewise.
        refusals: why it cannot limit a task, where that has changed; empty for that it can.
    """

    now_ns: int
    node_addr: str
    resources: Mapping[str, Any] | None = None
    services: Mapping[str, ServiceInfo] | None = None
    bandwidth: Mapping[str, float] | None = None
    refusals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node has said that it goes; without it, its silence is noticed at a `Tick`."""

    now_ns: int
    node_addr: str


@dataclass(frozen=True, slots=True)
class DispatchFailed:
    """A node that orders are pushed to does not answer; it is lost.

    Nodes of this dialect never call by themselves: whoever dispatches goes on trying, and says
    `NodeJoined` when the node answers again.
    """

    now_ns: int
    node_addr: str
    reason: str


# Of queries: users.


@dataclass(frozen=True, slots=True)
class QuerySubmitted:
    """A user has submitted a query; its id is new."""

    now_ns: int
    query: QueryInfo

    @property
    def query_id(self) -> str:
        """The query's id."""
        return self.query.query_id


@dataclass(frozen=True, slots=True)
class QueryRestored:
    """A query is known from before the controller was started. Say it before nodes join.

    Attributes:
        now_ns: when.
        query: as it was submitted, with its present constraint.
        state: as it was recorded.
        plan: that was in force, None for none.
        next_number: of its next plan, larger than that of any plan it ever had.
    """

    now_ns: int
    query: QueryInfo
    state: QueryState
    plan: Plan | None
    next_number: int

    @property
    def query_id(self) -> str:
        """The query's id."""
        return self.query.query_id


@dataclass(frozen=True, slots=True)
class ConstraintChanged:
    """A user wants something else of a query's results, or `cause` says why to ask again."""

    now_ns: int
    query_id: str
    constraint: Constraint
    cause: str = "constraint"


@dataclass(frozen=True, slots=True)
class QueryStopped:
    """A user wants no more results of a query."""

    now_ns: int
    query_id: str


@dataclass(frozen=True, slots=True)
class QueryDeleted:
    """A user wants a query to be forgotten, stopped first if need be."""

    now_ns: int
    query_id: str


# Of queries: their nodes.


@dataclass(frozen=True, slots=True)
class RuntimeReported:
    """What a job has measured lately.

    Attributes:
        now_ns: when.
        query_id: of the job.
        runtime: the documents' runtime context.
        plan_number: the plan under which it was measured; 0 if the node does not number plans.
    """

    now_ns: int
    query_id: str
    runtime: Mapping[str, Any]
    plan_number: int = 0


@dataclass(frozen=True, slots=True)
class JobReported:
    """A node says how one of its jobs is.

    Attributes:
        now_ns: when.
        query_id: of the job.
        node_addr: who says so.
        state: of the job.
        reason: why it has ended or failed.
    """

    now_ns: int
    query_id: str
    node_addr: str
    state: QueryState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PlanTaken:
    """Frames leave under a plan from now on."""

    now_ns: int
    query_id: str
    number: int


# Of queries: policies.


@dataclass(frozen=True, slots=True)
class PlanProposed:
    """A policy's answer to the question `round`; the documents as it returned them, unchecked.

    Attributes:
        now_ns: when.
        query_id: which query it is about.
        round: of the question.
        video_conf: see `Plan.from_documents`, as of the others.
        flow_mapping: likewise.
        resource_limit: likewise.
        memory: what the policy wants to be told with its next question; None for what it was.
        explanation: why, in words and numbers; None for nothing to say.
    """

    now_ns: int
    query_id: str
    round: int
    video_conf: Any
    flow_mapping: Any
    resource_limit: Any = None
    memory: Any = None
    explanation: Any = None


@dataclass(frozen=True, slots=True)
class PolicyFailed:
    """A policy has no answer to the question `round`: it raised, hung, died, or is not there."""

    now_ns: int
    query_id: str
    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; worth saying at `Scheduler.next_due_ns`."""

    now_ns: int


NodeEvent = NodeJoined | NodeReported | NodeLeft | DispatchFailed
QueryEvent = (
    QuerySubmitted
    | QueryRestored
    | ConstraintChanged
    | QueryStopped
    | QueryDeleted
    | RuntimeReported
    | JobReported
    | PlanTaken
    | PlanProposed
    | PolicyFailed
)
Event = NodeEvent | QueryEvent | Tick
