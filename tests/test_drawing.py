from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdag.drawing import draw, pose_axes, render
from vdag.errors import SinkError
from vdag.frame import Frame, PixelFormat, UInt8Image
from vdag.results import Outputs, Result

ANGLES = st.floats(-80.0, 80.0)


def scene(width: int = 640, height: int = 480) -> UInt8Image:
    return np.full((height, width, 3), 60, np.uint8)


def changed(pixels: UInt8Image) -> NDArray[np.bool_]:
    """Return where a scene was drawn on."""
    marks: NDArray[np.bool_] = (pixels != 60).any(axis=2)
    return marks


def result(outputs: dict[str, Outputs], frame: Frame | None) -> Result:
    width, height = (frame.width, frame.height) if frame else (640, 480)
    return Result("cam", 7, 9, None, width, height, outputs, frame=frame)


def test_a_box_is_drawn_where_it_is_with_its_label_above() -> None:
    boxes = np.array([[200, 150, 400, 350]], np.float32)
    pixels = scene()
    assert draw(pixels, {"face_detection": {"bbox": boxes, "prob": [0.987]}}) is pixels
    marks = changed(pixels)
    assert marks[150, 200:400].all()
    assert marks[350, 200:400].all()
    assert marks[150:350, 200].all()
    assert marks[150:350, 400].all()
    assert not marks[170:330, 220:380].any()  # nothing inside it
    assert marks[135:148, 202:220].all()  # the label
    assert not marks[360:, :].any()


def test_a_label_stays_inside_the_picture() -> None:
    for box in ([0, 0, 30, 30], [620, 2, 639, 40], [-50, -50, 700, 500]):
        pixels = scene()
        draw(pixels, {"car_detection": {"bbox": [box], "prob": [0.5]}})
        assert changed(pixels)[: 480 // 2].sum() > 200


def test_rows_are_drawn_by_class_with_the_names_given() -> None:
    rows = np.array([[10, 200, 110, 300, 0.6, 2], [300, 200, 400, 300, 0.5, 7]], np.float32)
    by_task, by_caller, unknown = scene(), scene(), scene()
    draw(by_task, {"car": {"result": rows, "names": {2: "car", 7: "truck"}}})
    draw(by_caller, {"car": {"result": rows}}, labels={2: "car", 7: "truck"})
    draw(unknown, {"car": {"result": rows}})
    assert np.array_equal(by_task, by_caller)
    assert not np.array_equal(by_task, unknown)
    assert not np.array_equal(by_task[250, 10], by_task[250, 300])  # a colour for each class


def test_names_may_be_a_list() -> None:
    rows = [[10, 200, 110, 300, 0.6, 1]]
    by_list, by_number = scene(), scene()
    draw(by_list, {"t": {"result": rows, "names": ["person", "car"]}})
    draw(by_number, {"t": {"result": rows, "names": {1: "car"}}})
    assert np.array_equal(by_list, by_number)


def test_a_head_pose_is_drawn_on_the_box_of_another_task() -> None:
    outputs: dict[str, Outputs] = {
        "face_alignment": {"head_pose": [[0.0, 0.0, 0.0]]},
        "face_detection": {"bbox": [[200, 100, 400, 300]]},
    }
    pixels = scene()
    draw(pixels, outputs)
    marks = changed(pixels)
    assert marks[200, 300:410].all()  # to the image's right
    assert marks[90:200, 300].all()  # up
    assert not marks[215:285, 220:290].any()


def test_poses_without_as_many_boxes_are_left_out() -> None:
    outputs: dict[str, Outputs] = {
        "face_alignment": {"head_pose": [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]},
        "face_detection": {"bbox": [[200, 100, 400, 300]]},
    }
    with_poses, without = scene(), scene()
    draw(with_poses, outputs)
    draw(without, {"face_detection": outputs["face_detection"]})
    assert np.array_equal(with_poses, without)


def test_counts_are_a_legend_that_grows_with_them() -> None:
    one, three = scene(), scene()
    draw(one, {"car_detection": {"count_result": {"car": 3}}})
    draw(
        three,
        {
            "car_detection": {"count_result": {"car": 3, "bus": 1}},
            "helmet_detection": {"clip_result": [{"ntotal": 1}, {"ntotal": 5}]},
        },
    )
    assert 0 < changed(one).sum() < changed(three).sum()
    assert not changed(three)[150:, :].any()
    assert not changed(three)[:, 250:].any()


def test_the_scene_shows_through_the_legend() -> None:
    pixels = scene()
    pixels[:, ::2] = 200
    draw(pixels, {"car_detection": {"count_result": {"car": 3}}})
    assert tuple(pixels[1, 1]) == (20, 20, 20)
    assert tuple(pixels[1, 2]) == (66, 66, 66)


def test_nothing_to_draw_changes_nothing() -> None:
    pixels = scene()
    draw(
        pixels,
        {
            "face_detection": {"bbox": np.empty((0, 4), np.float32), "prob": [], "faces": []},
            "face_alignment": {"head_pose": np.empty((0, 3), np.float32)},
            "car_detection": {"result": [], "count_result": {}},
            "own": {"anything": object(), "clip_result": []},
        },
    )
    assert not changed(pixels).any()


@given(
    st.lists(st.lists(st.floats(width=32), min_size=6, max_size=6), max_size=4),
    st.integers(1, 70),
    st.integers(1, 70),
)
def test_any_numbers_can_be_drawn_into_any_picture(
    rows: list[list[float]], width: int, height: int
) -> None:
    values = np.array(rows, np.float32).reshape(-1, 6)
    draw(
        scene(width, height),
        {
            "a": {"result": values},
            "b": {"bbox": values[:, :4], "prob": values[:, 4], "head_pose": values[:, :3]},
            "c": {"count_result": {"ä\n": 3}},
        },
    )


@given(ANGLES, ANGLES, st.floats(-179.0, 179.0))
def test_the_axes_of_a_head_have_its_angles(yaw: float, pitch: float, roll: float) -> None:
    right, up, look = pose_axes(yaw, pitch, roll)
    assert np.allclose([right @ up, up @ look, look @ right], 0.0, atol=1e-5)
    assert np.allclose(np.linalg.norm([right, up, look], axis=1), 1.0, atol=1e-5)
    assert np.degrees(np.arctan2(look[0], -look[2])) == pytest.approx(yaw, abs=0.01)
    assert np.degrees(np.arctan2(-look[1], np.hypot(look[0], look[2]))) == pytest.approx(
        pitch, abs=0.01
    )
    assert np.degrees(np.arctan2(right[1], right[0])) == pytest.approx(roll, abs=0.05)


def test_a_head_that_looks_at_the_camera_has_upright_axes() -> None:
    assert np.allclose(pose_axes(0, 0, 0), [[1, 0, 0], [0, -1, 0], [0, 0, -1]], atol=1e-6)


def test_a_small_frame_is_enlarged_and_its_boxes_with_it() -> None:
    frame = Frame(scene(176, 144))
    outputs: dict[str, Outputs] = {"face_detection": {"bbox": [[50, 40, 100, 90]]}}
    pixels = render(result(outputs, frame))
    assert pixels.shape == (576, 704, 3)
    marks = changed(pixels)
    assert marks[160, 200:400].all()
    assert marks[360, 200:400].all()
    assert not marks[380:, :].any()
    assert not changed(frame.pixels).any()  # the frame itself is left alone


def test_a_large_frame_keeps_its_size_in_memory_of_its_own() -> None:
    frame = Frame(scene(1920, 1080)[:, ::-1].copy()[:, :1280])  # rows with a stride
    pixels = render(result({}, frame))
    assert pixels.shape == (1080, 1280, 3)
    assert pixels.flags.c_contiguous
    assert not np.shares_memory(pixels, frame.pixels)


@pytest.mark.parametrize("size", [(64, 48), (640, 480)])
def test_every_pixel_format_becomes_bgr(size: tuple[int, int]) -> None:
    width, height = size
    rgb = np.full((height, width, 3), (10, 20, 30), np.uint8)
    grey = np.full((height, width), 40, np.uint8)
    colour = render(result({}, Frame(rgb, pixel_format=PixelFormat.RGB24)))
    shades = render(result({}, Frame(grey, pixel_format=PixelFormat.GRAY8)))
    assert tuple(colour[5, 5]) == (30, 20, 10)
    assert tuple(shades[5, 5]) == (40, 40, 40)


def test_a_result_without_its_frame_cannot_be_drawn() -> None:
    with pytest.raises(SinkError, match=r"^result 7 of cam has no frame to draw into$"):
        render(result({}, None))
