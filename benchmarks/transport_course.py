"""A course for frames: one process sends them, others look at them, window after window.

Every contender is measured by the same loops. A frame is stamped with its number and the time
before it is sent, at its begin and its end; who receives it reads one byte of every page, checks
that both numbers are the one that is due, and takes the time after that.

The processes are started once and wait for their next window without using the CPU, so that
contenders can take turns.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import struct
import tempfile
import time
import traceback
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np
import psutil

#: Longest wait for anything: a frame, a slot, the other process.
TIMEOUT_S = 30.0
TIMEOUT_MS = int(TIMEOUT_S * 1e3)
#: Frames in rotation at a sender whose pixels are somewhere else first, and slots in an arena.
ROTATION = 8
#: Messages that a queue may hold at either end: frames are large.
DEPTH = 4
#: One byte of every page, and never the same place in two: that would be a race for a few sets of
#: the caches, which addresses 4096 apart share.
STRIDE_NBYTES = 4096 - 64
#: Added to the number of a window, the number of the frame that ends it.
END = 1 << 63
#: How often it is sent again where frames may be lost; nobody reads it before the next window.
REPEATS = DEPTH - 1

_HEAD = struct.Struct("<QQ")
_TAIL = struct.Struct("<Q")


@dataclass(frozen=True)
class Place:
    """What both ends know.

    Attributes:
        folder: for sockets; there is nothing else in it.
        shape: of the frames, `(height, width, 3)`, uint8.
        receivers: how many there are; every one gets every frame.
        port: a free tcp port of the loopback interface.
        shared: what the contender's `share` has made.
    """

    folder: str
    shape: tuple[int, int, int]
    receivers: int = 1
    port: int = 0
    shared: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of a frame."""
        return int(np.prod(self.shape))

    def address(self, receiver: int) -> str:
        """An ipc address of one receiver."""
        return f"ipc://{self.folder}/receiver-{receiver}"


class Sender(Protocol):
    """The end that has frames."""

    def send(self, seq: int, now_ns: int) -> None:
        """Stamp the next frame and send it; wait while the other end is behind."""

    def close(self) -> None:
        """Let go of everything."""


class Receiver(Protocol):
    """The end that looks at frames."""

    def receive(self, look: Callable[[Any], None]) -> None:
        """Wait for at least one frame, hand its pixels to `look`, and let go of it."""

    def close(self) -> None:
        """Let go of everything."""


def share_nothing(place: Place) -> AbstractContextManager[None]:
    """What most contenders share: the place alone."""
    return nullcontext()


@dataclass(frozen=True)
class Contender:
    """A way for frames between processes.

    Attributes:
        name: in the names of the lines.
        title: for people.
        sender: makes the sending end, in a process of its own.
        receiver: makes a receiving end, given its number, in a process of its own.
        needs: modules that have to be installed.
        share: makes what both ends need, in the process that started them.
        lossy: whether frames may be missing.
    """

    name: str
    title: str
    sender: Callable[[Place], Sender]
    receiver: Callable[[Place, int], Receiver]
    needs: tuple[str, ...] = ()
    share: Callable[[Place], AbstractContextManager[Any]] = share_nothing
    lossy: bool = False


@dataclass(frozen=True)
class Window:
    """What was measured in one window, all processes together.

    Attributes:
        frames: that every receiver has looked at.
        seconds: from before the first was sent until the last was looked at.
        cpu_s: user and system time of all processes.
        latencies_s: per frame, from before it was sent until it was looked at.
    """

    frames: int
    seconds: float
    cpu_s: float
    latencies_s: list[float] = field(repr=False)

    @property
    def frame_s(self) -> float:
        """Time per frame."""
        return self.seconds / self.frames

    @property
    def frame_cpu_s(self) -> float:
        """CPU time per frame."""
        return self.cpu_s / self.frames


def stamp(pixels: Any, nbytes: int, seq: int, now_ns: int) -> None:
    """Write number and time into a frame: a writable buffer of bytes."""
    _HEAD.pack_into(pixels, 0, seq, now_ns)
    _TAIL.pack_into(pixels, nbytes - _TAIL.size, seq)


def frames(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Make the frames that are sent in rotation."""
    return [np.full(shape, 16 + i, np.uint8) for i in range(ROTATION)]


class Watch:
    """Looks at frames, and at the clock."""

    def __init__(self, nbytes: int, lossy: bool) -> None:
        self._nbytes = nbytes
        self._lossy = lossy
        self._due = 0
        self.brightest = np.uint8(0)
        self._window = END
        self.is_over = False
        self.latencies_ns = array("q")

    def look(self, pixels: Any) -> None:
        """Read a byte of every page, check the stamps, and take the time."""
        self.brightest = np.frombuffer(pixels, np.uint8)[::STRIDE_NBYTES].max()
        seq, sent_ns = _HEAD.unpack_from(pixels, 0)
        (last,) = _TAIL.unpack_from(pixels, self._nbytes - _TAIL.size)
        latency_ns = time.monotonic_ns() - sent_ns
        assert seq == last, f"frame {seq} ends as frame {last}"
        if seq >= END:
            self.is_over = seq == self._window  # else it is a late one, sent again
            if self.is_over:
                self.latencies_ns.append(latency_ns)
            return
        self.latencies_ns.append(latency_ns)
        assert seq == self._due or (self._lossy and seq > self._due), f"{seq} is not {self._due}"
        self._due = seq + 1

    def run(self, receiver: Receiver) -> tuple[int, int, int, bytes]:
        """Receive a window; its frames, the time at the end, CPU in ns, and the latencies."""
        self.is_over, self.latencies_ns = False, array("q")
        cpu_ns = time.process_time_ns()
        while not self.is_over:
            receiver.receive(self.look)
        self._window += 1
        return (
            len(self.latencies_ns),
            time.monotonic_ns(),
            time.process_time_ns() - cpu_ns,
            self.latencies_ns.tobytes(),
        )


class Starter:
    """Sends frames, as fast as they go or at a pace."""

    def __init__(self, lossy: bool) -> None:
        self._lossy = lossy
        self._seq = 0
        self._window = END

    def run(self, sender: Sender, seconds: float, pace: float | None) -> tuple[int, int, int]:
        """Send a window; its frames, the time at the begin, CPU in ns."""
        cpu_ns, start_ns = time.process_time_ns(), time.monotonic_ns()
        end_ns = start_ns + int(seconds * 1e9)
        period_ns = 0 if pace is None else int(1e9 / pace)
        first, due_ns = self._seq, start_ns
        while (now_ns := time.monotonic_ns()) < end_ns:
            if now_ns < due_ns:
                time.sleep((due_ns - now_ns) / 1e9)
                now_ns = time.monotonic_ns()
            sender.send(self._seq, now_ns)
            self._seq += 1
            due_ns += period_ns
        sender.send(self._window, time.monotonic_ns())
        cpu_ns = time.process_time_ns() - cpu_ns
        for _ in range(REPEATS if self._lossy else 0):
            time.sleep(0.02)
            sender.send(self._window, time.monotonic_ns())
        self._window += 1
        return self._seq - first + 1, start_ns, cpu_ns


class Course:
    """The processes of one contender, waiting for the next window; see `open_course`."""

    def __init__(self, contender: Contender, start: Connection, ends: list[Connection]) -> None:
        self.contender = contender
        self._start = start
        self._ends = ends

    def window(self, seconds: float, pace: float | None = None) -> Window:
        """Send frames for so long, `pace` per second or as fast as they go."""
        for end in self._ends:
            end.send(())
        self._start.send((seconds, pace))
        answers = _answers([self._start, *self._ends])
        sent, start_ns, cpu_ns = answers.pop(0)
        latencies = array("q")
        for _, _, more_ns, stamps in answers:
            cpu_ns += more_ns
            latencies.frombytes(stamps)
        seen = min(count for count, *_ in answers)
        end_ns = max(end_ns for _, end_ns, *_ in answers)
        assert seen == sent or (self.contender.lossy and seen), f"{seen} of {sent} frames"
        return Window(
            seen,
            (end_ns - start_ns) / 1e9,
            cpu_ns / 1e9,
            [nanoseconds / 1e9 for nanoseconds in latencies],
        )


@contextmanager
def open_course(
    contender: Contender,
    shape: tuple[int, int, int],
    *,
    receivers: int = 1,
) -> Iterator[Course]:
    """Start a contender's processes; on leaving, end them."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="course-"))
        place = Place(folder, shape, receivers, free_port())
        shared = stack.enter_context(contender.share(place))
        place = replace(place, shared=shared)
        ends = [
            stack.enter_context(spawned(_receive, contender, place, number))[0]
            for number in range(receivers)
        ]
        _answers(ends)
        start, _ = stack.enter_context(spawned(_send, contender, place))
        _answers([start])
        yield Course(contender, start, ends)


@contextmanager
def spawned(body: Callable[..., None], *arguments: Any) -> Iterator[tuple[Connection, int]]:
    """Run a body in another process; the connection that is its first argument, and its pid."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(body, theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours, process.pid or 0
    finally:
        ours.close()
        process.join(1.0)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def free_port() -> int:
    """Find a tcp port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child_pids() -> set[int]:
    """The processes that this one has started, and those that they have."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def process_cpu_ns(pid: int) -> int:
    """User and system time of a process and all its threads, in nanoseconds.

    From its CPU clock, whose id is made as clock_getcpuclockid(3) makes it on Linux.
    """
    return time.clock_gettime_ns(~pid << 3 | 2)


def _run(body: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    """Body of every process: what goes wrong is told to whoever has started it."""
    try:
        body(connection, *arguments)
    except (EOFError, KeyboardInterrupt):
        pass  # the end
    except BaseException:
        connection.send(RuntimeError(traceback.format_exc()))
    finally:
        # Libraries whose threads do not end would keep the process.
        connection.close()
        os._exit(0)


def _send(connection: Connection, contender: Contender, place: Place) -> None:
    with _closing(contender.sender(place)) as sender:
        starter = Starter(contender.lossy)
        gc.freeze()
        connection.send(None)
        while True:
            connection.send(starter.run(sender, *connection.recv()))


def _receive(connection: Connection, contender: Contender, place: Place, number: int) -> None:
    with _closing(contender.receiver(place, number)) as receiver:
        watch = Watch(place.nbytes, contender.lossy)
        gc.freeze()
        connection.send(None)
        while True:
            connection.recv()
            connection.send(watch.run(receiver))


@contextmanager
def _closing(end: Any) -> Iterator[Any]:
    try:
        yield end
    finally:
        end.close()


def _answers(connections: list[Connection]) -> list[Any]:
    """Wait for an answer from each of the processes, or for the first error."""
    found: dict[Any, Any] = {}
    deadline_s = time.monotonic() + TIMEOUT_S
    while missing := [connection for connection in connections if connection not in found]:
        ready = wait(missing, deadline_s - time.monotonic())
        if not ready:
            raise TimeoutError(f"{len(missing)} processes have not answered in {TIMEOUT_S:g} s")
        for connection in ready:
            answer = found[connection] = connection.recv()  # type: ignore[attr-defined]
            if isinstance(answer, Exception):
                raise answer
    return [found[connection] for connection in connections]
