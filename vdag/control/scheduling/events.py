"""What the scheduler is told: values that say what has happened, and when.

An event is a fact about the past. Each carries `now_ns`, when it was taken note of, on the
monotonic clock of the controller; the scheduler has no other clock. `instructions` is the other
direction. Mappings and tuples in events belong to the event: nobody changes them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vdag.graph import Graph
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

#: How a node is spoken to: over the plan channel; by pushing the documented requests to it; or by
#: waiting until it asks for its jobs and plans.
Dialect = Literal["channel", "push", "pull"]


class QueryState(enum.IntEnum):
    """How far a query is; the documents' numbers, and two more."""

    #: No plan is in force.
    UNSCHEDULED = 0
    #: A plan is in force, and its node was told to start the job.
    READY = 1
    #: The node has reported the job at work.
    RUNNING = 2
    #: The video is over, or the user has stopped the query. Final.
    ENDED = 3
    #: The node could not run the job; the reason says why. Final.
    FAILED = 4

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come of the query."""
        return self >= QueryState.ENDED


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video that a node owns.

    Attributes:
        type: what the user calls it, such as "traffic flow outdoor".
        width: in pixels, 0 for unknown.
        height: likewise.
        fps: frames per second of the camera, 0 for unknown.
    """

    type: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A task as a node offers it.

    Attributes:
        workers: its processes.
        models: the `model_id`s that they have; empty for not said, then any will do.
        cpu_util_limit: share of the time of all cores that they may use together.
        mem_util_limit: share of the memory.
    """

    workers: int = 1
    models: tuple[int, ...] = ()
    cpu_util_limit: float = 1.0
    mem_util_limit: float = 1.0


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job that a node has when it joins.

    Attributes:
        job_uid: the query's id.
        plan_number: of the plan it runs under, 0 for none.
        state: of the job.
        reason: why it has ended or failed; empty before.
        drops: reason to frames lost since the job's start.
    """

    job_uid: str
    plan_number: int = 0
    state: QueryState = QueryState.RUNNING
    reason: str = ""
    drops: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node, as it describes itself when it joins.

    Attributes:
        node_addr: `ip:port`, its name everywhere.
        ip: its address, without the port.
        role: of the machine: `cloud` is a server, `edge` and `host` are not.
        name: for people.
        dialect: how it is spoken to.
        videos: by their number.
        services: by task. A node that speaks only the documented REST does not say what it
            offers; with no services at all it is taken to offer every task.
        landing: address that frames from other nodes are sent to; empty if it takes none. Of a node
            that speaks only the documented REST `http://ip:port` of its service.
        session: drawn by the node's daemon when it starts; another one is another process.
        jobs: what it runs right now.
        resources: the documents' `device_state`, as far as it knows it already.
    """

    node_addr: str
    ip: str
    role: Literal["cloud", "edge", "host"] = "edge"
    name: str = ""
    dialect: Dialect = "channel"
    videos: Mapping[int, VideoInfo] = field(default_factory=dict)
    services: Mapping[str, ServiceInfo] = field(default_factory=dict)
    landing: str = ""
    session: str = ""
    jobs: tuple[JobInfo, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)

    def offers(self, task: str, model_id: int | None = None) -> bool:
        """Whether it runs a task, and with that model if one is asked for."""
        service = self.services.get(task)
        if service is None:
            return self.dialect != "channel" and not self.services
        return model_id is None or not service.models or model_id in service.models


@dataclass(frozen=True, slots=True)
class QueryInfo:
    """What a user has asked for.

    Attributes:
        query_id: its id, and that of its job.
        node_addr: the node that owns the video.
        video_id: which of its videos.
        graph: the tasks.
        constraint: what the results shall be like.
        policy: who plans: a built-in policy's name, `module:function` or `/file.py:function`.
        plan: the plan that `static` shall give it, with any number; None for none.
    """

    query_id: str
    node_addr: str
    video_id: int
    graph: Graph
    constraint: Constraint = field(default_factory=Constraint)
    policy: str = "golden"
    plan: Plan | None = None


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
    """

    now_ns: int
    node_addr: str
    resources: Mapping[str, Any] | None = None
    services: Mapping[str, ServiceInfo] | None = None
    bandwidth: Mapping[str, float] | None = None


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
    """A user wants something else of a query's results."""

    now_ns: int
    query_id: str
    constraint: Constraint


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
    """A policy's answer to the question `round`; the documents as it returned them, unchecked."""

    now_ns: int
    query_id: str
    round: int
    video_conf: Any
    flow_mapping: Any
    resource_limit: Any = None


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
