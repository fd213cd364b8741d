"""`Job`: a graph run over a source by the workers of exchanges.

A thread reads the source: each frame gets a slot of the node's shared memory, and one descriptor
for every independent branch of the graph goes to the exchange. Another thread takes in what comes
home, joins the branches of a frame, and gives up frames that do not come. The caller iterates the
results in the order of the frames. The rules are in `vdag.job.homecoming`, the routes in
`vdag.itinerary`, the memory in `vdag.job.slots`; here are the sockets, the clock and the lock.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from vdag.errors import ConfigError, FrameFormatError, SourceError
from vdag.figures import PipelineStats, TaskTimes
from vdag.frame import Frame, Lease, UInt8Image
from vdag.graph import Graph
from vdag.itinerary import lighten, plan_itinerary
from vdag.job.homecoming import Homecoming, Policy
from vdag.job.mailbox import Mailbox, home_address
from vdag.job.places import Places
from vdag.job.slots import Parcel, Slots
from vdag.job.trip import Trip, read_message, stage_error
from vdag.metrics import Histogram
from vdag.results import Result
from vdag.transport import messages
from vdag.transport.messages import CreditWanted, Dropped, Grant, Join, Leave

if TYPE_CHECKING:
    from vdag._native.ring import Arena

__all__ = ["Job", "JobStats"]

logger = logging.getLogger(__name__)

#: How long `close` waits for a source that is inside a read.
CLOSE_TIMEOUT_S = 10.0
#: Beyond this the messages about so many frames would not fit the sockets between.
MAX_IN_FLIGHT = 1024
#: Reasons of an exchange that are the frame's own fault, or its task's: the caller may see them.
FAULTS = MappingProxyType({"failed": "error", "poison": "poison"})


@dataclass(frozen=True, slots=True)
class JobStats:
    """A job at one moment.

    Attributes:
        frames: the books and the times. A task's figures are those of the frames that came home,
            by the clock of the worker; `wait` begins when the job took the frame in.
        late: descriptors that came home in vain: their frame had left.
        stray: messages that were not for this job, or nothing at all.
    """

    frames: PipelineStats
    late: int
    stray: int


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
        placement: task to the address of the exchange that does it, where it is another one.
        policy: `block` processes every frame, `latest` drops a waiting frame for a newer one, and
            a frame that finds no slot, as `arena_full`.
        max_in_flight: most frames that have left and are not yet taken by the caller.
        frame_timeout_s: a frame that is not home by then is dropped as `timeout`; also the longest
            wait for a slot under `block`.
        deadline_s: from its capture; tells exchanges what is urgent, and what is worth nothing.
        on_error: `raise` hands the error of a task, or the death of two workers over a frame, to
            the caller as a `StageError` at that frame's turn; `drop` counts and goes on.
        close_source: called by `close`, to end the source's reading; None leaves it open.
        job_id: unique on the node; drawn unless given.

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
        policy: Policy = "block",
        max_in_flight: int = 8,
        frame_timeout_s: float = 60.0,
        deadline_s: float | None = None,
        on_error: Literal["raise", "drop"] = "raise",
        close_source: Callable[[], None] | None = None,
        job_id: str | None = None,
    ) -> None:
        if on_error not in ("raise", "drop"):
            raise ConfigError(f"on_error is {on_error!r}, expected raise or drop")
        if graph.generator != "SingleFrameGenerator":
            raise ConfigError(f"workers take single frames, not those of a {graph.generator}")
        if not 1 <= max_in_flight <= MAX_IN_FLIGHT:
            raise ConfigError(f"max_in_flight is {max_in_flight}, expected 1 to {MAX_IN_FLIGHT}")
        if deadline_s is not None and deadline_s <= 0:
            raise ConfigError(f"deadline_s is {deadline_s}, expected above 0")
        self.id = job_id or secrets.token_hex(8)
        self.graph, self._source = graph, source
        self._arena, self._close_source, self._on_error = arena, close_source, on_error
        self._exchange, self._home = exchange, home_address(exchange, self.id)
        self._itinerary = plan_itinerary(
            graph,
            exchange=exchange,
            home=self._home,
            job=self.id,
            stream=secrets.randbits(63),
            placement=placement,
            plan=plan,
        )
        self._books = Homecoming(
            branches=len(self._itinerary.routes),
            max_in_flight=max_in_flight,
            policy=policy,
            timeout_ns=round(frame_timeout_s * 1e9),
        )
        self._policy = policy
        self._frame_timeout_s = frame_timeout_s
        self._deadline_ns = None if deadline_s is None else round(deadline_s * 1e9)
        self._slots = Slots(
            arena,
            wait_s=frame_timeout_s if policy == "block" else 0.0,
            is_closing=lambda: self._closing,
        )
        self._places = Places(self._itinerary.first_tasks, max_in_flight)
        self._changed = threading.Condition()
        self._trips: dict[int, Trip] = {}
        self._delay = Histogram()
        self._times = TaskTimes(graph.tasks)
        self._start_ns = self._last_ns = 0
        self._stray = 0
        self._last_seq = -1
        self._source_ended = self._closing = False
        self._source_error: BaseException | None = None
        self._fault: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._mailbox: Mailbox | None = None

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
        with self._changed:
            return sum(self._books.dropped.values())

    def stats(self) -> JobStats:
        """Return where the frames are and how long the tasks took, at this moment."""
        with self._changed:
            books = self._books
            frames = PipelineStats(
                read=books.admitted,
                delivered=books.delivered,
                dropped=MappingProxyType(dict(books.dropped)),
                in_flight=books.in_flight,
                elapsed_s=(self._last_ns - self._start_ns) / 1e9,
                delay=self._delay.summary(),
                tasks=MappingProxyType(self._times.stats()),
            )
            return JobStats(frames, books.late, self._stray)

    def close(self) -> None:
        """Stop reading, count what is in flight as `closed`, take leave; harmless when repeated.

        A source that does not leave its read in `CLOSE_TIMEOUT_S` is left behind, with a warning.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._close_source is not None:
            self._close_source()  # wakes a read that waits for a camera
        if self._mailbox is not None:
            self._mailbox.ring()
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
            if thread.is_alive():
                logger.warning("%s still busy %.0f s after close", thread.name, CLOSE_TIMEOUT_S)
        with self._changed:
            for seq in self._books.drop_all("closed"):
                self._trips.pop(seq).parcel.release()
            mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            mailbox.send(messages.encode(Leave(self.id)))
            mailbox.close()

    def _start(self) -> None:
        if self._threads or self._closing:
            raise ConfigError("a job is iterated once")
        self._mailbox = mailbox = Mailbox(self._exchange, self._home)
        dag = json.dumps(lighten(self.graph).to_dag()).encode()
        mailbox.send(messages.encode(Join(self.id, self._home, dag)))
        self._ask(mailbox)
        self._start_ns = self._last_ns = time.monotonic_ns()
        self._threads = [
            threading.Thread(target=self._read, name="vdag-source", daemon=True),
            threading.Thread(target=self._receive, args=(mailbox,), name="vdag-home", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        """Body of the source thread: give frames slots and let them go until the source ends."""
        try:
            for frame in self._source:
                if not self._take_in(frame):
                    break
        except BaseException as err:  # handed to the caller, who iterates in another thread
            self._source_error = err
        with self._changed:
            self._source_ended = True
            self._changed.notify_all()

    def _take_in(self, frame: Frame) -> bool:
        """Wait for a slot and for room, and take the frame in; False when the job closes."""
        if frame.seq <= self._last_seq:
            frame.release()
            raise SourceError(f"frame {frame.seq} comes after frame {self._last_seq}")
        self._last_seq = frame.seq
        parcel = self._slots.take_in(frame)
        with self._changed:
            if parcel is None:
                if not self._closing:
                    self._books.refuse("arena_full")
                return not self._closing
            self._changed.wait_for(lambda: self._closing or self._books.has_room())
            if self._closing:
                parcel.release()
                return False
            self._trips[frame.seq] = Trip(parcel, time.monotonic_ns())
            superseded = self._books.admit(frame.seq)
            if superseded is not None:
                self._trips.pop(superseded).parcel.release()
            self._dispatch()
        return True

    def _dispatch(self) -> None:
        """Let the waiting frame go if it may, and tell everybody; called under the lock."""
        while self._mailbox is not None:
            granted = self._policy == "latest" or self._places.are_granted()
            seq = self._books.depart(time.monotonic_ns(), granted=granted)
            if seq is None:
                break
            try:
                if not self._send(self._mailbox, self._trips[seq].parcel):
                    self._drop(seq, "peer_full")
            except BaseException:
                self._drop(seq, "error")
                raise
        self._changed.notify_all()

    def _send(self, mailbox: Mailbox, parcel: Parcel) -> bool:
        """Send a frame along every route; False if the exchange does not read."""
        frame = parcel.frame
        deadline_ns = 0 if self._deadline_ns is None else frame.capture_ns + self._deadline_ns
        reference = parcel.commit(self._arena, len(self._itinerary.routes))
        for part in self._itinerary.descriptors(frame, reference, deadline_ns):
            if not mailbox.send(part):
                return False
        self._places.use()
        self._ask(mailbox)
        return True

    def _ask(self, mailbox: Mailbox) -> None:
        """Ask for places, if it is time to."""
        if self._policy == "block" and (count := self._places.ask()):
            for task in self._places.tasks:
                mailbox.send(messages.encode(CreditWanted(self.id, task, count)))

    def _receive(self, mailbox: Mailbox) -> None:
        """Body of the home thread: take in what comes home, and give up what does not."""
        try:
            wait_s = 0.0
            while not self._closing:
                received = mailbox.receive(wait_s)
                with self._changed:
                    for parts in received:
                        self._take_home(parts)
                    now_ns = time.monotonic_ns()
                    for seq in self._books.expire(now_ns):
                        logger.warning("frame %d of job %s timed out", seq, self.id)
                        self._trips.pop(seq).parcel.release()
                    self._dispatch()
                    due_ns = self._books.next_due_ns()
                # What leaves from now on is due later than a wait of the full time-out.
                wait_s = self._frame_timeout_s if due_ns is None else (due_ns - now_ns) / 1e9
        except BaseException as err:  # a fault of ours: the caller must not wait for ever
            with self._changed:
                self._fault = err
                self._changed.notify_all()

    def _take_home(self, parts: list[bytes]) -> None:
        """Act on one message; one that makes no sense is counted and left. Under the lock."""
        try:
            message = read_message(parts, self._itinerary)
        except FrameFormatError as err:
            self._stray += 1
            logger.debug("job %s: stray message: %s", self.id, err)
            return
        if isinstance(message, Grant):
            self._places.grant(message.task, message.count)
        elif isinstance(message, Dropped):
            self._lose(message)
        elif self._books.arrive(message.seq, message.branch):
            self._trips[message.seq].bring(message.found, time.monotonic_ns())

    def _lose(self, notice: Dropped) -> None:
        """Give up a frame that an exchange has dropped, or keep its error for its turn."""
        if notice.reason not in FAULTS:
            logger.debug("frame %d: %s at %s", notice.seq, notice.reason, notice.task)
            self._drop(notice.seq, notice.reason)
            return
        error, reason = stage_error(notice), FAULTS[notice.reason]
        self._times.fail(notice.task)
        if self._on_error == "drop":
            logger.warning("%s", error)
            self._drop(notice.seq, reason)
        elif self._books.fail(notice.seq, reason):
            self._trips[notice.seq].error = error

    def _drop(self, seq: int, reason: str) -> None:
        if self._books.drop(seq, reason):
            self._trips.pop(seq).parcel.release()

    def _next(self) -> Result | None:
        """Wait for the next frame's result; None at the end of the source."""
        with self._changed:
            while True:
                if self._fault is not None:
                    raise self._fault
                if self._closing:
                    return None
                if (seq := self._books.next_turn()) is not None:
                    break
                if self._source_ended and not self._books.in_flight:
                    if self._source_error is not None:
                        raise self._source_error
                    return None
                self._changed.wait()
            trip = self._trips.pop(seq)
            self._last_ns = time.monotonic_ns()
            if self._books.leave(seq):
                self._observe(trip)
            self._dispatch()
        if trip.error is not None:
            trip.parcel.release()
            raise trip.error
        self._slots.hand_over(trip.parcel.frame)
        return trip.result(self.graph.tasks)

    def _observe(self, trip: Trip) -> None:
        self._delay.observe(trip.delay_ns)
        for task, (start_ns, end_ns) in trip.times_ns.items():
            self._times.observe(task, start_ns - trip.admitted_ns, end_ns - start_ns)
