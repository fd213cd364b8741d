"""A pipeline with worker processes: the real ones, over real video where that matters."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from pipeline_kit import analyse, balanced, pictures, worker_processes

import vdag
from vdag.errors import ConfigError, GraphError
from vdag.graph import Graph
from vdag.pipeline import Pipeline
from vdag.results import PICTURES
from vdag.sources import ClipGenerator, SingleFrameGenerator

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tasks", "runtime")]  # as a whole

EXAMPLES = Path(__file__).parents[2] / "examples"
WAIT_S = 60.0


def assert_same(left, right):
    """Compare two results; pictures stay where they were cut out."""
    assert (left.seq, left.cam_frame_id, left.stream) == (
        right.seq,
        right.cam_frame_id,
        right.stream,
    )
    assert (left.width, left.height, left.pts_s) == (right.width, right.height, right.pts_s)
    assert left.outputs.keys() == right.outputs.keys()
    for task, fields in left.outputs.items():
        assert fields.keys() - PICTURES == right[task].keys() - PICTURES
        for name in fields.keys() - PICTURES:
            assert_close(fields[name], right[task][name])


def assert_close(left, right):
    if isinstance(left, dict):
        assert left == right
    else:
        np.testing.assert_allclose(left, right, atol=1e-3)


# --- the same results as with threads -----------------------------------------------------------


def test_workers_find_in_real_video_what_threads_find(carphone):
    graph = Graph.chain("face_detection", "face_alignment")
    expected, _ = analyse(graph, carphone)
    found, stats = analyse(graph, carphone, workers=1)
    assert [result.seq for result in found] == list(range(120))
    for left, right in zip(found, expected, strict=True):
        assert_same(left, right)
        assert np.array_equal(left.frame.pixels, right.frame.pixels)
        assert left.task_delay_s.keys() == {"face_detection", "face_alignment"}
        assert left.delay_s >= sum(left.task_delay_s.values())
    assert (stats.read, stats.delivered, dict(stats.dropped)) == (120, 120, {})
    assert {task: stage.frames for task, stage in stats.tasks.items()} == {
        "face_detection": 120,
        "face_alignment": 120,
    }


def test_independent_branches_come_back_together(carphone):
    graph = Graph.load(EXAMPLES / "faces_and_cars.json")
    options = {"models": {"car_detection": 2}}
    expected, _ = analyse(graph, SingleFrameGenerator(carphone, fps=5), **options)
    found, stats = analyse(graph, SingleFrameGenerator(carphone, fps=5), workers=1, **options)
    assert len(found) == len(expected) == 20
    for left, right in zip(found, expected, strict=True):
        assert_same(left, right)
    assert stats.dropped == {}


def test_a_field_of_another_task_arrives(tasks):
    results, _ = analyse(["number", "add_one"], pictures(10), workers=1)
    assert [result["add_one"]["total"] for result in results] == list(range(1, 11))


def test_results_of_several_workers_stay_in_order_and_none_is_of_this_process():
    results, stats = analyse(
        ["number", "whereabouts"],
        pictures(200),
        workers={"whereabouts": 2},
        batch=4,
        max_in_flight=32,
    )
    assert [result["number"]["number"] for result in results] == [n % 256 for n in range(200)]
    assert os.getpid() not in {result["whereabouts"]["pid"] for result in results}
    assert (stats.read, stats.delivered, dict(stats.dropped)) == (200, 200, {})


def is_in_a_slot(frame):
    slot = np.frombuffer(frame.lease, np.uint8)
    return np.shares_memory(frame.pixels, slot) and not frame.pixels.flags.writeable


def test_a_video_is_decoded_into_slots(carphone):
    with Pipeline(["number"], carphone, workers=1) as run:
        first = next(iter(run))
        assert is_in_a_slot(first.frame)
        first.drop_frame()


@pytest.mark.parametrize("resolution", [None, "80x60"])
def test_a_generator_of_the_caller_s_decodes_into_slots_for_as_long(carphone, resolution):
    with SingleFrameGenerator(carphone, resolution=resolution) as source:
        with Pipeline(["number"], source, workers=1) as run:
            first = next(iter(run))
            assert first.seq == 0
            assert is_in_a_slot(first.frame)
            first.drop_frame()
        assert source.allocate is None
        frame = source.read()
        assert frame.lease is None
        assert frame.pixels.flags.writeable


def test_a_generator_with_memory_of_its_own_keeps_it(carphone):
    memory = []

    def allocate(width, height):
        memory.append(np.empty((height, width, 3), np.uint8))
        return memory[-1], None

    with SingleFrameGenerator(carphone, allocate=allocate) as source:
        with Pipeline(["number"], source, workers=1) as run:
            first = next(iter(run))
            assert first.frame.pixels is memory[0]
        assert source.allocate is allocate


def test_the_frames_of_another_source_are_its_own():
    class Other:
        """A source that is no generator of ours."""

        def __init__(self, source):
            self._source = source

        def __getattr__(self, name):
            return getattr(self._source, name)

        def __iter__(self):
            return iter(self._source)

    mine = pictures(1)[0]
    with Pipeline(["number"], Other(SingleFrameGenerator([mine])), workers=1) as run:
        (result,) = run
    assert np.shares_memory(result.frame.pixels, mine)


def test_frames_outlive_their_pipeline(carphone):
    results, _ = analyse(["number"], carphone, workers=1, max_in_flight=2)
    with SingleFrameGenerator(carphone) as source:
        for result, frame in zip(results, source, strict=True):
            assert np.array_equal(result.frame.pixels, frame.pixels)


def test_a_source_without_frames_has_no_results():
    results, stats = analyse(["number"], [], workers=1)
    assert results == []
    assert stats.read == 0


def test_labels_are_known_without_the_model():
    graph = ["car_detection", "face_detection"]
    options = {"models": {"car_detection": 2, "face_detection": 2}}
    with Pipeline(graph, pictures(1), **options) as threads:
        expected = threads.labels
    with Pipeline(graph, pictures(1), workers=1, **options) as run:
        assert run.labels == expected
        assert expected[2] == "car"


# --- policies -----------------------------------------------------------------------------------


def test_latest_drops_waiting_frames_and_counts_them(gate):
    fed = threading.Event()

    def source():
        yield from pictures(10)
        fed.set()

    def open_gate():
        with gate.open("wb"):
            assert fed.wait(WAIT_S)

    opener = threading.Thread(target=open_gate)
    with Pipeline(["gated"], source(), workers=1, policy="latest", max_in_flight=1) as run:
        opener.start()
        found = [result.seq for result in run]
        opener.join(WAIT_S)
    assert found == [0, 9]
    assert run.stats().dropped == {"superseded": 8}
    assert balanced(run.stats())


def test_block_holds_the_source_back_while_nobody_takes_results():
    produced = []

    def source():
        for picture in pictures(60):
            produced.append(1)
            yield picture

    with Pipeline(["number"], source(), workers=1, max_in_flight=2) as run:
        results = iter(run)
        next(results)
        # 2 sent, 1 waiting, 1 in the source's hands, 1 delivered
        assert len(produced) <= 6
        assert run.stats().in_flight <= 3
        assert len(list(results)) == 59
    assert balanced(run.stats())


# --- closing -----------------------------------------------------------------------------------


def test_closing_in_the_middle_counts_what_was_in_flight(carphone):
    with Pipeline(["face_detection"], carphone, workers=1) as run:
        results = iter(run)
        assert next(results).seq == 0
    stats = run.stats()
    assert stats.in_flight == 0
    assert stats.dropped["closed"] >= 1
    assert balanced(stats)
    run.close()
    assert list(results) == []


def test_a_pipeline_that_was_never_iterated_leaves_nothing(runtime):
    with Pipeline(["number"], pictures(1), workers=1):
        assert len(worker_processes()) == 1
        assert len(list(runtime.iterdir())) == 1


def test_a_pipeline_is_iterated_once():
    with Pipeline(["number"], pictures(1), workers=1) as run:
        list(run)
        with pytest.raises(ConfigError, match=r"^a pipeline is iterated once$"):
            next(iter(run))


def test_nothing_stays_open_however_often_it_is_done():
    def once():
        with Pipeline(["number"], pictures(50), workers=1) as run:
            next(iter(run))

    once()
    before = psutil.Process().num_fds()
    for _ in range(3):
        once()
    assert psutil.Process().num_fds() == before


# --- what cannot be ----------------------------------------------------------------------------


def test_a_task_given_as_an_object_is_refused():
    class Here:
        signature = vdag.Signature(frozenset({"image"}), frozenset({"number"}))
        max_batch = 1

    text = (
        r"^task here is an object of this process: "
        r"with workers, register its class in a module$"
    )
    with pytest.raises(ConfigError, match=text):
        Pipeline(["here"], pictures(1), tasks={"here": Here()}, workers=1)


def test_a_task_of_the_main_script_is_refused(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "import vdag\n"
        "@vdag.task(outputs=['size'])\n"
        "def size(image):\n"
        "    return {'size': image.size}\n"
        "try:\n"
        "    vdag.Pipeline(['size'], [np.zeros((2, 2, 3), np.uint8)], workers=1)\n"
        "except vdag.VdagError as err:\n"
        "    print(type(err).__name__, err)\n",
        encoding="utf-8",
    )
    root = str(Path(vdag.__file__).parents[1])
    process = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    assert process.stdout == (
        "ConfigError task size is defined in __main__, which worker processes cannot run: "
        "put it into a module of its own\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers of number is 0, expected at least 1"),
        ({"workers": {"number": 0}}, "workers of number is 0, expected at least 1"),
        ({"workers": {"car": 1}}, "workers names 'car', which is no task of the graph"),
        ({"workers": 1, "threads": 2}, "threads and workers exclude each other"),
        ({"workers": 1, "policy": "newest"}, "policy is 'newest', expected block or latest"),
        ({"workers": 1, "max_in_flight": 2000}, "max_in_flight is 2000, expected 1 to 1024"),
        ({"workers": 1, "frame_timeout_s": 0.0}, "frame_timeout_s is 0.0, expected above 0"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        Pipeline(["number"], pictures(1), **arguments)
    assert str(caught.value) == message


def test_clips_are_refused(carphone):
    graph = Graph.chain("helmet_detection", generator="ClipGenerator")
    with ClipGenerator(carphone) as source:
        text = r"^workers take single frames, not those of a ClipGenerator$"
        with pytest.raises(ConfigError, match=text):
            Pipeline(graph, source, workers=1)


def test_more_workers_than_shared_memory_can_serve_are_refused():
    with pytest.raises(ConfigError, match=r"^100 workers beside 0 are not 1 to 48 in all$"):
        Pipeline(["number"], pictures(1), workers=100)


def test_an_unknown_task_is_refused():
    with pytest.raises(GraphError, match=r"^unknown task 'triple': expected one of "):
        Pipeline(Graph.chain("triple"), pictures(1), workers=1)
