from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from vdag.errors import ConfigError, GraphError, SourceError, StageError
from vdag.graph import Graph, Signature
from vdag.pipeline import Pipeline
from vdag.sources import SingleFrameGenerator

WAIT_S = 20.0


def pictures(count):
    """Pictures whose every sample is their number."""
    return (np.full((4, 6, 3), n % 256, np.uint8) for n in range(count))


class Double:
    """Gives the first sample of the picture, doubled."""

    signature = Signature(frozenset({"image"}), frozenset({"number"}))
    max_batch = 4

    def __init__(self):
        self.batches: list[int] = []
        self.closed = False

    def process(self, batch):
        self.batches.append(len(batch))
        return [{"number": 2 * int(inputs["image"][0, 0, 0])} for inputs in batch]

    def close(self):
        self.closed = True


class AddOne(Double):
    signature = Signature(frozenset({"number"}), frozenset({"total"}))

    def process(self, batch):
        return [{"total": inputs["number"] + 1} for inputs in batch]


class Gate(Double):
    """Holds every frame until it is opened, and says when it has one."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Event()
        self.opened = threading.Event()

    def process(self, batch):
        self.entered.set()
        assert self.opened.wait(WAIT_S)
        return super().process(batch)


class Failing(Double):
    def process(self, batch):
        if any(inputs["image"][0, 0, 0] == 3 for inputs in batch):
            raise ZeroDivisionError("three")
        return super().process(batch)


def balanced(stats):
    return stats.read == stats.delivered + sum(stats.dropped.values()) + stats.in_flight


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 4])
def test_results_come_in_order_and_none_is_missing(threads, batch):
    tasks = {"double": Double(), "add": AddOne()}
    with Pipeline(
        ["double", "add"], pictures(50), tasks=tasks, threads=threads, batch=batch
    ) as run:
        results = list(run)
    assert [result.seq for result in results] == list(range(50))
    assert [result["add"]["total"] for result in results] == [2 * n + 1 for n in range(50)]
    stats = run.stats()
    assert (stats.read, stats.delivered, stats.in_flight) == (50, 50, 0)
    assert {name: stage.frames for name, stage in stats.tasks.items()} == {"double": 50, "add": 50}


def test_independent_branches_see_the_same_frame():
    tasks = {"left": Double(), "right": Double()}
    with Pipeline(["left", "right"], pictures(20), tasks=tasks, threads=3) as run:
        for result in run:
            assert result["left"] == result["right"] == {"number": 2 * result.seq}


def test_a_task_cannot_write_into_the_frame():
    class Scribble(Double):
        def process(self, batch):
            batch[0]["image"][:] = 0
            return super().process(batch)

    with (
        Pipeline(["scribble"], pictures(1), tasks={"scribble": Scribble()}) as run,
        pytest.raises(StageError, match="read-only"),
    ):
        list(run)


def test_ready_tasks_given_by_the_caller_stay_open():
    task = Double()
    with Pipeline(["double"], pictures(2), tasks={"double": task}) as run:
        list(run)
    assert not task.closed


def test_latest_drops_waiting_frames_and_counts_them():
    gate = Gate()
    fed = threading.Event()

    def source():
        frames = pictures(10)
        yield next(frames)
        assert gate.entered.wait(WAIT_S)
        yield from frames
        fed.set()

    with Pipeline(
        ["gate"], source(), tasks={"gate": gate}, threads=1, policy="latest", max_in_flight=1
    ) as run:
        opener = threading.Thread(target=lambda: fed.wait(WAIT_S) and gate.opened.set())
        opener.start()
        found = [result.seq for result in run]
        opener.join(WAIT_S)
    stats = run.stats()
    assert found == [0, 9]
    assert stats.dropped == {"superseded": 8}
    assert balanced(stats)


def test_block_holds_the_source_back_while_nobody_takes_results():
    produced = Counter()

    def source():
        for picture in pictures(100):
            produced["frames"] += 1
            yield picture

    with Pipeline(
        ["double"], source(), tasks={"double": Double()}, threads=1, max_in_flight=2
    ) as run:
        results = iter(run)
        next(results)
        # 2 started, 1 waiting, 1 in the source's hands, 1 delivered
        assert produced["frames"] <= 6
        assert run.stats().in_flight <= 3
        assert len(list(results)) == 99
    assert balanced(run.stats())


def test_an_exception_reaches_the_caller_at_its_frame():
    with Pipeline(["fail"], pictures(10), tasks={"fail": Failing()}, batch=4) as run:
        results = iter(run)
        assert [next(results).seq for _ in range(3)] == [0, 1, 2]
        with pytest.raises(StageError, match=r"^fail failed on frame 3: ZeroDivisionError: three$"):
            next(results)
    stats = run.stats()
    assert stats.dropped["error"] == 1
    assert balanced(stats)


def test_a_failing_frame_can_be_dropped_and_fails_alone():
    task = Failing()
    with Pipeline(["fail"], pictures(10), tasks={"fail": task}, batch=4, on_error="drop") as run:
        seqs = [result.seq for result in run]
    assert seqs == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    stats = run.stats()
    assert stats.dropped == {"error": 1}
    assert (stats.tasks["fail"].frames, stats.tasks["fail"].errors) == (9, 1)
    assert balanced(stats)


def test_a_frame_that_fails_in_both_branches_is_dropped_once():
    tasks = {"left": Failing(), "right": Failing()}
    with Pipeline(["left", "right"], pictures(6), tasks=tasks, on_error="drop") as run:
        assert len(list(run)) == 5
    assert run.stats().dropped == {"error": 1}


def test_a_result_without_its_fields_is_an_error_of_the_task():
    class Forgetful(Double):
        def process(self, batch):
            return [{} for _ in batch]

    with (
        Pipeline(["forgetful"], pictures(1), tasks={"forgetful": Forgetful()}) as run,
        pytest.raises(
            StageError, match=r"^forgetful failed on frame 0: ValueError: result lacks number$"
        ),
    ):
        list(run)


def test_the_error_of_a_source_comes_after_the_frames_before_it():
    def source():
        yield from pictures(3)
        raise SourceError("camera: unplugged")

    with Pipeline(["double"], source(), tasks={"double": Double()}) as run:
        results = iter(run)
        assert [next(results).seq for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SourceError, match=r"^camera: unplugged$"):
            next(results)


def test_closing_in_the_middle_counts_what_was_in_flight():
    gate = Gate()
    with Pipeline(["gate"], pictures(100), tasks={"gate": gate}, threads=2) as run:
        results = iter(run)
        thread = threading.Thread(target=lambda: list(results))
        thread.start()
        assert gate.entered.wait(WAIT_S)
        closing = threading.Thread(target=run.close)
        closing.start()
        gate.opened.set()
        closing.join(WAIT_S)
        thread.join(WAIT_S)
        assert not thread.is_alive()
    stats = run.stats()
    assert stats.in_flight == 0
    assert stats.dropped["closed"] >= 1
    assert balanced(stats)


def test_a_pipeline_is_iterated_once():
    with Pipeline(["double"], pictures(1), tasks={"double": Double()}) as run:
        list(run)
        with pytest.raises(ConfigError, match=r"^a pipeline is iterated once$"):
            next(iter(run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "threads is 0, expected at least 1"),
        ({"batch": 0}, "batch is 0, expected at least 1"),
        ({"on_error": "ignore"}, "on_error is 'ignore', expected raise or drop"),
        ({"policy": "newest"}, "policy is 'newest', expected block or latest"),
        ({"models": {"car": 1}}, "models names 'car', which is no task of the graph"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        Pipeline(["double"], pictures(1), tasks={"double": Double()}, **arguments)
    assert str(caught.value) == message


def test_a_source_of_the_other_kind_is_refused():
    with (
        SingleFrameGenerator(pictures(1)) as source,
        pytest.raises(ConfigError) as caught,
    ):
        Pipeline(Graph.chain("helmet_detection", generator="ClipGenerator"), source)
    assert str(caught.value) == "the graph wants a ClipGenerator, source is a SingleFrameGenerator"


def test_an_unknown_task_is_refused():
    with pytest.raises(GraphError, match=r"^unknown task 'triple': expected one of "):
        Pipeline(Graph.chain("triple"), pictures(1))
