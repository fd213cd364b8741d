"""`Moves`: what each event does to a query, by the state it is in: the scheduler's table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from vdag.control.scheduling.alarms import alarm_of
from vdag.control.scheduling.cases import Case
from vdag.control.scheduling.consequences import (
    CheckDue,
    Consequence,
    HostBack,
    HostLost,
    PeerBack,
    PeriodDue,
    PushDue,
    Reconsider,
)
from vdag.control.scheduling.events import (
    ConstraintChanged,
    JobReported,
    PlanProposed,
    PlanTaken,
    PolicyFailed,
    QueryDeleted,
    QueryEvent,
    QueryRestored,
    QueryState,
    QueryStopped,
    QuerySubmitted,
    RuntimeReported,
)
from vdag.control.scheduling.instructions import StopJob
from vdag.control.scheduling.placing import find_lost, read_proposal
from vdag.control.scheduling.steps import Steps
from vdag.errors import InvalidTransition, PlanError

__all__ = ["TABLE", "Moves"]


class Moves(Steps):
    """Moves queries from state to state, by `TABLE`."""

    def apply(self, event: QueryEvent | Consequence) -> None:
        """Do what `TABLE` says; `drain` has the instructions.

        Raises:
            InvalidTransition: it says nothing; nothing has changed.
        """
        case = self._cases.get(event.query_id)
        state = None if case is None else case.state
        move = TABLE.get((state, type(event)))
        if move is None:
            name = "ABSENT" if state is None else state.name
            story = () if case is None else tuple(case.story)
            raise InvalidTransition(event.query_id, name, type(event).__name__, story)
        move(self, case, event)
        case = case or self._cases.get(event.query_id)
        if case is not None:
            case.story.append(f"{event.now_ns} {type(event).__name__}")

    # Users.

    def _submit(self, _: None, event: QuerySubmitted) -> None:
        case = Case(event.query, suspended=event.query.node_addr not in self._nodes)
        self._cases.add(case)
        self._record(case, f"node {case.host} is not there" if case.suspended else "")
        self._ask(case, "submitted", event.now_ns)

    def _restore(self, _: None, event: QueryRestored) -> None:
        state, plan = event.state, event.plan
        if not state.is_final:
            # State and plan are written one after the other, perhaps only one of them in time.
            ready = max(state, QueryState.READY)
            state = QueryState.UNSCHEDULED if plan is None else QueryState(ready)
        number = max(event.next_number, 1 if plan is None else plan.number + 1)
        case = Case(event.query, state, plan, number)
        self._cases.add(case)
        if state.is_final:
            return
        case.suspended = True
        self.limits.update(case)
        self.order_limits()
        self._record(case, "the controller was started")
        if case.host in self._nodes:
            self._resume(case, HostBack(event.now_ns, case.query_id, None))

    def _constrain(self, case: Case, event: ConstraintChanged) -> None:
        is_other = event.constraint != case.query.constraint
        case.query = replace(case.query, constraint=event.constraint)
        case.failures = 0
        plan = case.plan if is_other and case.has_job else None
        if plan is not None and not find_lost(case.query, plan, self._nodes):
            self._send(case, plan, event.now_ns)  # else it goes with the plan that is to come
        self._ask(case, event.cause, event.now_ns)

    def _stop(self, case: Case, event: QueryStopped) -> None:
        self._stop_job(case, "stopped")
        self._finish(case, QueryState.ENDED, "stopped")

    def _delete(self, case: Case, event: QueryDeleted) -> None:
        self._stop_job(case, "deleted")
        self._cancel_timers(case)
        self._release(case)
        self._cases.forget(case)

    def _forget(self, case: Case, event: QueryDeleted) -> None:
        self._cases.forget(case)

    # Reports of the host.

    def _measure(self, case: Case, event: RuntimeReported) -> None:
        assert case.plan is not None, "a job has a plan"
        if case.suspended:
            return  # sent before the host was lost
        # What was measured under an older plan says nothing of this one: a policy that steers by
        # it would steer twice.
        if event.plan_number in (0, case.plan.number):
            case.runtime, case.measured, case.is_fresh = event.runtime, case.plan.number, True
            self._loads.update(case)
            before, case.alarm = case.alarm, alarm_of(case)
            if case.alarm and case.alarm != before and not case.failures:
                self._hurry(case, event.now_ns)
        self._runs(case)

    def _follow(self, case: Case, event: JobReported) -> None:
        if event.node_addr != case.host or case.suspended:
            return
        if event.state.is_final:
            self._finish(case, event.state, event.reason)
        elif event.state is QueryState.RUNNING:
            self._runs(case)

    def _disown(self, case: Case | None, event: JobReported) -> None:
        if event.node_addr in self._nodes and not event.state.is_final:
            reason = "unknown" if case is None else "over"
            self._out.append(StopJob(event.node_addr, event.query_id, reason))

    def _take(self, case: Case, event: PlanTaken) -> None:
        assert case.plan is not None, "a job has a plan"
        if event.number <= case.plan.number:
            case.taken = max(case.taken, event.number)

    # Answers of policies.

    def _adopt(self, case: Case, event: PlanProposed) -> None:
        if not self._is_answer(case, event):
            return
        try:
            plan = read_proposal(case.query, event, case.plan, self._nodes)
        except PlanError as err:
            self._fail(case, str(err), event.now_ns)
            return
        case.failures = 0
        self._cases.set_hungry(case, False)
        is_change = not plan.orders_as(case.plan)
        self._use(case, plan, case.cause, event.now_ns)
        self._note(case, event, is_change)
        self._go_on(case, event.now_ns)

    def _doubt(self, case: Case, event: PolicyFailed) -> None:
        if self._is_answer(case, event):
            self._fail(case, event.reason, event.now_ns)

    def _is_answer(self, case: Case, event: PlanProposed | PolicyFailed) -> bool:
        """Close the open question if this answers it; whether the answer is of any use."""
        if not case.is_asked or event.round != case.round:
            return False
        case.is_asked = False
        self._timers.cancel(("answer", case.query_id))
        return not case.suspended

    # Nodes and the time.

    def _suspend(self, case: Case, event: HostLost) -> None:
        case.suspended, case.has_job = True, False
        self._loads.update(case)
        # The open question stays open until it is answered: its policy may be busy with it.
        for kind in ("period", "push", "check"):
            self._timers.cancel((kind, case.query_id))
        self._record(case, event.reason)

    def _resume(self, case: Case, event: HostBack) -> None:
        job = event.job
        if job is not None and job.state.is_final:
            self._finish(case, job.state, "")
            return
        was_suspended, case.suspended = case.suspended, False
        self._loads.update(case)
        case.has_job = job is not None and case.plan is not None
        if job is not None:
            # Before a restart of the controller others may have been lost.
            case.told, case.routes = job.plan_number, job.routes
        if was_suspended:
            self._record(case)
        if case.plan is None:
            self._ask(case, case.pending or "node back", event.now_ns)
            return
        if job is not None and job.plan_number >= case.next_number:
            # Its latest plans were not written down before the controller went.
            case.next_number = job.plan_number + 1
            self._enforce(case, case.plan, "node back")
        self._take_up(case, case.plan, event.now_ns)
        if was_suspended and not case.is_asked:
            self._go_on(case, event.now_ns)

    def _reroute(self, case: Case, event: PeerBack) -> None:
        assert case.plan is not None, "a placed query has a plan"
        if case.has_job and not find_lost(case.query, case.plan, self._nodes):
            self._send(case, case.plan, event.now_ns, event.lost)

    def _reconsider(self, case: Case, event: Reconsider) -> None:
        case.failures = 0
        self._ask(case, event.cause, event.now_ns)

    def _check(self, case: Case, event: CheckDue) -> None:
        assert case.plan is not None, "a placed query has a plan"
        if find_lost(case.query, case.plan, self._nodes):
            self._ask(case, "node lost", event.now_ns)

    def _review(self, case: Case, event: PeriodDue) -> None:
        is_stale = case.version != self._nodes.version
        if case.plan is None:
            self._ask(case, case.cause or "submitted", event.now_ns)  # it was not answered yet
        elif case.is_fresh or is_stale or case.failures:
            self._ask(case, "period", event.now_ns)
        else:
            self._go_on(case, event.now_ns)

    def _repeat(self, case: Case, event: PushDue) -> None:
        assert case.plan is not None, "a plan was sent before"
        if find_lost(case.query, case.plan, self._nodes):
            self._set_push(case, event.now_ns)  # another plan is on its way
        else:
            self._send(case, case.plan, event.now_ns)

    def _ignore(self, case: Case | None, event: QueryEvent | Consequence) -> None:
        """Too late to matter: what comes over a network, or from a policy, may be."""


Move = Callable[[Moves, Any, Any], None]


def _table() -> dict[tuple[QueryState | None, type], Move]:
    m, ignore = Moves, Moves._ignore
    # What is not there raises: users are asked after first, and the rest follows from indexes.
    rows: tuple[tuple[type, Move | None, Move | None, Move | None, Move | None], ...] = (
        # event             absent      UNSCHEDULED    READY, RUNNING  ENDED, FAILED
        (QuerySubmitted,    m._submit,  None,          None,           None),
        (QueryRestored,     m._restore, None,          None,           None),
        (ConstraintChanged, None,       m._constrain,  m._constrain,   None),
        (QueryStopped,      None,       m._stop,       m._stop,        ignore),
        (QueryDeleted,      None,       m._delete,     m._delete,      m._forget),
        (RuntimeReported,   ignore,     ignore,        m._measure,     ignore),
        (JobReported,       m._disown,  ignore,        m._follow,      m._disown),
        (PlanTaken,         ignore,     ignore,        m._take,        ignore),
        (PlanProposed,      ignore,     m._adopt,      m._adopt,       ignore),
        (PolicyFailed,      ignore,     m._doubt,      m._doubt,       ignore),
        (HostLost,          None,       m._suspend,    m._suspend,     None),
        (HostBack,          None,       m._resume,     m._resume,      None),
        (PeerBack,          None,       None,          m._reroute,     None),
        (Reconsider,        None,       m._reconsider, m._reconsider,  None),
        (PeriodDue,         None,       m._review,     m._review,      None),
        (PushDue,           None,       None,          m._repeat,      None),
        (CheckDue,          None,       None,          m._check,       None),
    )  # fmt: skip
    columns: tuple[tuple[QueryState | None, ...], ...] = (
        (None,),
        (QueryState.UNSCHEDULED,),
        (QueryState.READY, QueryState.RUNNING),
        (QueryState.ENDED, QueryState.FAILED),
    )
    return {
        (state, event): move
        for event, *moves in rows
        for move, states in zip(moves, columns, strict=True)
        if move is not None
        for state in states
    }


#: State, None for a query that is unknown, and type of event, to what it does.
TABLE: Mapping[tuple[QueryState | None, type], Move] = MappingProxyType(_table())
