"""`Execution`: one request's way through the exchange of its node, and back.

To the exchange a piece of work is a frame like those of streams (`sending` says how), so that
requests are batched with each other and with them, tried again when a worker dies, and counted.

Pictures are decoded by a few threads, straight into slots of shared memory, and sent on by the same
thread; whoever brings something home leaves it with the event loop, which is woken once for all
that has come. Nothing here waits in the event loop, and nothing waits without an end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vdag.control.service.schemas import Work
from vdag.control.service.sending import Sender
from vdag.errors import (
    ChannelClosed,
    ConfigError,
    FrameFormatError,
    Saturated,
    StageError,
    VdagError,
)
from vdag.results import Outputs
from vdag.sparing import SparingLog
from vdag.transport import codec, messages
from vdag.transport.codec import Descriptor
from vdag.transport.messages import Dropped

if TYPE_CHECKING:
    from vdag._native.ring import SlotRef
    from vdag.transport.exchange import Exchange

__all__ = ["Answer", "Execution", "ExecutionStats"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Up to this many pixels are decoded in the event loop: it takes less than handing them over.
INLINE_PIXELS = 96 * 96
#: Pieces of work of one request that are under way at a time, so that a long list leaves room.
WINDOW = 16
#: How often a slot is looked for if nothing comes home; streams have slots, too.
SLOT_INTERVAL_S = 0.02
#: Reasons of an exchange that say more about its load than about the frame.
BUSY = frozenset({"deadline", "full", "peer_full", "stale", "superseded"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a piece of work.

    Attributes:
        outputs: the task's fields; arrays are read only.
        start_ns: when the task began with the batch, `time.monotonic_ns()`.
        end_ns: when it ended.
        pid: the worker's process; 0 if it does not say.
    """

    outputs: Outputs
    start_ns: int
    end_ns: int
    pid: int


@dataclass(frozen=True, slots=True)
class ExecutionStats:
    """Pieces of work so far: taken = answered + failed + given_up + pending.

    Attributes:
        taken: what was accepted.
        answered: what came home.
        failed: what was dropped, by the exchange or because its task raised.
        given_up: what was not home in time.
        pending: what is under way.
        late: answers that came for work given up; not in the sum.
        stray: messages that were not for this service.
    """

    taken: int
    answered: int
    failed: int
    given_up: int
    pending: int
    late: int
    stray: int


class _Errand:
    """A piece of work that is under way.

    Attributes:
        answer: what comes home; None if no slot was free and nothing has been sent.
        reference: the lease of its slot, once it is sent.
        is_over: nobody waits for it any more.
    """

    __slots__ = ("answer", "deadline_ns", "is_over", "reference", "seq", "work")

    def __init__(self, work: Work, seq: int, deadline_ns: int) -> None:
        self.work, self.seq, self.deadline_ns = work, seq, deadline_ns
        self.answer: asyncio.Future[Answer | None]
        self.reference: SlotRef | None = None
        self.is_over = False

    def end(self) -> None:
        """Have nobody wait for it; a descriptor that nobody has taken in is stale from here on."""
        self.is_over = True
        if self.reference is not None:
            self.reference.drop()

    def settle(self, result: Answer | BaseException | None) -> bool:
        """Give the answer to who waits; False if nobody does."""
        if self.answer.done():
            return False
        if isinstance(result, BaseException):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)
        return True


class Execution:
    """Runs work by the workers of an exchange; for the event loop that calls `open`.

    Args:
        exchange: open, of this process; open until this is closed.
        max_in_flight: most pieces of work that are under way.
        threads: that decode pictures.

    Raises:
        ConfigError: a number has no meaning.
    """

    def __init__(
        self, exchange: Exchange, *, max_in_flight: int = 256, threads: int | None = None
    ) -> None:
        if not 1 <= max_in_flight <= 4096:
            raise ConfigError(f"max_in_flight is {max_in_flight}, expected 1 to 4096")
        self._exchange, self._max_in_flight = exchange, max_in_flight
        self._threads = threads or max(2, min(8, len(os.sched_getaffinity(0))))
        self._pending: dict[int, _Errand] = {}
        self._seq = self._answered = self._failed = self._given_up = 0
        self._late = self._stray = 0
        self._log = SparingLog(logger)
        self._is_closing = self._is_called = False
        self._arrived: deque[bytes | tuple[int, BaseException | None]] = deque()
        self._sender: Sender | None = None
        self._pool: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Join the exchange; in the event loop, once.

        Raises:
            TransportError: the exchange is closed.
        """
        self._loop = asyncio.get_running_loop()
        self._freed: asyncio.Future[None] = self._loop.create_future()
        self._sender = Sender(self._exchange, self._arrive)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="vdag-pictures")

    async def close(self) -> None:
        """Give up what is under way and leave the exchange; harmless when called again."""
        self._is_closing = True
        for errand in self._pending.values():
            errand.settle(ChannelClosed("the service is closed"))
        sender, self._sender = self._sender, None
        if sender is None or self._pool is None:
            return
        # What is being decoded is finished and sent in vain.
        await asyncio.to_thread(self._pool.shutdown)
        sender.close()

    def stats(self) -> ExecutionStats:
        """Return the counts of this moment; in the event loop."""
        return ExecutionStats(
            taken=self._seq,
            answered=self._answered,
            failed=self._failed,
            given_up=self._given_up,
            pending=len(self._pending),
            late=self._late,
            stray=self._stray,
        )

    async def run_all(self, works: Sequence[Work], timeout_s: float) -> list[Answer]:
        """Do several pieces of work, all of them or none, and return the answers in order.

        Raises:
            VdagError: as of `run`, of the first piece that failed; the others are given up.
        """
        if len(works) == 1:
            return [await self.run(works[0], timeout_s)]
        deadline_s = time.monotonic() + timeout_s
        window = asyncio.Semaphore(WINDOW)

        async def run(work: Work) -> Answer:
            async with window:
                return await self.run(work, max(deadline_s - time.monotonic(), 0.0))

        tasks = [asyncio.ensure_future(run(work)) for work in works]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self, work: Work, timeout_s: float) -> Answer:
        """Do one piece of work.

        Args:
            work: what to do, for a task that is open at the exchange.
            timeout_s: from now on; afterwards the answer is not waited for, or not worked on.

        Raises:
            Saturated: there is no room for it, or it was not done in time.
            ImageError: a picture is broken.
            PayloadTooLarge: its pictures do not fit the shared memory.
            StageError: the task raised, or two workers died over it.
            ChannelClosed: the service or the exchange closes.
        """
        if self._is_closing or self._sender is None:
            raise ChannelClosed("the service is closed")
        if len(self._pending) >= self._max_in_flight:
            raise Saturated(f"{self._max_in_flight} requests are under way already")
        seq, self._seq = self._seq, self._seq + 1
        errand = _Errand(work, seq, time.monotonic_ns() + round(timeout_s * 1e9))
        self._pending[seq] = errand
        late = Saturated(f"{work.task} has not answered within {timeout_s:g} s")
        # A timer, not `asyncio.wait_for`, which makes more of it than the rest of this takes.
        timer = self._loop.call_later(timeout_s, lambda: errand.settle(late))
        try:
            answer = await self._ask(errand)
        except BaseException as err:
            self._given_up += err is late
            self._failed += err is not late
            errand.end()
            raise
        finally:
            timer.cancel()
            del self._pending[seq]
        self._answered += 1
        return answer

    async def aside(self, function: Callable[[], _T]) -> _T:
        """Run what takes milliseconds in one of the threads, and return what it returns or raises.

        Raises:
            ChannelClosed: the service closes.
        """
        if self._pool is None or self._is_closing:
            raise ChannelClosed("the service is closed")
        return await self._loop.run_in_executor(self._pool, function)

    async def _ask(self, errand: _Errand) -> Answer:
        """Decode and send, in a thread unless that is dearer than the work; wait for the answer."""
        while True:
            sender, pool, freed = self._sender, self._pool, self._freed
            if self._is_closing or sender is None or pool is None:
                raise ChannelClosed("the service is closed")
            errand.answer = self._loop.create_future()
            if errand.work.pixels > INLINE_PIXELS:
                pool.submit(self._send_aside, sender, errand)
            elif not _send(sender, errand):
                errand.settle(None)
            answer = await errand.answer
            if answer is not None:
                return answer
            # Every slot is taken; when a frame comes home, its own is about to be free.
            await asyncio.wait([freed], timeout=SLOT_INTERVAL_S)

    def _send_aside(self, sender: Sender, errand: _Errand) -> None:
        """Do so in a thread; the event loop hears of it only if nothing has been sent."""
        try:
            if not errand.is_over and not _send(sender, errand):
                self._hand_in((errand.seq, None))
        except BaseException as err:
            self._hand_in((errand.seq, err))

    def _arrive(self, part: bytes) -> bool:
        """Take what comes home, in the exchange's thread or one that sends."""
        self._hand_in(part)
        return True

    def _hand_in(self, item: bytes | tuple[int, BaseException | None]) -> None:
        """Leave something for the event loop, and wake it once for all that lies there."""
        self._arrived.append(item)
        if not self._is_called:
            self._is_called = True
            try:
                self._loop.call_soon_threadsafe(self._take_in)
            except RuntimeError:  # the loop has ended before us
                return

    def _take_in(self) -> None:
        """Wake who waits, for an answer or for a slot; in the event loop."""
        self._is_called = False  # before looking: what is left from here on calls again
        freed, self._freed = self._freed, self._loop.create_future()
        freed.set_result(None)
        stream = self._sender.stream if self._sender is not None else -1
        while self._arrived:
            item = self._arrived.popleft()
            seq, result = self._read(item, stream) if isinstance(item, bytes) else item
            errand = self._pending.get(seq)
            if errand is None or not errand.settle(result):
                self._stray += seq < 0
                self._late += seq >= 0

    def _read(self, part: bytes, stream: int) -> tuple[int, Answer | VdagError]:
        """Return the number of a piece of work and what became of it; -1 for a stray message."""
        try:
            if messages.is_control(part):
                message = messages.decode(part)
                if not isinstance(message, Dropped) or message.stream != stream:
                    raise FrameFormatError(f"{type(message).__name__} is not for a service")
                error = _error(message)
                if isinstance(error, StageError):
                    self._log.warning(message.task, "%s failed: %s", message.task, message.detail)
                return message.seq, error
            descriptor = codec.decode([part])
            if descriptor.header.stream != stream or len(descriptor.route) != 3:
                raise FrameFormatError(f"descriptor is of job {descriptor.job!r}")
            return descriptor.header.seq, _answer(descriptor)
        except FrameFormatError as err:
            logger.debug("stray message: %s", err)
            return -1, err


def _send(sender: Sender, errand: _Errand) -> bool:
    """Send a piece of work; False if no slot is free."""
    sent = sender.send(errand.work, errand.seq, deadline_ns=errand.deadline_ns)
    if sent is None:
        return False
    errand.reference = sent.reference
    if errand.is_over:  # which nobody may have dropped yet: it has only just got its reference
        errand.end()
    return True


def _answer(descriptor: Descriptor) -> Answer:
    task = descriptor.route[1].task
    outputs = descriptor.context.get(task)
    times = descriptor.context.get(messages.TIMES, {}).get(task)
    if outputs is None or not isinstance(times, list) or len(times) < 2:
        raise FrameFormatError(f"descriptor comes home without {task}")
    start_ns, end_ns, *rest = (int(value) for value in times)
    return Answer(outputs, start_ns, end_ns, rest[0] if rest else 0)


def _error(notice: Dropped) -> VdagError:
    """Return what the caller is told about work that was dropped."""
    reason = notice.detail.partition("\n")[0] or notice.reason
    if notice.reason in BUSY:
        return Saturated(f"{notice.task} has too much to do: {notice.reason}")
    if notice.reason in ("cancelled", "closed", "stray"):
        return ChannelClosed(f"{notice.task} is not served any more: {reason}")
    if notice.reason == "poison":
        return StageError(notice.task, notice.seq, f"two workers died over it: {reason}")
    return StageError(notice.task, notice.seq, reason)
