"""`Workbench`: a task at work on descriptors: pixels in shared memory in, contexts out; no sockets.

The frames of a batch may belong to different jobs, whose graphs feed the task differently.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vdag._native import header as native_header
from vdag.errors import FrameFormatError, GraphError, StageError, VdagError
from vdag.graph import Graph
from vdag.itinerary import luggage
from vdag.results import Outputs
from vdag.stages import Stage
from vdag.tasks import Inputs, Task
from vdag.transport import codec, messages
from vdag.transport import context as wire_context

if TYPE_CHECKING:
    from vdag._native.ring import Arena, View
    from vdag.transport.codec import Descriptor

__all__ = ["Answers", "Workbench"]

#: Together they fit the detail of a `Dropped`.
MAX_ERROR = 2_000
MAX_TRACEBACK = 14_000


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of frames that were worked on together.

    Attributes:
        frames: one per frame, in order.
        start_ns: when the task began, `time.monotonic_ns()`.
        end_ns: when it ended.
    """

    frames: list[messages.Found | messages.Failure]
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame on the bench, with its lease and the task's inputs."""

    descriptor: Descriptor
    view: View | None
    inputs: Inputs


class Workbench:
    """Runs one instance of a task; one thread at a time.

    Args:
        task: its name.
        instance: loaded; the bench closes it.
        arena: where the pixels are; the caller closes it after the bench.
    """

    def __init__(self, task: str, instance: Task, arena: Arena) -> None:
        graph = Graph("SingleFrameGenerator", (task,), {task: ()})
        self._task = task
        self._instance = instance
        self._stage = Stage(graph, task, [instance], owned=True)
        self._arena = arena
        self._pid = os.getpid()
        self._graphs: dict[str, Graph] = {}
        self._faulty: dict[str, str] = {}

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
        """Run the task on frames, as one batch.

        Args:
            parts: their descriptors. The leases in them are used up, whatever happens.
            arrived_ns: of each when it came to the exchange; empty for not known.
        """
        opened = [self._open(part) for part in parts]
        frames = [frame for frame in opened if isinstance(frame, _Frame)]
        start_ns = time.monotonic_ns()
        results = iter(
            self._stage.run(
                0,
                [frame.descriptor.header.seq for frame in frames],
                [frame.inputs for frame in frames],
            )
            if frames
            else ()
        )
        end_ns = time.monotonic_ns()
        times = [start_ns, end_ns, self._pid]
        answers = [
            self._answer(frame, next(results), [*times, *arrived_ns[index : index + 1]])
            if isinstance(frame, _Frame)
            else frame
            for index, frame in enumerate(opened)
        ]
        for frame in frames:
            if frame.view is not None:
                frame.view.release()
        return Answers(answers, start_ns, end_ns)

    def close(self) -> None:
        """Close the task."""
        self._stage.close()

    def _open(self, part: bytes) -> _Frame | messages.Failure:
        view: View | None = None
        try:
            descriptor = codec.decode([part])
            header = descriptor.header
            if header.kind == native_header.KIND_SLOT:
                view = self._arena.acquire(header.slot, header.generation)
            inputs = self._inputs(descriptor, _generated(descriptor, view))
        except VdagError as err:
            if view is not None:
                view.release()
            return messages.Failure(messages.clip(f"{type(err).__name__}: {err}", MAX_ERROR))
        return _Frame(descriptor, view, inputs)

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

    def _answer(
        self, frame: _Frame, result: Outputs | StageError, times: list[int]
    ) -> messages.Found | messages.Failure:
        if isinstance(result, StageError):
            return _failure(result)
        context = dict(frame.descriptor.context)
        graph = self._graphs.get(frame.descriptor.job)
        context[self._task] = result if graph is None else luggage(graph, self._task, result)
        context[messages.TIMES] = {**context.get(messages.TIMES, {}), self._task: times}
        try:
            packed = b"".join(wire_context.pack(context))
            frame.descriptor.header.replace(context_nbytes=len(packed))
        except FrameFormatError as err:
            return messages.Failure(messages.clip(f"FrameFormatError: {err}", MAX_ERROR))
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


def _failure(error: StageError) -> messages.Failure:
    """Describe an error, and let go of it: its traceback holds the frame's pixels."""
    cause, error.__cause__ = error.__cause__, None
    text = "" if cause is None else "".join(traceback.format_exception(cause))
    if cause is not None:
        cause.__traceback__ = None
    return messages.Failure(
        messages.clip(error.message, MAX_ERROR), messages.clip(text, MAX_TRACEBACK)
    )
