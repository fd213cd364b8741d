from __future__ import annotations

import importlib
import threading
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from vdag._native import reference_nms
from vdag.errors import ConfigError

Float32 = NDArray[np.float32]


@pytest.fixture(params=["compiled", "reference"])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    name = "nms" if request.param == "compiled" else "reference_nms"
    return importlib.import_module(f"vdag._native.{name}")


@pytest.fixture
def compiled() -> ModuleType:
    return importlib.import_module("vdag._native.nms")


def boxes_of(*rows: tuple[float, float, float, float]) -> Float32:
    return np.array(rows, np.float32).reshape(-1, 4)


def random_case(seed: int, n: int, side: float = 300.0) -> tuple[Float32, Float32]:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, side, (n, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, side / 4, (n, 2))], axis=1)
    return boxes.astype(np.float32), random.uniform(0, 1, n).astype(np.float32)


FAR = (100.0, 100.0, 110.0, 110.0)
SQUARE = (0.0, 0.0, 10.0, 10.0)
HALF = (0.0, 0.0, 10.0, 5.0)  # IoU with SQUARE is exactly 0.5


def test_the_best_of_two_overlapping_boxes_stays(kernel: ModuleType) -> None:
    boxes = boxes_of((1, 1, 11, 11), SQUARE, FAR)
    kept = kernel.nms(boxes, np.array([0.5, 0.9, 0.7], np.float32), iou=0.5)
    assert kept.dtype == np.int32
    assert kept.tolist() == [1, 2]


def test_an_iou_equal_to_the_limit_drops_nothing(kernel: ModuleType) -> None:
    boxes, scores = boxes_of(SQUARE, HALF), np.array([0.9, 0.8], np.float32)
    assert kernel.nms(boxes, scores, iou=0.5).tolist() == [0, 1]
    assert kernel.nms(boxes, scores, iou=0.49).tolist() == [0]


def test_a_dropped_box_drops_no_other(kernel: ModuleType) -> None:
    chain = boxes_of((0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10))
    kept = kernel.nms(chain, np.array([0.9, 0.8, 0.7], np.float32), iou=0.3)
    assert kept.tolist() == [0, 2]


def test_equal_scores_go_by_index(kernel: ModuleType) -> None:
    boxes = np.repeat(boxes_of(SQUARE), 100, axis=0) + np.arange(100)[:, None] * 20
    scores = np.full(100, 0.5, np.float32)
    scores[70] = 0.6
    kept = kernel.nms(boxes.astype(np.float32), scores, iou=0.5)
    assert kept.tolist() == [70, *(i for i in range(100) if i != 70)]


def test_the_two_zeros_are_equal_scores(kernel: ModuleType) -> None:
    boxes = boxes_of(SQUARE, FAR, (50, 50, 60, 60))
    kept = kernel.nms(boxes, np.array([-0.0, 0.0, -0.0], np.float32), iou=0.5)
    assert kept.tolist() == [0, 1, 2]


def test_scores_below_the_limit_are_left_out(kernel: ModuleType) -> None:
    boxes = boxes_of(SQUARE, FAR, (50, 50, 60, 60))
    scores = np.array([0.7, 0.69, 0.71], np.float32)
    assert kernel.nms(boxes, scores, iou=0.5, score=0.7).tolist() == [2, 0]


def test_negative_scores_can_be_asked_for(kernel: ModuleType) -> None:
    boxes, scores = boxes_of(SQUARE, FAR), np.array([-2.0, -1.0], np.float32)
    assert kernel.nms(boxes, scores, iou=0.5).tolist() == []
    assert kernel.nms(boxes, scores, iou=0.5, score=float("-inf")).tolist() == [1, 0]


@pytest.mark.parametrize("n", [3, 40])  # both ways of sorting
def test_infinite_scores_have_their_place(kernel: ModuleType, n: int) -> None:
    boxes = (np.arange(n)[:, None] * 20 + np.array(SQUARE)).astype(np.float32)
    scores = np.full(n, 0.5, np.float32)
    scores[1], scores[2] = -np.inf, np.inf
    kept = kernel.nms(boxes, scores, iou=0.5, score=float("-inf")).tolist()
    assert (kept[0], kept[-1]) == (2, 1)


def test_boxes_of_different_classes_do_not_drop_each_other(kernel: ModuleType) -> None:
    boxes = boxes_of(SQUARE, SQUARE, SQUARE)
    scores = np.array([0.7, 0.8, 0.9], np.float32)
    classes = np.array([2, -7, 2], np.int32)
    assert kernel.nms(boxes, scores, iou=0.5, classes=classes).tolist() == [2, 1]


def test_max_out_keeps_the_first_of_all(kernel: ModuleType) -> None:
    boxes, scores = random_case(5, 400)
    everything = kernel.nms(boxes, scores, iou=0.4)
    assert len(everything) > 40
    for max_out in (1, 16, 17, 40):
        few = kernel.nms(boxes, scores, iou=0.4, max_out=max_out)
        np.testing.assert_array_equal(few, everything[:max_out])
    more = kernel.nms(boxes, scores, iou=0.4, max_out=10_000)
    np.testing.assert_array_equal(more, everything)


def test_boxes_without_area_stay_and_drop_nothing(kernel: ModuleType) -> None:
    point, line, inverted = (5, 5, 5, 5), (0, 5, 10, 5), (10, 10, 0, 0)
    boxes = boxes_of(point, point, line, inverted, SQUARE)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    assert kernel.nms(boxes, scores, iou=0.0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", range(4))
def test_a_coordinate_that_is_not_finite_is_never_kept(
    kernel: ModuleType, bad: float, column: int
) -> None:
    boxes = boxes_of(SQUARE, (1, 1, 11, 11))
    boxes[0, column] = bad
    assert kernel.nms(boxes, np.array([0.9, 0.8], np.float32), iou=0.1).tolist() == [1]


def test_a_score_that_is_no_number_is_never_kept(kernel: ModuleType) -> None:
    scores = np.array([np.nan, 0.8], np.float32)
    kept = kernel.nms(boxes_of(SQUARE, SQUARE), scores, iou=0.1, score=float("-inf"))
    assert kept.tolist() == [1]


def test_no_boxes_give_no_indices(kernel: ModuleType) -> None:
    kept = kernel.nms(boxes_of(), np.empty(0, np.float32), iou=0.5, classes=np.empty(0, np.int32))
    assert (kept.dtype, kept.shape) == (np.int32, (0,))


def test_inputs_may_be_read_only_and_of_any_stride(kernel: ModuleType) -> None:
    boxes, scores = random_case(3, 90)
    table = np.zeros((180, 6), np.float32)
    table[::2, :4], table[::2, 4] = boxes, scores
    table.flags.writeable = False
    expected = reference_nms.nms(boxes, scores, iou=0.4)
    np.testing.assert_array_equal(kernel.nms(table[::2, :4], table[::2, 4], iou=0.4), expected)
    reversed_ = kernel.nms(table[::-2, :4][:0], table[::-2, 4][:0], iou=0.4)
    assert reversed_.tolist() == []
    backwards = kernel.nms(boxes[::-1], scores[::-1], iou=0.4)
    np.testing.assert_array_equal(89 - backwards, expected)


def test_the_result_belongs_to_the_caller(kernel: ModuleType) -> None:
    boxes, scores = random_case(4, 50)
    kept = kernel.nms(boxes, scores, iou=0.4)
    assert kept.flags.owndata
    assert kept.flags.writeable


BAD_ARGUMENTS = [
    ({"boxes": np.zeros((2, 5), np.float32)}, "boxes are float32 (N, 4), not float32 (2, 5)"),
    ({"boxes": np.zeros((2, 4))}, "boxes are float32 (N, 4), not float64 (2, 4)"),
    ({"boxes": np.zeros(8, np.float32)}, "boxes are float32 (N, 4), not float32 (8,)"),
    ({"boxes": [[0, 0, 1, 1]]}, "boxes are float32 (N, 4), not list"),
    ({"boxes": None}, "boxes are float32 (N, 4), not NoneType"),
    ({"scores": np.zeros(3, np.float32)}, "3 scores do not fit 2 boxes"),
    ({"scores": np.zeros((2, 1), np.float32)}, "scores are float32 (N,), not float32 (2, 1)"),
    ({"scores": None}, "scores are float32 (N,), not NoneType"),
    ({"classes": np.zeros(1, np.int32)}, "1 classes do not fit 2 boxes"),
    ({"classes": np.zeros(2, np.int64)}, "classes are int32 (N,), not int64 (2,)"),
    ({"iou": 1.5}, "iou 1.5 outside 0..1"),
    ({"iou": -0.1}, "iou -0.1 outside 0..1"),
    ({"iou": float("nan")}, "iou nan outside 0..1"),
    ({"score": float("nan")}, "score nan is not a limit"),
    ({"max_out": -1}, "max_out -1 below 0"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused(
    kernel: ModuleType, change: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {
        "boxes": boxes_of(SQUARE, FAR),
        "scores": np.zeros(2, np.float32),
        "iou": 0.5,
    }
    arguments.update(change)
    with pytest.raises(ConfigError) as caught:
        kernel.nms(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 33, 100, 1000])
@pytest.mark.parametrize("class_count", [0, 1, 5])
def test_compiled_equals_the_reference_on_random_boxes(
    compiled: ModuleType, n: int, class_count: int
) -> None:
    boxes, scores = random_case(n, n)
    classes = None
    if class_count:
        classes = np.random.default_rng(n).integers(0, class_count, n).astype(np.int32)
    for iou in (0.0, 0.3, 0.45, 1.0):
        arguments = {"iou": iou, "score": 0.1, "classes": classes}
        expected = reference_nms.nms(boxes, scores, iou=iou, score=0.1, classes=classes)
        np.testing.assert_array_equal(compiled.nms(boxes, scores, **arguments), expected)


# Few different corners, so that ties, touching boxes and exact limits are common.
corners = st.sampled_from([0.0, 1.0, 2.0, 2.5, 3.0, 4.0, -1.0, 3e38, -3e38, np.nan, np.inf])
any_scores = st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.75, 1.0, -1.0, 1e-45, np.nan, np.inf])


@settings(deadline=None)
@given(data=st.data(), n=st.integers(0, 60), iou=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_compiled_equals_the_reference_on_degenerate_boxes(
    data: st.DataObject, n: int, iou: float
) -> None:
    compiled = importlib.import_module("vdag._native.nms")
    boxes = data.draw(hnp.arrays(np.float32, (n, 4), elements=corners.map(np.float32)))
    scores = data.draw(hnp.arrays(np.float32, n, elements=any_scores.map(np.float32)))
    classes = data.draw(st.none() | hnp.arrays(np.int32, n, elements=st.integers(-1, 1)))
    limit = data.draw(st.sampled_from([0.0, 0.5, float("-inf")]))
    max_out = data.draw(st.integers(0, n + 1))
    arguments = {"iou": iou, "score": limit, "classes": classes, "max_out": max_out}
    expected = reference_nms.nms(boxes, scores, **arguments)
    np.testing.assert_array_equal(compiled.nms(boxes, scores, **arguments), expected)
    np.testing.assert_array_equal(
        compiled.iou_matrix(boxes, boxes[: n // 2]),
        reference_nms.iou_matrix(boxes, boxes[: n // 2]),
    )


def test_what_stays_overlaps_by_no_more_than_the_limit(kernel: ModuleType) -> None:
    boxes, scores = random_case(8, 500)
    kept = kernel.nms(boxes, scores, iou=0.3)
    among = kernel.iou_matrix(boxes[kept], boxes[kept])
    np.fill_diagonal(among, 0)
    assert among.max() <= np.float32(0.3) + 1e-6
    # and every box that went is covered by a better one that stayed
    gone = np.setdiff1d(np.arange(500), kept)
    better = scores[kept][None] >= scores[gone][:, None]
    covered = kernel.iou_matrix(boxes[gone], boxes[kept]) > np.float32(0.3) - 1e-6
    assert (better & covered).any(axis=1).all()


def test_iou_of_known_pairs(kernel: ModuleType) -> None:
    table = kernel.iou_matrix(boxes_of(SQUARE, FAR), boxes_of(SQUARE, HALF, (5, 5, 15, 15)))
    assert (table.dtype, table.shape) == (np.float32, (2, 3))
    np.testing.assert_array_equal(table, np.float32([[1, 0.5, 25 / 175], [0, 0, 0]]))


def test_iou_without_area_or_without_number_is_zero(kernel: ModuleType) -> None:
    odd = boxes_of((5, 5, 5, 5), (np.nan, 0, 10, 10), (0, 0, np.inf, 10), (0, -np.inf, 10, 10))
    assert not kernel.iou_matrix(odd, odd).any()
    assert not kernel.iou_matrix(odd, boxes_of(SQUARE)).any()


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 33), (70, 1)])
def test_iou_has_a_row_for_each_and_a_column_for_each(kernel: ModuleType, n: int, m: int) -> None:
    a, b = random_case(1, n)[0], random_case(2, m)[0]
    table = kernel.iou_matrix(a, b)
    assert table.shape == (n, m)
    np.testing.assert_array_equal(table, kernel.iou_matrix(b, a).T)


def test_iou_names_the_argument_that_does_not_fit(kernel: ModuleType) -> None:
    good = boxes_of(SQUARE)
    with pytest.raises(ConfigError) as caught:
        kernel.iou_matrix(np.zeros((1, 3), np.float32), good)
    assert str(caught.value) == "a are float32 (N, 4), not float32 (1, 3)"
    with pytest.raises(ConfigError) as caught:
        kernel.iou_matrix(good, np.zeros((1, 4), np.int32))
    assert str(caught.value) == "b are float32 (N, 4), not int32 (1, 4)"


def test_threads_share_the_kernel(kernel: ModuleType) -> None:
    boxes, scores = random_case(6, 300)
    expected = kernel.nms(boxes, scores, iou=0.4)
    results: list[NDArray[np.int32]] = []

    def work() -> None:
        results.extend(kernel.nms(boxes, scores, iou=0.4) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 80
    assert all(np.array_equal(result, expected) for result in results)
