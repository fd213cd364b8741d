"""`Controller`: the cloud's mind: a thread that owns the scheduler and all that it decides about.

    switchboard    what nodes say over the plan channel, and their orders
    conductor      the scheduler, and the carrying out of its instructions
    register       queries, as they are shown
    recorder       queries, plans and results, as they are written down
    advisers       who runs policies
    hiring         tasks that nodes do because somebody, such as a coordinator, holds them

Others talk to it as the `Desk`: looking returns a snapshot, everything else is put into a bounded
inbox that the thread empties, and a future tells what became of it.

After a restart the queries are read from the records before the first node is heard. Nodes join
again by themselves, with the jobs that have gone on meanwhile.
"""

from __future__ import annotations

import itertools
import logging
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from vdag.control.advisers import Advisers
from vdag.control.cluster import NodeView
from vdag.control.controller.conductor import Conductor
from vdag.control.controller.delivery import Delivery, Dispatching
from vdag.control.controller.foreigners import Foreigners
from vdag.control.controller.inbox import Inbox
from vdag.control.controller.membership import Membership, draw_session
from vdag.control.controller.recorder import Recorder
from vdag.control.controller.register import Register
from vdag.control.controller.switchboard import Switchboard
from vdag.control.controller.values import ControllerSettings, ControllerStats
from vdag.control.desk import Jobs, KnownNode, NodeJoining, QueryRequest, QueryView
from vdag.control.profile.refining import load_profile
from vdag.control.records import ENDED, FrameResult, Store
from vdag.control.scheduling.events import Event
from vdag.errors import ChannelClosed
from vdag.plan import Constraint
from vdag.threads import wait_ended
from vdag.transport.keys import Gate
from vdag.transport.rpc import Replier

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.transport.keys import KeyFolder

__all__ = ["Controller", "ControllerSettings", "ControllerStats"]

logger = logging.getLogger(__name__)

#: What others want, and the thread has not got to.
INBOX = 10_000
#: Questions of nodes that are acted on before anything else gets its turn.
BURST = 64
IDLE_MS = 1_000
JOIN_TIMEOUT_S = 10.0

_count = itertools.count()
_T = TypeVar("_T")


class Controller:
    """A `Desk`; closed by `close` or a `with` block. Its thread starts with it.

    Args:
        store: the records; the caller's, and it outlives the controller.
        settings: see `ControllerSettings`.
        keys: of this node, and whom it trusts; None for loopback.
        dispatch: for nodes that are pushed to, see `Dispatching`; None if there are none.

    Raises:
        ConfigError: a setting has no meaning, or the address is beyond loopback without keys.
        TransportError: the address cannot be bound.
        Saturated: the records cannot be read.
    """

    def __init__(
        self,
        store: Store,
        settings: ControllerSettings | None = None,
        *,
        keys: KeyFolder | None = None,
        dispatch: Dispatching | None = None,
    ) -> None:
        settings = settings or ControllerSettings()
        self._store = store
        self._members, self._register = Membership(), Register()
        self._recorder = Recorder(store, self._members)
        self._advisers = Advisers()
        foreigners = Foreigners(settings.service_port, self._recorder)
        self._conductor = Conductor(
            settings.scheduler,
            self._members,
            foreigners,
            Delivery(self._members, foreigners, dispatch),
            self._advisers,
            recorder=self._recorder,
            register=self._register,
            policy=settings.policy,
            allowed=settings.policies,
            profile=load_profile(settings.profile, settings.kept),
            kept=settings.kept,
        )
        self._known: tuple[KnownNode, ...] = ()
        self._fault: BaseException | None = None
        self._faults = 0
        self._is_closing = False
        self._conductor.hiring.spared.update(settings.spared)
        self._conductor.restore(time.monotonic_ns())
        self._look_around()
        self._open_channel(settings, keys)
        self._inbox = Inbox("the controller", INBOX)
        name = f"vdag-controller-{next(_count)}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def channel(self) -> str:
        """Address of the plan channel, with the port that was free."""
        return self._replier.bound

    @property
    def fault(self) -> str:
        """Why the controller has ended by itself; empty if it has not."""
        return "" if self._fault is None else f"controller failed: {self._fault!r}"

    def members(self) -> Sequence[NodeView]:
        """Return the nodes of the plan channel that are alive; for a `Fleet`."""
        return self._members.nodes()

    def stats(self) -> ControllerStats:
        """Return how the controller is."""
        return ControllerStats(
            self._switchboard.stats(),
            len(self._register),
            len(self._inbox),
            self._conductor.late,
            self._faults + self._inbox.faults,
            self._recorder.malformed,
            self._gate.refused if self._gate is not None else 0,
            self._recorder.chronicle.stats(),
        )

    def tell(self, event: Event) -> None:
        """Take note of an event from elsewhere, such as `DispatchFailed`; its time is set here.

        Raises:
            Saturated: there is too much to do.
        """
        self._inbox.tell(lambda now_ns: self._conductor.take(replace(event, now_ns=now_ns)))

    def answers(self, node_addr: str) -> None:
        """Take note that a node answers again which was said to be lost, by `DispatchFailed`.

        Raises:
            Saturated: there is too much to do.
        """
        self._inbox.tell(lambda now_ns: self._conductor.find_again(node_addr, now_ns))

    # The desk: looking.

    def query(self, query_id: str) -> QueryView | None:
        """Return how a query is now; None if it is not here (any more)."""
        return self._register.get(query_id)

    def queries(self) -> Sequence[QueryView]:
        """Return all queries that are here, oldest first."""
        return self._register.all()

    def nodes(self) -> Sequence[KnownNode]:
        """Return the nodes that have joined, also those that are away."""
        jobs: dict[str, list[str]] = {}
        for view in self._register.all():
            if view.state < ENDED:
                jobs.setdefault(view.node_addr, []).append(view.query_id)
        return [replace(node, job_uids=jobs.get(node.node_addr, ())) for node in self._known]

    # The desk: telling.

    def report(
        self,
        query_id: str,
        frames: Sequence[FrameResult],
        *,
        plan: Mapping[str, Any] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in results that a node has posted; see `Desk.report`.

        Raises:
            Saturated: there is too much to do; nothing was taken in.
        """
        self._store.add_results(query_id, frames)
        self.report_runtime(query_id, runtime or {})

    def report_runtime(self, query_id: str, runtime: Mapping[str, Any]) -> None:
        """Take in what a node has measured.

        Raises:
            Saturated: there is too much to do.
        """
        self._inbox.tell(lambda now_ns: self._conductor.hear(query_id, runtime, now_ns))

    # The desk: changing.

    def submit(self, request: QueryRequest) -> Future[str]:
        """Take in a query; see `Desk.submit`."""
        conductor = self._conductor
        return self._inbox.call(
            lambda _: conductor.record_query(request),
            lambda query_id, now_ns: conductor.admit(query_id, request, now_ns),
        )

    def stop(self, query_id: str) -> Future[bool]:
        """End a query and its job; its results stay."""
        return self._inbox.call(lambda now_ns: self._conductor.stop(query_id, now_ns))

    def delete(self, query_id: str) -> Future[bool]:
        """End a query and forget it with its results."""
        return self._inbox.call(lambda now_ns: self._conductor.delete(query_id, now_ns))

    def change_constraint(self, query_id: str, constraint: Constraint) -> Future[bool]:
        """Put a constraint in place of a query's."""
        return self._inbox.call(
            lambda now_ns: self._conductor.constrain(query_id, constraint, now_ns)
        )

    def prefer_plan(self, query_id: str, documents: Mapping[str, Any]) -> Future[bool]:
        """Follow a plan from outside from now on, until the policy has another."""
        return self._inbox.call(lambda now_ns: self._conductor.prefer(query_id, documents, now_ns))

    def join(self, joining: NodeJoining) -> Future[str]:
        """Register a video of a node of another make; then `nodes` tells of it."""
        return self._inbox.call(
            lambda now_ns: self._conductor.join(joining, now_ns), lambda *_: self._look_around()
        )

    def jobs_for(self, node_addr: str, bandwidth: Mapping[str, float]) -> Future[Jobs]:
        """Return the work of a node that asks for it; see `Desk.jobs_for`."""
        return self._inbox.call(
            lambda now_ns: self._conductor.work_of(node_addr, bandwidth, now_ns)
        )

    def call(self, work: Callable[[Conductor, int], _T | Future[_T]]) -> Future[_T]:
        """Have something done by the controller's thread: for what is built on top of it.

        Args:
            work: is given the conductor and the time in ns; must not wait.
        """
        return self._inbox.call(lambda now_ns: work(self._conductor, now_ns))

    def close(self) -> None:
        """Listen no more, and end the thread; may be called again. Queries go on at the next start.

        Raises:
            ChannelClosed: the thread had failed; `__cause__` says how.
        """
        self._is_closing = True
        self._inbox.bell.ring()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)
        if self._fault is not None:
            raise ChannelClosed(f"controller at {self.channel} failed") from self._fault

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_channel(self, settings: ControllerSettings, keys: KeyFolder | None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate: Gate | None = None
        try:
            curve = keys.to_bind() if keys is not None else None
            self._gate = Gate(self._context, keys) if keys is not None else None
            self._replier = Replier(settings.channel, context=self._context, curve=curve)
        except BaseException:
            self._close_channel()
            raise
        self._switchboard = Switchboard(
            self._replier,
            self._members,
            self._conductor,
            chronicle=self._recorder.chronicle,
            session=draw_session(),
            report_s=settings.report_s,
            hold_s=settings.hold_s,
            wake=lambda: self._inbox.bell.ring(),
        )

    def _close_channel(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._context.destroy(linger=0)

    # From here on everything runs on the controller's own thread.

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._wait()
                self._turn(time.monotonic_ns())
        except BaseException as err:  # kept for whoever closes it
            logger.exception("controller at %s failed", self.channel)
            self._fault = err
        finally:
            self._inbox.close()
            self._conductor.close(time.monotonic_ns())
            self._advisers.close()
            self._replier.close()
            self._close_channel()

    def _wait(self) -> None:
        due_ns = [each.due_ns() for each in (self._conductor, self._switchboard)]
        soonest_ns = min((each for each in due_ns if each is not None), default=None)
        wait_ms = IDLE_MS
        if soonest_ns is not None:
            left_ns = max(soonest_ns - time.monotonic_ns(), 0)
            wait_ms = min(-(-left_ns // 1_000_000), IDLE_MS)
        bell = self._inbox.bell
        polled: list[tuple[Any, int]] = [
            (bell.fileno(), zmq.POLLIN),
            (self._replier.socket, zmq.POLLIN),
            *((fd, _zmq_events(events)) for fd, events in self._advisers.fds()),
        ]
        if any(each == bell.fileno() for each, _ in zmq.zmq_poll(polled, wait_ms)):
            bell.hush()

    def _turn(self, now_ns: int) -> None:
        """Do all that there is to do now."""
        self._inbox.run(now_ns)
        for _ in range(BURST):
            try:
                if not self._switchboard.receive(time.monotonic_ns()):
                    break
            except Exception:  # one message must not stop the others, whatever it is
                self._faults += 1
                logger.exception("a message to %s could not be acted on", self.channel)
        now_ns = time.monotonic_ns()
        self._conductor.tick(now_ns)
        self._switchboard.tick(now_ns)
        self._switchboard.flush()
        self._look_around()

    def _look_around(self) -> None:
        self._known = self._conductor.known_nodes()


def _zmq_events(events: int) -> int:
    """Return poll(2)'s events as ZeroMQ's, which has other numbers for them."""
    return zmq.POLLIN * bool(events & select.POLLIN) | zmq.POLLOUT * bool(events & select.POLLOUT)
