"""`Workbench`: a task at work on descriptors: pixels in shared memory in, contexts out; no sockets.

The frames of a batch may belong to different jobs, whose graphs feed the task differently, and
whose plans want different models of it.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vdag._native import header as native_header
from vdag.engines.begun import Begun
from vdag.errors import FrameFormatError, GraphError, StageError, VdagError
from vdag.graph import Graph
from vdag.itinerary import shed
from vdag.results import Outputs
from vdag.stages import Stage
from vdag.tasks import Inputs, Task
from vdag.toolbox import Toolbox
from vdag.transport import codec, messages
from vdag.transport import context as wire_context

if TYPE_CHECKING:
    from vdag._native.ring import Arena, View
    from vdag.transport.codec import Descriptor

__all__ = ["Answers", "Workbench"]

#: Together they fit the detail of a `Dropped`.
MAX_ERROR = 2_000
MAX_TRACEBACK = 14_000

Answer = messages.Found | messages.Failure


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of frames that were worked on together.

    Attributes:
        frames: one per frame, in order.
        start_ns: when the task began, `time.monotonic_ns()`; of frames that were begun while others
            were worked on, when those were through: what they waited for them is no work.
        end_ns: when it ended, with the last of its models.
    """

    frames: list[Answer]
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame on the bench, with its lease, the task's inputs, and the model it wants."""

    descriptor: Descriptor
    view: View | None
    inputs: Inputs
    model: int | None

    def arrival(self, arrived_ns: Sequence[int], index: int, batch: int) -> list[int]:
        """Return the rest of its times: when it came, bytes over the network, frames beside it.

        What says nothing is left out at the end, see `messages.TIMES`.
        """
        came_ns = list(arrived_ns[index : index + 1])
        nbytes = self.descriptor.header.link_nbytes  # see `link`
        if batch > 1:
            return [*(came_ns or [0]), nbytes, batch]
        return [*(came_ns or [0]), nbytes] if nbytes else came_ns


class Workbench:
    """Runs one instance of a task; one thread at a time.

    Where the task can, as on a GPU, frames may be begun while others are being worked on: copies of
    the ones then run beside the model of the others.

    Args:
        task: its name.
        instance: loaded; the bench closes it.
        arena: where the pixels are; the caller closes it after the bench.
        toolbox: with the instance and what else there is of the task; the bench closes it. None for
            the instance alone.
    """

    def __init__(
        self, task: str, instance: Task, arena: Arena, toolbox: Toolbox | None = None
    ) -> None:
        self._task = task
        self._instance = instance
        self._toolbox = toolbox or Toolbox(task, instance)
        self._arena = arena
        self._pid = os.getpid()
        self._graphs: dict[str, Graph] = {}
        self._faulty: dict[str, str] = {}
        self._begun: list[tuple[int | None, Begun[Answers]]] = []
        self._free_ns = 0
        self._toolbox.lock_pages(*arena.mapping)

    def learn(self, graphs: Mapping[str, bytes], ended: Sequence[str] = ()) -> None:
        """Take in what an exchange says about jobs: their graphs, and who has left.

        The frames of a job whose graph is none will fail, and say why.
        """
        for job in ended:
            self._graphs.pop(job, None)
            self._faulty.pop(job, None)
        for job, text in graphs.items():
            self._faulty.pop(job, None)
            try:
                self._graphs[job] = Graph.from_dag(json.loads(text))
            except (GraphError, ValueError, RecursionError) as err:
                self._faulty[job] = f"graph of job {job}: {err}"

    def work(self, parts: Sequence[bytes], arrived_ns: Sequence[int] = ()) -> Answers:
        """Run the task on frames, as one batch for each model that they want.

        Args:
            parts: their descriptors. The leases in them are used up, whatever happens.
            arrived_ns: of each when it came to the exchange; empty for not known.
        """
        return self.begin(parts, arrived_ns).result()

    def begin(self, parts: Sequence[bytes], arrived_ns: Sequence[int] = ()) -> Begun[Answers]:
        """Begin what `work` does, as far as the task can; see `vdag.tasks.overlap`."""
        opened = [self._open(part) for part in parts]
        models = dict.fromkeys(frame.model for frame in opened if isinstance(frame, _Frame))
        if len(models) > 1:
            self._settle()
            return Begun.finished(self._run_each(models, opened, arrived_ns))
        model = next(iter(models), None)
        begun = self._run(model, opened, arrived_ns)
        self._begun = [
            entry for entry in (*self._begun, (model, begun)) if not entry[1].is_finished
        ]
        return begun

    def _run_each(
        self,
        models: Iterable[int | None],
        opened: Sequence[_Frame | messages.Failure],
        arrived_ns: Sequence[int],
    ) -> Answers:
        """Work on frames that want several models, with one after the other."""
        found: dict[int, Answer] = {}
        runs = []
        for model in models:
            mine = [
                n
                for n, frame in enumerate(opened)
                if (frame.model == model if isinstance(frame, _Frame) else n not in found)
            ]
            arrived = [arrived_ns[n] for n in mine] if arrived_ns else ()
            runs.append(self._run(model, [opened[n] for n in mine], arrived).result())
            found.update(zip(mine, runs[-1].frames, strict=True))
        return Answers([found[n] for n in range(len(opened))], runs[0].start_ns, runs[-1].end_ns)

    def close(self) -> None:
        """Close the task, after what it is at work on."""
        self._settle()
        self._toolbox.close()

    def _run(
        self,
        model: int | None,
        opened: Sequence[_Frame | messages.Failure],
        arrived_ns: Sequence[int],
    ) -> Begun[Answers]:
        """Begin on frames with one model; those that could not be opened stay as they are."""
        frames = [frame for frame in opened if isinstance(frame, _Frame)]
        # What loading a model takes is time that the frames have waited.
        stage = self._stage(model)
        start_ns = time.monotonic_ns()
        results = self._results(stage, frames) if frames else Begun.finished([])

        def finish() -> Answers:
            found = iter(results.result())
            end_ns = time.monotonic_ns()
            began_ns = max(start_ns, self._free_ns)
            self._free_ns = end_ns
            times, count = [began_ns, end_ns, self._pid], len(frames)
            answers = [
                self._answer(frame, next(found), [*times, *frame.arrival(arrived_ns, index, count)])
                if isinstance(frame, _Frame)
                else frame
                for index, frame in enumerate(opened)
            ]
            for frame in frames:
                if frame.view is not None:
                    frame.view.release()
            return Answers(answers, began_ns, end_ns)

        return Begun.finished(finish()) if results.is_finished else Begun(finish)

    def _settle(self) -> None:
        """Wait for what has begun; whoever began it still takes the result."""
        for _, begun in self._begun:
            begun.wait()
        self._begun.clear()

    def _stage(self, model: int | None) -> Stage | VdagError:
        if any(entry[0] != model for entry in self._begun):
            self._settle()  # another model may be loaded in the place of the one at work
        try:
            return self._toolbox.stage(model)
        except VdagError as err:
            return err.with_traceback(None)  # which would hold the frames

    def _results(
        self, stage: Stage | VdagError, frames: Sequence[_Frame]
    ) -> Begun[list[Outputs | StageError]]:
        """Begin with a model on frames; more of them than it takes at a time are run at once."""
        seqs = [frame.descriptor.header.seq for frame in frames]
        if isinstance(stage, VdagError):
            text = f"{type(stage).__name__}: {stage}"
            return Begun.finished([StageError(self._task, seq, text) for seq in seqs])
        inputs, most = [frame.inputs for frame in frames], stage.max_batch
        if len(frames) <= most:
            return stage.begin(0, seqs, inputs)
        starts = range(0, len(frames), most)
        parts = (stage.run(0, seqs[n : n + most], inputs[n : n + most]) for n in starts)
        return Begun.finished(list(itertools.chain.from_iterable(parts)))

    def _open(self, part: bytes) -> _Frame | messages.Failure:
        view: View | None = None
        try:
            descriptor = codec.decode([part])
            header = descriptor.header
            if header.kind == native_header.KIND_SLOT:
                view = self._arena.acquire(header.slot, header.generation)
            inputs = self._inputs(descriptor, _generated(descriptor, view))
            here = descriptor.here
        except VdagError as err:
            if view is not None:
                view.release()
            return _refusal(err)
        return _Frame(descriptor, view, inputs, None if here is None else here.model)

    def _inputs(self, descriptor: Descriptor, generated: Mapping[str, Any]) -> Inputs:
        """Pick the task's inputs from what the generator and earlier tasks have found.

        Raises:
            GraphError: an input is missing, or the job's graph is no graph.
        """
        job = descriptor.job
        if job in self._faulty:
            raise GraphError(self._faulty[job])
        graph = self._graphs.get(job)
        if graph is None:
            return self._matched(descriptor, generated)
        inputs = {}
        for edge in graph.edges.get(self._task, ()):
            fields = (
                generated
                if edge.producer == graph.generator
                else descriptor.context.get(edge.producer, {})
            )
            if edge.field in fields:
                inputs[edge.name] = fields[edge.field]
            elif edge.name not in self._instance.signature.optional:
                raise GraphError(f"input {edge.name} of {self._task}: the frame has no {edge}")
        return inputs

    def _matched(self, descriptor: Descriptor, generated: Mapping[str, Any]) -> Inputs:
        """Match inputs by name: from the latest task before on the route, else the generator."""
        signature = self._instance.signature
        before = descriptor.route[: descriptor.header.hop]
        sources = [descriptor.context.get(hop.task, {}) for hop in reversed(before)]
        inputs = {}
        for name in signature.inputs | signature.optional:
            fields = next((source for source in (*sources, generated) if name in source), None)
            if fields is not None:
                inputs[name] = fields[name]
            elif name in signature.inputs:
                raise GraphError(f"input {name} of {self._task}: nothing before it gives one")
        return inputs

    def _answer(self, frame: _Frame, result: Outputs | StageError, times: list[int]) -> Answer:
        if isinstance(result, StageError):
            return _failure(result)
        descriptor = frame.descriptor
        context = dict(descriptor.context)
        context[self._task] = result
        if (graph := self._graphs.get(descriptor.job)) is not None:
            ahead = descriptor.route[descriptor.header.hop + 1 :]
            shed(graph, context, [hop.task for hop in ahead])
        context[messages.TIMES] = {**context.get(messages.TIMES, {}), self._task: times}
        try:
            packed = b"".join(wire_context.pack(context))
            frame.descriptor.header.replace(context_nbytes=len(packed))
        except FrameFormatError as err:
            return _refusal(err)
        return messages.Found(packed)


def _generated(descriptor: Descriptor, view: View | None) -> dict[str, Any]:
    """Return what the generator has produced: views of the pixels, read only."""
    header = descriptor.header
    fields: dict[str, Any] = {"seq": header.seq}
    if header.kind in (native_header.KIND_SLOT, native_header.KIND_INLINE):
        source = descriptor.payload if view is None else view
        if source is None or len(source) != header.payload_nbytes:
            nbytes = 0 if source is None else len(source)
            raise FrameFormatError(
                f"slot {header.slot} holds {nbytes} bytes, not {header.payload_nbytes}"
            )
        dtype = np.dtype(native_header.DTYPES[header.dtype]).newbyteorder("<")
        pixels = np.frombuffer(cast("memoryview[int]", source), dtype).reshape(header.shape)
        if len(header.shape) == 4:
            fields["clip"] = list(pixels)
        else:
            fields["image"] = pixels
    return fields


def _refusal(error: VdagError) -> messages.Failure:
    """Describe an error of which nobody needs the traceback."""
    return messages.Failure(messages.clip(f"{type(error).__name__}: {error}", MAX_ERROR))


def _failure(error: StageError) -> messages.Failure:
    """Describe an error, and let go of it: its traceback holds the frame's pixels."""
    cause, error.__cause__ = error.__cause__, None
    text = "" if cause is None else "".join(traceback.format_exception(cause))
    if cause is not None:
        cause.__traceback__ = None
    return messages.Failure(
        messages.clip(error.message, MAX_ERROR), messages.clip(text, MAX_TRACEBACK)
    )
