"""`Job`: a graph run over a source by the workers of exchanges.

A thread reads the source: each frame gets a slot of the node's shared memory, and one descriptor
for every independent branch of the graph goes to the exchange. What comes home lies in
`vdag.job.arrivals`; whoever has the job's lock next, mostly the caller who waits for it, has
`vdag.job.traffic` act on it; another thread does when nobody else does in time. The caller iterates
the results in the order of the frames. Here are the threads and the lock.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from vdag.errors import ConfigError, SourceError
from vdag.frame import Frame, Lease, UInt8Image
from vdag.graph import Graph
from vdag.itinerary import Itinerary, briefing
from vdag.job.arrivals import Arrivals, Latch
from vdag.job.homecoming import Homecoming, Policy
from vdag.job.mailbox import Hatch, Mailbox, open_way
from vdag.job.places import Places
from vdag.job.routes import Routes
from vdag.job.settings import MAX_LYING, MAX_PLACES, MAX_WAIT_S, OnDrop, check_settings
from vdag.job.slots import Parcel, Slots
from vdag.job.traffic import JobStats, Traffic
from vdag.job.trip import Trip
from vdag.results import Result
from vdag.threads import wait_ended
from vdag.transport import messages
from vdag.transport.messages import Join, Leave

if TYPE_CHECKING:
    from vdag._native.ring import Arena

__all__ = ["MAX_PLACES", "Job", "JobStats"]

logger = logging.getLogger(__name__)

#: How long `close` waits for a source that is inside a read.
CLOSE_TIMEOUT_S = 10.0


class Job:
    """Runs `graph` over `source` and iterates one `Result` per frame, in order.

    Reading begins with the iteration. The job owns no worker, no exchange and no source. A result's
    frame belongs to the caller; if the slots run out, its pixels move to memory of their own by
    themselves.

    Args:
        graph: a checked graph of frames.
        source: yields `Frame`s with rising `seq`; see `allocate`.
        exchange: address of the exchange of this node.
        arena: its shared memory, or an attachment to it; open until the job is closed.
        plan: number of the plan.
        placement: task to the address of the node that does it, where it is another one; see
            `vdag.transport.peers`.
        alias: address under which other nodes know this one; needed to place tasks on them.
        policy: `block` processes every frame, `latest` drops a waiting frame for a newer one, and
            a frame that finds no slot, as `arena_full`.
        max_in_flight: most frames that have left and are not yet taken by the caller.
        places: under `block`, places to have in the exchange's queues; `max_in_flight` unless
            given. More are asked for less often, and are out of reach of other jobs.
        frame_timeout_s: a frame that is not home by then is dropped as `timeout`; also the longest
            wait for a slot under `block`.
        deadline_s: from its capture; tells exchanges what is urgent, and what is worth nothing.
        on_error: `raise` hands the error of a task, or the death of two workers over a frame, to
            the caller as a `StageError` at that frame's turn; `drop` counts and goes on.
        close_source: called by `close`, to end the source's reading; None leaves it open.
        job_id: unique on the node; drawn unless given.
        on_drop: is told of every frame without a result; see `OnDrop`.

    Raises:
        ConfigError: an argument has no meaning.
        GraphError: the graph has too many branches or tasks to travel.
        PlanError: `placement` does not fit the graph.
    """

    def __init__(
        self,
        graph: Graph,
        source: Iterable[Frame],
        exchange: str,
        arena: Arena,
        *,
        plan: int = 0,
        placement: Mapping[str, str] = MappingProxyType({}),
        alias: str | None = None,
        policy: Policy = "block",
        max_in_flight: int = 8,
        places: int | None = None,
        frame_timeout_s: float = 60.0,
        deadline_s: float | None = None,
        on_error: Literal["raise", "drop"] = "raise",
        close_source: Callable[[], None] | None = None,
        job_id: str | None = None,
        on_drop: OnDrop | None = None,
    ) -> None:
        check_settings(graph, max_in_flight, places, deadline_s, on_error)
        self.id = job_id or secrets.token_hex(8)
        self.graph, self._exchange = graph, exchange
        self._source, self._close_source = source, close_source
        self._routes = Routes(graph, exchange, self.id, alias)
        itinerary = self._routes.lay_out(plan, placement)
        self._books = Homecoming(
            branches=len(itinerary.routes),
            max_in_flight=max_in_flight,
            policy=policy,
            timeout_ns=round(frame_timeout_s * 1e9),
        )
        here = self._routes.first_tasks_here(itinerary)
        self._traffic = Traffic(
            itinerary,
            arena,
            self._books,
            tasks=graph.tasks,
            places=Places(here, places or max_in_flight) if policy == "block" else None,
            deadline_ns=None if deadline_s is None else round(deadline_s * 1e9),
            on_error=on_error,
            on_drop=on_drop,
        )
        self._frame_timeout_s = frame_timeout_s
        self._slots = Slots(
            arena,
            wait_s=frame_timeout_s if policy == "block" else 0.0,
            is_closing=lambda: self._closing,
        )
        self._lock = threading.Lock()
        self._arrivals = Arrivals(MAX_LYING + max_in_flight * len(itinerary.routes))
        self._last_seq = -1
        self._next_plan: tuple[Itinerary, Callable[[], None] | None] | None = None
        self._source_ended = self._closing = False
        self._source_error: BaseException | None = None
        self._fault: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def allocate(self, width: int, height: int) -> tuple[UInt8Image, Lease]:
        """Return slot memory for a picture and its lease: an `allocate` for the job's source."""
        return self._slots.allocate(width, height)

    def __iter__(self) -> Iterator[Result]:
        """Start reading, and yield results until the source ends."""
        self._start()
        while (result := self._next()) is not None:
            yield result

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    @property
    def dropped(self) -> int:
        """Frames given up so far, whatever the reason; far cheaper than `stats`."""
        with self._lock:
            self._look()
            return sum(self._books.dropped.values())

    def stats(self) -> JobStats:
        """Return where the frames are and how long the tasks took, at this moment."""
        with self._lock:
            self._look()
            return self._traffic.stats()

    def replan(
        self,
        plan: int,
        placement: Mapping[str, str] = MappingProxyType({}),
        prepare: Callable[[], None] | None = None,
        models: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Go on under another plan, from the next frame that leaves; any thread may call it.

        If the source changes, frames read before that keep their plan, as do those that have left.
        Of several plans that come between two frames, the last counts.

        Args:
            plan: its number.
            placement: as of the constructor.
            prepare: changes the source, called by the thread that reads, between two frames.
            models: task to the model that it is done with; the others are left to the workers.

        Raises:
            PlanError: `placement` or `models` does not fit the graph; the plan before stays.
        """
        itinerary = self._routes.lay_out(plan, placement, models)
        with self._lock:
            if prepare is None and self._next_plan is None:
                here = self._routes.first_tasks_here(itinerary)
                self._traffic.follow(itinerary, here, with_waiting=True)
                self._look()
            else:
                before = None if self._next_plan is None else self._next_plan[1]
                self._next_plan = (itinerary, prepare or before)

    def give_up(self, endpoints: Collection[str], back: Collection[str] = ()) -> None:
        """Drop the frames with tasks at exchanges that are lost, see `Traffic.give_up`."""
        with self._lock:
            self._traffic.give_up(endpoints, back)
            self._look()

    def ask_to_close(self) -> None:
        """Stop reading and iterating soon, without waiting; `close` is still to be called."""
        self._closing = True
        self._arrivals.caller.set()
        self._arrivals.source.set()
        if self._close_source is not None:
            self._close_source()  # wakes a read that waits for a camera

    def close(self) -> None:
        """Stop reading, count what is in flight as `closed`, take leave; harmless when repeated.

        A source that does not leave its read in `CLOSE_TIMEOUT_S` is left behind, as the log says.
        """
        self.ask_to_close()
        if (mailbox := self._traffic.mailbox) is not None:
            mailbox.ring()
        wait_ended(*self._threads, timeout_s=CLOSE_TIMEOUT_S)
        with self._lock:
            mailbox = self._traffic.mailbox
            self._traffic.close()
        if mailbox is not None:
            mailbox.send(messages.encode(Leave(self.id)))
            mailbox.close()

    def _start(self) -> None:
        if self._threads or self._closing:
            raise ConfigError("a job is iterated once")
        mailbox = open_way(self._exchange, self._routes.home, self._arrivals)
        mailbox.send(messages.encode(Join(self.id, self._routes.home, briefing(self.graph))))
        self._traffic.open(mailbox)
        self._threads = [
            threading.Thread(target=self._read, name="vdag-source", daemon=True),
            threading.Thread(target=self._keep, args=(mailbox,), name="vdag-home", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        """Body of the source thread: give frames slots and let them go until the source ends."""
        try:
            frames = iter(self._source)
            while True:
                self._change_plan()
                frame = next(frames, None)
                if frame is None or not self._take_in(frame):
                    break
        except BaseException as err:  # handed to the caller, who iterates in another thread
            self._source_error = err
        self._arrivals.source.is_awaited = False
        self._source_ended = True
        self._arrivals.caller.set()
        self._arrivals.keeper.set()  # for what was left to this thread

    def _change_plan(self) -> None:
        """Begin with the next plan, if there is one; no frame is between source and exchange."""
        with self._lock:
            planned, self._next_plan = self._next_plan, None
            if planned is not None:
                itinerary = planned[0]
                self._traffic.follow(itinerary, self._routes.first_tasks_here(itinerary))
        if planned is not None and planned[1] is not None:
            planned[1]()

    def _take_in(self, frame: Frame) -> bool:
        """Wait for a slot and for room, and take the frame in; False when the job closes."""
        if frame.seq <= self._last_seq:
            frame.release()
            raise SourceError(f"frame {frame.seq} comes after frame {self._last_seq}")
        self._last_seq = frame.seq
        if (parcel := self._slots.take_in(frame)) is not None:
            return self._admit(frame.seq, parcel)
        with self._lock:
            if not self._closing:
                self._traffic.refuse(frame, "arena_full")
        return not self._closing

    def _admit(self, seq: int, parcel: Parcel) -> bool:
        """Wait for room, and let a frame wait to leave; False when the job closes."""
        latch = self._arrivals.source
        while True:
            latch.is_awaited = True
            with self._lock:
                if not self._books.has_room():
                    self._settle(latch)
                if self._closing:
                    parcel.release()
                    return False
                if self._books.has_room():
                    latch.is_awaited = False
                    self._traffic.admit(seq, parcel)
                    self._settle(latch)
                    return True
            latch.wait(MAX_WAIT_S)

    def _settle(self, mine: Latch | None = None) -> None:
        """Act on what has come home and on the clock, and let the waiting frame go if it may.

        Called under the lock by whoever is there, who wakes those that can go on now.

        Args:
            mine: the latch of the calling thread, which need not be woken.
        """
        arrivals, traffic = self._arrivals, self._traffic
        try:
            while True:
                arrivals.is_watched = True
                while arrivals:
                    traffic.take_home(*arrivals.take())
                traffic.expire(time.monotonic_ns())
                traffic.dispatch()
                arrivals.is_watched = False
                if not arrivals:
                    break
        finally:
            arrivals.is_watched = False
        if arrivals.caller is not mine and arrivals.caller.is_awaited and self._has_turn():
            arrivals.caller.set()
        if arrivals.source is not mine and arrivals.source.is_awaited and self._books.has_room():
            arrivals.source.set()

    def _has_turn(self) -> bool:
        """Say whether the caller need not wait any longer."""
        over = self._source_ended and not self._books.in_flight
        return over or self._books.next_turn() is not None

    def _look(self) -> None:
        """Settle for somebody who only asks; what goes wrong is the caller's to hear."""
        try:
            self._settle()
        except Exception as err:
            self._fault = err
            self._arrivals.caller.set()

    def _keep(self, mailbox: Mailbox | Hatch) -> None:
        """Body of the home thread: see to what nobody else sees to in time."""
        try:
            wait_s = 0.0
            while not self._closing:
                for parts in mailbox.receive(wait_s):
                    self._arrivals.lay_down(parts)
                with self._lock:
                    self._settle()
                    due_ns = self._books.next_due_ns()
                wait_s = self._frame_timeout_s  # what leaves from now on is due later than that
                if due_ns is not None:
                    wait_s = (due_ns - time.monotonic_ns()) / 1e9
        except BaseException as err:  # a fault of ours: the caller must not wait for ever
            self._fault = err
            self._arrivals.caller.set()

    def _next(self) -> Result | None:
        """Wait for the next frame's result; None at the end of the source."""
        if (trip := self._wait_for_turn()) is None:
            return None
        if trip.error is not None:
            trip.parcel.release()
            raise trip.error
        self._slots.hand_over(trip.parcel.frame)
        return trip.result(self.graph.tasks)

    def _wait_for_turn(self) -> Trip | None:
        latch = self._arrivals.caller
        try:
            while True:
                latch.is_awaited = True
                with self._lock:
                    self._settle(latch)
                    if self._fault is not None:
                        raise self._fault
                    if self._closing:
                        return None
                    if (seq := self._books.next_turn()) is not None:
                        latch.is_awaited = False
                        trip = self._traffic.take_turn(seq)
                        self._settle(latch)  # others may use its room
                        return trip
                    if self._source_ended and not self._books.in_flight:
                        if self._source_error is not None:
                            raise self._source_error
                        return None
                latch.wait(MAX_WAIT_S)
        finally:
            latch.is_awaited = False
