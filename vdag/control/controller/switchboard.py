"""`Switchboard`: the controller's end of the plan channel.

It reads what nodes ask, keeps the list of members, and turns what they say into events for whoever
decides (`Decider`). Orders for a node wait in its order book until it asks for some; if it is
asking already, they leave at once. It decides nothing itself, and has no thread and no clock.

Nothing a node sends stops it. A message that is none is counted and answered with the reason; a
part of a report that makes no sense is counted and left out, and the rest is acted on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from vdag.control import wire
from vdag.control.controller.chronicle import Chronicle
from vdag.control.controller.membership import Member, Membership, node_info, services_of
from vdag.control.scheduling.events import (
    Event,
    JobReported,
    NodeJoined,
    NodeReported,
    PlanTaken,
    QueryState,
    RuntimeReported,
)
from vdag.errors import ChannelClosed, FrameFormatError, Saturated, VdagError
from vdag.transport.rpc import Question, Replier

__all__ = ["Decider", "Switchboard", "SwitchboardStats"]

logger = logging.getLogger(__name__)

#: A report waits so long for its results to be recorded; then the node sends them again.
STORE_TIMEOUT_NS = 1_000_000_000


class Decider(Protocol):
    """Who is told what nodes say; called by the switchboard's thread, must not block."""

    def take(self, event: Event) -> None:
        """Take note of an event."""
        ...

    def record(
        self, results: Sequence[wire.Result], drops: Sequence[wire.Drops]
    ) -> Future[Any] | None:
        """Record what jobs found and lost; the future is resolved when it is, None for at once.

        Raises:
            Saturated: there is no room; the node shall send it again.
        """
        ...


@dataclass(frozen=True, slots=True)
class SwitchboardStats:
    """What nodes have said.

    Attributes:
        joins: nodes that have joined, again or for the first time.
        reports: that were acted on.
        orders: that were sent, again or for the first time.
        results: that were handed on to be recorded.
        logs: what nodes had for the records alone.
        refused: questions of nodes that have to join first, or may not.
        malformed: messages, or parts of reports, that make no sense.
        unstored: reports and logs that were not recorded in time.
        members: nodes that have joined and are alive.
    """

    joins: int = 0
    reports: int = 0
    orders: int = 0
    results: int = 0
    logs: int = 0
    refused: int = 0
    malformed: int = 0
    unstored: int = 0
    members: int = 0


@dataclass(slots=True)
class _Pending:
    """A question whose answer waits for what it says to be recorded.

    Attributes:
        question: a report, or a log.
        heard_ns: when it came.
        done: is resolved when it is recorded.
        is_stored: says, when it is resolved, whether it need not be said again.
        answer: answers at a time; is told whether it is recorded.
    """

    question: Question
    heard_ns: int
    done: Future[Any]
    is_stored: Callable[[Future[Any]], bool]
    answer: Callable[[int, bool], wire.Message]


class Switchboard:
    """See above; for one thread.

    Args:
        replier: the socket; the caller's.
        members: who has joined; likewise.
        decider: is told what nodes say.
        chronicle: is told what is for the records alone.
        session: of this controller.
        report_s: how often nodes are to report.
        hold_s: how long their question for orders is held back.
        wake: has `tick` called soon, by any thread: something is recorded.
    """

    def __init__(
        self,
        replier: Replier,
        members: Membership,
        decider: Decider,
        *,
        chronicle: Chronicle,
        session: str,
        report_s: float,
        hold_s: float,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._wake = wake
        self._replier, self._members, self._decider = replier, members, decider
        self._chronicle = chronicle
        self._session, self._report_s, self._hold_s = session, report_s, hold_s
        self._pending: list[_Pending] = []
        self._counts = dict.fromkeys(SwitchboardStats.__dataclass_fields__, 0)

    def stats(self) -> SwitchboardStats:
        """Return what nodes have said."""
        alive = sum(member.is_alive for member in self._members)
        return SwitchboardStats(**{**self._counts, "members": alive})

    def due_ns(self) -> int | None:
        """Return when `tick` will next have something to do, None for never."""
        held = [m.answer_due_ns for m in self._members if m.waiting is not None]
        late = [each.heard_ns + STORE_TIMEOUT_NS for each in self._pending]
        return min(held + late, default=None)

    def receive(self, now_ns: int) -> bool:
        """Act on one question; False if there is none."""
        question = self._replier.receive()
        if question is None:
            return False
        try:
            self._act(question, wire.decode(question.body), now_ns)
        except VdagError as err:
            kind = "malformed" if isinstance(err, FrameFormatError) else "refused"
            self._counts[kind] += 1
            logger.info("question of a node refused: %s", err)
            self._answer(question, wire.Refused(str(err)[:4096]))
        return True

    def tick(self, now_ns: int) -> None:
        """Answer what has waited long enough, and what need not wait any more."""
        for member in self._members:
            if member.waiting is not None and not member.is_alive:
                self._send_away(member.waiting)
                member.waiting = None
            elif member.waiting is not None and now_ns >= member.answer_due_ns:
                self._give_orders(member)
        pending, self._pending = self._pending, []
        for each in pending:
            if each.done.done():
                self._settle(each, now_ns, is_stored=each.is_stored(each.done))
            elif now_ns >= each.heard_ns + STORE_TIMEOUT_NS:
                self._settle(each, now_ns, is_stored=False)
            else:
                self._pending.append(each)

    def flush(self) -> None:
        """Send the orders that nodes are asking for."""
        for member in self._members:
            if member.is_alive and member.waiting is not None and len(member.orders):
                self._give_orders(member)

    def _act(self, question: Question, message: wire.Message, now_ns: int) -> None:
        if isinstance(message, wire.Join):
            self._join(question, message, now_ns)
        elif isinstance(message, wire.Report):
            self._report(question, message, now_ns)
        elif isinstance(message, wire.Await):
            self._await(question, message, now_ns)
        elif isinstance(message, wire.Log):
            self._log(question, message, now_ns)
        else:
            raise FrameFormatError(f"{type(message).__name__} is not for a controller")

    def _join(self, question: Question, join: wire.Join, now_ns: int) -> None:
        info = node_info(join)
        self._members.join(join, question.peer, now_ns)
        self._counts["joins"] += 1
        logger.info("node %s joined as %s", join.node_addr, join.role)
        # First the answer: what the event brings about is in the order book before the node asks.
        view = self._members.view(0)
        assert view is not None, "it has a member"
        self._answer(question, wire.Joined(self._session, self._report_s, self._hold_s, view))
        self._decider.take(NodeJoined(now_ns, info))
        self._note_works(join.node_addr, join.jobs)

    def _speaker(self, question: Question, message: wire.Report | wire.Await) -> Member | None:
        """Return who asks, or refuse the question."""
        member = None
        if message.cloud == self._session:
            member = self._members.speaker(message.node_addr, message.session, question.peer)
        if member is None:
            self._send_away(question)
        return member

    def _send_away(self, question: Question) -> None:
        self._counts["refused"] += 1
        self._answer(question, wire.Refused("the node has to join first", must_join=True))

    def _await(self, question: Question, message: wire.Await, now_ns: int) -> None:
        member = self._speaker(question, message)
        if member is None:
            return
        # An older question that is still there was given up by the node: it gets no answer.
        self._decider.take(NodeReported(now_ns, message.node_addr))
        member.waiting = question
        member.answer_due_ns = now_ns + int(self._hold_s * 1e9)
        member.orders.receipt(message.last_order)
        if len(member.orders):
            self._give_orders(member)

    def _give_orders(self, member: Member) -> None:
        assert member.waiting is not None, "the caller has looked"
        orders = member.orders.batch()
        if self._answer(member.waiting, wire.Orders(orders)):
            self._counts["orders"] += len(orders)
        member.waiting = None

    def _report(self, question: Question, report: wire.Report, now_ns: int) -> None:
        member = self._speaker(question, report)
        if member is None:
            return
        if report.number <= member.report:  # it comes again: its answer was lost
            self._decider.take(NodeReported(now_ns, report.node_addr))
        else:
            member.report = report.number
            self._counts["reports"] += 1
            self._members.update(member, report, now_ns)
            for event in self._events(report, now_ns):
                self._decider.take(event)
            self._note_works(report.node_addr, report.jobs)
        done: Future[Any] | None = None
        is_stored = True
        if report.results or report.drops:
            try:
                done = self._decider.record(report.results, report.drops)
            except Saturated as err:
                logger.warning("results of %s have to wait: %s", report.node_addr, err)
                is_stored = False
            self._counts["results"] += len(report.results)

        def answer(later_ns: int, is_stored: bool) -> wire.Message:
            view = self._members.view(report.view)
            return wire.Reported(report.number, is_stored, now_ns, later_ns, view)

        if done is None:
            self._answer(question, answer(now_ns, is_stored))
        else:
            self._suspend(_Pending(question, now_ns, done, _has_gone_well, answer))

    def _log(self, question: Question, log: wire.Log, now_ns: int) -> None:
        member = self._members.speaker(log.node_addr, log.session, question.peer)
        if member is None:
            self._send_away(question)
            return
        chronicle, heard_ns = self._chronicle, self._chronicle.clock()

        def answer(_: int, is_stored: bool) -> wire.Message:
            # By the clock that what is recorded is timed with, which somebody may have set.
            answered_ns = max(chronicle.clock(), heard_ns)
            return wire.Logged(
                log.number, self._session, is_stored, heard_ns, answered_ns, self._report_s
            )

        self._counts["logs"] += 1
        try:
            done = chronicle.hear(member, log)
        except (Saturated, ChannelClosed) as err:
            logger.warning("log of %s has to wait: %s", log.node_addr, err)
            self._answer(question, answer(now_ns, False))
            return
        if done is None:
            self._answer(question, answer(now_ns, True))
        else:
            self._suspend(_Pending(question, now_ns, done, chronicle.is_stored, answer))

    def _suspend(self, pending: _Pending) -> None:
        self._pending.append(pending)
        pending.done.add_done_callback(lambda _: self._wake())

    def _note_works(self, node_addr: str, works: Sequence[wire.Work]) -> None:
        member = self._members.get(node_addr)
        if member is not None and works:
            self._chronicle.works(member, works)

    def _events(self, report: wire.Report, now_ns: int) -> list[Event]:
        """Return what a report says, in the order in which it makes sense."""
        resources = self._read(report.state).get("device_state") if report.state else None
        found: list[Event] = [
            NodeReported(
                now_ns,
                report.node_addr,
                resources if isinstance(resources, Mapping) else None,
                None if report.services is None else services_of(report.services),
                report.bandwidth or None,
                report.refusals,
            )
        ]
        found += [_job_reported(report.node_addr, job, now_ns) for job in report.jobs]
        found += [PlanTaken(now_ns, each.job_uid, each.plan) for each in report.taken]
        for each in report.runtimes:
            if runtime := self._read(each.runtime):
                found.append(RuntimeReported(now_ns, each.job_uid, runtime, each.plan))
        return found

    def _read(self, document: bytes) -> dict[str, Any]:
        """Return a document, or an empty one for one that is none, which is counted."""
        try:
            return wire.read_document(document)
        except FrameFormatError as err:
            self._counts["malformed"] += 1
            logger.debug("part of a report left out: %s", err)
            return {}

    def _settle(self, pending: _Pending, now_ns: int, *, is_stored: bool) -> None:
        if not is_stored:
            self._counts["unstored"] += 1
        self._answer(pending.question, pending.answer(now_ns, is_stored))

    def _answer(self, question: Question, message: wire.Message) -> bool:
        return self._replier.reply(question, wire.encode(message))


def _has_gone_well(done: Future[Any]) -> bool:
    return done.exception() is None


def _job_reported(node_addr: str, job: wire.Work, now_ns: int) -> JobReported:
    return JobReported(now_ns, job.job_uid, node_addr, QueryState(job.state), job.reason)
