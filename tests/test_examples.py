from __future__ import annotations

import runpy
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import vdag
from vdag.config import load_config
from vdag.control.advisers import Advisers
from vdag.control.scheduling.events import NodeInfo, PlanProposed, ServiceInfo, VideoInfo
from vdag.control.scheduling.instructions import AskPolicy, Question
from vdag.control.scheduling.surroundings import Snapshot
from vdag.graph import Edge, Graph
from vdag.plan import Constraint, Placement, Plan, VideoConf
from vdag.tasks import base, signatures

EXAMPLES = Path(__file__).parents[1] / "examples"
GENERATOR = "SingleFrameGenerator"

Load = Callable[[str], dict[str, Any]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Run an example; its tasks are known to this test only."""
    monkeypatch.setattr(base, "_registry", dict(base._registry))
    return lambda name: runpy.run_path(str(EXAMPLES / name))


# --- graphs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_a_graph_fits_the_tasks_and_leaves_nothing_to_guess(path: Path):
    graph = Graph.load(path)
    assert graph.check(signatures()) == graph
    assert Graph.from_dag(graph.to_dag()) == graph


def test_faces_and_their_poses_are_a_chain():
    graph = Graph.load(EXAMPLES / "faces.json")
    assert graph.tasks == ("face_detection", "face_alignment")
    assert graph.producers("face_alignment") == ("face_detection",)


def test_cars_are_found_in_one_step():
    assert Graph.load(EXAMPLES / "cars.json") == Graph(
        GENERATOR,
        ("car_detection",),
        {"car_detection": (Edge("image", GENERATOR, "image"),)},
    )


def test_faces_and_cars_are_branches_that_do_not_wait_for_each_other():
    graph = Graph.load(EXAMPLES / "faces_and_cars.json")
    assert graph.sinks() == ("face_alignment", "car_detection")
    assert graph.producers("car_detection") == ()
    assert graph.producers("face_alignment") == ("face_detection",)


# --- brightness.py ----------------------------------------------------------------------------


def stripes(low: int, high: int) -> np.ndarray:
    """A picture of 4-pixel stripes between two greys."""
    columns = np.where(np.arange(160) // 4 % 2, high, low).astype(np.uint8)
    return np.broadcast_to(columns[None, :, None], (120, 160, 3))


@pytest.mark.parametrize(
    ("picture", "problems"),
    [
        (stripes(80, 160), []),
        (stripes(0, 60), ["dark"]),
        (stripes(200, 255), ["bright"]),
        (np.full((120, 160, 3), 128, np.uint8), ["blurred"]),
        (np.zeros((120, 160, 3), np.uint8), ["dark", "blurred"]),
        (np.full((1, 1, 3), 255, np.uint8), ["bright", "blurred"]),
    ],
    ids=["good", "dark", "bright", "flat", "black", "one pixel"],
)
def test_brightness_names_what_is_wrong_with_a_picture(load: Load, picture, problems):
    assert load("brightness.py")["brightness"](picture)["problems"] == problems


def test_brightness_is_the_luma_of_the_colours(load: Load):
    brightness = load("brightness.py")["brightness"]
    for channel, weight in enumerate((0.114, 0.587, 0.299)):
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[..., channel] = 200
        assert brightness(picture)["brightness"] == pytest.approx(200 * weight, abs=0.01)


def test_brightness_sees_a_lens_out_of_focus(load: Load, bikes: Path):
    brightness = load("brightness.py")["brightness"]
    with vdag.open_source(bikes, fps=1) as source:
        for frame in source:
            blurred = cv2.GaussianBlur(frame.pixels, (0, 0), 3)
            assert brightness(frame.pixels)["problems"] == []
            assert brightness(blurred)["problems"] == ["blurred"]


def test_brightness_runs_in_a_pipeline_by_its_name(load: Load):
    load("brightness.py")
    with vdag.Pipeline(["brightness"], [stripes(80, 160), stripes(0, 60)]) as pipeline:
        found = [result["brightness"]["problems"] for result in pipeline]
    assert found == [[], ["dark"]]


# --- custom_task.py ---------------------------------------------------------------------------


def standing_at(*points: tuple[float, float]) -> np.ndarray:
    """Rows of a detector for boxes of 2x2 pixels whose lower edges are centred there."""
    rows = [[x - 1, y - 2, x + 1, y, 0.9, 2] for x, y in points]
    return np.array(rows, np.float32).reshape(-1, 6)


def count(cls: type[Any], rows: np.ndarray) -> dict[str, Any]:
    task = cls(vdag.TaskOptions())
    (found,) = task.process([{"image": np.zeros((100, 200, 3), np.uint8), "result": rows}])
    task.close()
    return found


def test_a_zone_is_the_lower_half_of_the_picture(load: Load):
    zone_count = load("custom_task.py")["ZoneCount"]
    found = count(zone_count, standing_at((20, 40), (20, 60), (199, 99), (120, 10)))
    assert found["inside"].tolist() == [False, True, True, False]
    assert found["count_result"] == {"in zone": 2}


def test_a_zone_without_vehicles_counts_none(load: Load):
    found = count(load("custom_task.py")["ZoneCount"], standing_at())
    assert found["inside"].shape == (0,)
    assert found["count_result"] == {"in zone": 0}


def test_a_zone_may_have_a_notch(load: Load):
    class Notched(load("custom_task.py")["ZoneCount"]):
        zone = ((0.1, 0.1), (0.5, 0.5), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))

    points = ((100, 20), (100, 45), (100, 55), (40, 30), (160, 30), (10, 50), (190, 50))
    inside = count(Notched, standing_at(*points))["inside"]
    assert inside.tolist() == [False, False, True, True, True, False, False]


def test_a_zone_agrees_with_a_second_implementation(load: Load):
    class Star(load("custom_task.py")["ZoneCount"]):
        zone = ((0.5, 0.1), (0.6, 0.4), (0.95, 0.4), (0.65, 0.6), (0.8, 0.95), (0.2, 0.9))

    generator = np.random.default_rng(7)
    points = generator.uniform((0, 0), (200, 100), (500, 2))
    contour = (np.array(Star.zone) * (200, 100)).astype(np.float32)
    wanted = [cv2.pointPolygonTest(contour, (float(x), float(y)), False) > 0 for x, y in points]
    assert count(Star, standing_at(*points))["inside"].tolist() == wanted


def test_a_zone_needs_a_detector_before_it(load: Load):
    load("custom_task.py")
    with pytest.raises(vdag.VdagError, match=r"^input result of zone_count comes from nowhere$"):
        Graph.chain("zone_count").check(signatures())
    graph = Graph.chain("car_detection", "zone_count").check(signatures())
    assert graph.producers("zone_count") == ("car_detection",)


# --- policy.py ----------------------------------------------------------------------------------

SHARES = {"n_process": 1, "cpu_ratio": 1.0, "mem_ratio": 1.0}
PLACE = {"node_role": "host", "node_ip": "10.0.0.1", "model_id": 0}
TIMEOUT_S = 60.0


def question(resolution: str = "", delay: float | None = None, wanted: Any = 0.3) -> Question:
    """What a policy is asked about a query whose node and whose server do both of its tasks."""
    tasks = ("face_detection", "face_alignment")
    plan = None
    if resolution:
        mapping = {task: Placement("10.0.0.1") for task in tasks}
        plan = Plan(3, VideoConf(resolution, 10.0), mapping)
    offers = dict.fromkeys(tasks, SHARES)
    host = NodeInfo("10.0.0.1:5001", "10.0.0.1", services=dict.fromkeys(tasks, ServiceInfo()))
    info = {"host": {"10.0.0.1": offers}, "cloud": {"10.0.0.9": offers}, "edge": {}}
    return Question(
        "GLOBAL_ID_1",
        Graph.chain(*tasks).to_dag(),
        Snapshot((host,), info),
        {} if delay is None else {"delay": delay, "obj_n": 2.0},
        constraint=Constraint.from_document({"delay": wanted, "accuracy": 0.9}),
        video=VideoInfo("people", 1920, 1080, 25.0),
        previous=plan,
    )


def advised(*questions: Question) -> list[PlanProposed]:
    """What the example answers in the process that users' policies run in."""
    name = f"{EXAMPLES / 'policy.py'}:sharpest_in_time"
    advisers, found = Advisers(start_timeout_s=TIMEOUT_S, timeout_s=TIMEOUT_S), []
    try:
        for number, each in enumerate(questions, 1):
            answers = advisers.ask(AskPolicy(each.job_uid, number, name, each), time.monotonic_ns())
            while not answers:
                poller = select.poll()
                for fd, events in advisers.fds():
                    poller.register(fd, events)
                assert poller.poll(TIMEOUT_S * 1e3), "it says nothing"
                answers = advisers.serve(time.monotonic_ns())
            (answer,) = answers
            assert isinstance(answer, PlanProposed), answer
            found.append(answer)
    finally:
        advisers.close()
    return found


def test_a_policy_goes_down_until_results_are_in_time_and_up_when_there_is_room():
    first, late, fine, early = advised(
        question(), question("540p", 0.5), question("480p", 0.2), question("480p", 0.05)
    )
    assert first.video_conf == {"resolution": "540p", "fps": 10, "encoder": "JPEG"}
    assert first.flow_mapping == {"face_detection": PLACE, "face_alignment": PLACE}
    assert [each.video_conf["resolution"] for each in (late, fine, early)] == [
        "480p", "480p", "540p",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("resolution", "delay", "wanted", "expected"),
    [
        ("360p", 9.0, 0.3, "360p"),
        ("1080p", 0.001, 0.3, "1080p"),
        ("720p", 0.4, [0.1, 0.3], "540p"),
        ("720p", 0.4, [0.1, -1], "720p"),
        ("720p", 0.4, -1, "720p"),
        ("720p", 0.4, None, "720p"),
        ("320x200", 0.29, 0.3, "540p"),
    ],
    ids=["lowest", "highest", "bounds", "no upper bound", "none", "null", "of another's plan"],
)
def test_a_policy_keeps_to_its_steps_and_reads_every_form_of_a_constraint(
    load: Load, resolution, delay, wanted, expected
):
    asked = question(resolution, delay, wanted)
    conf, _ = load("policy.py")["sharpest_in_time"](
        asked.job_uid,
        asked.dag,
        asked.around.resource_info(),
        asked.runtime_info,
        asked.user_constraint,
        asked.previous,
    )
    assert conf["resolution"] == expected


def test_a_policy_says_what_nobody_does(load: Load):
    asked = question()
    with pytest.raises(LookupError, match=r"^no node does face_detection$"):
        load("policy.py")["sharpest_in_time"](asked.job_uid, asked.dag, {}, {}, {})


# --- node.toml ----------------------------------------------------------------------------------


def test_a_node_with_all_roles_can_be_configured_as_shown():
    config = load_config(EXAMPLES / "node.toml")
    assert config.node.all_roles == {"cloud", "edge", "service"}
    assert set(Graph.load(EXAMPLES / "faces.json").tasks) == set(config.service.tasks)
    for video in config.edge.videos.values():
        with vdag.open_source(video.path) as source:
            assert (source.width, source.height) == (640, 480)
