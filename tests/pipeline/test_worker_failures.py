"""A pipeline with worker processes when a task, a worker or the source fails."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from pipeline_kit import analyse, balanced, pictures, worker_processes

import vdag
from vdag.errors import ConfigError, EngineError, SourceError, StageError
from vdag.pipeline import Pipeline
from vdag.transport.poison import PoisonStore
from vdag.workers import Patience

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tasks", "runtime")]  # as a whole


# --- tasks that raise --------------------------------------------------------------------------


def test_an_exception_reaches_the_caller_at_its_frame_with_the_worker_s_traceback():
    with Pipeline(["fragile"], pictures(10), workers=1, batch=4) as run:
        results = iter(run)
        assert [next(results).seq for _ in range(3)] == [0, 1, 2]
        with pytest.raises(
            StageError, match=r"^fragile failed on frame 3: ZeroDivisionError: three$"
        ) as caught:
            next(results)
    assert 'worker_tasks.py", line' in str(caught.value.__cause__)
    stats = run.stats()
    assert stats.dropped["error"] == 1
    assert stats.tasks["fragile"].errors == 1
    assert balanced(stats)


def test_a_failing_frame_can_be_dropped_and_fails_alone():
    results, stats = analyse(["fragile"], pictures(10), workers=1, batch=4, on_error="drop")
    assert [result.seq for result in results] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert stats.dropped == {"error": 1}


def test_a_worker_cannot_write_into_the_frame():
    with (
        Pipeline(["scribble"], pictures(1), workers=1) as run,
        pytest.raises(StageError, match="read-only"),
    ):
        list(run)


# --- workers that die, take too long or do not start -------------------------------------------


def test_a_frame_that_kills_its_workers_is_dropped_and_the_others_arrive():
    results, stats = analyse(["deadly"], pictures(12), workers=2, on_error="drop")
    assert [result["deadly"]["number"] for result in results] == [n for n in range(12) if n != 3]
    assert stats.dropped == {"poison": 1}


def test_a_frame_that_kills_its_workers_is_kept_for_replay(tmp_path):
    folder = tmp_path / "poison"
    with Pipeline(["deadly"], pictures(5), workers=1, on_error="drop", poison=folder) as run:
        assert [result.seq for result in run] == [0, 1, 2, 4]
    (kept,) = PoisonStore(folder).frames()
    frame = PoisonStore.load(kept)
    assert (frame.descriptor.header.seq, frame.descriptor.here.task) == (3, "deadly")
    assert (frame.pixels == 3).all()
    assert "SIGKILL" in frame.report


def test_a_frame_that_kills_its_workers_is_an_error_at_its_turn():
    with Pipeline(["deadly"], pictures(5), workers=1) as run:
        results = iter(run)
        assert [next(results).seq for _ in range(3)] == [0, 1, 2]
        with pytest.raises(StageError, match=r"^deadly failed on frame 3: .*killed by SIGKILL"):
            next(results)
    assert run.stats().dropped["poison"] == 1
    assert balanced(run.stats())


def test_a_worker_killed_in_the_middle_costs_no_frame(carphone):
    with Pipeline(["face_detection"], carphone, workers=2, max_in_flight=8) as run:
        seqs = []
        for result in run:
            seqs.append(result.seq)
            result.drop_frame()
            if len(seqs) == 20:
                worker_processes()[0].send_signal(signal.SIGKILL)
    assert seqs == list(range(120))
    stats = run.stats()
    assert (stats.read, stats.delivered, dict(stats.dropped)) == (120, 120, {})


def test_a_frame_that_takes_too_long_is_dropped_and_the_others_arrive(gate):
    with Pipeline(["gated"], pictures(20), workers=2, frame_timeout_s=0.5) as run:
        seqs = [result.seq for result in run]
        with gate.open("wb"):
            pass
    # The worker at the gate may have taken one more, to have it ready.
    assert len(seqs) >= 18
    assert seqs == sorted(set(range(1, 20)) & set(seqs))
    assert run.stats().dropped == {"timeout": 20 - len(seqs)}
    assert balanced(run.stats())


def test_workers_are_waited_for_as_long_as_the_caller_says():
    patience = Patience(start_timeout_s=0.01, backoff_s=60.0)
    with pytest.raises(EngineError, match=r"number-\d+: not ready within 0\.01 s"):
        Pipeline(["number"], pictures(1), workers=1, patience=patience)


def test_a_model_that_cannot_be_loaded_is_an_error_at_once():
    with pytest.raises(ConfigError, match=r"^face_detection has no model_id 9, expected one of "):
        Pipeline(["face_detection"], pictures(1), models={"face_detection": 9}, workers=1)


def test_the_first_frame_goes_back_when_workers_cannot_start():
    released = []

    class Lease:
        def release(self):
            released.append(1)

    class Mine:
        name, fps, frame_count, width, height, live = "mine", 0.0, None, 0, 0, False

        def __iter__(self):
            yield vdag.Frame(pictures(1)[0], lease=Lease())

        def read(self, timeout_s=None): ...
        def stats(self): ...
        def close(self): ...

    with pytest.raises(ConfigError, match="model_id 9"):
        Pipeline(["face_detection"], Mine(), models={"face_detection": 9}, workers=1)
    assert released == [1]


# --- sources -----------------------------------------------------------------------------------


def test_the_error_of_a_source_comes_after_the_frames_before_it():
    def source():
        yield from pictures(3)
        raise SourceError("camera: unplugged")

    with Pipeline(["number"], source(), workers=1) as run:
        results = iter(run)
        assert [next(results).seq for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SourceError, match=r"^camera: unplugged$"):
            next(results)


def test_a_frame_larger_than_the_first_is_an_error_of_the_source():
    source = [*pictures(1), np.zeros((8, 8, 3), np.uint8)]
    with Pipeline(["number"], source, workers=1) as run:
        results = iter(run)
        next(results)
        with pytest.raises(SourceError, match=r"^frame of 8x8 does not fit the shared memory"):
            next(results)
