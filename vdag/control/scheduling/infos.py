"""What events are about: nodes, their videos, tasks and jobs, and queries; values.

`events` names all of them, too. Mappings and tuples in them belong to them: nobody changes them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vdag.graph import Graph
from vdag.plan import Constraint, Plan, ResourceLimit

__all__ = [
    "Dialect",
    "JobInfo",
    "NodeInfo",
    "QueryInfo",
    "QueryState",
    "ServiceInfo",
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
        routes: task to the landing that its frames go to, for tasks that run elsewhere.
    """

    job_uid: str
    plan_number: int = 0
    state: QueryState = QueryState.RUNNING
    reason: str = ""
    drops: Mapping[str, int] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)


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
        limits: of its tasks, as it was ordered before; not the operator's own.
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
    limits: Mapping[str, ResourceLimit] = field(default_factory=dict)

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
