"""`Conductor`: carries out what the scheduler decides, and tells it what has happened.

One thread's, without a socket and without a clock of its own:

    event -> scheduler -> instructions -> orders to nodes, questions to advisers, records, register

An event that comes too late for its query to take it is passed over; that is no fault.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from vdag.control import wire
from vdag.control.advisers import Advisers
from vdag.control.controller.carrying import Carrying
from vdag.control.controller.decisions import Decisions
from vdag.control.controller.delivery import Delivery
from vdag.control.controller.directory import Directory
from vdag.control.controller.foreigners import Foreigners, links_of
from vdag.control.controller.hiring import Hiring
from vdag.control.controller.membership import Membership
from vdag.control.controller.recorder import Recorder
from vdag.control.controller.register import Register
from vdag.control.desk import Jobs, KnownNode, NodeJoining, QueryRequest, QueryView
from vdag.control.policies import expect_allowed
from vdag.control.profile import Profile
from vdag.control.profile.refining import Refinement
from vdag.control.scheduling.events import (
    ConstraintChanged,
    Event,
    JobReported,
    NodeInfo,
    NodeJoined,
    NodeReported,
    QueryDeleted,
    QueryInfo,
    QueryState,
    QueryStopped,
    QuerySubmitted,
    RuntimeReported,
    Tick,
    VideoInfo,
)
from vdag.control.scheduling.scheduler import Scheduler, SchedulerSettings
from vdag.control.scheduling.surroundings import Survey
from vdag.errors import ConfigError, InvalidTransition, PlanError
from vdag.plan import Constraint, Plan

__all__ = ["Conductor"]

logger = logging.getLogger(__name__)

#: Frames that what somebody else knows of a task counts for.
SURE_FRAMES = 120


class Conductor:
    """See above; for one thread.

    Args:
        settings: of the scheduler.
        members: nodes of the plan channel.
        foreigners: nodes that speak only the documented REST.
        delivery: takes orders to both.
        advisers: make plans.
        recorder: writes down.
        register: shows queries.
        policy: of queries that name none.
        allowed: policies that queries may name, beside those built in.
        profile: what tasks cost and are worth, which queries make better; None for an empty one.
        kept: where it is written to; None for nowhere.

    Attributes:
        late: events that came too late to mean anything.
        hiring: tasks that nodes do because somebody holds them.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        members: Membership,
        foreigners: Foreigners,
        delivery: Delivery,
        advisers: Advisers,
        *,
        recorder: Recorder,
        register: Register,
        policy: str,
        allowed: Collection[str] = (),
        profile: Profile | None = None,
        kept: Path | None = None,
    ) -> None:
        expect_allowed(policy, allowed)
        self._profile = profile = Profile() if profile is None else profile
        self._profiled = frozenset(row.task for row in profile.costs())
        self._scheduler = Scheduler(settings, profile)
        self._refinement = Refinement(profile, self._scheduler, kept)
        self._members, self._foreigners = members, foreigners
        self._advisers = advisers
        self._recorder, self._register = recorder, register
        self._decisions = Decisions(
            recorder.decision, lambda uid, document: register.change(uid, decision=document)
        )
        self._policy, self._allowed = policy, allowed
        self._carrying = Carrying(delivery, advisers, recorder, register, self._decisions)
        self._constraints: dict[str, Constraint] = {}
        self._directory = Directory(members, foreigners, self._scheduler.is_alive)
        self.hiring = Hiring(members)
        self.late = 0

    # What has happened.

    def take(self, event: Event) -> None:
        """Tell the scheduler of an event, and do what follows from it."""
        if isinstance(event, NodeJoined) and event.node.dialect == "channel":
            self._foreigners.remove(event.node.node_addr)
            self.hiring.renew(event.node.node_addr)
        if isinstance(event, RuntimeReported):
            self._measure(event)
        todo: deque[Event] = deque([event])
        while todo:
            try:
                instructions = self._scheduler.handle(todo.popleft())
            except InvalidTransition as err:
                self.late += 1
                logger.debug("too late: %s", err)
                continue
            for instruction in instructions:
                self._carrying.carry_out(instruction, event.now_ns, todo)

    def record(
        self, results: Sequence[wire.Result], drops: Sequence[wire.Drops]
    ) -> Future[Any] | None:
        """Record what jobs found and lost; see `Recorder.results`."""
        return self._recorder.results(results, drops)

    def due_ns(self) -> int | None:
        """Return when `tick` will next have something to do, None for never."""
        due_ns = (self._scheduler.next_due_ns(), self._advisers.next_due_ns())
        return min((each for each in due_ns if each is not None), default=None)

    def tick(self, now_ns: int) -> None:
        """Do what is due, and hear what advisers have to say."""
        for answer in self._advisers.serve(now_ns):
            self.take(answer)
        due_ns = self._scheduler.next_due_ns()
        if due_ns is not None and now_ns >= due_ns:
            self.take(Tick(now_ns))
        if self._recorder.is_behind:
            self._recorder.flush()
        self._refinement.save(now_ns)
        for member in self._members:
            if member.is_alive and not self._scheduler.is_alive(member.node_addr):
                logger.warning("node %s is away", member.node_addr)
                self._members.lose(member)

    def close(self, now_ns: int) -> None:
        """Keep what was learned."""
        self._refinement.save(now_ns, at_once=True)

    def restore(self, now_ns: int) -> None:
        """Take up what is recorded: queries, and the nodes that never join a second time.

        To be called before any node is heard.
        """
        self._advisers.prepare(self._policy, now_ns)
        for view, event in self._recorder.restore(now_ns):
            self._register.add(view)
            self._constraints[view.query_id] = event.query.constraint
            self.take(event)
        for node in self._foreigners.restore(self._recorder.foreigners()):
            if node.dialect == "push":  # others are there when they ask
                self.take(NodeJoined(now_ns, node))

    # What users want.

    def record_query(self, request: QueryRequest) -> Future[str]:
        """Check a query and have it recorded; `admit` is next, with its id.

        Raises:
            PlanError: its node or its video is not known.
            ConfigError: so is its policy.
            Saturated: it cannot be recorded now.
        """
        videos = self._videos_of(request.node_addr)
        if videos is None:
            raise PlanError(f"node {request.node_addr} has not joined")
        if request.video_id not in videos:
            raise PlanError(f"node {request.node_addr} has no video {request.video_id}")
        policy = request.policy or self._policy
        expect_allowed(policy, self._allowed)
        return self._recorder.add(request, policy)

    def admit(self, query_id: str, request: QueryRequest, now_ns: int) -> None:
        """Begin with a query that is recorded."""
        policy = request.policy or self._policy
        self._recorder.begin(query_id, request, policy)
        self._constraints[query_id] = request.constraint
        self._register.add(
            QueryView(
                query_id,
                request.node_addr,
                request.video_id,
                request.graph,
                request.constraint.to_document(),
                policy,
                request.form,
                created_s=time.time(),
            )
        )
        info = QueryInfo(
            query_id,
            request.node_addr,
            request.video_id,
            request.graph,
            request.constraint,
            policy,
            request.plan,
        )
        self.take(QuerySubmitted(now_ns, info))

    def stop(self, query_id: str, now_ns: int) -> bool:
        """End a query; False if it is not known."""
        if self._scheduler.state_of(query_id) is None:
            return query_id in self._recorder.known  # it was over before this controller started
        self.take(QueryStopped(now_ns, query_id))
        return True

    def delete(self, query_id: str, now_ns: int) -> Future[bool]:
        """End a query and forget it; the result is False if it was not known.

        Raises:
            Saturated: that cannot be recorded now; the query is as it was.
        """
        forgotten = self._recorder.forget(query_id)
        if self._scheduler.state_of(query_id) is not None:
            self.take(QueryDeleted(now_ns, query_id))
        self._register.remove(query_id)
        self._decisions.forget(query_id)
        self._carrying.preferred.pop(query_id, None)
        self._constraints.pop(query_id, None)
        return forgotten

    def constrain(self, query_id: str, constraint: Constraint, now_ns: int) -> bool:
        """Put another constraint in place of a query's; False if it is not known, or over."""
        if not self._is_going_on(query_id):
            return False
        document = constraint.to_document()
        self._constraints[query_id] = constraint
        self._register.change(query_id, constraint=document)
        self._recorder.constraint(query_id, document)
        self.take(ConstraintChanged(now_ns, query_id, constraint))
        return True

    def prefer(self, query_id: str, documents: Mapping[str, Any], now_ns: int) -> bool:
        """Have the next question about a query answered by these documents, and ask it now.

        Raises:
            PlanError: they are no plan for this query.
        """
        view = self._register.get(query_id)
        if view is None or not self._is_going_on(query_id):
            return False
        previous = self._scheduler.plan_of(query_id)
        Plan.read(view.graph.tasks, documents, number=0, previous=previous)
        self._carrying.preferred[query_id] = documents
        same = self._constraints[query_id]
        self.take(ConstraintChanged(now_ns, query_id, same, "preferred"))
        return True

    # Nodes that speak only the documented REST.

    def join(self, joining: NodeJoining, now_ns: int) -> str:
        """Register a video of a node; return the node's name.

        Raises:
            ConfigError: see `Foreigners.join`.
        """
        node = self._foreigners.join(joining)
        self.take(NodeJoined(now_ns, node))
        return node.node_addr

    def find_again(self, node_addr: str, now_ns: int) -> None:
        """Take a node back that did not answer and does now; it never joins a second time."""
        node = self._foreigners.get(node_addr)
        if node is not None and not self._scheduler.is_alive(node_addr):
            self.take(NodeJoined(now_ns, node))

    def work_of(self, node_addr: str, bandwidth: Mapping[str, float], now_ns: int) -> Jobs:
        """Return what a node that asks for its work is given; it is heard of by that."""
        node = self._foreigners.get(node_addr)
        if node is None:
            return Jobs()
        if not self._scheduler.is_alive(node_addr):
            self.take(NodeJoined(now_ns, node))
        links = links_of(bandwidth, self._members)
        self.take(NodeReported(now_ns, node_addr, bandwidth=links))
        return self._foreigners.work(node_addr, self._register.of_node(node_addr))

    def hear(self, query_id: str, runtime: Mapping[str, Any] | None, now_ns: int) -> None:
        """Take note that a job is at work, and of what it has measured."""
        view = self._register.get(query_id)
        if view is None:
            return
        if view.state < QueryState.RUNNING:
            self.take(JobReported(now_ns, query_id, view.node_addr, QueryState.RUNNING))
        if runtime is not None:
            if links := links_of(runtime.get("bandwidth"), self._members):
                self.take(NodeReported(now_ns, view.node_addr, bandwidth=links))
            self.take(RuntimeReported(now_ns, query_id, runtime))

    def known_nodes(self) -> tuple[KnownNode, ...]:
        """Return all nodes that have joined, without their jobs; the same object if unchanged."""
        return self._directory.nodes()

    def has_orders(self, node_addr: str, query_id: str) -> bool:
        """Say whether an order about a job is still on its way to a node that is there."""
        member = self._members.get(node_addr)
        return member is not None and member.is_alive and member.orders.has_job(query_id)

    def cost_of(self, task: str, resolution: str, node: NodeInfo) -> float | None:
        """Return the seconds of a frame at a task as they were measured before; None for never.

        What nodes have taught since is not in it, nor what somebody expects.
        """
        if task not in self._profiled:
            return None
        try:
            cost = self._profile.prior(task, 0, resolution, node)
        except ConfigError:
            return None
        return None if cost is None else cost.compute_s

    def expect(self, costs: Mapping[tuple[str, str], float], resolution: str) -> None:
        """Have policies expect of tasks what somebody else knows, where no query has done them.

        Args:
            costs: seconds of a frame, by task and `node_addr`.
            resolution: of the frames.
        """
        for (task, node_addr), seconds in costs.items():
            node = self._scheduler.node(node_addr)
            if node is None or self._profile.learned(task, node).frames:
                continue
            for _ in range(2):  # a report counts for a factor of four at most
                self._profile.observe(task, 0, resolution, node, seconds, seconds, SURE_FRAMES)

    def survey(self, query_id: str = "") -> Survey:
        """Return how the nodes are now, and what queries take of them but for one; O(nodes)."""
        return self._scheduler.survey(query_id)

    def _measure(self, event: RuntimeReported) -> None:
        self._register.measure(event.query_id, event.runtime)
        plan = self._scheduler.plan_of(event.query_id)
        constraint = self._constraints.get(event.query_id)
        if plan is not None and constraint is not None:
            number = event.plan_number or plan.number
            if number == plan.number:
                self._refinement.learn(plan, event.runtime)
            bound_s = constraint.delay_s[1]
            self._decisions.measure(event.query_id, number, event.runtime, bound_s, event.now_ns)

    def _videos_of(self, node_addr: str) -> Mapping[int, VideoInfo | wire.Video] | None:
        member, foreign = self._members.get(node_addr), self._foreigners.get(node_addr)
        if member is not None:
            return member.join.videos
        return None if foreign is None else foreign.videos

    def _is_going_on(self, query_id: str) -> bool:
        state = self._scheduler.state_of(query_id)
        return state is not None and not state.is_final
