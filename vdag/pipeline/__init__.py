"""`Pipeline`: a graph run over a source, by threads of this process or by worker processes.

What runs it is in `threads` or in `processes`; here are the arguments that both share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from vdag.errors import ConfigError
from vdag.figures import PipelineStats
from vdag.graph import Graph
from vdag.pipeline.dispatch import Policy
from vdag.pipeline.settings import RunSettings
from vdag.pipeline.threads import ThreadRun
from vdag.results import Result
from vdag.sources import ClipGenerator, SingleFrameGenerator, Source
from vdag.tasks import Task, TaskOptions, signatures

if TYPE_CHECKING:
    from vdag.workers import Patience

__all__ = ["Pipeline", "PipelineStats"]

#: The documents' generators, by the name a graph gives.
GENERATORS: Final = {
    "SingleFrameGenerator": SingleFrameGenerator,
    "ClipGenerator": ClipGenerator,
}


class Run(Protocol):
    """What does a pipeline's work."""

    source: Source | ClipGenerator

    @property
    def dropped(self) -> int:
        """Frames given up so far."""

    @property
    def labels(self) -> dict[int, str]:
        """Names of the classes that the tasks report by number."""

    def __iter__(self) -> Iterator[Result]: ...

    def stats(self) -> PipelineStats:
        """Return where the frames are and what the tasks did."""

    def close(self) -> None:
        """Stop."""


class Pipeline:
    """Runs `graph` over `source` and iterates one `Result` per frame, in order.

        with Pipeline(["face_detection", "face_alignment"], source="street.mp4") as results:
            for result in results:
                print(result["face_alignment"]["head_pose"])

    Leaving the `with` block stops the threads and processes and closes what the pipeline opened
    itself: a source given by name, and the tasks it loaded. A result's frame belongs to the caller;
    the result of a clip has its last frame.

    With `workers` the tasks run in processes of their own, and frames are decoded into memory that
    these share; docs/processes.md says how. Such a run survives a task that crashes its process.

    Args:
        graph: a `Graph`, the documents' `dag`, or a list of task names.
        source: a `Source`, or anything that `open_source` takes.
        models: task to `model_id` (0 large, 1 medium, 2 small); 0 where it is left out.
        cards: task to a model card of the user's own, used instead of the zoo's models.
        device: where models run: `auto`, `cpu`, `cuda`, or `cuda:<n>`; with workers also several,
            `cuda:0,cuda:1`, which those of a task take in turn.
        engine: name of what runs them, see docs/gpu.md.
        tasks: task name to a ready `Task`, used instead of loading one, and not closed.
        threads: threads that work on tasks; by default one per core this process may use.
        workers: processes for each task, or task to number, 1 where it is left out; None for none.
        batch: most frames that a task takes at once, when so many are ready.
        policy: `block` processes every frame, `latest` drops a waiting frame for a newer one.
        max_in_flight: frames being worked on or not yet taken by the caller; by default enough
            for every thread or worker to have a batch while another waits for the caller.
        frame_timeout_s: with `workers`, a frame that is not back by then is dropped as `timeout`.
        poison: with `workers`, a folder that keeps frames which two processes died over, for
            replay: the descriptor, the pixels, and how the last process ended.
        patience: with `workers`, how long to wait for their start, their answers and their end,
            see `vdag.workers.Patience`.
        on_error: `raise` hands a task's exception to the caller as a `StageError` at that frame's
            turn; `drop` counts the frame as dropped with reason `error` and goes on.

    Raises:
        ConfigError: an argument has no meaning.
        GraphError: the graph does not fit the known tasks.
        SourceError: the source cannot be opened.
        EngineError: a model cannot be loaded.
        TransportError: with `workers`, their memory, sockets or processes cannot be had.
    """

    def __init__(
        self,
        graph: Graph | Mapping[str, Any] | Sequence[str],
        source: Source | Any,
        *,
        models: Mapping[str, int] = MappingProxyType({}),
        cards: Mapping[str, str | Path] = MappingProxyType({}),
        device: str = "auto",
        engine: str = "onnx",
        tasks: Mapping[str, Task] = MappingProxyType({}),
        threads: int | None = None,
        workers: int | Mapping[str, int] | None = None,
        batch: int = 1,
        policy: Policy = "block",
        max_in_flight: int | None = None,
        frame_timeout_s: float = 60.0,
        poison: str | Path | None = None,
        patience: Patience | None = None,
        on_error: Literal["raise", "drop"] = "raise",
    ) -> None:
        if workers is not None and threads is not None:
            raise ConfigError("threads and workers exclude each other")
        threads = len(os.sched_getaffinity(0)) if threads is None else threads
        _check_counts(threads=threads, batch=batch)
        if on_error not in ("raise", "drop"):
            raise ConfigError(f"on_error is {on_error!r}, expected raise or drop")
        parsed = graph if isinstance(graph, Graph) else Graph.from_dag(graph)
        known = signatures(parsed.tasks) | {name: task.signature for name, task in tasks.items()}
        self.graph = parsed.check(known)
        counts = _spread(workers, self.graph)
        _check_names(self.graph, models=models, cards=cards, tasks=tasks, workers=counts)
        owns_source = not isinstance(source, (Source, ClipGenerator))
        if not owns_source:
            _check_generator(self.graph, source)
        options = {
            name: TaskOptions(
                models.get(name, 0),
                device,
                engine,
                card=Path(cards[name]) if name in cards else None,
            )
            for name in self.graph.tasks
        }
        settings = RunSettings(options, owns_source, batch, policy, max_in_flight, on_error)
        self._run: Run
        if workers is None:
            opened = GENERATORS[self.graph.generator](source) if owns_source else source
            self._run = ThreadRun(self.graph, opened, settings, tasks=tasks, threads=threads)
            return
        # Imported here: who runs threads needs no sockets.
        from vdag.pipeline.processes import ProcessRun

        if tasks:
            raise ConfigError(
                f"task {min(tasks)} is an object of this process: with workers, register its class "
                "in a module"
            )
        self._run = ProcessRun(
            self.graph,
            source,
            settings,
            workers=counts,
            frame_timeout_s=frame_timeout_s,
            poison=poison,
            patience=patience,
        )

    def __iter__(self) -> Iterator[Result]:
        """Start reading, and yield results until the source ends."""
        return iter(self._run)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def source(self) -> Source | ClipGenerator:
        """Where the frames come from."""
        return self._run.source

    @property
    def dropped(self) -> int:
        """Frames given up so far, whatever the reason; far cheaper than `stats`."""
        return self._run.dropped

    @property
    def labels(self) -> dict[int, str]:
        """Names of the classes that the tasks report by number, for those who draw them."""
        return self._run.labels

    def stats(self) -> PipelineStats:
        """Return where the frames are and what the tasks did, at this moment."""
        return self._run.stats()

    def close(self) -> None:
        """Stop, count what is in flight as dropped, close what the pipeline opened.

        A thread that does not leave its task within 10 s is left behind, as the log says, and its
        tasks are left open for it; a worker process that does not end is killed.
        """
        self._run.close()


def _spread(workers: int | Mapping[str, int] | None, graph: Graph) -> dict[str, int]:
    """Return the number of processes per task; empty without any."""
    if workers is None:
        return {}
    named = dict.fromkeys(graph.tasks, workers) if isinstance(workers, int) else dict(workers)
    for task, count in named.items():
        if count < 1:
            raise ConfigError(f"workers of {task} is {count}, expected at least 1")
    return dict.fromkeys(graph.tasks, 1) | named


def _check_generator(graph: Graph, source: Source | ClipGenerator) -> None:
    given = "ClipGenerator" if isinstance(source, ClipGenerator) else "SingleFrameGenerator"
    if graph.generator != given:
        raise ConfigError(f"the graph wants a {graph.generator}, source is a {given}")


def _check_names(graph: Graph, **given: Mapping[str, Any]) -> None:
    for argument, named in given.items():
        if unknown := named.keys() - set(graph.tasks):
            raise ConfigError(f"{argument} names {min(unknown)!r}, which is no task of the graph")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}, expected at least 1")
