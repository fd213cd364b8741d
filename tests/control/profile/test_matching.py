from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.profile.matching import (
    Findings,
    compare,
    findings_of,
    iou,
    match,
    motion,
    objects_in,
    score,
    seen_at,
)

ONE = (0.1, 0.1, 0.3, 0.3)
SHIFTED = (0.12, 0.1, 0.32, 0.3)  # overlaps ONE by 0.82
FAR = (0.6, 0.6, 0.8, 0.8)


def findings(*boxes, scores=None, labels=None, judges=False) -> Findings:
    count = len(boxes)
    return Findings(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores or [1.0] * count, np.float32),
        np.array(labels or [0] * count, np.int32),
        judges,
    )


NOTHING = findings()


def test_overlap_is_intersection_over_union():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 1, 1], [5, 5, 6, 6]], np.float32)
    expected = [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1]]
    assert iou(boxes, boxes) == pytest.approx(np.array(expected))


def test_the_same_findings_agree_fully():
    assert score(findings(ONE, FAR), findings(FAR, ONE)) == 1.0


def test_a_box_too_far_off_is_none():
    half = (0.2, 0.1, 0.4, 0.3)  # overlaps ONE by a third
    assert score(findings(ONE), findings(half)) == 0.0


def test_missed_and_wrong_boxes_count_alike():
    assert score(findings(ONE, FAR), findings(ONE)) == pytest.approx(2 / 3)
    assert score(findings(ONE), findings(ONE, FAR)) == pytest.approx(2 / 3)


def test_two_boxes_at_one_object_match_once():
    assert score(findings(ONE), findings(ONE, SHIFTED)) == pytest.approx(2 / 3)


def test_the_surer_box_is_matched_first():
    both = findings(SHIFTED, ONE, scores=[0.9, 0.5])
    assert match(findings(ONE), both) == [(0, 0)]


def test_objects_of_different_kinds_do_not_match():
    assert score(findings(ONE, labels=[2]), findings(ONE, labels=[7])) == 0.0


def test_where_neither_finds_anything_they_agree():
    assert score(NOTHING, NOTHING) == 1.0
    assert score(NOTHING, findings(ONE)) == 0.0


def test_judgements_are_compared_on_the_objects_that_both_have():
    golden = findings(ONE, FAR, labels=[1, 0], judges=True)
    assert score(golden, findings(ONE, labels=[1], judges=True)) == 1.0
    assert score(golden, findings(ONE, FAR, labels=[1, 1], judges=True)) == 0.5
    assert score(golden, findings(judges=True)) is None


def test_a_golden_configuration_that_finds_nothing_says_nothing():
    assert compare([NOTHING, NOTHING], [findings(ONE), NOTHING]) is None


def test_the_mean_is_over_frames():
    assert compare([findings(ONE), findings(ONE)], [findings(ONE), NOTHING]) == 0.5


def walk(count: int, step: float) -> list[Findings]:
    """An object that moves by so much of the picture's width a frame."""
    return [findings((n * step, 0.1, n * step + 0.1, 0.3)) for n in range(count)]


def test_frames_that_are_left_out_show_what_was_found_last():
    frames = walk(10, 0.01)
    seen = seen_at(frames, 10, 30)
    numbers = {id(frame): number for number, frame in enumerate(frames)}
    assert [numbers[id(each)] for each in seen] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]


def test_at_the_full_rate_nothing_is_left_out():
    frames = walk(10, 0.01)
    assert all(a is b for a, b in zip(seen_at(frames, 30, 30), frames, strict=True))
    assert compare(frames, seen_at(frames, 60, 30)) == 1.0


def test_accuracy_falls_with_motion_and_with_the_time_between_frames():
    def late(step: float, fps: float) -> float:
        frames = walk(30, step)
        found = compare(frames, seen_at(frames, fps, 30))
        assert found is not None
        return found

    assert late(0.0, 1) == 1.0
    speeds = [late(step, 5) for step in (0.0, 0.01, 0.02, 0.05)]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[0] > speeds[-1]
    rates = [late(0.02, fps) for fps in (1, 3, 5, 10, 30)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_size_and_speed_are_told_for_a_picture_of_1080p():
    found = motion(walk(10, 0.01), cam_fps=25.0)
    assert found.obj_n == 1.0
    assert found.obj_size == pytest.approx(192 * 216, rel=1e-3)
    assert found.obj_speed == pytest.approx(0.01 * 1920 * 25, rel=1e-3)


def test_without_objects_there_is_neither_size_nor_speed():
    found = motion([NOTHING] * 3, cam_fps=25.0)
    assert (found.obj_n, found.obj_size, found.obj_speed) == (0.0, 0.0, 0.0)


def test_boxes_are_told_in_shares_of_the_picture():
    bbox = np.array([[48.0, 36.0, 96.0, 72.0]], np.float32)
    outputs = {"bbox": bbox, "prob": np.array([0.75], np.float32)}
    found = findings_of(outputs, 480, 360)
    assert found is not None
    assert found.boxes == pytest.approx(np.array([[0.1, 0.1, 0.2, 0.2]]))
    assert found.scores == pytest.approx([0.75])


def test_rows_of_a_detector_have_scores_and_classes():
    rows = np.array([[48, 36, 96, 72, 0.5, 7]], np.float32)
    found = findings_of({"result": rows, "count_result": {"truck": 1}}, 480, 360)
    assert found is not None
    assert (found.scores.tolist(), found.labels.tolist()) == ([0.5], [7])


def test_heads_are_judged_by_whether_they_are_up():
    pose = np.array([[0, 5, 0], [0, -30, 0], [0, np.nan, 0]], np.float32)
    outputs = {"bbox": np.tile(np.array([ONE], np.float32), (3, 1)), "head_pose": pose}
    found = findings_of(outputs, 1, 1)
    assert found is not None
    assert found.judges
    assert found.labels.tolist() == [1, 0, -1]


def test_counted_objects_match_by_their_kind_and_number():
    def counted(**counts: int) -> Findings:
        found = findings_of({"count_result": counts}, 1, 1)
        assert found is not None
        return found

    assert score(counted(car=2, bus=1), counted(bus=1, car=2)) == 1.0
    assert score(counted(car=4), counted(car=2)) == pytest.approx(4 / 6)
    assert score(counted(car=1), counted(bus=1)) == 0.0


def test_outputs_without_objects_cannot_be_compared():
    assert findings_of({"brightness": 0.5}, 480, 360) is None


@pytest.mark.parametrize(
    ("outputs", "count"),
    [
        ({"bbox": np.zeros((3, 4), np.float32)}, 3),
        ({"result": np.zeros((2, 6), np.float32), "count_result": {"car": 9}}, 2),
        ({"count_result": {"up": 1, "total": 4}}, 4),
        ({"count_result": {"car": 1, "bus": 2}}, 3),
        ({"brightness": 0.5}, 0),
    ],
)
def test_objects_are_counted_as_the_context_does(outputs, count: int):
    assert objects_in(outputs) == count


BOX = st.tuples(
    st.integers(0, 8), st.integers(0, 8), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1),
    st.integers(0, 10),
)  # fmt: skip


def drawn(rows: list[tuple[int, ...]]) -> Findings:
    return findings(
        *[(x / 16, y / 16, (x + w) / 16, (y + h) / 16) for x, y, w, h, _, _ in rows],
        scores=[sure / 10 for *_, sure in rows],
        labels=[label for *_, label, _ in rows],
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(BOX, max_size=6), st.lists(BOX, max_size=6))
def test_no_box_is_matched_twice_and_each_pair_overlaps(first, second):
    golden, found = drawn(first), drawn(second)
    pairs = match(golden, found)
    for side in zip(*pairs, strict=True):
        assert len(set(side)) == len(side)
    for a, b in pairs:
        assert iou(golden.boxes[a : a + 1], found.boxes[b : b + 1])[0, 0] >= 0.5
        assert golden.labels[a] == found.labels[b]
    value = score(golden, found)
    assert value is not None
    assert 0.0 <= value <= 1.0


@settings(max_examples=100, deadline=None)
@given(st.lists(BOX, max_size=4), st.lists(BOX, max_size=4))
def test_greedy_matching_finds_at_least_half_of_the_best(first, second):
    """A maximal matching has at least half as many pairs as the largest one."""
    golden, found = drawn(first), drawn(second)
    overlap = iou(golden.boxes, found.boxes) if first and second else np.zeros((0, 0))
    allowed = [
        (a, b)
        for a, b in itertools.product(range(len(first)), range(len(second)))
        if overlap[a, b] >= 0.5 and golden.labels[a] == found.labels[b]
    ]
    best = 0
    for size in range(min(len(first), len(second)), 0, -1):
        if any(
            len({a for a, _ in some}) == len({b for _, b in some}) == size
            for some in itertools.combinations(allowed, size)
        ):
            best = size
            break
    assert best / 2 <= len(match(golden, found)) <= best
