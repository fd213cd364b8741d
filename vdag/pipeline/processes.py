"""`ProcessRun`: a graph run over a source by worker processes of its own.

It sets up a small node inside this process, an exchange in a private folder with workers for every
task, and runs one job over it. docs/processes.md tells how the parts work together.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vdag.engines import zoo
from vdag.errors import ConfigError
from vdag.figures import PipelineStats
from vdag.frame import Frame, Lease, UInt8Image
from vdag.graph import Graph
from vdag.job import MAX_PLACES, Job
from vdag.pipeline.settings import RunSettings
from vdag.results import Result
from vdag.sources import ClipGenerator, SingleFrameGenerator, Source
from vdag.tasks import TaskOptions, find, model_task, needs
from vdag.transport.exchange import Exchange
from vdag.transport.folder import temporary_folder
from vdag.transport.poison import PoisonStore
from vdag.workers import Patience, WorkerPool

__all__ = ["ProcessRun"]

#: How long all workers of a task together may take to load it; compiling an engine takes minutes.
READY_TIMEOUT_S = 600.0
#: Slots beyond those of the frames in flight: for the frame that waits, the one that is being
#: decoded, and the one that the caller looks at.
SPARE_SLOTS = 3
#: Places in the exchange's queues per frame in flight: no other job wants them, and the more there
#: are, the less often they are asked for.
PLACES_PER_FRAME = 8


class ProcessRun:
    """A pipeline's work in worker processes; see `Pipeline`, which checks the arguments.

    Args:
        graph: a checked graph.
        source: a `Source`, or what `SingleFrameGenerator` takes. A `SingleFrameGenerator` without
            an `allocate` decodes into shared memory until the run is closed; the frames of any
            other source are copied there.
        settings: see there; a source that the run owns is not one yet, and is opened here.
        workers: task name to the number of its processes.
        frame_timeout_s: how long a frame may take.
        poison: folder for frames that two workers died over, None to keep none.
        patience: how long to wait for the workers; None for the default.
    """

    def __init__(
        self,
        graph: Graph,
        source: Any,
        settings: RunSettings,
        *,
        workers: Mapping[str, int],
        frame_timeout_s: float,
        poison: str | Path | None,
        patience: Patience | None,
    ) -> None:
        if graph.generator != "SingleFrameGenerator":
            raise ConfigError(f"workers take single frames, not those of a {graph.generator}")
        modules = _modules(graph)
        self._options = dict(settings.options)
        self._job: Job | None = None
        self._poison = None if poison is None else PoisonStore(Path(poison))
        self._is_started = False
        batch, policy = settings.batch, settings.policy
        limit = settings.max_in_flight or sum(workers.values()) * (batch + 1) + batch
        places = min(PLACES_PER_FRAME * limit, MAX_PLACES)
        with ExitStack() as stack:
            opened = self._open_source(source, stack, owns_source=settings.owns_source)
            self.source: Source | ClipGenerator = opened
            nbytes, frames = _measure(opened, stack)
            self._exchange = self._open_exchange(stack, [(nbytes, limit + SPARE_SLOTS)])
            pool = WorkerPool(self._exchange, modules=modules, patience=patience)
            stack.enter_context(pool)
            for task in graph.tasks:
                # Under `latest` the job drops what waits. What has left is not dropped half-way.
                kind: Literal["block", "fifo"] = "block" if policy == "block" else "fifo"
                self._exchange.open_task(task, policy=kind, limit=places)
                pool.add(task, self._options[task], count=workers[task], max_batch=batch)
            for task in graph.tasks:
                pool.wait_ready(task, READY_TIMEOUT_S)
            self._job = stack.enter_context(
                Job(
                    graph,
                    frames,
                    self._exchange.address,
                    self._exchange.arena,
                    policy=policy,
                    max_in_flight=limit,
                    places=places,
                    frame_timeout_s=frame_timeout_s,
                    on_error=settings.on_error,
                    close_source=opened.close if settings.owns_source else None,
                )
            )
            self._stack = stack.pop_all()

    @property
    def dropped(self) -> int:
        """Frames given up so far, whatever the reason."""
        assert self._job is not None, "the constructor makes it"
        return self._job.dropped

    @property
    def labels(self) -> dict[int, str]:
        """Names of the classes that the tasks report by number."""
        return {
            number: name
            for task, options in self._options.items()
            for number, name in enumerate(_class_names(task, options))
        }

    def __iter__(self) -> Iterator[Result]:
        """Start reading, and yield results until the source ends."""
        assert self._job is not None, "the constructor makes it"
        if self._is_started or self._job.is_closing:
            raise ConfigError("a pipeline is iterated once")
        self._is_started = True
        yield from self._job
        if not self._job.is_closing:
            self._exchange.stats()  # raises if the exchange has failed, and its frames timed out

    def stats(self) -> PipelineStats:
        """Return where the frames are and what the tasks did."""
        assert self._job is not None, "the constructor makes it"
        return self._job.stats().frames

    def close(self) -> None:
        """Stop the job, then the workers, then the exchange."""
        self._stack.close()

    def _open_source(self, source: Any, stack: ExitStack, *, owns_source: bool) -> Any:
        """Return a source that decodes into the shared memory, if it can."""
        if owns_source:
            source = SingleFrameGenerator(source)
            stack.callback(source.close)
        if isinstance(source, SingleFrameGenerator) and source.allocate is None:
            source.allocate = self._allocate
            stack.callback(setattr, source, "allocate", None)
        return source

    def _allocate(self, width: int, height: int) -> tuple[UInt8Image, Lease | None]:
        """Return a slot to decode into; before there are any, memory of the frame's own."""
        if self._job is not None:
            return self._job.allocate(width, height)
        return np.empty((height, width, 3), np.uint8), None

    def _open_exchange(self, stack: ExitStack, classes: list[tuple[int, int]]) -> Exchange:
        """Open an exchange in a private folder that goes with it."""
        folder = temporary_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return stack.enter_context(
            Exchange(folder, node="pipeline", classes=classes, poison=self._poison)
        )


def _measure(source: Source, stack: ExitStack) -> tuple[int, Iterable[Frame]]:
    """Return the bytes of a source's frames, and the frames, none of them lost.

    Args:
        source: to look at. If it is of a kind that may resize its frames unknown to us, only the
            first of them tells their size.
        stack: gives that frame up if an exception leaves it.
    """
    if isinstance(source, SingleFrameGenerator) and all(source.frame_size):
        width, height = source.frame_size
        return width * height * 3, source
    frames = iter(source)
    first = next(frames, None)
    if first is None:
        return 1, frames
    stack.push(lambda kind, *_: None if kind is None else first.release())
    return first.nbytes, itertools.chain([first], frames)


def _modules(graph: Graph) -> list[str]:
    """Return the files that define the user's tasks of a graph, for workers to run.

    Raises:
        ConfigError: a task is defined where no other process can get at it.
    """
    files = []
    for task in (name for each in graph.tasks for name in (each, *needs(each))):
        cls = find(task)
        name = getattr(getattr(cls, "function", cls), "__module__", "")
        if name.partition(".")[0] == "vdag":
            continue
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or name == "__main__":
            raise ConfigError(
                f"task {task} is defined in {name}, which worker processes cannot run: "
                "put it into a module of its own"
            )
        files.append(file)
    return list(dict.fromkeys(files))


def _class_names(task: str, options: TaskOptions) -> tuple[str, ...]:
    """Return the names of a task's classes without loading its model; none if it has no classes."""
    cls = find(task)
    if hasattr(cls, "names"):
        return tuple(cls.names)
    if "result" not in cls.signature.outputs:
        return ()
    if options.card is not None:
        return zoo.load_card(options.card).decode.classes
    try:
        choice = zoo.models_for(model_task(task)).get(options.model_id)
    except ConfigError:  # a task of the user's, which has no model in the zoo
        return ()
    return choice.card.decode.classes if choice is not None else ()
