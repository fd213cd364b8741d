from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import vdag
from vdag.graph import Edge, Graph
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
