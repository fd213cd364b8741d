"""`Stage`: a task inside a pipeline: its instances, where its inputs come from, its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdag.engines.begun import Begun
from vdag.errors import StageError
from vdag.graph import Edge, Graph
from vdag.metrics import Histogram, Summary
from vdag.results import Outputs
from vdag.tasks import Inputs, Task, TaskOptions, find, load
from vdag.tasks.overlap import begin

__all__ = ["Stage", "StageStats"]


@dataclass(frozen=True, slots=True)
class StageStats:
    """What a task did so far.

    Attributes:
        frames: frames it has processed.
        errors: frames it failed on.
        wait: from a frame's admission to the task taking it.
        process: the task's own work, for the whole batch that a frame was in.
    """

    frames: int
    errors: int
    wait: Summary
    process: Summary


class Stage:
    """One task of a graph, ready to run.

    Args:
        graph: the checked graph it belongs to.
        name: of the task.
        instances: loaded tasks, each used by one thread at a time.
        owned: whether `close` closes them.
    """

    def __init__(self, graph: Graph, name: str, instances: Sequence[Task], *, owned: bool) -> None:
        self.name = name
        self.instances = tuple(instances)
        self.max_batch = self.instances[0].max_batch
        self._edges: tuple[Edge, ...] = graph.edges[name]
        self._generator = graph.generator
        self._outputs = self.instances[0].signature.outputs
        self._owned = owned
        self._errors = 0
        self._wait = Histogram()
        self._process = Histogram()

    @classmethod
    def load(cls, graph: Graph, name: str, options: TaskOptions, threads: int) -> Stage:
        """Load the task `name` as often as `threads` can use it at once.

        Raises:
            EngineError: its model or engine cannot be loaded; what was loaded before is closed.
        """
        count = threads if getattr(find(name), "parallel", True) else 1
        instances: list[Task] = []
        try:
            for _ in range(count):
                instances.append(load(name, options))
        except BaseException:
            for instance in instances:
                instance.close()
            raise
        return cls(graph, name, instances, owned=True)

    def gather(self, generated: Mapping[str, Any], outputs: Mapping[str, Outputs]) -> Inputs:
        """Pick the task's inputs from what the generator and earlier tasks produced."""
        return {
            edge.name: (
                generated[edge.field]
                if edge.producer == self._generator
                else outputs[edge.producer][edge.field]
            )
            for edge in self._edges
        }

    def run(
        self, instance: int, seqs: Sequence[int], batch: Sequence[Inputs]
    ) -> list[Outputs | StageError]:
        """Process `batch`, one entry per frame of `seqs`.

        A batch that fails is run again frame by frame, so that one bad frame fails alone.

        Returns:
            Per frame its outputs, or the error to raise for it.
        """
        try:
            return self._checked(self.instances[instance].process(batch), len(batch))
        except Exception as err:
            return self._one_by_one(instance, seqs, batch, err)

    def begin(
        self, instance: int, seqs: Sequence[int], batch: Sequence[Inputs]
    ) -> Begun[list[Outputs | StageError]]:
        """Begin what `run` does; see `vdag.tasks.overlap`. Neither this nor the result raises."""
        try:
            begun = begin(self.instances[instance], batch)
        except Exception as err:
            return Begun.finished(self._one_by_one(instance, seqs, batch, err))

        def finish() -> list[Outputs | StageError]:
            try:
                return self._checked(begun.result(), len(batch))
            except Exception as err:
                return self._one_by_one(instance, seqs, batch, err)

        return Begun.finished(finish()) if begun.is_finished else Begun(finish)

    def _checked(self, found: Sequence[Outputs], count: int) -> list[Outputs | StageError]:
        if len(found) != count:
            raise ValueError(f"{len(found)} results for a batch of {count}")
        for outputs in found:
            if missing := self._outputs - outputs.keys():
                raise ValueError(f"result lacks {', '.join(sorted(missing))}")
        return list(found)

    def _one_by_one(
        self, instance: int, seqs: Sequence[int], batch: Sequence[Inputs], err: Exception
    ) -> list[Outputs | StageError]:
        """Run each frame of a batch that has failed alone; one that was alone has failed."""
        if len(batch) > 1:
            return [
                self.run(instance, [seq], [inputs])[0]
                for seq, inputs in zip(seqs, batch, strict=True)
            ]
        error = StageError(self.name, seqs[0], f"{type(err).__name__}: {err}")
        error.__cause__ = err
        return [error]

    def observe(self, waits_ns: Sequence[int], process_ns: int, errors: int) -> None:
        """Count one batch; the pipeline calls this under its lock."""
        self._errors += errors
        for wait_ns in waits_ns:
            self._wait.observe(wait_ns)
            self._process.observe(process_ns)

    def stats(self) -> StageStats:
        """Return the figures so far."""
        process = self._process.summary()
        return StageStats(process.count - self._errors, self._errors, self._wait.summary(), process)

    def close(self) -> None:
        """Close the instances that the stage loaded itself."""
        if self._owned:
            for instance in self.instances:
                instance.close()
