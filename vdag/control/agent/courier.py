"""`Courier`: takes what is for the records alone to the controller, beside the agent.

What became of every frame of the node's jobs, and how the node and its workers are, goes out every
half a second, or when a job has ended, on a line and by a thread of its own: neither plans nor
frames wait for it. A `Log` that is not answered with `is_stored` is sent again as it is, and then
the next; meanwhile frames wait in a spool, in files beside those of the results, which is bounded
and counts what it throws away.

Each answer tells the controller's time, by which everything is timed before it is first sent: so
it says the same whenever it is sent again. Until the first answer nothing is timed, and nothing is
taken from the jobs' book, which is bounded as well.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from vdag.control import wire
from vdag.control.agent.clock import EpochClock
from vdag.control.agent.framebook import FrameBook, frames_of
from vdag.control.agent.spool import FrameSpool, SpoolStats
from vdag.control.wire_log import frame_count
from vdag.errors import FrameFormatError, VdagError
from vdag.threads import wait_ended
from vdag.transport.bell import Bell
from vdag.transport.rpc import Requester

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.transport.sockets import Curve

__all__ = ["Courier", "CourierStats", "Glimpse"]

logger = logging.getLogger(__name__)

#: For an answer, which comes when all is recorded, or after a second.
ANSWER_TIMEOUT_S = 2.5
#: Between two questions, before the controller has said how often.
REPORT_S = 0.5
#: Until it is asked again who has not let the agent in yet.
WAIT_NS = 100_000_000
#: Of the frames in one `Log`: what a link of 1 Mbit/s carries in half a second.
BATCH_NBYTES = 64 << 10
#: Looks that wait: ten minutes of them.
MAX_LOOKS = 600
LOOKS_PER_LOG = 64
#: For what is left, when the node ends.
LAST_TIMEOUT_S = 1.0
JOIN_TIMEOUT_S = 10.0

_count = itertools.count()


@dataclass(frozen=True, slots=True)
class Glimpse:
    """How a node is at a moment.

    Attributes:
        sampled_ns: when, by this node's clock.
        machine: a row of `sys_info`, with all GPUs, but for its `timestamp`.
        tasks: shares of CPU and memory that the workers of a task use together.
    """

    sampled_ns: int
    machine: Mapping[str, Any]
    tasks: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class CourierStats:
    """How a courier is.

    Attributes:
        logs: that were recorded.
        failures: questions that were not answered, or badly.
        frames: that were recorded.
        lost: frames that there was no room for.
        spool: frames that wait.
        slack_ns: by how much the times of frames may be wrong; 0 before the first answer.
        resets: how often the controller's clock was another one.
        refused: of those lost, frames that make no sense to the controller or came too early.
    """

    logs: int
    failures: int
    frames: int
    lost: int
    spool: SpoolStats
    slack_ns: int
    resets: int
    refused: int = 0


class Courier:
    """See above; closed by `close` or a `with` block. Its thread starts with it.

    Args:
        controller: address of the plan channel: `tcp://HOST:PORT`.
        node_addr: that names the node, as the agent says.
        book: that the node's jobs write into; its `run` is the session. The caller's.
        look: says how the node is, at once; None for nobody knows.
        spool: folder for frames that cannot be sent; None to keep few.
        curve: keys, with that of the controller.
        clock: of this node, in ns; also of the frames in the book.

    Raises:
        ConfigError: the address has no meaning, or is beyond loopback without keys.
    """

    def __init__(
        self,
        controller: str,
        *,
        node_addr: str,
        book: FrameBook,
        look: Callable[[], Glimpse | None] | None = None,
        spool: Path | None = None,
        curve: Curve | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._controller, self._node_addr, self._book = controller, node_addr, book
        self._look, self._now = look, clock
        self._epoch, self._cloud = EpochClock(), ""
        self._looks: deque[wire.Look] = deque(maxlen=MAX_LOOKS)
        self._looked_ns = -1
        self._open: wire.Log | None = None
        self._number = self._logs = self._failures = self._frames = self._refused = 0
        self._asked_ns = self._due_ns = 0
        self._report_ns = int(REPORT_S * 1e9)
        self._is_closing, self._is_heard = False, False
        self._spool = FrameSpool(spool)
        self._stats = self._figures()
        self._bell = Bell()  # the book may ring for longer
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._line = Requester(controller, context=self._context, curve=curve)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        name = f"vdag-courier-{next(_count)}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stats(self) -> CourierStats:
        """Return how the courier is, or was when it was last heard."""
        return self._stats

    def close(self) -> None:
        """Say what is left, if somebody listens, and end; may be called again."""
        self._is_closing = True
        self._bell.ring()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # From here on everything runs on the courier's own thread.

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._step()
                self._wait()
            self._finish()
        except BaseException:  # frames go on, and so does the node
            logger.exception("courier of %s failed", self._node_addr)
        finally:
            self._line.close()
            self._context.term()
            self._gather()
            self._refused += len(self._book.take())  # nobody has ever said what time it is
            self._spool.close()
            self._stats = self._figures()
            self._bell.close()

    def _step(self) -> None:
        """Hear what there is to hear, and ask if it is time to."""
        now_ns = self._now()
        self._listen(now_ns)
        if now_ns >= self._due_ns and self._line.may_ask(now_ns):
            self._ask(now_ns)
        self._stats = self._figures()

    def _finish(self) -> None:
        """Say what is left, for a moment, to somebody who has answered lately."""
        end_ns = self._now() + int(LAST_TIMEOUT_S * 1e9)
        self._gather()
        self._due_ns = 0
        while self._is_heard and self._now() < end_ns:
            if self._open is None and self._spool.is_empty:
                break
            self._step()
            self._wait(end_ns)

    def _wait(self, end_ns: int | None = None) -> None:
        now_ns = self._now()
        due_ns = self._line.due_ns(now_ns)
        if not self._line.is_waiting:
            due_ns = max(due_ns or 0, self._due_ns)
        assert due_ns is not None, "a line that waits knows how long"
        wait_ns = max(min(due_ns, end_ns or due_ns) - now_ns, 0)
        bells = {self._bell.fileno(): self._bell, self._book.bell.fileno(): self._book.bell}
        polled: list[tuple[Any, int]] = [(fd, zmq.POLLIN) for fd in bells]
        polled.append((self._line.socket, zmq.POLLIN))
        for each, _ in zmq.zmq_poll(polled, -(-wait_ns // 1_000_000)):
            if (bell := bells.get(each)) is not None:
                bell.hush()
                self._due_ns = 0  # a job has ended: its frames need not wait

    def _listen(self, now_ns: int) -> None:
        answer = self._line.take(now_ns)
        if answer is not None:
            try:
                self._hear(wire.decode(answer), now_ns)
            except VdagError as err:
                logger.warning("answer of %s ignored: %s", self._controller, err)
                self._line.fail(now_ns)
                self._fail()
        elif self._line.expire(now_ns):
            self._fail()

    def _fail(self) -> None:
        self._failures += 1
        self._is_heard = False

    def _ask(self, now_ns: int) -> None:
        if self._open is None:
            self._open = self._compose(now_ns)
        self._due_ns = now_ns + self._report_ns
        self._asked_ns = now_ns
        self._line.ask(wire.encode(self._open), now_ns=now_ns, timeout_s=ANSWER_TIMEOUT_S)

    def _compose(self, now_ns: int) -> wire.Log:
        self._gather()
        self._number += 1
        return wire.Log(
            self._node_addr,
            self._book.run,
            self._number,
            self._spool.batch(BATCH_NBYTES),
            list(itertools.islice(self._looks, LOOKS_PER_LOG)),
            self._lost,
        )

    def _gather(self) -> None:
        """Time what there is and put it where it waits, as soon as the time is known."""
        if not self._epoch.is_known:
            return
        now_ns = self._now()

        def there(here_ns: int) -> int:
            return max(self._epoch.there(here_ns, now_ns=now_ns), 0)

        for frames in frames_of(self._book.take(), self._book.run, there):
            self._spool.add(frames)
        glimpse = None if self._look is None else self._look()
        if glimpse is None or glimpse.sampled_ns == self._looked_ns:
            return
        self._looked_ns = glimpse.sampled_ns
        at_ns = there(glimpse.sampled_ns)
        machine = wire.write_document({**glimpse.machine, "timestamp": at_ns / 1e9})
        self._looks.append(wire.Look(at_ns, machine, dict(glimpse.tasks)))

    def _hear(self, message: wire.Message, now_ns: int) -> None:
        if isinstance(message, wire.Logged) and self._open is not None:
            self._settle(self._open, message, now_ns)
        elif isinstance(message, wire.Refused):
            self._refuse(message, now_ns)
        else:
            raise FrameFormatError(f"{type(message).__name__} answers no log")

    def _settle(self, log: wire.Log, message: wire.Logged, now_ns: int) -> None:
        if message.number != log.number:
            raise FrameFormatError(f"log {message.number} is answered, not {log.number}")
        if message.cloud != self._cloud:
            self._cloud = message.cloud
            self._epoch.forget()  # it may be another host by now
        self._epoch.observe(self._asked_ns, message.heard_ns, message.answered_ns, now_ns)
        self._report_ns = int(message.report_s * 1e9)
        self._is_heard = True
        if not message.is_stored:
            return  # the same again, when it is time to
        is_first = not self._logs
        self._frames += self._let_go(log)
        self._logs += 1
        if is_first or not self._spool.is_empty:
            self._due_ns = 0

    def _refuse(self, message: wire.Refused, now_ns: int) -> None:
        """Wait until the agent has been let in; what makes no sense to the controller is lost."""
        if message.must_join:
            self._due_ns = now_ns + WAIT_NS
            return
        self._failures += 1
        if self._open is not None:
            lost = self._let_go(self._open)
            self._refused += lost
            logger.warning("%d frames are not recorded: %s", lost, message.reason)

    def _let_go(self, log: wire.Log) -> int:
        """Forget what was said; return how many frames these are."""
        self._spool.acknowledge(log.frames)
        for look in log.looks:
            if self._looks and self._looks[0] is look:
                self._looks.popleft()
        self._open = None
        return sum(map(frame_count, log.frames))

    @property
    def _lost(self) -> int:
        return self._book.lost + self._spool.stats().dropped + self._refused

    def _figures(self) -> CourierStats:
        now_ns = self._now()
        slack_ns = self._epoch.slack_ns(now_ns) if self._epoch.is_known else 0
        return CourierStats(
            self._logs,
            self._failures,
            self._frames,
            self._lost,
            self._spool.stats(),
            slack_ns,
            self._epoch.resets,
            self._refused,
        )
