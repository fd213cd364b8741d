"""`Desk`: what the query manager's REST side asks of the controller, and nothing else of it.

The controller is a thread of its own; the REST side is an event loop. Between them are three kinds
of calls, all of which any thread may make and none of which ever waits:

    looking     `query`, `queries`, `nodes`: return immutable values from a snapshot
    telling     `report`, `report_runtime`: put into a bounded queue, or raise `Saturated`
    changing    `submit`, `stop`, ...: return a `Future`, which the controller's thread resolves
                when it is done and recorded; who stops waiting for it does not undo it

What a future has told is in the snapshot already: who joins a node, then looks, finds it.

Only the controller writes records. The REST side reads them past the desk, from the same store:
queries that have ended are known to the records alone, unless the controller still has them.

A future that ends in an error carries a `VdagError`, whose `status` and text are the reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from vdag.graph import Graph

if TYPE_CHECKING:
    from vdag.control.records import FrameResult, QueryRecord
    from vdag.plan import Constraint, Plan

__all__ = [
    "Desk",
    "Dialect",
    "Form",
    "Jobs",
    "KnownNode",
    "KnownVideo",
    "NodeJoining",
    "QueryRequest",
    "QueryView",
]

#: How a query was written, in which its older replies are written too: `pipeline` by its newest
#: documents, `dag` with the generator inside of the `dag`, `flow` with the generator beside it.
Form = Literal["pipeline", "dag", "flow"]
_FORMS: Mapping[str, Form] = {"pipeline": "pipeline", "dag": "dag", "flow": "flow"}
#: How a node is spoken to: by the plan channel, by posting to it (`push`), by being asked (`pull`).
Dialect = Literal["channel", "push", "pull"]


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """A query as it was submitted.

    Attributes:
        node_addr: of the node that owns the video.
        video_id: of that node's videos.
        graph: its tasks; read, but not held against what tasks take.
        constraint: of the user, with the document that it was read from.
        policy: name of the one that plans it; empty for the configured one.
        plan: that is kept to, if the policy is `static`.
        form: how it was written.
    """

    node_addr: str
    video_id: int
    graph: Graph
    constraint: Constraint
    policy: str = ""
    plan: Plan | None = None
    form: Form = "pipeline"


@dataclass(frozen=True, slots=True)
class QueryView:
    """How a query that the controller has is now.

    Attributes:
        query_id: `GLOBAL_ID_<n>`, also the job's.
        node_addr: of the node that owns the video.
        video_id: of that node's videos.
        graph: its tasks.
        constraint: the user's document, as it was written.
        policy: name of the one that plans it.
        form: how it was written.
        state: as the documents' number, see `QueryState`.
        reason: why it has failed or ended; empty before.
        suspended: its node is away; it goes on when that is back.
        plan: `Plan.to_documents()` of the present one and its `number`; None before the first.
        runtime: the documents' form of what was reported last; empty before.
        decision: why it has its plan, and what became of it, see `Decisions`; empty before.
        created_s: seconds since the epoch.
    """

    query_id: str
    node_addr: str
    video_id: int
    graph: Graph
    constraint: Mapping[str, Any]
    policy: str = ""
    form: Form = "pipeline"
    state: int = 0
    reason: str = ""
    suspended: bool = False
    plan: Mapping[str, Any] | None = None
    runtime: Mapping[str, Any] = field(default_factory=dict)
    decision: Mapping[str, Any] = field(default_factory=dict)
    created_s: float = 0.0

    @classmethod
    def of_record(cls, record: QueryRecord) -> QueryView:
        """Return a query as it is recorded, with nothing of what was measured.

        Raises:
            GraphError: its tasks make no graph.
        """
        asked, plan = record.asked, record.plan
        return cls(
            record.query_id,
            asked.node_addr,
            asked.video_id,
            Graph.from_dag(asked.dag),
            asked.constraint,
            asked.policy,
            _FORMS.get(asked.form, "pipeline"),
            record.state,
            record.reason,
            record.suspended,
            None if plan is None else {**plan.documents, "number": plan.number},
            created_s=record.created_s,
        )


@dataclass(frozen=True, slots=True)
class KnownVideo:
    """A video of a node.

    Attributes:
        type: what it shows, in words.
        width: in pixels, 0 if not known.
        height: likewise.
        fps: likewise.
    """

    type: str
    width: int = 0
    height: int = 0
    fps: float = 0.0


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node that has joined.

    Attributes:
        node_addr: `<ip>:<tracker port>`, which names it everywhere.
        role: `cloud`, `edge` or `host`.
        name: of its configuration; empty for one of another make.
        dialect: how it is spoken to.
        is_alive: it was heard of lately.
        videos: by number.
        job_uids: of the jobs that it has.
    """

    node_addr: str
    role: str = "edge"
    name: str = ""
    dialect: Dialect = "channel"
    is_alive: bool = True
    videos: Mapping[int, KnownVideo] = field(default_factory=dict)
    job_uids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NodeJoining:
    """A node of another make that registers one video, as it does once per video.

    Attributes:
        ip: the one it names (`node_ip`), else the one it calls from.
        port: of its job manager.
        video_id: of its videos.
        video_type: what it shows, in words.
        dialect: `pull` if it names its own ip, as those that ask for plans do, else `push`.
    """

    ip: str
    port: int
    video_id: int
    video_type: str
    dialect: Dialect = "push"


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a node that asks for its work is given.

    Attributes:
        new: queries of that node that it has not been given yet; each is given once.
        planned: all queries of that node that have a plan.
    """

    new: Sequence[QueryView] = ()
    planned: Sequence[QueryView] = ()


class Desk(Protocol):
    """See above."""

    def query(self, query_id: str) -> QueryView | None:
        """Return how a query is now; None if the controller does not have it (any more)."""
        ...

    def queries(self) -> Sequence[QueryView]:
        """Return all queries that the controller has, oldest first."""
        ...

    def nodes(self) -> Sequence[KnownNode]:
        """Return the nodes that have joined, also those that are away."""
        ...

    def report(
        self,
        query_id: str,
        frames: Sequence[FrameResult],
        *,
        plan: Mapping[str, Any] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in results that a node has posted.

        Args:
            query_id: of a query that the controller or the records have.
            frames: oldest first; their `run` is empty, so that the records find it.
            plan: `video_conf`, `flow_mapping` that the node says it follows; None if it does not.
            runtime: `delay`, `obj_n`, `plan_result` ... that it measured; None if it does not say.

        Raises:
            Saturated: the controller or the records have too much to do; nothing was taken in.
        """
        ...

    def report_runtime(self, query_id: str, runtime: Mapping[str, Any]) -> None:
        """Take in what a node has measured, as `report` does.

        Raises:
            Saturated: as of `report`.
        """
        ...

    def submit(self, request: QueryRequest) -> Future[str]:
        """Take in a query; the result is its id, which is recorded then.

        The future fails with a `PlanError` or `GraphError` if it can never run: its policy is not
        known, or its node has no such video.
        """
        ...

    def stop(self, query_id: str) -> Future[bool]:
        """End a query and its job; its results stay. The result is False for one not known."""
        ...

    def delete(self, query_id: str) -> Future[bool]:
        """End a query and forget it with its results, also one that the records alone have.

        The result is False for one that neither has.
        """
        ...

    def change_constraint(self, query_id: str, constraint: Constraint) -> Future[bool]:
        """Put a constraint in place of a query's. The result is False for one not known."""
        ...

    def prefer_plan(self, query_id: str, documents: Mapping[str, Any]) -> Future[bool]:
        """Follow a plan from outside from now on, until the policy has another.

        Args:
            query_id: of the query.
            documents: `video_conf`, `flow_mapping` and, optionally, `resource_limit`.

        Returns:
            A future of False for a query not known; it fails with a `PlanError` if the plan does
            not fit the query.
        """
        ...

    def join(self, joining: NodeJoining) -> Future[str]:
        """Register a video of a node; the result is the node's `node_addr`."""
        ...

    def jobs_for(self, node_addr: str, bandwidth: Mapping[str, float]) -> Future[Jobs]:
        """Return the work of a node that asks for it, which is then heard of.

        Args:
            node_addr: of the node; one that has not joined has no work.
            bandwidth: of its way to here, by unit: `bps`, `kbps`, `Mbps`, `kB/s`, `MB/s`.
        """
        ...
