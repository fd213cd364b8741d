from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from vdag._native import reference_motion
from vdag.errors import ConfigError

Float32 = NDArray[np.float32]


@pytest.fixture(params=["compiled", "reference"])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    name = "motion" if request.param == "compiled" else "reference_motion"
    return importlib.import_module(f"vdag._native.{name}")


def boxes_of(*rows: tuple[float, ...]) -> Float32:
    return np.array(rows, np.float32).reshape(len(rows), -1 if rows else 4)


SQUARE = (0.0, 0.0, 10.0, 10.0)
FAR = (100.0, 100.0, 110.0, 110.0)
NAN, INF = float("nan"), float("inf")


def test_the_mean_area_is_that_of_the_boxes_that_have_one(kernel: ModuleType) -> None:
    assert kernel.mean_area(boxes_of(SQUARE, (0, 0, 20, 10)), largest=1e9) == (2, 150.0)
    assert kernel.mean_area(boxes_of((5, 5, 1, 9), SQUARE), largest=1e9) == (2, 50.0)
    hostile = boxes_of(SQUARE, (NAN, 0, 1, 1), (0, 0, INF, 1), (0, 0, 3e38, 3e38))
    assert kernel.mean_area(hostile, largest=1e9) == (1, 100.0)
    assert kernel.mean_area(boxes_of(), largest=1e9) == (0, 0.0)


def test_the_way_is_that_of_the_box_that_moved_most(kernel: ModuleType) -> None:
    before = boxes_of(SQUARE, FAR)
    after = boxes_of((103, 104, 113, 114), (1, 0, 11, 10))
    assert kernel.longest_way(before, after, iou=0.1) == (2, 5.0)
    assert kernel.longest_way(before, after, iou=0.1, x=2.0, y=0.0) == (2, 6.0)


def test_the_two_boxes_that_overlap_most_are_one_object(kernel: ModuleType) -> None:
    before = boxes_of((0, 0, 10, 10), (6, 0, 16, 10))
    # The first of these overlaps with both, but most with the second, which leaves it the other.
    after = boxes_of((5, 0, 15, 10), (-4, 0, 6, 10))
    assert kernel.longest_way(before, after, iou=0.1) == (2, 4.0)


def test_equal_boxes_are_matched_in_their_order(kernel: ModuleType) -> None:
    boxes = boxes_of(SQUARE, SQUARE, SQUARE)
    assert kernel.longest_way(boxes, boxes, iou=1.0) == (3, 0.0)
    assert kernel.longest_way(boxes, boxes[:2], iou=0.5) == (2, 0.0)


def test_what_does_not_overlap_enough_is_not_matched(kernel: ModuleType) -> None:
    before, after = boxes_of(SQUARE), boxes_of((0.0, 5.0, 10.0, 15.0))  # IoU 1/3
    assert kernel.longest_way(before, after, iou=0.33) == (1, 5.0)
    assert kernel.longest_way(before, after, iou=0.34) == (0, 0.0)
    assert kernel.longest_way(before, boxes_of(FAR), iou=0.1) == (0, 0.0)
    assert kernel.longest_way(boxes_of(), after, iou=0.1) == (0, 0.0)
    for box in ((NAN, 0, 10, 10), (0, 0, INF, 10), (-INF, 0, 10, 10), (5, 5, 5, 9)):
        assert kernel.longest_way(boxes_of(box), boxes_of(box, SQUARE), iou=0.01) == (0, 0.0)


def test_boxes_may_have_more_columns_and_any_strides(kernel: ModuleType) -> None:
    wide = boxes_of((0, 0, 10, 10, 0.9, 3), (9, 9, 9, 9, 9, 9), (100, 100, 110, 110, 0.8, 1))
    assert kernel.longest_way(wide[::2], wide[::-2], iou=0.9) == (2, 0.0)
    assert kernel.mean_area(wide[::2], largest=1e9) == (2, 100.0)


def test_the_longest_boxes_there_are_overflow_nothing(kernel: ModuleType) -> None:
    huge = float(np.finfo(np.float32).max)
    boxes = boxes_of((-huge, -huge, huge, huge), SQUARE)
    assert kernel.longest_way(boxes, boxes, iou=0.9) == (2, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "iou", "message"),
    [
        (boxes_of(SQUARE)[:, :3], boxes_of(SQUARE), 0.1,
         "before are float32 (N, 4) or wider, not float32 (1, 3)"),
        (boxes_of(SQUARE), boxes_of(SQUARE).astype(np.float64), 0.1,
         "after are float32 (N, 4) or wider, not float64 (1, 4)"),
        (None, boxes_of(SQUARE), 0.1, "before are float32 (N, 4) or wider, not NoneType"),
        (boxes_of(SQUARE), boxes_of(SQUARE), 0.0, "iou 0.0 outside 0..1"),
        (boxes_of(SQUARE), boxes_of(SQUARE), 1.5, "iou 1.5 outside 0..1"),
        (np.zeros((1025, 4), np.float32), boxes_of(SQUARE), 0.1, "1025 boxes exceed limit 1024"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(kernel: ModuleType, before, after, iou, message) -> None:
    with pytest.raises(ConfigError) as found:
        kernel.longest_way(before, after, iou=iou)
    assert str(found.value) == message


def test_no_array_has_no_mean_area(kernel: ModuleType) -> None:
    with pytest.raises(ConfigError) as found:
        kernel.mean_area([1.0], largest=1.0)
    assert str(found.value) == "boxes are float32 (N, 4) or wider, not list"


corners = st.one_of(
    st.integers(0, 40).map(float),
    st.floats(-50, 50, width=32),
    st.sampled_from([NAN, INF, -INF, 3e38]),
)
many = st.integers(0, 12).flatmap(lambda n: hnp.arrays(np.float32, (n, 4), elements=corners))


@given(many, many, st.sampled_from([0.01, 0.1, 0.5, 1.0]))
def test_the_compiled_kernel_gives_what_the_reference_does(before, after, iou) -> None:
    compiled = importlib.import_module("vdag._native.motion")
    matched, way = compiled.longest_way(before, after, iou=iou, x=1.5, y=0.5)
    expected, length = reference_motion.longest_way(before, after, iou=iou, x=1.5, y=0.5)
    assert matched == expected
    assert way == pytest.approx(length, rel=1e-12, abs=1e-12)
    count, area = compiled.mean_area(before, largest=1e30)
    assert (count, pytest.approx(area, rel=1e-12)) == reference_motion.mean_area(
        before, largest=1e30
    )


@given(many, many)
def test_no_box_is_matched_twice_and_each_one_matches_itself(before, after) -> None:
    compiled = importlib.import_module("vdag._native.motion")
    matched, _ = compiled.longest_way(before, after, iou=0.1)
    assert matched <= min(len(before), len(after))
    again, _ = compiled.longest_way(before, before, iou=1.0)
    with np.errstate(all="ignore"):
        sides = before[:, 2:].astype(np.float64) - before[:, :2]
        has_area = np.isfinite(before).all(axis=1) & (sides > 0).all(axis=1)
    assert again == has_area.sum()
