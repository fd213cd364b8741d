"""The scheduler: events in, instructions out; it has no clock, no socket and no thread.

`Scheduler` decides when a plan is needed, asks the query's policy for it, checks what the policy
says, and has the node that owns the video run the job under it. It knows which nodes live, and
takes tasks off those that do not. It is not safe for several threads at once.
"""

# Theory of operation
#
# A query has a host, the node that owns its video: jobs run there, and orders go there. Its tasks
# may be placed on other nodes, its peers. So there are two ways to lose a node. Without its host a
# query is suspended: nothing is asked, nothing is sent, its plan stays in force, and it resumes
# when the host is back. Without a peer it needs another plan, at once.
#
# States. A query is UNSCHEDULED until it has a plan, READY when its host was told to start the job,
# RUNNING when the host has reported it at work, ENDED or FAILED when nothing more will come.
# `suspended` stands beside the state and not in it: a running job goes on running on a host that
# has only lost sight of us. `moves.TABLE` has what each event does in each state. Events that can
# come late, from nodes and from policies, are ignored where they mean nothing any more; others
# raise `InvalidTransition` before anything has changed.
#
# Questions. Policies are somebody else's code, so they are asked by an instruction and answer by an
# event, or never. A query has at most one question open; what comes up meanwhile is asked
# afterwards. Each question has a round, and only the answer to the open round counts. A question
# without an answer is closed as failed after `policy_timeout_s`. So a policy that hangs, dies or
# talks nonsense costs its own query that second, and nobody else anything.
#
# When it is asked: at submission, when the constraint changes, when a node of the plan is lost or
# no longer offers its task, when the host is back without a plan; and after each `period_s`, if
# there is a new runtime or the nodes have changed. A failing policy is asked half as often after
# each failure, down to every 32nd period, until something happens. A query without a good plan is
# hungry: it is asked about as soon as a node comes that offers one of its tasks.
#
# Answers. A proposal is checked against the nodes as they are when it comes, not as they were when
# it was asked for. Then each of its placements names a live node that offers the task, and only
# then it gets the next number. A proposal that asks for what is in force already gets none. A
# failed question changes nothing, unless a node of the plan is lost: then the tasks on it go to the
# host if it offers them, else to a server, else to any node that does.
#
# Nodes. What a node has is what it says when it joins, for it may have been started anew, and so
# may we. A job it runs and should not is stopped; one it should and does not is started; to one it
# has, the plan in force is sent again, for its peers may have moved. All orders are idempotent: a
# plan is known by its number. It also says to what its tasks were limited; where the plans of all
# queries together say something else, it is ordered. After a restart of the controller hosts come
# back before their peers: a job that is running gets the time of a time-out before a peer counts as
# lost.
#
# Dialects. A node on the plan channel reports often and is lost when it is silent. A node that only
# speaks the documented REST either asks (`pull`), and is lost when it no longer does, or is pushed
# to (`push`): it is lost when dispatching fails, and its plan is repeated every `push_period_s`.
#
# Time comes with each event. What falls due is in `timers`, and done at the next `Tick`; calling at
# `next_due_ns` is early enough. Any event may come late; none is ever waited for.
#
# What it costs. An event costs as much as the queries that it concerns: O(log n) for one, found by
# host, by the nodes of its plan, or by its hunger. A question lists all nodes, O(nodes).

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from vdag.control.profile import Profile
from vdag.control.scheduling.cases import Case, Cases
from vdag.control.scheduling.consequences import (
    CheckDue,
    HostBack,
    HostLost,
    PeerBack,
    PeriodDue,
    PushDue,
    Reconsider,
)
from vdag.control.scheduling.events import (
    DispatchFailed,
    Event,
    NodeInfo,
    NodeJoined,
    NodeLeft,
    NodeReported,
    PolicyFailed,
    QueryState,
    Tick,
)
from vdag.control.scheduling.instructions import Instruction, StopJob
from vdag.control.scheduling.loads import Loads
from vdag.control.scheduling.moves import Moves
from vdag.control.scheduling.nodes import Nodes
from vdag.control.scheduling.placing import find_lost
from vdag.control.scheduling.settings import SchedulerSettings
from vdag.control.scheduling.surroundings import Survey
from vdag.control.scheduling.timers import Timers
from vdag.plan import Plan

__all__ = ["Scheduler", "SchedulerSettings", "SchedulerStats"]


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """What a scheduler has on its hands.

    Attributes:
        nodes: that are alive.
        queries: by state.
        suspended: queries whose host is away.
        asked: open questions.
        hungry: queries whose policy failed them last.
    """

    nodes: int
    queries: Mapping[QueryState, int]
    suspended: int
    asked: int
    hungry: int


class Scheduler:
    """The queries and nodes of one controller.

    All `now_ns` are on one monotonic clock and never fall. An event that is illegal raises
    `InvalidTransition` and changes nothing.

    Args:
        settings: times and bounds.
        profile: what tasks cost and are worth; others may refine it meanwhile.
    """

    def __init__(
        self, settings: SchedulerSettings | None = None, profile: Profile | None = None
    ) -> None:
        self._settings = settings or SchedulerSettings()
        self._nodes = Nodes()
        profile = Profile() if profile is None else profile
        self._loads = loads = Loads(self._nodes, profile)
        self._cases = Cases(self._settings.remembered)
        #: Of queries; when nodes will have been silent for too long is apart, to be seen first.
        self._timers = Timers()
        self._silences = Timers()
        self._moves = Moves(self._cases, self._nodes, loads, self._timers, self._settings, profile)

    def handle(self, event: Event) -> list[Instruction]:
        """Take note of what has happened, and return what to do, in its order.

        Raises:
            InvalidTransition: the query's state does not take the event: it is new and known, or
                unknown, or over. `state_of` tells beforehand.
        """
        if isinstance(event, Tick):
            return self._tick(event.now_ns)
        if isinstance(event, NodeJoined):
            return self._join(event)
        if isinstance(event, NodeReported):
            return self._report(event)
        if isinstance(event, NodeLeft):
            return self._lose(event.node_addr, f"node {event.node_addr} has left", event.now_ns)
        if isinstance(event, DispatchFailed):
            reason = f"node {event.node_addr} is lost: {event.reason}"
            return self._lose(event.node_addr, reason, event.now_ns)
        self._moves.apply(event)
        return self._moves.drain()

    def next_due_ns(self) -> int | None:
        """Return when a `Tick` will next have something to do, None for not before an event."""
        silent_ns, due_ns = self._silences.next_due_ns(), self._timers.next_due_ns()
        if silent_ns is None or due_ns is None:
            return due_ns if silent_ns is None else silent_ns
        return min(silent_ns, due_ns)

    def is_alive(self, node_addr: str) -> bool:
        """Whether a node is there; one that reports and is not has to join."""
        return node_addr in self._nodes

    def node(self, node_addr: str) -> NodeInfo | None:
        """Return a live node with its latest resources and services, None if it is not there."""
        return self._nodes.get(node_addr)

    def nodes(self) -> tuple[NodeInfo, ...]:
        """Return the live nodes, in the order in which they joined."""
        return self._nodes.alive()

    def survey(self, query_id: str = "") -> Survey:
        """Return how the live nodes are, and what queries take of them but for one; O(nodes)."""
        nodes = self._nodes.alive()
        busy = {node.node_addr: self._loads.node_busy(query_id, node.node_addr) for node in nodes}
        return Survey(nodes, self._nodes.bandwidth(), busy)

    def state_of(self, query_id: str) -> QueryState | None:
        """Return a query's state, None if it is unknown: it never was, or was long ago."""
        case = self._cases.get(query_id)
        return None if case is None else case.state

    def plan_of(self, query_id: str) -> Plan | None:
        """Return the plan in force, or of a query that is over the last; None for none."""
        case = self._cases.get(query_id)
        return None if case is None else case.plan

    def stats(self) -> SchedulerStats:
        """Return the numbers; O(queries)."""
        return SchedulerStats(
            nodes=len(self._nodes),
            queries=dict(Counter(case.state for case in self._cases)),
            suspended=sum(case.suspended for case in self._cases),
            asked=sum(case.is_asked for case in self._cases),
            hungry=len(self._cases.hungry()),
        )

    def check(self) -> list[str]:
        """Return what is wrong inside, for tests: nothing; O(n)."""
        wrong = self._cases.check()
        wrong += self._moves.limits.check(self._cases, self._nodes.alive())
        for case in self._cases:
            if case.is_asked != (("answer", case.query_id) in self._timers):
                wrong.append(f"{case.query_id}: a question without an end")
            is_idle = not (case.state.is_final or case.suspended or case.is_asked)
            if is_idle and ("period", case.query_id) not in self._timers:
                wrong.append(f"{case.query_id}: nothing will ever happen")
            if case.suspended and case.host in self._nodes:
                wrong.append(f"{case.query_id}: suspended although its host is there")
        return wrong

    def _tick(self, now_ns: int) -> list[Instruction]:
        # Lost nodes first: nothing that is done now shall be ordered from them.
        due = [node_addr for _, node_addr in self._silences.pop_due(now_ns)]
        heard = {node_addr: self._listen(node_addr, now_ns) for node_addr in due}
        self._lose_all({name: reason for name, reason in heard.items() if reason}, now_ns)
        for kind, key in self._timers.pop_due(now_ns):
            if kind == "period":
                self._moves.apply(PeriodDue(now_ns, key))
            elif kind == "push":
                self._moves.apply(PushDue(now_ns, key))
            elif kind == "check":
                self._moves.apply(CheckDue(now_ns, key))
            else:
                self._close_question(key, now_ns)
        return self._moves.drain()

    def _close_question(self, query_id: str, now_ns: int) -> None:
        case = self._cases.get(query_id)
        assert case is not None, "an open question is a live query's"
        reason = f"no answer within {self._settings.policy_timeout_s:g} s"
        self._moves.apply(PolicyFailed(now_ns, query_id, case.round, reason))

    def _listen(self, node_addr: str, now_ns: int) -> str:
        """Return why a node is lost, if it was silent for too long; else see when it would be."""
        node = self._nodes.get(node_addr)
        assert node is not None, "a lost node's timer is cancelled"
        silence_ns = self._settings.silence_ns(node.dialect)
        due_ns = self._nodes.seen_ns(node_addr) + silence_ns
        if due_ns > now_ns:
            self._silences.set("node", node_addr, due_ns)
            return ""
        return f"node {node_addr} was silent for {silence_ns / 1e9:g} s"

    def _join(self, event: NodeJoined) -> list[Instruction]:
        node, now_ns = event.node, event.now_ns
        lost = node.landing if self._nodes.is_started_anew(node) else ""
        before = self._nodes.join(node, now_ns)
        self._silences.cancel(("node", node.node_addr))
        if node.dialect != "push":
            due_ns = now_ns + self._settings.silence_ns(node.dialect)
            self._silences.set("node", node.node_addr, due_ns)
        self._moves.limits.greet(node)
        self._moves.order_limits()
        strays = self._strays(node)
        # A node that only speaks REST joins once per video, and does not say which jobs it has.
        is_same = before is not None and before.session == node.session
        if not (is_same and node.dialect != "channel"):
            jobs = {job.job_uid: job for job in node.jobs}
            for case in self._cases.hosted_by(node.node_addr):
                self._moves.apply(HostBack(now_ns, case.query_id, jobs.get(case.query_id)))
        has_moved = before is None or not is_same or before.landing != node.landing
        self._tell_peers(node, has_moved, now_ns, lost)
        self._feed(node, now_ns)
        return [*strays, *self._moves.drain()]

    def _strays(self, node: NodeInfo) -> list[Instruction]:
        """Stop the jobs that a node has and should not."""
        found: list[Instruction] = []
        for job in node.jobs:
            case = self._cases.get(job.job_uid)
            if job.state.is_final or (case is not None and self._is_at(case, node.node_addr)):
                continue
            reason = "unknown" if case is None else "over"
            found.append(StopJob(node.node_addr, job.job_uid, reason))
        return found

    @staticmethod
    def _is_at(case: Case, node_addr: str) -> bool:
        return not case.state.is_final and case.host == node_addr

    def _report(self, event: NodeReported) -> list[Instruction]:
        if event.node_addr not in self._nodes:
            return []
        if event.refusals:
            self._moves.limits.hear(event.node_addr, event.refusals)
            self._moves.order_limits()
        changed = self._nodes.report(event)
        if changed is not None:
            self._tell_peers(changed[1], False, event.now_ns)
            self._feed(changed[1], event.now_ns)
        return self._moves.drain()

    def _tell_peers(self, node: NodeInfo, has_moved: bool, now_ns: int, landing: str = "") -> None:
        """Have the queries that need a node find out what it is worth to them now."""
        for case in self._cases.placed_on(node.node_addr):
            assert case.plan is not None, "a placed query has a plan"
            lost = find_lost(case.query, case.plan, self._nodes)
            if any(case.plan.flow_mapping[task].node_addr == node.node_addr for task in lost):
                is_news = not case.suspended and case.version != self._nodes.version
                if is_news:
                    self._moves.apply(Reconsider(now_ns, case.query_id, "service gone"))
            elif (has_moved and case.host != node.node_addr) or self._moves.is_misled(case):
                self._moves.apply(PeerBack(now_ns, case.query_id, landing))

    def _feed(self, node: NodeInfo, now_ns: int) -> None:
        """Have the hungry queries that a node could do something for be asked about."""
        for case in self._cases.hungry():
            is_news = not case.suspended and case.version != self._nodes.version
            if is_news and any(node.offers(task) for task in case.query.graph.tasks):
                self._moves.apply(Reconsider(now_ns, case.query_id, "node back"))

    def _lose(self, node_addr: str, reason: str, now_ns: int) -> list[Instruction]:
        if node_addr in self._nodes:
            self._silences.cancel(("node", node_addr))
            self._lose_all({node_addr: reason}, now_ns)
        return self._moves.drain()

    def _lose_all(self, lost: Mapping[str, str], now_ns: int) -> None:
        """Lose nodes, all of them before anything follows: one may be the host, one the peer."""
        for node_addr in lost:
            self._nodes.lose(node_addr)
            self._moves.limits.lose(node_addr)
        for node_addr, reason in lost.items():
            for case in self._cases.hosted_by(node_addr):
                self._moves.apply(HostLost(now_ns, case.query_id, reason))
        for node_addr in lost:
            for case in self._cases.placed_on(node_addr):
                if case.host not in lost:
                    self._moves.apply(Reconsider(now_ns, case.query_id, "node lost"))
