"""Objects of the run-time context: which there are, and how fast they move."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sniffing_kit import boxes_at, observe_all, result_of

from vdag.control.sniffing import Sniffer, objects_in
from vdag.control.sniffing.motion import MAX_SPEED, Motion, Scene
from vdag.control.sniffing.sightings import Objects

NAN, INF = math.nan, math.inf
FULL_HD = (1920, 1080)


def objects_at(*corners: tuple[float, float], side: float = 100.0) -> Objects:
    found = objects_in([{"bbox": boxes_at(*corners, side=side)}])
    assert found is not None
    return found


# Objects.


@pytest.mark.parametrize(
    ("outputs", "n", "size"),
    [
        ([{"bbox": boxes_at((0, 0), (50, 50), side=10)}], 2, 100.0),
        ([{"bbox": np.zeros((0, 4), np.float32)}], 0, None),
        ([{"result": np.float32([[0, 0, 4, 5, 0.9, 2]])}], 1, 20.0),
        ([{"bbox": np.float32([[0, 0, NAN, 5]])}], 1, None),
        ([{"bbox": np.float32([[0, 0, NAN, 5], [0, 0, 2, 2]])}], 2, 4.0),
        ([{"bbox": np.float32([[0, 0, 3e38, 3e38]])}], 1, None),
        ([{"bbox": np.array([[0, 0, 2, 3]])}], 1, 6.0),
        ([{"bbox": np.array([["a", "b", "c", "d"]])}, {"count_result": {"total": 3}}], 3, None),
        ([{"count_result": {"up": 2, "total": 7}}], 7, None),
        ([{"count_result": {"car": 2, "bus": np.int64(1), "kind": "x"}}], 3, None),
        ([{"count_result": {"total": -4}}], 0, None),
        ([{"head_pose": np.zeros((2, 3))}, {"bbox": boxes_at((0, 0), side=1)}], 1, 1.0),
    ],
)
def test_the_first_task_that_looks_for_objects_says_which_there_are(outputs, n, size):
    found = objects_in(outputs)
    assert found is not None
    assert (found.n, found.size) == (n, size)


@pytest.mark.parametrize("outputs", [[], [{}], [{"level": 3.0}], [{"bbox": np.zeros(4)}]])
def test_tasks_that_look_for_none_say_nothing(outputs):
    assert objects_in(outputs) is None


# How they move.


def test_speed_is_that_of_the_fastest_object_at_1080p_by_the_time_in_the_video():
    scene = Scene()
    half = (960, 540)
    assert scene.look(objects_at((0, 0), (300, 300)), half, 1.0) == Motion(None)
    # 3 and 4 pixels of a picture half as wide and high in 0.5 s; the other one by 1.
    moved = scene.look(objects_at((303, 304), (1, 0)), half, 1.5)
    assert moved == Motion(pytest.approx(10.0 / 0.5))


@pytest.mark.parametrize(
    ("objects", "size", "time_s"),
    [
        (None, FULL_HD, 2.0),  # nobody has looked
        (Objects(3), FULL_HD, 2.0),  # they are counted only
        (objects_at((1000, 900)), FULL_HD, 2.0),  # nothing overlaps
        (objects_at((1, 0)), FULL_HD, None),  # the video has no times
        (objects_at((1, 0)), FULL_HD, 1.0),  # no time has passed
        (objects_at((1, 0)), FULL_HD, 0.5),  # the video has gone back
        (objects_at((1, 0)), FULL_HD, NAN),
        (objects_at((1, 0)), (1280, 720), 2.0),  # pixels of another picture
    ],
)
def test_a_speed_that_cannot_be_told_is_none(objects, size, time_s):
    scene = Scene()
    scene.look(objects_at((0, 0)), FULL_HD, 1.0)
    assert scene.look(objects, size, time_s) == Motion(None)


def test_a_frame_without_objects_has_no_speed_to_speak_of():
    scene = Scene()
    assert scene.look(Objects(0), FULL_HD, 1.0) == Motion(0.0)
    assert scene.look(objects_at(), FULL_HD, 1.0) == Motion(0.0)
    assert scene.look(objects_at((0, 0)), FULL_HD, 2.0) == Motion(None)


def test_no_speed_is_without_end():
    scene = Scene()
    scene.look(objects_at((0, 0), side=1e6), FULL_HD, 1.0)
    assert scene.look(objects_at((5e5, 0), side=1e6), FULL_HD, 1.001) == Motion(MAX_SPEED)


def test_a_scene_cut_is_no_speed():
    scene = Scene()
    many = [(200 * i, 0.0) for i in range(8)]
    elsewhere = [(200 * i, 500.0) for i in range(7)]
    scene.look(objects_at(*many), FULL_HD, 1.0)
    assert scene.look(objects_at(*elsewhere, (1, 0)), FULL_HD, 1.1) == Motion(None, is_cut=True)
    # 2 of 8 have stayed: that is no cut.
    scene.look(objects_at(*many), FULL_HD, 1.2)
    few = scene.look(objects_at(*elsewhere[:6], (1, 0), (201, 0)), FULL_HD, 1.3)
    assert few == Motion(pytest.approx(1 / 0.1))
    # Of three objects that are elsewhere nobody knows whether they are others.
    scene.look(objects_at(*many[:3]), FULL_HD, 1.4)
    assert scene.look(objects_at(*elsewhere), FULL_HD, 1.5) == Motion(None)


@settings(max_examples=30)
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.integers(0, 200).flatmap(
                lambda n: hnp.arrays(
                    np.float32,
                    (n, 4),
                    elements=st.sampled_from([0.0, 1.0, 7.5, 90.0, NAN, INF, -INF, 3e38, -3e38]),
                    fill=st.just(2.0),
                )
            ),
        ),
        max_size=6,
    )
)
def test_no_boxes_break_a_context(frames):
    sniffer = Sniffer()
    observe_all(sniffer, *(result_of(seq, boxes) for seq, boxes in enumerate(frames)))
    for context in (sniffer.context(), sniffer.report(), sniffer.answer()):
        for name in ("obj_n", "obj_size", "obj_size_1080p", "obj_speed"):
            assert math.isfinite(context.get(name, 0.0))
            assert context.get(name, 0.0) >= (-1.0 if name == "obj_speed" else 0.0)
