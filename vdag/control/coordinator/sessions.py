"""`Sessions`: the coordinator's thread: the book of sessions, and the carrying out of what it says.

    create   service -> nodes that may have it -> placement -> number -> book
    book     orders to nodes -> what nodes answer -> book
    watch    nodes that are lost, jobs that are over, plans that others have made -> book

Other threads look at snapshots, which are immutable, or put wishes into a bounded inbox and get a
future.
"""

from __future__ import annotations

import itertools
import logging
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from vdag.control.controller.inbox import Inbox
from vdag.control.coordinator.book import SessionBook
from vdag.control.coordinator.memory import Remembered
from vdag.control.coordinator.office import Office
from vdag.control.coordinator.states import Patience, State
from vdag.control.coordinator.steps import (
    Answered,
    Began,
    Event,
    Forget,
    Instruction,
    Moved,
    MoveWanted,
    Note,
    Order,
    SwitchOver,
    Tick,
    Wanted,
    Wish,
)
from vdag.control.coordinator.values import Deployment, SessionRequest, SessionView
from vdag.errors import ChannelClosed, NotFound, Saturated, VdagError

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.control.coordinator.ours import Probe

__all__ = ["Sessions"]

logger = logging.getLogger(__name__)

#: Wishes that the thread has not got to.
INBOX = 1_000
#: Sessions that are there.
MAX_SESSIONS = 1_000
#: Between two looks at what is under way, and at what runs.
BUSY_MS, IDLE_MS = 10, 250
WATCH_NS = 250_000_000
JOIN_TIMEOUT_S = 10.0
#: Stands for a node in the key of a change-over.
ALL = -1

_count = itertools.count()


class Sessions:
    """See above; closed by `close` or a `with` block. Its thread starts with it.

    Args:
        office: knows nodes and services, and carries out orders. The caller's.
        patience: with nodes.
        before: sessions that went on when the coordinator ended, see `memory`. Those that ran are
            taken up, others are deleted.
    """

    def __init__(
        self,
        office: Office,
        patience: Patience | None = None,
        before: Iterable[Remembered] = (),
    ) -> None:
        self._office = office
        self._book = SessionBook(patience)
        self._deployments: dict[int, Deployment] = {}
        self._views: dict[int, SessionView] = {}
        self._probes: dict[tuple[int, int, str], Probe] = {}
        self._waiters: dict[int, list[Future[SessionView]]] = {}
        self._next_watch_ns = 0
        self._is_closing = False
        self._fault: BaseException | None = None
        for each in before:
            self._take_up(each, time.monotonic_ns())
        self._inbox = Inbox("the coordinator", INBOX)
        name = f"vdag-coordinator-{next(_count)}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str:
        """Why the thread has ended by itself; empty if it has not."""
        return "" if self._fault is None else f"coordinator failed: {self._fault!r}"

    # Any thread.

    def get(self, session_id: int) -> SessionView | None:
        """Return how a session stands; None if there is none of that number, or it is deleted."""
        return self._views.get(session_id)

    def all(self) -> Sequence[SessionView]:
        """Return all sessions, oldest first."""
        views = dict(self._views)  # others may be coming and going
        return [views[number] for number in sorted(views)]

    def create(self, request: SessionRequest) -> Future[int]:
        """Place a session, record it and have its nodes init it; the result is its number.

        The future fails with NotFound, ConfigError, GraphError or PlanError if it can never be.
        """
        prepared: list[Deployment] = []

        def record(_: int) -> Future[int]:
            if len(self._deployments) >= MAX_SESSIONS:
                raise Saturated(f"{MAX_SESSIONS} sessions are there, which is the limit")
            prepared.append(self._office.prepare(request))
            return self._office.record(prepared[0])

        def begin(session_id: int, now_ns: int) -> None:
            deployment = self._office.number(prepared[0], session_id)
            self._deployments[session_id] = deployment
            self._tell(Began(now_ns, session_id, deployment.nodes))
            if request.start:
                self._tell(Wanted(now_ns, session_id, "start"))

        return self._inbox.call(record, begin)

    def wish(self, session_id: int, wish: Wish) -> tuple[Future[None], Future[SessionView]]:
        """Have a session started, stopped or deleted.

        Returns:
            What is done when that is ordered, or fails with NotFound or InvalidTransition; and how
            the session stands when nothing of it is under way any more.
        """
        settled: Future[SessionView] = Future()
        settled.set_running_or_notify_cancel()  # who stops waiting for it does not undo it

        def work(now_ns: int) -> None:
            self._require(session_id)
            waiting = self._waiters.setdefault(session_id, [])
            waiting.append(settled)
            try:
                self._tell(Wanted(now_ns, session_id, wish))
            except VdagError:
                waiting.remove(settled)
                raise

        return self._inbox.call(work), settled

    def settled(self, session_id: int) -> Future[SessionView]:
        """Return how a session stands as soon as nothing of it is under way."""

        def work(_: int) -> Future[SessionView]:
            session = self._require(session_id)
            found: Future[SessionView] = Future()
            if self._views[session_id].is_settled:
                found.set_result(self._views[session_id])
            else:
                self._waiters.setdefault(session.session_id, []).append(found)
            return found

        return self._inbox.call(work)

    def close(self) -> None:
        """End the thread; sessions on nodes go on, and are taken up at the next start."""
        self._is_closing = True
        self._inbox.bell.ring()
        self._thread.join(JOIN_TIMEOUT_S)
        if self._thread.is_alive():
            logger.error("%s does not end within %g s", self._thread.name, JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # From here on everything runs on the thread, but for `_take_up`.

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._wait()
                now_ns = time.monotonic_ns()
                self._inbox.run(now_ns)
                self._probe(now_ns)
                self._office.tick(now_ns)
                due_ns = self._book.next_due_ns()
                if due_ns is not None and now_ns >= due_ns:
                    self._tell(Tick(now_ns))
                if now_ns >= self._next_watch_ns:
                    self._next_watch_ns = now_ns + WATCH_NS
                    self._watch(now_ns)
            self._office.save()
        except BaseException as err:  # kept for whoever asks
            logger.exception("the coordinator has failed")
            self._fault = err
        finally:
            self._inbox.close()
            waiting, self._waiters = self._waiters, {}
            for found in itertools.chain.from_iterable(waiting.values()):
                found.set_exception(ChannelClosed("the coordinator is closed"))

    def _wait(self) -> None:
        bell = self._inbox.bell
        poll = select.poll()
        poll.register(bell.fileno(), select.POLLIN)
        if poll.poll(BUSY_MS if self._probes else IDLE_MS):
            bell.hush()

    def _require(self, session_id: int) -> Deployment:
        deployment = self._deployments.get(session_id)
        if deployment is None:
            raise NotFound(f"session {session_id} is not known")
        return deployment

    def _tell(self, event: Event) -> None:
        """Tell the book of an event, and carry out what follows."""
        for instruction in self._book.handle(event):
            self._carry_out(instruction, event.now_ns)
        session_id = getattr(event, "session_id", None)
        for number in [session_id] if session_id is not None else list(self._deployments):
            self._publish(number)

    def _carry_out(self, instruction: Instruction, now_ns: int) -> None:
        deployment = self._deployments[instruction.session_id]
        if isinstance(instruction, Order):
            # A node that is told the next thing need not answer for the one before.
            for step in ("init", "start", "stop", "delete"):
                self._probes.pop((instruction.session_id, instruction.node_id, step), None)
            self._probes[(instruction.session_id, instruction.node_id, instruction.step)] = (
                self._begin(
                    lambda: self._office.order(deployment, instruction.node_id, instruction.step)
                )
            )
        elif isinstance(instruction, SwitchOver):
            switching = self._begin(lambda: self._office.switch(deployment))
            self._probes[instruction.session_id, ALL, "switch"] = switching
        elif isinstance(instruction, Forget):
            self._probes.pop((instruction.session_id, ALL, "switch"), None)
            self._office.forget(deployment, now_ns, is_moved=instruction.nodes is not None)
        elif isinstance(instruction, Note):
            self._office.note(deployment, instruction.state, instruction.reason)

    def _begin(self, order: Callable[[], Probe]) -> Probe:
        """Order something; what cannot even be ordered is answered with the reason."""
        try:
            return order()
        except VdagError as err:
            reason = str(err)
            return lambda: reason

    def _probe(self, now_ns: int) -> None:
        for key, probe in tuple(self._probes.items()):
            try:
                reason = probe()
            except VdagError as err:
                reason = str(err) or type(err).__name__
            except Exception as err:  # a fault of ours; the other sessions go on
                logger.exception("session %d: %s of node %d", *key[::2], key[1])
                reason = f"{type(err).__name__}: {err}"
            if reason is not None and self._probes.get(key) is probe:
                del self._probes[key]
                self._hear(key, reason, now_ns)

    def _hear(self, key: tuple[int, int, str], reason: str, now_ns: int) -> None:
        session_id, node_id, step = key
        deployment = self._deployments.get(session_id)
        if deployment is None:
            return
        if step != "switch":
            self._tell(Answered(now_ns, session_id, node_id, step, reason))  # type: ignore[arg-type]
            return
        if not reason:
            self._office.moved(deployment)
        self._tell(Moved(now_ns, session_id, deployment.nodes, reason))

    def _watch(self, now_ns: int) -> None:
        for session in tuple(self._book):
            deployment = self._deployments[session.session_id]
            try:
                for event in self._office.watch(deployment, session, now_ns):
                    if isinstance(event, MoveWanted):
                        logger.info("session %d is moved: %s", session.session_id, event.cause)
                    self._tell(event)
            except VdagError as err:
                logger.warning("session %d: %s", session.session_id, err)
            except Exception:  # a fault of ours; the other sessions are watched
                logger.exception("session %d cannot be watched", session.session_id)
            self._publish(session.session_id)

    def _publish(self, session_id: int) -> None:
        """Show how a session stands, and tell those who wait for it."""
        deployment, session = self._deployments.get(session_id), self._book.get(session_id)
        if deployment is None:
            return
        view = self._office.view(deployment, session)
        if session is None:
            self._views.pop(session_id, None)
            del self._deployments[session_id]
        else:
            self._views[session_id] = view
        if view.is_settled:
            for found in self._waiters.pop(session_id, ()):
                found.set_result(view)

    def _take_up(self, found: Remembered, now_ns: int) -> None:
        deployment, state = self._office.take_up(found), found[1]
        self._deployments[deployment.session_id] = deployment
        self._tell(Began(now_ns, deployment.session_id, deployment.nodes, is_running=True))
        if state != State.RUNNING:
            self._tell(Wanted(now_ns, deployment.session_id, "delete"))
