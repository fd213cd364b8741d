from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vdag.errors import ConfigError, ModelError


@pytest.fixture(params=["decode", "reference_decode"])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"vdag._native.{request.param}")


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert str(caught.value) == message


def faces(h: int = 3, w: int = 5) -> dict[str, np.ndarray]:
    shapes = {"heat": (h, w), "size": (2, h, w), "offset": (2, h, w), "landmarks": (10, h, w)}
    return {name: zeros(*shape) for name, shape in shapes.items()}


def test_centerface_decodes_a_face_worked_out_by_hand(kernel: ModuleType) -> None:
    maps = faces()
    maps["heat"][2, 3] = 0.75
    maps["size"][:, 2, 3] = math.log(10), math.log(5)  # height 40, width 20
    maps["offset"][:, 2, 3] = 0.25, -0.5  # y, x
    maps["landmarks"][:, 2, 3] = [0.1, 0.2, 0.1, 0.8, 0.5, 0.5, 0.9, 0.25, 0.9, 0.75]  # y, x
    boxes, scores, points = kernel.centerface(**maps, threshold=0.5)
    x1, y1 = (3 - 0.5 + 0.5) * 4 - 10, (2 + 0.25 + 0.5) * 4 - 20
    np.testing.assert_allclose(boxes, [[x1, y1, x1 + 20, y1 + 40]], rtol=1e-5)
    np.testing.assert_array_equal(scores, np.float32([0.75]))
    relative = [[0.2, 0.1], [0.8, 0.1], [0.5, 0.5], [0.25, 0.9], [0.75, 0.9]]
    expected = np.array([x1, y1]) + np.array(relative) * [20, 40]
    np.testing.assert_allclose(points, expected[None], rtol=1e-5)
    assert [a.dtype for a in (boxes, scores, points)] == [np.float32] * 3
    assert all(a.flags.writeable and a.flags.c_contiguous for a in (boxes, scores, points))


def test_centerface_goes_row_by_row_and_a_score_at_the_threshold_is_no_face(
    kernel: ModuleType,
) -> None:
    maps = faces()
    maps["heat"][:] = 0.5
    for score, (y, x) in ((0.9, (2, 0)), (0.6, (0, 4)), (0.7, (2, 4))):
        maps["heat"][y, x] = score
    _, scores, _ = kernel.centerface(**maps, threshold=0.5)
    np.testing.assert_array_equal(scores, np.float32([0.6, 0.9, 0.7]))


def test_centerface_scales_with_its_stride(kernel: ModuleType) -> None:
    maps = faces()
    maps["heat"][1, 1] = 1.0
    small = kernel.centerface(**maps, threshold=0.5)
    large = kernel.centerface(**maps, threshold=0.5, stride=8)
    np.testing.assert_allclose(large[0], small[0] * 2)
    np.testing.assert_allclose(large[2], small[2] * 2)


@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (3, 0)])
def test_centerface_without_a_face_gives_empty_arrays(
    kernel: ModuleType, shape: tuple[int, int]
) -> None:
    maps = faces(*shape)
    maps["heat"][:] = np.nan
    boxes, scores, points = kernel.centerface(**maps, threshold=0.0)
    assert (boxes.shape, scores.shape, points.shape) == ((0, 4), (0,), (0, 5, 2))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("heat", zeros(1, 3, 5), "heat is float32 (h, w), not float32 (1, 3, 5)"),
        ("heat", np.zeros((3, 5)), "heat is float32 (h, w), not float64 (3, 5)"),
        ("heat", [[0.5]], "heat is float32 (h, w), not list"),
        ("heat", None, "heat is float32 (h, w), not NoneType"),
        ("heat", zeros(5, 3).T, "heat is float32 (h, w), C-contiguous, not strides (4, 12)"),
        ("size", zeros(2, 3, 6), "size of shape (2, 3, 6) does not fit heat of shape (3, 5)"),
        ("offset", zeros(1, 3, 5), "offset of shape (1, 3, 5) does not fit heat of shape (3, 5)"),
        (
            "landmarks",
            zeros(8, 3, 5),
            "landmarks of shape (8, 3, 5) does not fit heat of shape (3, 5)",
        ),
        ("landmarks", zeros(10, 15), "landmarks is float32 (10, h, w), not float32 (10, 15)"),
    ],
)
def test_centerface_refuses_maps_that_do_not_fit(
    kernel: ModuleType, name: str, array: Any, message: str
) -> None:
    maps = {**faces(), name: array}
    refused(lambda: kernel.centerface(**maps, threshold=0.5), ModelError, message)


def test_centerface_has_a_stride_of_at_least_one_pixel(kernel: ModuleType) -> None:
    message = "stride 0 outside 1..1048576"
    refused(lambda: kernel.centerface(**faces(), threshold=0.5, stride=0), ConfigError, message)


@pytest.mark.parametrize(
    ("anchor", "x", "y"),
    [
        *[(0, 8, 8), (1, 8, 8), (2, 24, 8), (33, 8, 24), (511, 248, 248)],
        *[(512, 16, 16), (517, 16, 16), (518, 48, 16), (560, 16, 48), (895, 240, 240)],
    ],
)
def test_blazeface_anchors_lie_in_the_centres_of_two_grids(
    kernel: ModuleType, anchor: int, x: float, y: float
) -> None:
    scores, rows = zeros(896), zeros(896, 16)
    scores[anchor] = 0.75
    rows[anchor] = [3, -2, 10, 20, *range(12)]
    boxes, found, points = kernel.blazeface(scores, rows, threshold=0.5)
    np.testing.assert_allclose(boxes, [[x - 2, y - 12, x + 8, y + 8]])
    np.testing.assert_array_equal(found, np.float32([0.75]))
    expected = np.arange(12).reshape(1, 6, 2) + np.array([x, y])
    np.testing.assert_allclose(points, expected)
    halved = kernel.blazeface(scores, zeros(896, 16), threshold=0.5, size=128)[0]
    np.testing.assert_allclose(halved, [[x / 2, y / 2, x / 2, y / 2]])


def test_blazeface_keeps_scores_above_the_threshold_as_they_are(kernel: ModuleType) -> None:
    scores = zeros(896)
    scores[:6] = 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 1, np.nan, 0.25, 1e-30
    found = kernel.blazeface(scores, zeros(896, 16), threshold=0.5)[1]
    np.testing.assert_array_equal(found, scores[[1, 2]])
    found = kernel.blazeface(scores, zeros(896, 16), threshold=0.0)[1]
    np.testing.assert_array_equal(found, scores[[0, 1, 2, 4, 5]])
    empty = kernel.blazeface(scores, zeros(896, 16), threshold=1.0)
    assert [array.shape for array in empty] == [(0, 4), (0,), (0, 6, 2)]


@pytest.mark.parametrize(
    ("scores", "rows", "message"),
    [
        (zeros(895), zeros(896, 16), "scores is float32 (896,), not float32 (895,)"),
        (zeros(896), zeros(895, 16), "boxes is float32 (896, 16), not float32 (895, 16)"),
        (zeros(896), zeros(896, 17), "boxes is float32 (896, 16), not float32 (896, 17)"),
        (zeros(896, 1), zeros(896, 16), "scores is float32 (896,), not float32 (896, 1)"),
    ],
)
def test_blazeface_refuses_other_anchors(
    kernel: ModuleType, scores: np.ndarray, rows: np.ndarray, message: str
) -> None:
    refused(lambda: kernel.blazeface(scores, rows, threshold=0.5), ModelError, message)


@pytest.mark.parametrize("size", [0, -16, 250, 2**21])
def test_blazeface_refuses_a_size_its_grids_do_not_divide(kernel: ModuleType, size: int) -> None:
    refused(
        lambda: kernel.blazeface(zeros(896), zeros(896, 16), threshold=0.5, size=size),
        ConfigError,
        f"size {size} is no multiple of 16 in 16..1048576",
    )
