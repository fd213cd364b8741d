"""`Traffic`: a job's frames on their way, out and home: the rules put to work, under one lock.

Whoever has the job's lock calls it: it never waits, and wakes nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from vdag.errors import FrameFormatError
from vdag.figures import PipelineStats, TaskTimes
from vdag.job.homecoming import Homecoming
from vdag.job.places import Places
from vdag.job.settings import OnDrop
from vdag.job.trip import Trip, read_message, stage_error
from vdag.metrics import Histogram
from vdag.sparing import SparingLog
from vdag.transport import messages
from vdag.transport.messages import CreditWanted, Dropped, Grant

if TYPE_CHECKING:
    from vdag._native.ring import Arena
    from vdag.frame import Frame
    from vdag.itinerary import Itinerary
    from vdag.job.mailbox import Hatch, Mailbox
    from vdag.job.slots import Parcel

__all__ = ["JobStats", "Traffic"]

logger = logging.getLogger(__name__)

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


class Traffic:
    """See above.

    Args:
        itinerary: the routes; `follow` changes them.
        arena: where the frames' pixels are.
        books: of the job; for reading to others.
        tasks: in flow order, for the figures.
        places: those that the node's exchange has granted; None sends without asking for any.
        deadline_ns: from a frame's capture to its dead-line, None for none.
        on_error: see `Job`.
        on_drop: likewise.

    Attributes:
        mailbox: the way out; while it is None, frames wait.
    """

    def __init__(
        self,
        itinerary: Itinerary,
        arena: Arena,
        books: Homecoming,
        *,
        tasks: Iterable[str],
        places: Places | None,
        deadline_ns: int | None,
        on_error: Literal["raise", "drop"],
        on_drop: OnDrop | None = None,
    ) -> None:
        self.books = books
        self.mailbox: Mailbox | Hatch | None = None
        self._itinerary, self._arena, self._places = itinerary, arena, places
        self._deadline_ns, self._on_error, self._on_drop = deadline_ns, on_error, on_drop
        self._trips: dict[int, Trip] = {}
        self._delay = Histogram()
        self._times = TaskTimes(tasks)
        self._start_ns = self._last_ns = time.monotonic_ns()
        self._stray = 0
        self._log = SparingLog(logger)
        self._lost: frozenset[str] = frozenset()

    def open(self, mailbox: Mailbox | Hatch) -> None:
        """Begin: frames may leave, by `mailbox`."""
        self.mailbox = mailbox
        self._start_ns = self._last_ns = time.monotonic_ns()
        self._ask(mailbox)

    def follow(
        self, itinerary: Itinerary, first_tasks: Iterable[str], *, with_waiting: bool = False
    ) -> None:
        """Send the frames that are taken in from now on along other routes.

        Args:
            itinerary: the routes, of the same job and graph.
            first_tasks: of them, those at the node's own exchange.
            with_waiting: also the frame that was taken in and has not left.
        """
        self._itinerary = itinerary
        self._lost = frozenset(each for each in self._lost if not itinerary.visits({each}))
        if with_waiting and (seq := self.books.waiting) is not None:
            self._trips[seq].itinerary = itinerary
        if self._places is not None:
            self._places.go_to(first_tasks)
            if self.mailbox is not None:
                self._ask(self.mailbox)

    def give_up(self, endpoints: Collection[str], back: Collection[str] = ()) -> None:
        """Drop the frames that have tasks at exchanges which are lost, as `unreachable`.

        So are those that are still to leave that way, until `follow` leads there again; but not to
        those of them that are `back`.
        """
        self._lost = frozenset(endpoints).difference(back)
        waiting = self.books.waiting
        for seq, trip in tuple(self._trips.items()):
            if trip.itinerary.visits(self._lost if seq == waiting else endpoints):
                self._drop(seq, "unreachable")

    def admit(self, seq: int, parcel: Parcel) -> None:
        """Take a frame in, to leave with the next `dispatch`; there must be room."""
        self._trips[seq] = Trip(parcel, time.monotonic_ns(), self._itinerary)
        superseded = self.books.admit(seq)
        if superseded is not None:
            self._part_with(superseded)

    def refuse(self, frame: Frame, reason: str) -> None:
        """Count a frame that cannot be taken in."""
        self.books.refuse(reason)
        if self._on_drop is not None:
            self._on_drop(frame, self._itinerary.plan, {})

    def dispatch(self) -> None:
        """Let the waiting frame go if it may.

        Raises:
            FrameFormatError: no header can describe it; it was dropped as `error`.
        """
        while self.mailbox is not None:
            granted = self._places is None or self._places.are_granted()
            seq = self.books.depart(time.monotonic_ns(), granted=granted)
            if seq is None:
                break
            trip = self._trips[seq]
            if self._lost and trip.itinerary.visits(self._lost):
                self._drop(seq, "unreachable")
                continue
            try:
                if not self._send(self.mailbox, trip):
                    self._drop(seq, "peer_full")
            except BaseException:
                self._drop(seq, "error")
                raise

    def expire(self, now_ns: int) -> None:
        """Give up the frames whose time is up."""
        for seq in self.books.expire(now_ns):
            self._log.warning("timeout", "frame %d of job %s timed out", seq, self._itinerary.job)
            self._part_with(seq)

    def take_home(self, arrived_ns: int, parts: Sequence[bytes]) -> None:
        """Act on one message; one that makes no sense is counted and left."""
        self.expire(arrived_ns)
        try:
            message = read_message(parts, self._itinerary)
        except FrameFormatError as err:
            self._stray += 1
            logger.debug("job %s: stray message: %s", self._itinerary.job, err)
            return
        if isinstance(message, Grant):
            if self._places is not None:
                self._places.grant(message.task, message.count)
        elif isinstance(message, Dropped):
            self._lose(message)
        elif self.books.arrive(message.seq, message.branch):
            self._trips[message.seq].bring(message.found, arrived_ns)

    def take_turn(self, seq: int) -> Trip:
        """Let the frame leave that `books.next_turn` has named."""
        trip = self._trips.pop(seq)
        self._last_ns = time.monotonic_ns()
        if self.books.leave(seq):
            self._delay.observe(trip.delay_ns)
            for task, times in trip.times.items():
                # Another host's clock says nothing about when we took the frame in.
                wait_ns = max(times.start_ns - trip.admitted_ns, 0)
                if not trip.itinerary.is_here(task):
                    wait_ns = times.queue_ns
                self._times.observe(task, wait_ns, times.compute_ns)
        else:
            self._tell(trip)
        return trip

    def close(self) -> None:
        """Count the frames in flight as `closed`; none leaves any more."""
        self.mailbox = None
        for seq in self.books.drop_all("closed"):
            self._part_with(seq)

    def stats(self) -> JobStats:
        """Return where the frames are and how long the tasks took."""
        books = self.books
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

    def _send(self, mailbox: Mailbox | Hatch, trip: Trip) -> bool:
        """Send a frame along every route; False if the exchange does not read."""
        frame, itinerary = trip.parcel.frame, trip.itinerary
        deadline_ns = 0 if self._deadline_ns is None else frame.capture_ns + self._deadline_ns
        reference = trip.parcel.commit(self._arena, len(itinerary.routes))
        for part in itinerary.descriptors(frame, reference, deadline_ns):
            if not mailbox.send(part):
                return False
        if self._places is not None:
            self._places.use()
        self._ask(mailbox)
        return True

    def _ask(self, mailbox: Mailbox | Hatch) -> None:
        """Ask for places, if it is time to."""
        for task, count in self._places.ask().items() if self._places is not None else ():
            mailbox.send(messages.encode(CreditWanted(self._itinerary.job, task, count)))

    def _lose(self, notice: Dropped) -> None:
        """Give up a frame that an exchange has dropped, or keep its error for its turn."""
        if notice.reason not in FAULTS:
            logger.debug(
                "frame %d: %s at %s: %s", notice.seq, notice.reason, notice.task, notice.detail
            )
            self._drop(notice.seq, notice.reason)
            return
        error, reason = stage_error(notice), FAULTS[notice.reason]
        self._times.fail(notice.task)
        if self._on_error == "drop":
            self._log.warning(notice.task, "%s", error)
            self._drop(notice.seq, reason)
        elif self.books.fail(notice.seq, reason):
            self._trips[notice.seq].error = error

    def _drop(self, seq: int, reason: str) -> None:
        if self.books.drop(seq, reason):
            self._part_with(seq)

    def _part_with(self, seq: int) -> None:
        """Give up what there is of a frame that was dropped."""
        trip = self._trips.pop(seq)
        self._tell(trip)
        trip.parcel.release()

    def _tell(self, trip: Trip) -> None:
        if self._on_drop is not None:
            self._on_drop(trip.parcel.frame, trip.itinerary.plan, trip.parts()[0])
