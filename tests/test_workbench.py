"""The workbench: where a task's inputs come from, and what becomes of its outputs."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Iterator

import numpy as np
import pytest

from vdag._native import header as native_header
from vdag._native.ring import Arena
from vdag.engines.begun import Begun
from vdag.errors import EngineError
from vdag.graph import Graph, Signature
from vdag.stages import Stage
from vdag.toolbox import Toolbox
from vdag.transport import codec, messages
from vdag.transport import context as wire_context
from vdag.workbench import Workbench

pytestmark = pytest.mark.slow  # as a whole

SHAPE = (4, 5, 3)


class Recorder:
    """A task that remembers what it was given, and gives back what it is told to."""

    max_batch = 8

    def __init__(self, inputs: set[str], optional: set[str] = frozenset()) -> None:
        self.signature = Signature(frozenset(inputs), frozenset({"out"}), frozenset(optional))
        self.batches: list[list[dict]] = []
        self.output = lambda inputs: {"out": 1}
        self.is_closed = False

    def process(self, batch):
        self.batches.append([dict(inputs) for inputs in batch])
        return [self.output(inputs) for inputs in batch]

    def close(self):
        self.is_closed = True


@pytest.fixture
def arena() -> Iterator[Arena]:
    with Arena.create("bench", [(4096, 8)]) as arena:
        yield arena
        gc.collect()
        assert arena.stats().leases == 0


def bench(arena: Arena, task: Recorder, name: str = "second") -> Workbench:
    return Workbench(name, task, arena)


def part(
    arena: Arena,
    seq: int = 3,
    context: dict | None = None,
    put=SHAPE,
    model: int | None = None,
    **fields,
) -> bytes:
    """The descriptor of a frame that is through with `first` and at `second`."""
    pixels = np.arange(np.prod(put), dtype=np.uint8).reshape(put)
    ref = arena.put(pixels)
    assert ref is not None
    values = {
        "kind": native_header.KIND_SLOT,
        "dtype": 1,
        "shape": put,
        "payload_nbytes": pixels.nbytes,
        "slot": ref.slot,
        "generation": ref.generation,
        "arena": ref.arena_id,
        "seq": seq,
        "hop": 1,
        **fields,
    }
    hops = (("first", None), ("second", model), ("home", None))
    route = tuple(codec.Hop(task, "ipc:///x", model) for task, model in hops)
    header = native_header.Header(**values)
    return codec.encode(codec.Descriptor(header, "job", "camera", route, context or {}))[0]


def outputs(answer: messages.Found | messages.Failure) -> dict:
    assert isinstance(answer, messages.Found), answer
    return wire_context.unpack(memoryview(answer.context))


def test_pixels_are_read_only_and_those_that_were_put(arena):
    task = Recorder({"image", "seq"})
    task.output = lambda inputs: {"out": [bool(inputs["image"].flags.writeable), inputs["image"]]}
    answers = bench(arena, task).work([part(arena, seq=9)])
    writeable, image = outputs(answers.frames[0])["second"]["out"]
    assert writeable is False
    np.testing.assert_array_equal(image, np.arange(60, dtype=np.uint8).reshape(SHAPE))
    assert task.batches[0][0]["seq"] == 9
    task.batches.clear()


def test_four_axes_are_a_clip(arena):
    task = Recorder({"clip"})
    bench(arena, task).work([part(arena, put=(2, 4, 5, 3))])
    assert [frame.shape for frame in task.batches[0][0]["clip"]] == [(4, 5, 3)] * 2
    task.batches.clear()


def test_inputs_follow_the_graph_of_their_job(arena):
    task = Recorder({"boxes"})
    graph = Graph.from_dag(
        {"flow": ["first", "second"], "input": {"second": {"boxes": "first.bbox"}}}
    )
    bench_ = bench(arena, task)
    bench_.learn({"job": json.dumps(graph.to_dag()).encode()})
    answers = bench_.work([part(arena, context={"first": {"bbox": [1, 2]}, "x": {"boxes": 0}})])
    assert task.batches == [[{"boxes": [1, 2]}]]
    found = outputs(answers.frames[0])
    assert found["first"] == {"bbox": [1, 2]}
    assert found["second"] == {"out": 1}
    assert found[messages.TIMES] == {"second": [answers.start_ns, answers.end_ns, os.getpid()]}


def test_an_input_that_the_task_can_do_without_may_be_missing(arena):
    task = Recorder({"boxes"}, optional={"landmarks"})
    inputs = {"boxes": "first.bbox", "landmarks": "first.landmarks"}
    graph = Graph.from_dag({"flow": ["first", "second"], "input": {"second": inputs}})
    bench_ = bench(arena, task)
    bench_.learn({"job": json.dumps(graph.to_dag()).encode()})
    outputs(bench_.work([part(arena, context={"first": {"bbox": [1, 2]}})]).frames[0])
    assert task.batches == [[{"boxes": [1, 2]}]]


def test_without_a_graph_inputs_are_matched_by_name_the_latest_task_first(arena):
    task = Recorder({"seq", "bbox"}, optional={"prob", "labels"})
    context = {
        "first": {"bbox": 1, "seq": 5},
        "elsewhere": {"labels": "not on the route before this task"},
        messages.TIMES: {"first": [1, 2]},
    }
    answers = bench(arena, task).work([part(arena, context=context)])
    assert task.batches == [[{"bbox": 1, "seq": 5}]]
    assert outputs(answers.frames[0])[messages.TIMES].keys() == {"first", "second"}


def test_a_job_that_has_ended_is_forgotten(arena):
    task = Recorder({"image"})
    bench_ = bench(arena, task)
    bench_.learn({"job": b"no graph"})
    assert isinstance(bench_.work([part(arena)]).frames[0], messages.Failure)
    bench_.learn({}, ended=["job", "unheard of"])
    assert isinstance(bench_.work([part(arena)]).frames[0], messages.Found)
    task.batches.clear()


@pytest.mark.parametrize(
    ("graph", "error"),
    [
        (b"\xff", "GraphError: graph of job job: 'utf-8' codec can't decode byte 0xff"),
        (b'{"flow": []}', "GraphError: graph of job job: flow names no task"),
        (b"[" * 100_000, "GraphError: graph of job job: maximum recursion depth exceeded"),
        (
            b'{"flow": ["first", "second"], "input": {"second": {"b": "first.bbox"}}}',
            "GraphError: input b of second: the frame has no first.bbox",
        ),
        (None, "GraphError: input bbox of second: nothing before it gives one"),
    ],
)
def test_frames_whose_inputs_are_missing_fail_alone_and_say_why(arena, graph, error):
    task = Recorder({"bbox"})
    bench_ = bench(arena, task)
    if graph:
        bench_.learn({"job": graph})
    failure, found = bench_.work(
        [part(arena), *_of_another_job(arena, {"first": {"bbox": 0}})]
    ).frames
    assert failure.error.startswith(error)
    assert outputs(found)["second"] == {"out": 1}
    assert len(task.batches[0]) == 1


def _of_another_job(arena, context) -> list[bytes]:
    descriptor = codec.decode([part(arena, context=context)])
    other = codec.Descriptor(descriptor.header, "other", "c", descriptor.route, descriptor.context)
    return list(codec.encode(other))


def test_a_lease_that_is_used_up_and_bytes_that_are_no_descriptor_fail_alone(arena):
    task = Recorder({"image"})
    bench_ = bench(arena, task)
    first = part(arena)
    assert isinstance(bench_.work([first]).frames[0], messages.Found)
    task.batches.clear()
    used, broken, fine = bench_.work([first, b"VDAG", part(arena)]).frames
    assert re.fullmatch(r"StaleFrame: generation \d+ of slot \d+ is over", used.error)
    assert broken.error.startswith("FrameFormatError: ")
    assert isinstance(fine, messages.Found)
    task.batches.clear()


def test_a_slot_shorter_than_the_descriptor_says_fails(arena):
    lying = part(arena, payload_nbytes=150, shape=(5, 5, 3), dtype=3)  # uint16
    (failure,) = bench(arena, Recorder({"image"})).work([lying]).frames
    assert re.fullmatch(r"FrameFormatError: slot \d+ holds 60 bytes, not 150", failure.error)


def test_an_error_of_the_task_does_not_keep_the_pixels(arena):
    task = Recorder({"image"})
    task.output = lambda inputs: 1 // 0
    gc.disable()
    try:
        (failure,) = bench(arena, task).work([part(arena)]).frames
        task.batches.clear()
        assert arena.stats().leases == 0
    finally:
        gc.enable()
    assert failure.error == "ZeroDivisionError: integer division or modulo by zero"
    assert "in process" in failure.traceback


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), "FrameFormatError: second.out is a object, which cannot travel"),
        (
            np.zeros(native_header.MAX_CONTEXT_NBYTES - 8, np.uint8),
            "FrameFormatError: context_nbytes",
        ),
    ],
)
def test_outputs_that_cannot_travel_fail_the_frame(arena, value, error):
    task = Recorder({"seq"})
    task.output = lambda inputs: {"out": value}
    (failure,) = bench(arena, task).work([part(arena)]).frames
    assert failure.error.startswith(error)


def test_closing_closes_the_task(arena):
    task = Recorder({"seq"})
    bench(arena, task).close()
    assert task.is_closed


class Slow(Recorder):
    """Begins batches, which are finished when their result is taken and not before."""

    def __init__(self) -> None:
        super().__init__({"image", "seq"})
        self.finished: list[int] = []
        self.pages: tuple[int, int] | None = None
        self.failing: set[int] = set()

    def lock_pages(self, address: int, nbytes: int) -> bool:
        self.pages = address, nbytes
        return True

    def process(self, batch):
        if any(inputs["seq"] in self.failing for inputs in batch):
            raise ValueError("not this one")
        return [{"out": [inputs["seq"], int(inputs["image"].sum())]} for inputs in batch]

    def begin(self, batch):
        def finish():
            self.finished.append(batch[0]["seq"])
            return self.process(batch)

        return Begun(finish)


def test_the_task_is_told_where_its_frames_lie(arena):
    task = Slow()
    bench(arena, task)
    assert task.pages == arena.mapping


def test_a_batch_begun_while_another_is_at_work_keeps_its_own_frames(arena):
    bench_ = bench(arena, task := Slow())
    first = bench_.begin([part(arena, seq=1), part(arena, seq=2)], [10, 20])
    second = bench_.begin([part(arena, seq=3)], [30])
    assert not first.is_finished
    assert task.finished == []
    assert arena.stats().leases == 3  # the pixels stay as long as they are worked on
    one, two = first.result(), second.result()
    assert arena.stats().leases == 0
    found = [outputs(frame) for frame in (*one.frames, *two.frames)]
    assert [each["second"]["out"][0] for each in found] == [1, 2, 3]
    assert [each[messages.TIMES]["second"][3:] for each in found] == [[10, 0, 2], [20, 0, 2], [30]]
    # What the second has waited for the first is not work.
    assert one.start_ns <= one.end_ns <= two.start_ns <= two.end_ns


def test_a_batch_that_fails_beside_another_fails_alone_frame_by_frame(arena):
    bench_ = bench(arena, task := Slow())
    task.failing = {2}
    first = bench_.begin([part(arena, seq=1), part(arena, seq=2)])
    second = bench_.begin([part(arena, seq=3)])
    fine, failed = first.result().frames
    assert outputs(fine)["second"]["out"][0] == 1
    assert failed.error == "ValueError: not this one"
    assert outputs(second.result().frames[0])["second"]["out"][0] == 3
    assert arena.stats().leases == 0


def test_frames_that_want_another_model_wait_for_the_batch_at_work(arena):
    own, other = Slow(), Slow()
    bench_ = Workbench("second", own, arena, Models(own, {0: other}))
    first = bench_.begin([part(arena, seq=1)])
    second = bench_.begin([part(arena, seq=2, model=0)])
    assert own.finished == [1]
    assert first.is_finished
    both = bench_.begin([part(arena, seq=3), part(arena, seq=4, model=0)])
    assert both.is_finished
    assert other.finished == [2, 4]
    found = [outputs(frame) for begun in (first, second, both) for frame in begun.result().frames]
    assert [each["second"]["out"][0] for each in found] == [1, 2, 3, 4]
    bench_.close()
    bench_._toolbox.others[0].close()


def test_closing_waits_for_the_batch_at_work(arena):
    bench_ = bench(arena, task := Slow())
    bench_.begin([part(arena, seq=1)])
    bench_.close()
    assert task.finished == [1]
    assert task.is_closed


class Models(Toolbox):
    """Recorders, by the model that they stand for; one is not to be had."""

    def __init__(self, first: Recorder, others: dict[int, Recorder]) -> None:
        super().__init__("second", first)
        self.others = {model: self._stage_of(task) for model, task in others.items()}

    def stage(self, model: int | None) -> Stage:
        if model == 9:
            raise EngineError("no model 9")
        return super().stage(None) if model is None else self.others[model]


def test_a_batch_is_split_by_model_and_each_frame_has_the_results_of_its_own(arena):
    def of(model: int) -> Recorder:
        task = Recorder({"image", "seq"})
        task.output = lambda inputs: {"out": [model, inputs["seq"]]}
        return task

    own, small, large = of(-1), of(2), of(0)
    small.max_batch = 2
    models = Models(own, {0: large, 2: small})
    worker = Workbench("second", own, arena, models)
    wanted = [2, 0, None, 2, 9, 2, 0]
    parts = [part(arena, seq, model=model) for seq, model in enumerate(wanted)]
    answers = worker.work([parts[0], b"nonsense", *parts[1:]], list(range(100, 108)))
    assert len(answers.frames) == 8
    assert isinstance(answers.frames[1], messages.Failure)
    frames = [answers.frames[0], *answers.frames[2:]]
    assert frames.pop(4) == messages.Failure("EngineError: no model 9")
    found = [outputs(frame) for frame in frames]
    named = [-1 if model is None else model for model in wanted if model != 9]
    assert [each["second"]["out"] for each in found] == [
        [model, seq] for model, seq in zip(named, (0, 1, 2, 3, 5, 6), strict=True)
    ]
    assert [[len(batch) for batch in task.batches] for task in (own, small, large)] == [
        [1], [2, 1], [2],
    ]  # fmt: skip
    times = [each[messages.TIMES]["second"] for each in found]
    assert [time[3] for time in times] == [100, 102, 103, 104, 106, 107]
    # Frames of one model began and ended together, those of another one before or after.
    assert times[0][:2] == times[3][:2] == times[4][:2]
    assert times[1][:2] == times[5][:2]
    assert times[0][1] <= times[1][0] <= times[1][1] <= times[2][0]
    assert answers.start_ns == times[0][0]
    assert answers.end_ns >= times[2][1]
    worker.close()
    assert own.is_closed
    for task in models.others.values():
        task.close()
