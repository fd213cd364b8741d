"""`python -m vdag.worker`: a process that works on one task for an exchange.

It loads its task, runs it once to warm it up, tries it if it shall, says `Hello`, announces credit,
and answers each `Batch` with a `Done`, until it is told to stop. It holds no state of any job that
it could not lose.

While it works on frames it has credit for `max_batch` more, so that its next batch is there when
this one is through; what has come meanwhile is worked on together, up to `max_batch`. Credit costs
no message of its own where one goes out anyway: with the answer to a batch comes the credit for the
frames that it begins with now. If there are none, it is credit for one, which it can only begin
with at once; if it then gets several together, it says at their begin how many.

Where its task goes on beside other work, as on a GPU, it begins with the batch that waits before it
takes the result of the one at work. Answers go out in the order of the batches all the same.

`child` has the protocol with its parent, with whom it dies, and the exit statuses.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import signal
import sys
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import zmq

from vdag import tasks
from vdag._native import ring
from vdag.allocator import keep_memory
from vdag.child import FAULT, LOST, NO_SETTINGS, NO_TASK, STOPPED, Refusal, Tried, WorkerSettings
from vdag.engines.begun import Begun
from vdag.errors import ConfigError, FrameFormatError, TransportError, VdagError
from vdag.kinship import die_with
from vdag.tasks import Task
from vdag.tasks.modules import load_module
from vdag.tasks.trial import try_out
from vdag.toolbox import Toolbox
from vdag.transport import messages
from vdag.transport.channel import open_pull, open_push
from vdag.workbench import Answers, Workbench

__all__ = ["Worker", "main"]

logger = logging.getLogger(__name__)

#: More than the frames it ever has credit for.
MESSAGES = 8192
#: How long the exchange may not take an answer before it is believed dead.
SEND_TIMEOUT_MS = 10_000
#: How often a worker without work makes sure that its parent lives.
LOOK_AROUND_MS = 1_000
#: What it has said before it ends on a signal goes out within this time.
LINGER_MS = 1_000
#: Batches at work at once, where the task can: one is copied while the other is computed.
IN_FLIGHT = 2
_POLLIN = int(zmq.POLLIN)


class Worker:
    """The sockets and the loop of a worker.

    Args:
        settings: see there.
        instance: the loaded task; the worker closes it.

    Raises:
        TransportError: the exchange or the shared memory cannot be reached. The task is left open.
    """

    def __init__(self, settings: WorkerSettings, instance: Task) -> None:
        self._settings = settings
        self._max_batch = min(settings.max_batch, instance.max_batch, messages.MAX_BATCH)
        self._waiting: deque[messages.Batch] = deque()
        self._at_work: deque[tuple[list[messages.Batch], Begun[Answers]]] = deque()
        self._is_stopping = False
        self._arena = ring.Arena.attach(settings.arena, prefault=False)
        self._context: zmq.Context[Any] = zmq.Context()
        self._inbox = open_pull(settings.address, context=self._context, depth=MESSAGES)
        self._exchange = open_push(settings.exchange, context=self._context, depth=MESSAGES)
        self._exchange.sndtimeo = SEND_TIMEOUT_MS
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        # Readable when the inbox has news, and not again before `_take_in` has found it empty.
        self._poll.register(int(self._inbox.getsockopt(zmq.FD)), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        toolbox = Toolbox(
            settings.task,
            instance,
            options=settings.options,
            models=settings.models,
            max_batch=self._max_batch,
        )
        self._bench = Workbench(settings.task, instance, self._arena, toolbox)

    def run(self) -> None:
        """Work until told to stop, by the exchange or by SIGTERM.

        Raises:
            TransportError: the node is gone.
        """
        signal.signal(signal.SIGTERM, self._terminate)
        signal.set_wakeup_fd(self._waker)  # else a signal would not end a poll
        name, token = self._settings.worker, self._settings.token
        self._send(messages.Hello(name, token, os.getpid()))
        self._send(messages.Ready(name, token, self._max_batch + 1, self._max_batch))
        while not self._is_stopping:
            self._listen(LOOK_AROUND_MS)
            self._begin(self._together(), granted=1)
            while self._at_work:
                self._go_on()

    def close(self) -> None:
        """Close the task, the sockets and the shared memory."""
        signal.set_wakeup_fd(-1)
        self._bench.close()
        self._inbox.close()
        self._exchange.close(linger=LINGER_MS)
        self._context.term()
        self._arena.close()
        os.close(self._wake)
        os.close(self._waker)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._is_stopping = True

    def _listen(self, timeout_ms: int) -> None:
        """Wait for something, but not for long, and take in what has come."""
        if not self._poll.poll(timeout_ms) and os.getppid() != self._settings.parent:
            raise TransportError(f"parent {self._settings.parent} is gone")
        self._take_in()

    def _take_in(self) -> None:
        # Asking first costs a quarter of the exception that says there is nothing.
        while int(self._inbox.getsockopt(zmq.EVENTS)) & _POLLIN:
            try:
                message = messages.decode(self._inbox.recv(zmq.DONTWAIT))
            except FrameFormatError as err:
                logger.warning("message ignored: %s", err)
                continue
            if isinstance(message, messages.Batch):
                self._bench.learn(message.graphs, message.ended)
                self._waiting.append(message)
            elif isinstance(message, messages.Stop):
                self._is_stopping = True

    def _together(self) -> list[messages.Batch]:
        """Take the batches that wait, as many as fit into one."""
        batches: list[messages.Batch] = []
        count = 0
        while self._waiting:
            count += len(self._waiting[0].frames)
            if batches and count > self._max_batch:
                break
            batches.append(self._waiting.popleft())
        return batches

    def _begin(self, batches: list[messages.Batch], *, granted: int) -> None:
        """Begin with batches together; for `granted` of their frames there is credit already."""
        if not batches:
            return
        if (count := _frames(batches) - granted) > 0:
            name, token = self._settings.worker, self._settings.token
            self._send(messages.Ready(name, token, count, self._max_batch))
        begun = self._bench.begin(
            [part for batch in batches for part in batch.frames],
            [arrived_ns for batch in batches for arrived_ns in batch.arrived_ns],
        )
        self._at_work.append((batches, begun))

    def _go_on(self) -> None:
        """Answer the batches that were begun first, and begin with those that wait."""
        while len(self._at_work) < IN_FLIGHT and not self._at_work[-1][1].is_finished:
            self._take_in()
            if self._is_stopping or not self._waiting:
                break
            self._begin(self._together(), granted=0)
        batches, begun = self._at_work.popleft()
        answers = begun.result()
        self._take_in()
        following = [] if self._is_stopping else self._together()
        # A worker that has nothing left takes one frame more, with which it begins at once.
        credit = _frames(following) or int(not self._at_work)
        self._answer(batches, answers, credit)
        self._begin(following, granted=credit)

    def _answer(self, batches: list[messages.Batch], answers: Answers, credit: int) -> None:
        """Answer batches that were worked on together, each, with credit for more."""
        start = 0
        for batch in batches:
            end = start + len(batch.frames)
            done = messages.Done(
                self._settings.worker,
                self._settings.token,
                batch.id,
                answers.frames[start:end],
                answers.start_ns,
                answers.end_ns,
                credit,
            )
            self._send(done)
            start, credit = end, 0

    def _send(self, message: messages.Message) -> None:
        try:
            self._exchange.send(messages.encode(message))
        except zmq.Again as err:
            raise TransportError(
                f"exchange {self._settings.exchange} took nothing for {SEND_TIMEOUT_MS / 1000:g} s"
            ) from err


def main() -> int:
    """Be a worker process; return its exit status."""
    # Whatever is printed from here on goes to standard error: what is said to the parent is ours.
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    faulthandler.enable()
    try:
        settings = WorkerSettings.decode(sys.stdin.buffer.readline())
    except ConfigError as err:
        said.write(_refusal(err))
        return NO_SETTINGS
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("vdag").setLevel(settings.log_level)
    if not die_with(settings.parent):
        return LOST
    keep_memory()
    try:
        for path in settings.modules:
            load_module(Path(path))
        instance = _load(settings)
    except (Exception, SystemExit) as err:  # user code may raise anything
        logger.exception("task %s cannot be loaded", settings.task)
        said.write(_refusal(err))
        return NO_TASK
    trial_s = None if settings.trial is None else try_out(instance, *settings.trial)
    if trial_s is not None:
        said.write(msgspec.json.encode(Tried(trial_s)) + b"\n")
    return _serve(settings, instance)


def _load(settings: WorkerSettings) -> Task:
    """Load the task and warm it up."""
    instance = tasks.load(settings.task, settings.options)
    try:
        tasks.warm_up(instance, min(settings.max_batch, instance.max_batch))
    except BaseException:
        instance.close()
        raise
    return instance


def _serve(settings: WorkerSettings, instance: Task) -> int:
    try:
        worker = Worker(settings, instance)
    except VdagError:
        logger.exception("worker %s has no node", settings.worker)
        instance.close()
        return LOST
    try:
        worker.run()
    except TransportError:
        logger.exception("worker %s has lost its node", settings.worker)
        return LOST
    except Exception:
        logger.exception("worker %s has failed", settings.worker)
        return FAULT
    finally:
        worker.close()
    return STOPPED


def _frames(batches: list[messages.Batch]) -> int:
    return sum(len(batch.frames) for batch in batches)


def _refusal(err: BaseException) -> bytes:
    message = messages.clip(str(err), 2_000)
    return msgspec.json.encode(Refusal(type(err).__name__, message)) + b"\n"


if __name__ == "__main__":
    sys.exit(main())
