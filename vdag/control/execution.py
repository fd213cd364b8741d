"""`Execution`: one request's way through the exchange of its node, and back.

To the exchange a piece of work is a frame like those of streams (`sending` says how), so that
requests are batched with each other and with them, tried again when a worker dies, and counted.

Pictures are decoded by a few threads, straight into slots of shared memory; what comes home is
taken in by the thread `vdag-service` and handed to the event loop. Nothing here waits in the event
loop, and nothing waits without an end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vdag.control.schemas import Work
from vdag.control.sending import Sender
from vdag.errors import (
    ChannelClosed,
    ConfigError,
    FrameFormatError,
    Saturated,
    StageError,
    VdagError,
)
from vdag.results import Outputs
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
#: Longest wait of the thread that takes in what comes home.
LISTEN_S = 60.0
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
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._seq = self._answered = self._failed = self._given_up = 0
        self._late = self._stray = 0
        self._is_closing = False
        self._sender: Sender | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Join the exchange and listen; in the event loop, once.

        Raises:
            TransportError: a socket cannot be had.
        """
        loop = asyncio.get_running_loop()
        self._freed: asyncio.Future[None] = loop.create_future()
        self._sender = sender = Sender(self._exchange)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="vdag-pictures")
        self._thread = threading.Thread(
            target=self._listen, args=(sender, loop), name="vdag-service", daemon=True
        )
        self._thread.start()

    async def close(self) -> None:
        """Give up what is under way and leave the exchange; harmless when called again."""
        self._is_closing = True
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ChannelClosed("the service is closed"))
        sender, self._sender = self._sender, None
        if sender is None or self._pool is None or self._thread is None:
            return
        # What is being decoded is finished and sent in vain; the mailbox is closed after that.
        await asyncio.to_thread(self._pool.shutdown)
        sender.mailbox.ring()
        await asyncio.to_thread(self._thread.join)
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
        deadline = time.monotonic() + timeout_s
        window = asyncio.Semaphore(WINDOW)

        async def run(work: Work) -> Answer:
            async with window:
                return await self.run(work, max(deadline - time.monotonic(), 0.0))

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
        loop = asyncio.get_running_loop()
        deadline_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        seq, self._seq = self._seq, self._seq + 1
        future: asyncio.Future[Answer] = loop.create_future()
        self._pending[seq] = future
        reference: SlotRef | None = None
        try:
            reference = await self._depart(self._sender, work, seq, deadline_ns)
            left_s = (deadline_ns - time.monotonic_ns()) / 1e9
            answer = await asyncio.wait_for(future, max(left_s, 0.0))
        except asyncio.TimeoutError as err:
            self._given_up += 1
            if reference is not None:
                reference.drop()  # a descriptor that nobody has taken in is stale from here on
            raise Saturated(f"{work.task} has not answered within {timeout_s:g} s") from err
        except BaseException:
            self._failed += 1
            raise
        finally:
            del self._pending[seq]
        self._answered += 1
        return answer

    async def aside(self, function: Callable[[], _T]) -> _T:
        """Run what takes milliseconds in one of the threads, and return what it returns or raises.

        Raises:
            ChannelClosed: the service closes.
        """
        if self._pool is None:
            raise ChannelClosed("the service is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def _depart(
        self, sender: Sender, work: Work, seq: int, deadline_ns: int
    ) -> SlotRef | None:
        """Decode and send; in a thread, unless that is dearer than the work."""
        while True:
            freed = self._freed
            if work.pixels <= INLINE_PIXELS:
                sent = sender.send(work, seq, deadline_ns=deadline_ns)
            else:
                sent = await self.aside(lambda: sender.send(work, seq, deadline_ns=deadline_ns))
            if sent is not None:
                return sent.reference
            # Every slot is taken; when a frame comes home, its own is about to be free.
            await asyncio.wait([freed], timeout=SLOT_INTERVAL_S)

    def _listen(self, sender: Sender, loop: asyncio.AbstractEventLoop) -> None:
        """Body of the thread: read what comes home, and hand it to the loop."""
        while not self._is_closing:
            received = sender.mailbox.receive(LISTEN_S)
            results = [_read(parts, sender.stream) for parts in received]
            if results:
                try:
                    loop.call_soon_threadsafe(self._settle, results)
                except RuntimeError:  # the loop has ended before us
                    return

    def _settle(self, results: Sequence[tuple[int, Answer | VdagError]]) -> None:
        """Wake who waits, for an answer or for a slot; in the event loop."""
        freed, self._freed = self._freed, asyncio.get_running_loop().create_future()
        freed.set_result(None)
        for seq, result in results:
            future = self._pending.get(seq)
            if future is None or future.done():
                self._stray += seq < 0
                self._late += seq >= 0
            elif isinstance(result, Answer):
                future.set_result(result)
            else:
                future.set_exception(result)


def _read(parts: Sequence[bytes], stream: int) -> tuple[int, Answer | VdagError]:
    """Return the number of a piece of work and what became of it; -1 for a stray message."""
    try:
        if messages.is_control(parts[0]):
            message = messages.decode(parts[0])
            if not isinstance(message, Dropped) or message.stream != stream:
                raise FrameFormatError(f"{type(message).__name__} is not for a service")
            return message.seq, _error(message)
        descriptor = codec.decode(parts)
        if descriptor.header.stream != stream or len(descriptor.route) != 3:
            raise FrameFormatError(f"descriptor is of job {descriptor.job!r}")
        return descriptor.header.seq, _answer(descriptor)
    except FrameFormatError as err:
        logger.debug("stray message: %s", err)
        return -1, err


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
    logger.warning("%s failed: %s", notice.task, notice.detail)
    return StageError(notice.task, notice.seq, reason)
