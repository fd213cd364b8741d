"""What the scheduler wants done: values, to be carried out in their order.

An instruction is an order, not a call: whoever carries it out reports what became of it as an
event, or not at all. The scheduler has moved on already; it does not wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.control.scheduling.events import NodeInfo, QueryInfo, QueryState, VideoInfo
from vdag.plan import Plan

__all__ = [
    "AskPolicy",
    "Instruction",
    "Order",
    "Question",
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
        resource_info: role to address to task to `n_process`, `cpu_ratio`, `mem_ratio`. `host` is
            the node that owns the video, `cloud` all servers, `edge` all others. As in the
            documents, where there is no server the host stands in.
        runtime_info: what the job measured last, empty before the first frames.
        last_plan_res: `{"delay": {task: seconds}}` of the last plan, empty likewise.
        user_constraint: the user's own words.
        nodes: all live nodes, the one that owns the video first.
        node_state: `node_addr` to the latest `device_state`.
        bandwidth: `node_addr` to `node_addr` to bytes per second, as far as it was measured.
        video: that the query is about.
        previous: the plan in force, None for none.
        fixed: the plan that the user has fixed, None for none.
        cause: why it is asked: `submitted`, `constraint`, `period`, `node lost`, `node back`,
            `service gone`.
    """

    job_uid: str
    dag: Mapping[str, Any]
    resource_info: Mapping[str, Any]
    runtime_info: Mapping[str, Any]
    last_plan_res: Mapping[str, Any]
    user_constraint: Mapping[str, Any]
    nodes: tuple[NodeInfo, ...]
    node_state: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bandwidth: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    video: VideoInfo = field(default_factory=VideoInfo)
    previous: Plan | None = None
    fixed: Plan | None = None
    cause: str = "submitted"

    @property
    def dag_flow(self) -> list[str]:
        """The tasks, in their order."""
        return list(self.dag["flow"])


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
    """

    node_addr: str
    query_id: str
    plan: Plan
    routes: Mapping[str, str]
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StopJob:
    """Stop a job, perhaps one that nobody knows any more; a job that is not there is stopped."""

    node_addr: str
    query_id: str
    reason: str


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
class RecordFault:
    """Write down that something went wrong that did not stop the query, such as a policy."""

    query_id: str
    what: str


#: What goes to a node.
Order = StartJob | SendPlan | StopJob
Instruction = Order | AskPolicy | RecordState | RecordPlan | RecordFault
