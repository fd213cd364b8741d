"""`ThreadRun`: a graph run over a source by threads of this process.

A thread reads the source, a few threads work on whatever task has frames ready, and the caller
iterates the results in the order of the frames. What runs when is decided in `dispatch`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from vdag.errors import ConfigError, StageError
from vdag.figures import PipelineStats
from vdag.frame import Frame
from vdag.graph import Graph
from vdag.metrics import Histogram
from vdag.pipeline.dispatch import Dispatcher, Work
from vdag.pipeline.progress import Progress
from vdag.pipeline.settings import RunSettings
from vdag.results import Outputs, Result
from vdag.sources import Clip, ClipGenerator, Source
from vdag.sparing import SparingLog
from vdag.stages import Stage
from vdag.tasks import Task
from vdag.threads import wait_ended

__all__ = ["ThreadRun"]

logger = logging.getLogger(__name__)

#: How long `close` waits for a thread that is inside a task or a read.
CLOSE_TIMEOUT_S = 10.0


class ThreadRun:
    """A pipeline's work on threads; see `Pipeline`, which checks the arguments.

    Args:
        graph: a checked graph.
        source: what yields the frames or clips.
        settings: see there.
        tasks: task name to a ready `Task`, used instead of loading one, and not closed.
        threads: threads that work on tasks.
    """

    def __init__(
        self,
        graph: Graph,
        source: Source | ClipGenerator,
        settings: RunSettings,
        *,
        tasks: Mapping[str, Task],
        threads: int,
    ) -> None:
        self._on_error = settings.on_error
        self._changed = threading.Condition()
        self._progress: dict[int, Progress] = {}
        self._delay = Histogram()
        self._source_ended = False
        self._source_error: BaseException | None = None
        self._fault: BaseException | None = None
        self._start_ns = self._last_ns = 0
        self._closing = False
        self._log = SparingLog(logger)
        self._threads: list[threading.Thread] = []
        self.source = source
        self._owns_source = settings.owns_source
        self._stages: dict[str, Stage] = {}
        try:
            for name in graph.tasks:
                self._stages[name] = (
                    Stage(graph, name, [tasks[name]], owned=False)
                    if name in tasks
                    else Stage.load(graph, name, settings.options[name], threads)
                )
            limits = {
                name: min(settings.batch, stage.max_batch) for name, stage in self._stages.items()
            }
            self._dispatcher = Dispatcher(
                graph,
                max_in_flight=settings.max_in_flight or (threads + 1) * max(limits.values()),
                policy=settings.policy,
                batch=limits,
                instances={name: len(stage.instances) for name, stage in self._stages.items()},
            )
        except BaseException:
            self._close_owned()
            raise
        self._thread_count = threads

    def __iter__(self) -> Iterator[Result]:
        """Start the threads, and yield results until the source ends."""
        self._start()
        while (result := self._next()) is not None:
            yield result

    @property
    def dropped(self) -> int:
        """Frames given up so far, whatever the reason."""
        with self._changed:
            return sum(self._dispatcher.dropped.values())

    @property
    def labels(self) -> dict[int, str]:
        """Names of the classes that the tasks report by number, for those who draw them."""
        return {
            number: name
            for stage in self._stages.values()
            for number, name in enumerate(getattr(stage.instances[0], "names", ()))
        }

    def stats(self) -> PipelineStats:
        """Return where the frames are and what the tasks did, at this moment."""
        with self._changed:
            dispatcher = self._dispatcher
            return PipelineStats(
                read=dispatcher.admitted,
                delivered=dispatcher.delivered,
                dropped=MappingProxyType(dict(dispatcher.dropped)),
                in_flight=dispatcher.in_flight,
                elapsed_s=(self._last_ns - self._start_ns) / 1e9,
                delay=self._delay.summary(),
                tasks=MappingProxyType({n: stage.stats() for n, stage in self._stages.items()}),
            )

    def close(self) -> None:
        """Stop the threads, count what is in flight as dropped, close what the pipeline opened.

        A thread that does not leave its task within `CLOSE_TIMEOUT_S` is left behind, as the
        log says, and its tasks are left open for it.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._owns_source:
            self.source.close()  # wakes a read that waits for a camera
        have_ended = wait_ended(*self._threads, timeout_s=CLOSE_TIMEOUT_S)
        with self._changed:
            for seq in self._dispatcher.drop_all("closed"):
                self._progress.pop(seq).item.release()
        if have_ended:
            self._close_owned()

    def _start(self) -> None:
        """Start the threads; under the lock, so that `close` finds all of them or none."""
        with self._changed:
            if self._threads or self._closing:
                raise ConfigError("a pipeline is iterated once")
            self._start_ns = self._last_ns = time.monotonic_ns()
            self._threads = [threading.Thread(target=self._read, name="vdag-source", daemon=True)]
            for index in range(self._thread_count):
                name = f"vdag-task-{index}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            for thread in self._threads:
                thread.start()

    def _close_owned(self) -> None:
        for stage in self._stages.values():
            stage.close()
        if self._owns_source:
            self.source.close()

    def _read(self) -> None:
        """Body of the source thread: hand frames to the dispatcher until the source ends."""
        try:
            for item in self.source:
                if not self._admit(item):
                    item.release()
                    break
        except BaseException as err:  # handed to the caller, who iterates in another thread
            self._source_error = err
        with self._changed:
            self._source_ended = True
            self._changed.notify_all()

    def _admit(self, item: Frame | Clip) -> bool:
        """Wait for room and take the frame or clip in; False when the pipeline closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._dispatcher.has_room())
            if self._closing:
                return False
            self._progress[item.seq] = Progress(item, time.monotonic_ns())
            superseded = self._dispatcher.admit(item.seq)
            dropped = None if superseded is None else self._progress.pop(superseded)
            self._changed.notify_all()
        if dropped is not None:
            dropped.item.release()
        return True

    def _work(self) -> None:
        """Body of a task thread: take work, do it without the lock, record it."""
        try:
            while (taken := self._take()) is not None:
                work, batch = taken
                stage = self._stages[work.task]
                start_ns = time.monotonic_ns()
                found = stage.run(
                    work.instance,
                    work.seqs,
                    [stage.gather(progress.generated(), progress.outputs) for progress in batch],
                )
                self._record(work, batch, found, start_ns)
        except BaseException as err:  # a fault of ours: the caller must not wait for ever
            with self._changed:
                self._fault = err
                self._changed.notify_all()

    def _take(self) -> tuple[Work, list[Progress]] | None:
        """Wait for work and the frames it is about; None when the pipeline closes."""
        with self._changed:
            while not self._closing:
                if (work := self._dispatcher.take()) is not None:
                    self._changed.notify_all()  # a waiting frame may have started: there is room
                    return work, [self._progress[seq] for seq in work.seqs]
                self._changed.wait()
        return None

    def _record(
        self,
        work: Work,
        batch: Sequence[Progress],
        found: Sequence[Outputs | StageError],
        start_ns: int,
    ) -> None:
        end_ns = time.monotonic_ns()
        errors = [outputs for outputs in found if isinstance(outputs, StageError)]
        with self._changed:
            for item, outputs in zip(batch, found, strict=True):
                if isinstance(outputs, StageError):
                    item.error = item.error or outputs
                    item.outputs[work.task] = {}
                else:
                    item.outputs[work.task] = outputs
                item.task_delay_s[work.task] = (end_ns - start_ns) / 1e9
                item.delay_s = (end_ns - item.frame.capture_ns) / 1e9
            waits_ns = [start_ns - item.admitted_ns for item in batch]
            self._stages[work.task].observe(waits_ns, end_ns - start_ns, len(errors))
            self._dispatcher.done(work)
            for error in errors:
                self._fail(error)
            self._changed.notify_all()

    def _fail(self, error: StageError) -> None:
        """Drop the frame, or keep its error for its turn; called under the lock."""
        if self._on_error == "drop":
            self._log.warning(error.stage, "%s", error)
            if self._dispatcher.drop(error.seq, "error"):
                self._progress.pop(error.seq).item.release()
        else:
            self._dispatcher.abandon(error.seq)

    def _next(self) -> Result | None:
        """Wait for the next frame's result; None at the end of the source."""
        with self._changed:
            while True:
                if self._fault is not None:
                    raise self._fault
                if self._closing:
                    return None
                if (seq := self._dispatcher.next_complete()) is not None:
                    break
                if self._source_ended and not self._dispatcher.in_flight:
                    if self._source_error is not None:
                        raise self._source_error
                    return None
                self._changed.wait()
            progress = self._progress.pop(seq)
            self._last_ns = time.monotonic_ns()
            if progress.error is None:
                self._dispatcher.deliver(seq)
                self._delay.observe(int(progress.delay_s * 1e9))
            else:
                self._dispatcher.drop(seq, "error")
            self._changed.notify_all()
        if progress.error is not None:
            progress.item.release()
            raise progress.error
        return progress.result()
