"""`Steps`: what the moves of queries are made of: asking, ordering, recording."""

from __future__ import annotations

from collections.abc import Mapping

from vdag.control.profile import Profile
from vdag.control.scheduling.cases import Case, Cases
from vdag.control.scheduling.events import PlanProposed, QueryState
from vdag.control.scheduling.instructions import (
    AskPolicy,
    Instruction,
    RecordDecision,
    RecordFault,
    RecordPlan,
    RecordState,
    SendPlan,
    StartJob,
    StopJob,
)
from vdag.control.scheduling.limits import LimitBook
from vdag.control.scheduling.loads import Loads
from vdag.control.scheduling.nodes import Nodes
from vdag.control.scheduling.placing import find_lost, move_lost, routes_of
from vdag.control.scheduling.questions import question_about
from vdag.control.scheduling.settings import SchedulerSettings
from vdag.control.scheduling.timers import Timers
from vdag.control.scheduling.view import LiveSurroundings
from vdag.errors import PlanError
from vdag.plan import Plan

__all__ = ["Steps"]

#: A failing policy is asked ever more rarely, but at least every 2**5 periods.
MAX_DOUBLINGS = 5
#: Characters of a fault that are written down.
MAX_FAULT = 500


class Steps:
    """Steps of queries, and the instructions that they add up to.

    Args:
        cases: the queries.
        nodes: the live nodes.
        loads: what the queries take of them.
        timers: of kind `period`, `answer`, `push` and `check`, keyed by query.
        settings: see there.
        profile: what policies are told of tasks.

    Attributes:
        limits: what plans limit the nodes' tasks to.
    """

    def __init__(
        self,
        cases: Cases,
        nodes: Nodes,
        loads: Loads,
        timers: Timers,
        settings: SchedulerSettings,
        profile: Profile,
    ) -> None:
        self._cases = cases
        self._nodes = nodes
        self._loads = loads
        self._profile = profile
        self._timers = timers
        self._settings = settings
        self.limits = LimitBook()
        self._out: list[Instruction] = []

    def drain(self) -> list[Instruction]:
        """Return the instructions since the last call."""
        out, self._out = self._out, []
        return out

    def order_limits(self) -> None:
        """Have nodes told what has changed of the limits."""
        self._out += self.limits.drain()

    # Questions.

    def _ask(self, case: Case, cause: str, now_ns: int) -> None:
        """Ask the policy, now or as soon as it has answered, or as the host is back."""
        if case.suspended or case.is_asked:
            case.pending = case.pending or cause
            return
        case.round += 1
        case.is_asked, case.asked_ns, case.cause, case.pending = True, now_ns, cause, ""
        case.is_fresh, case.version = False, self._nodes.version
        self._timers.cancel(("period", case.query_id))
        self._timers.set("answer", case.query_id, now_ns + self._settings.policy_timeout_ns)
        around = LiveSurroundings(case, self._nodes, self._loads, self._profile)
        question = question_about(case, around, cause, now_ns)
        self._out.append(AskPolicy(case.query_id, case.round, case.query.policy, question))

    def _go_on(self, case: Case, now_ns: int) -> None:
        """After an answer: ask what has come up meanwhile, or wait a period."""
        if case.pending:
            self._ask(case, case.pending, now_ns)
            return
        doublings = min(case.failures, MAX_DOUBLINGS)
        due_ns = now_ns + (self._settings.period_ns << doublings)
        self._timers.set("period", case.query_id, due_ns)

    def _hurry(self, case: Case, now_ns: int) -> None:
        """Look at a query sooner than after its period, though not sooner than after a moment."""
        due_ns = max(now_ns, case.asked_ns + self._settings.alarm_ns)
        self._timers.hasten("period", case.query_id, due_ns)

    def _fail(self, case: Case, reason: str, now_ns: int) -> None:
        case.failures += 1
        self._cases.set_hungry(case, True)
        self._fault(case, f"policy {case.query.policy}: {reason}")
        if case.plan is not None:
            self._keep_going(case, case.plan, now_ns)
        self._go_on(case, now_ns)

    def _keep_going(self, case: Case, plan: Plan, now_ns: int) -> None:
        """Without the policy: go on under the plan in force, off the nodes that are gone."""
        if not find_lost(case.query, plan, self._nodes):
            if not case.has_job:
                self._start(case, plan, now_ns)
            return
        try:
            moved = move_lost(case.query, plan, self._nodes)
        except PlanError as err:
            self._fault(case, str(err))
            return
        self._use(case, moved, "node lost", now_ns)

    # Plans.

    def _use(self, case: Case, plan: Plan, cause: str, now_ns: int) -> None:
        """Put a plan in force unless it is there already, and see that the host knows it."""
        if not plan.orders_as(case.plan):
            self._enforce(case, plan, cause)
        assert case.plan is not None, "a plan is in force"
        if not case.has_job:
            self._start(case, case.plan, now_ns)
        elif case.told != case.plan.number:
            self._send(case, case.plan, now_ns)

    def _enforce(self, case: Case, plan: Plan, cause: str) -> None:
        numbered = plan.numbered(case.next_number)
        case.next_number += 1
        case.is_fresh, case.alarm = False, ""
        self._cases.place(case, numbered)
        self._loads.update(case)
        self._out.append(RecordPlan(case.query_id, numbered, cause))
        self.limits.update(case)
        self.order_limits()

    def _start(self, case: Case, plan: Plan, now_ns: int) -> None:
        case.has_job, case.told = True, plan.number
        routes = case.routes = routes_of(case.query, plan, self._nodes)
        self._out.append(StartJob(case.host, case.query, plan, routes))
        if case.state is not QueryState.READY:
            case.state = QueryState.READY
            self._record(case)
        self._set_push(case, now_ns)

    def _send(self, case: Case, plan: Plan, now_ns: int, lost: str = "") -> None:
        """Have the host follow a plan; `lost`: a landing whose frames will not come home."""
        case.told = plan.number
        before, case.routes = case.routes, routes_of(case.query, plan, self._nodes)
        gone = {lost} if lost else set()
        if before != case.routes:
            gone |= {each for each in before.values() if not self._nodes.has_landing(each)}
        lost_ones = tuple(sorted(gone))
        self._out.append(
            SendPlan(case.host, case.query_id, plan, case.routes, lost_ones, case.query.constraint)
        )
        self._set_push(case, now_ns)

    def is_misled(self, case: Case) -> bool:
        """Whether the host of a running job knows another plan, or other landings, than it should.

        A peer may have moved, or the host have come back with a plan that was not written down,
        while a node did not offer its task, and no plan could be sent.
        """
        plan = case.plan
        return (
            case.has_job
            and plan is not None
            and not find_lost(case.query, plan, self._nodes)
            and (case.told, case.routes) != (plan.number, routes_of(case.query, plan, self._nodes))
        )

    def _take_up(self, case: Case, plan: Plan, now_ns: int) -> None:
        """Have the host, which is back, run the plan in force, if the other nodes are there."""
        if not find_lost(case.query, plan, self._nodes):
            (self._send if case.has_job else self._start)(case, plan, now_ns)
        elif case.has_job:
            # After a restart of the controller all nodes are on their way back.
            due_ns = now_ns + self._settings.silence_ns("channel")
            self._timers.set("check", case.query_id, due_ns)
        else:
            self._ask(case, "node lost", now_ns)

    def _set_push(self, case: Case, now_ns: int) -> None:
        host = self._nodes.get(case.host)
        if host is not None and host.dialect == "push":
            self._timers.set("push", case.query_id, now_ns + self._settings.push_period_ns)

    # States.

    def _runs(self, case: Case) -> None:
        if case.state is QueryState.READY:
            case.state = QueryState.RUNNING
            self._record(case)

    def _stop_job(self, case: Case, reason: str) -> None:
        if case.has_job:
            self._out.append(StopJob(case.host, case.query_id, reason))

    def _finish(self, case: Case, state: QueryState, reason: str) -> None:
        self._cancel_timers(case)
        case.state, case.suspended, case.has_job, case.is_asked = state, False, False, False
        self._release(case)
        self._cases.finish(case)
        self._record(case, reason)

    def _release(self, case: Case) -> None:
        """Give back what a query had of the nodes."""
        self._loads.remove(case.query_id)
        self.limits.remove(case.query_id)
        self.order_limits()

    def _cancel_timers(self, case: Case) -> None:
        kinds = ("period", "answer", "push", "check")
        self._timers.cancel(*((kind, case.query_id) for kind in kinds))

    def _record(self, case: Case, reason: str = "") -> None:
        self._out.append(RecordState(case.query_id, case.state, reason, case.suspended))

    def _note(self, case: Case, event: PlanProposed, is_change: bool) -> None:
        """Keep what a policy wants to remember, and write down what it has decided."""
        if isinstance(event.memory, Mapping):
            case.memory = event.memory
        told = event.explanation if isinstance(event.explanation, Mapping) else {}
        if not (is_change or told):
            return
        assert case.plan is not None, "a plan is in force"
        self._out.append(
            RecordDecision(
                case.query_id,
                case.plan.number,
                is_change,
                case.cause,
                case.query.policy,
                event.now_ns / 1e9,
                case.runtime,
                told,
            )
        )

    def _fault(self, case: Case, what: str) -> None:
        # A policy chooses these words.
        text = what if len(what) <= MAX_FAULT else f"{what[:MAX_FAULT]}..."
        self._out.append(RecordFault(case.query_id, text))
