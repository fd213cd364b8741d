from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.errors import ConfigError, ModelError

KERNELS = ("decode", "reference_decode")


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"vdag._native.{request.param}")


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert str(caught.value) == message


def agree(name: str, *arrays: np.ndarray, **options: Any) -> int:
    """Run both kernels; chosen anchors and classes are equal, numbers nearly."""
    compiled, reference = (
        getattr(importlib.import_module(f"vdag._native.{kernel}"), name)(*arrays, **options)
        for kernel in KERNELS
    )
    for ours, theirs in zip(compiled, reference, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype == np.int32:
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    return len(compiled[0])


# --- YOLO ---------------------------------------------------------------------------------------

ROWS = np.array(  # cx, cy, w, h, then three classes
    [
        [100, 50, 20, 10, 0.1, 0.8, 0.2],
        [10, 10, 4, 4, 0.5, 0.5, 0.1],
        [30, 30, 2, 2, 0.1, 0.2, 0.4],
        [60, 60, 6, 8, np.nan, np.nan, 0.9],
    ],
    np.float32,
)


def test_yolo_v8_takes_the_best_class_of_each_column(kernel: ModuleType) -> None:
    boxes, scores, classes = kernel.yolo(np.ascontiguousarray(ROWS.T), threshold=0.4, layout="v8")
    np.testing.assert_array_equal(boxes, [[90, 45, 110, 55], [8, 8, 12, 12], [57, 56, 63, 64]])
    np.testing.assert_array_equal(scores, np.float32([0.8, 0.5, 0.9]))
    np.testing.assert_array_equal(classes, [1, 0, 2])
    assert classes.dtype == np.int32


def test_yolo_v5_multiplies_by_the_objectness(kernel: ModuleType) -> None:
    objectness = np.array([0.5, 0.9, 1.0, 0.3], np.float32)
    rows = np.insert(ROWS, 4, objectness, axis=1)
    boxes, scores, classes = kernel.yolo(rows, threshold=0.35, layout="v5")
    np.testing.assert_array_equal(boxes, [[90, 45, 110, 55], [8, 8, 12, 12], [29, 29, 31, 31]])
    expected = np.float32([0.8, 0.5, 0.4]) * objectness[:3]
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(classes, [1, 0, 2])


def test_yolo_v5_drops_what_is_no_object_whatever_its_classes(kernel: ModuleType) -> None:
    rows = np.array([[0, 0, 2, 2, 0.5, 4.0]], np.float32)
    assert len(kernel.yolo(rows, threshold=0.6, layout="v5")[0]) == 0
    assert len(kernel.yolo(rows, threshold=0.4, layout="v5")[0]) == 1


@pytest.mark.parametrize(("layout", "shape"), [("v8", (6, 0)), ("v5", (0, 7))])
def test_yolo_takes_no_anchors_at_all(
    kernel: ModuleType, layout: str, shape: tuple[int, int]
) -> None:
    empty = kernel.yolo(zeros(*shape), threshold=0.5, layout=layout)
    assert [array.shape for array in empty] == [(0, 4), (0,), (0,)]


@pytest.mark.parametrize(
    ("layout", "output", "message"),
    [
        ("v8", zeros(1, 84, 10), "output is float32 (4 + C, A), not float32 (1, 84, 10)"),
        ("v8", zeros(4, 10), "output is float32 (4 + C, A), not float32 (4, 10)"),
        ("v5", zeros(10, 5), "output is float32 (A, 5 + C), not float32 (10, 5)"),
        ("v5", np.zeros((10, 7), np.float16), "output is float32 (A, 5 + C), not float16 (10, 7)"),
        (
            "v8",
            zeros(10, 84).T,
            "output is float32 (4 + C, A), C-contiguous, not strides (4, 336)",
        ),
    ],
)
def test_yolo_refuses_other_shapes(
    kernel: ModuleType, layout: str, output: np.ndarray, message: str
) -> None:
    refused(lambda: kernel.yolo(output, threshold=0.5, layout=layout), ModelError, message)


def test_yolo_knows_two_layouts(kernel: ModuleType) -> None:
    refused(
        lambda: kernel.yolo(zeros(7, 7), threshold=0.5, layout="v9"),
        ConfigError,
        "layout 'v9' is neither 'v8' nor 'v5'",
    )


# --- cells --------------------------------------------------------------------------------------


def entries(*numbers: int, score: float = 0.9) -> dict[str, np.ndarray]:
    """One entry a cell, each a class of its own that reaches 1, 2, 3, 4 strides."""
    count = len(numbers)
    return {
        "score": np.full(count, score, np.float32),
        "label": np.arange(count, dtype=np.int32),
        "cell": np.array(numbers, np.int32),
        "distance": np.tile(np.float32([1, 2, 3, 4]), (count, 1)),
    }


# 24 x 40 pixels: 3 x 5 cells of 8, then 2 x 3 of 16, then 1 x 2 of 32, some partly outside
@pytest.mark.parametrize(
    ("number", "x", "y", "stride"),
    [
        *[(0, 4, 4, 8), (4, 36, 4, 8), (5, 4, 12, 8), (14, 36, 20, 8)],
        *[(15, 8, 8, 16), (17, 40, 8, 16), (18, 8, 24, 16), (20, 40, 24, 16)],
        *[(21, 16, 16, 32), (22, 48, 16, 32)],
    ],
)
def test_cells_are_numbered_row_by_row_through_the_maps(
    kernel: ModuleType, number: int, x: int, y: int, stride: int
) -> None:
    boxes, scores, classes = kernel.cells(**entries(number), size=(24, 40), threshold=0.5)
    expected = [[x - stride, y - 2 * stride, x + 3 * stride, y + 4 * stride]]
    np.testing.assert_array_equal(boxes, expected)
    np.testing.assert_array_equal(scores, np.float32([0.9]))
    np.testing.assert_array_equal(classes, [0])
    assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int32)
    assert all(a.flags.writeable and a.flags.c_contiguous for a in (boxes, scores, classes))


def test_cells_keep_their_order_and_a_score_at_the_threshold_is_no_object(
    kernel: ModuleType,
) -> None:
    arrays = entries(22, 3, 0, 3, 15)
    arrays["score"][:] = 0.75, 0.5, np.nan, 1, 0.625
    boxes, scores, classes = kernel.cells(**arrays, size=(24, 40), threshold=0.5)
    np.testing.assert_array_equal(boxes[:, 0], [48 - 32, 28 - 8, 8 - 16])
    np.testing.assert_array_equal(scores, np.float32([0.75, 1, 0.625]))
    np.testing.assert_array_equal(classes, [0, 3, 4])


def test_cells_follow_the_strides_they_are_told(kernel: ModuleType) -> None:
    # 1 x 1 cells of 64, then 2 x 3 of 20
    boxes = kernel.cells(**entries(0, 6), size=(24, 60), threshold=0.5, strides=[64, 20])[0]
    expected = [[32 - 64, 32 - 128, 32 + 192, 32 + 256], [50 - 20, 30 - 40, 50 + 60, 30 + 80]]
    np.testing.assert_array_equal(boxes, expected)


def test_cells_may_be_none_at_all(kernel: ModuleType) -> None:
    empty = kernel.cells(**entries(), size=(24, 40), threshold=0.5)
    assert [array.shape for array in empty] == [(0, 4), (0,), (0,)]


@pytest.mark.parametrize("score", [0.9, 0.1])
@pytest.mark.parametrize("bad", [-1, 23, 2**31 - 1, -(2**31)])
def test_cells_name_one_outside_the_maps_whatever_its_score(
    kernel: ModuleType, bad: int, score: float
) -> None:
    refused(
        lambda: kernel.cells(**entries(22, bad, -5, score=score), size=(24, 40), threshold=0.5),
        ModelError,
        f"cell[1] {bad} outside 0..22: 24 x 40 pixels with strides (8, 16, 32)",
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"score": zeros(1, 2)}, ModelError, "score is float32 (K,), not float32 (1, 2)"),
        ({"label": zeros(2)}, ModelError, "label is int32 (K,), not float32 (2,)"),
        (
            {"label": np.zeros(3, np.int32)},
            ModelError,
            "3 entries of label do not fit 2 of score",
        ),
        ({"cell": np.zeros(2, np.int64)}, ModelError, "cell is int32 (K,), not int64 (2,)"),
        ({"cell": np.zeros(1, np.int32)}, ModelError, "1 entries of cell do not fit 2 of score"),
        ({"distance": zeros(3, 4)}, ModelError, "3 entries of distance do not fit 2 of score"),
        ({"distance": zeros(2, 3)}, ModelError, "distance is float32 (K, 4), not float32 (2, 3)"),
        ({"distance": zeros(8)}, ModelError, "distance is float32 (K, 4), not float32 (8,)"),
        (
            {"distance": zeros(4, 2).T},
            ModelError,
            "distance is float32 (K, 4), C-contiguous, not strides (4, 8)",
        ),
        ({"size": (0, 40)}, ConfigError, "size 0 x 40 outside 1..1048576"),
        ({"size": (24, 2**21)}, ConfigError, "size 24 x 2097152 outside 1..1048576"),
        ({"strides": ()}, ConfigError, "0 strides outside 1..8"),
        ({"strides": (8,) * 9}, ConfigError, "9 strides outside 1..8"),
        ({"strides": (8, 0)}, ConfigError, "stride 0 outside 1..1048576"),
    ],
)
def test_cells_refuse_what_does_not_fit(
    kernel: ModuleType, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {**entries(0, 1), "size": (24, 40), "threshold": 0.4, **change}
    refused(lambda: kernel.cells(**arguments), error, message)


def test_cells_of_the_largest_input_are_counted_without_an_overflow(kernel: ModuleType) -> None:
    last = 2**31 - 1
    size = (2**20, 2**20)
    boxes = kernel.cells(**entries(last), size=size, threshold=0.5, strides=(1,) * 8)[0]
    x, y = last % 2**20 + 0.5, last // 2**20 + 0.5
    np.testing.assert_array_equal(boxes, np.float32([[x - 1, y - 2, x + 3, y + 4]]))


# --- both kernels -------------------------------------------------------------------------------


FACES = tuple(zeros(*shape) for shape in ((3, 5), (2, 3, 5), (2, 3, 5), (10, 3, 5)))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(kernel: ModuleType, threshold: float) -> None:
    message = f"threshold {threshold} outside 0..1"
    calls = [
        lambda: kernel.centerface(*FACES, threshold=threshold),
        lambda: kernel.blazeface(zeros(896), zeros(896, 16), threshold=threshold),
        lambda: kernel.yolo(zeros(5, 1), threshold=threshold, layout="v8"),
        lambda: kernel.cells(**entries(0), size=(1, 1), threshold=threshold),
    ]
    for call in calls:
        refused(call, ConfigError, message)


def random_map(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(0, 1, shape).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.95, 1.0]),
)
def test_both_kernels_find_the_same(seed: int, h: int, w: int, threshold: float) -> None:
    random = np.random.default_rng(seed)
    heat = random.uniform(0, 1, (h, w)).astype(np.float32)
    agree(
        "centerface",
        heat,
        *(random_map(random, n, h, w) for n in (2, 2, 10)),
        threshold=threshold,
    )
    scores = random.uniform(0, 1, 896).astype(np.float32)
    agree("blazeface", scores, random_map(random, 896, 16) * 40, threshold=threshold)
    output = random.uniform(0, 1, (w + 5, h * 7)).astype(np.float32)
    agree("yolo", output, threshold=threshold, layout="v8")
    agree("yolo", np.ascontiguousarray(output.T), threshold=threshold, layout="v5")
    total = h * w + -(-h // 2) * -(-w // 2)
    score = random.uniform(0, 1, 100).astype(np.float32)
    label, cell = (random.integers(0, n, 100, np.int32) for n in (80, total))
    distance = random_map(random, 100, 4) * 9
    agree("cells", score, label, cell, distance, size=(h, w), strides=(1, 2), threshold=threshold)


def test_numbers_that_are_not_finite_harm_neither_kernel() -> None:
    random = np.random.default_rng(1)

    def spoiled(*shape: int) -> np.ndarray:
        odd = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38], np.float32)
        array = random.uniform(0, 1, shape).astype(np.float32)
        hit = random.uniform(0, 1, shape) < 0.2
        array[hit] = random.choice(odd, int(hit.sum()))
        return array

    maps = (spoiled(2, 20, 20), spoiled(2, 20, 20), spoiled(10, 20, 20))
    assert agree("centerface", spoiled(20, 20), *maps, threshold=0.5) > 100
    assert agree("blazeface", spoiled(896), spoiled(896, 16), threshold=0.5) > 100
    assert agree("yolo", spoiled(9, 500), threshold=0.5, layout="v8") > 100
    assert agree("yolo", spoiled(500, 9), threshold=0.5, layout="v5") > 100
    cell = random.integers(0, 400, 400, np.int32)
    found = spoiled(400), cell, cell, spoiled(400, 4)
    assert agree("cells", *found, size=(160, 160), strides=(8,), threshold=0.5) > 100


def test_inputs_may_be_read_only_views_of_a_batch(kernel: ModuleType) -> None:
    batch = np.random.default_rng(2).uniform(0, 1, (3, 9, 50)).astype(np.float32)
    alone = kernel.yolo(batch[1].copy(), threshold=0.5, layout="v8")
    batch.flags.writeable = False
    for ours, theirs in zip(kernel.yolo(batch[1], threshold=0.5, layout="v8"), alone, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.flags.writeable
