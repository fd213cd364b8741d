from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.profile import AccuracyPoint, Profile, Scene
from vdag.control.profile.accuracy import assumed_accuracy
from vdag.control.profile.costs import pixels_of
from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS

TASK = "face_detection"
NAMES = list(RESOLUTIONS)
RATES = [0.5, 1, 2, 5, 10, 15, 20, 25, 30, 60]


def profile_of(*points: AccuracyPoint, model_id: int = 0) -> Profile:
    profile = Profile()
    for point in points:
        profile.put_accuracy(TASK, model_id, point)
    return profile


GRID = (
    AccuracyPoint("360p", 1, 0.3),
    AccuracyPoint("360p", 30, 0.6),
    AccuracyPoint("1080p", 1, 0.5),
    AccuracyPoint("1080p", 30, 1.0),
)


def accuracy(profile: Profile, resolution: str, fps: float, **scene: float) -> float:
    return profile.accuracy(TASK, 0, resolution, fps, **scene)


def test_measured_points_are_returned_as_they_are():
    profile = profile_of(*GRID)
    for point in GRID:
        assert accuracy(profile, point.resolution, point.fps) == pytest.approx(point.accuracy)


def test_between_points_it_lies_between_them():
    profile = profile_of(*GRID)
    assert 0.6 < accuracy(profile, "720p", 30) < 1.0
    assert 0.3 < accuracy(profile, "360p", 5) < 0.6


def test_above_the_highest_rate_it_stays():
    assert accuracy(profile_of(*GRID), "360p", 60) == pytest.approx(0.6)


def test_below_the_lowest_rate_it_falls():
    profile = profile_of(*GRID)
    assert 0.0 < accuracy(profile, "1080p", 0.5) < 0.5
    assert accuracy(profile, "1080p", 0.01) < 0.1


def test_a_gap_is_filled_from_the_nearest_point():
    profile = profile_of(AccuracyPoint("360p", 30, 0.6), AccuracyPoint("1080p", 1, 0.5))
    assert accuracy(profile, "1080p", 30) >= 0.6
    assert accuracy(profile, "360p", 1) <= 0.5


def test_what_was_measured_to_fall_is_taken_for_noise():
    profile = profile_of(AccuracyPoint("360p", 30, 0.9), AccuracyPoint("480p", 30, 0.88))
    assert accuracy(profile, "480p", 30) == pytest.approx(0.9)


SLOW = Scene(obj_size=10_000.0, obj_speed=100.0, cam_fps=30.0)
SEEN = tuple(
    AccuracyPoint(name, fps, value, 100, SLOW)
    for name, fps, value in (
        ("360p", 5, 0.5), ("360p", 30, 0.7), ("1080p", 5, 0.8), ("1080p", 30, 1.0),
    )
)  # fmt: skip


def test_faster_objects_are_worse_off_at_low_rates_and_no_worse_at_the_full_one():
    profile = profile_of(*SEEN)
    assert accuracy(profile, "1080p", 10, obj_speed=400.0) < accuracy(
        profile, "1080p", 10, obj_speed=100.0
    )
    assert accuracy(profile, "1080p", 30, obj_speed=400.0) == pytest.approx(1.0)


def test_objects_that_do_not_move_hardly_need_a_rate():
    assert accuracy(profile_of(*SEEN), "1080p", 5, obj_speed=0.0) > 0.9


def test_smaller_objects_are_worse_off_at_small_resolutions():
    profile = profile_of(*SEEN)
    assert accuracy(profile, "540p", 30, obj_size=5_000.0) < accuracy(
        profile, "540p", 30, obj_size=10_000.0
    )
    assert accuracy(profile, "1080p", 30, obj_size=5_000.0) == pytest.approx(1.0)


def test_at_the_rate_of_a_slow_camera_nothing_is_lost():
    profile = profile_of(*SEEN)
    assert accuracy(profile, "1080p", 5, cam_fps=5.0) == pytest.approx(1.0)
    assert accuracy(profile, "1080p", 5) == pytest.approx(0.8)


@pytest.mark.parametrize("unknown", [None, -1.0, math.nan])
def test_an_unknown_scene_is_that_of_the_measurement(unknown):
    profile = profile_of(*SEEN)
    found = accuracy(profile, "360p", 5, obj_size=unknown, obj_speed=unknown)
    assert found == pytest.approx(0.5)


def test_between_two_scenes_it_goes_by_the_size_of_objects():
    small = [AccuracyPoint("360p", 30, 0.2, 100, Scene(obj_size=1_000.0))]
    large = [AccuracyPoint("360p", 30, 1.0, 100, Scene(obj_size=100_000.0))]
    profile = profile_of(*small, *large)
    sizes = [500.0, 1_000.0, 10_000.0, 100_000.0, 200_000.0]
    found = [accuracy(profile, "360p", 30, obj_size=size) for size in sizes]
    assert found == pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0], abs=0.02)
    assert accuracy(profile, "360p", 30) == pytest.approx(0.6)


def test_a_smaller_model_that_was_not_measured_is_assumed_to_be_worse():
    profile = profile_of(*GRID)
    found = [profile.accuracy(TASK, model_id, "1080p", 30) for model_id in (0, 1, 2)]
    assert found == [pytest.approx(1.0), pytest.approx(0.95), pytest.approx(0.9025)]


def test_without_points_the_golden_configuration_is_perfect():
    assert Profile().accuracy(TASK, 0, "1080p", 30) == pytest.approx(1.0)


def test_without_points_it_is_the_formula_of_the_reference():
    """f and g of slow and of small objects, with their coefficients, over the golden value."""
    f = [0.98 - 0.75 * math.exp(-0.85 * fps) for fps in (2, 30)]
    g = [0.98 - 0.63 * math.exp(-0.006 * (height - 350)) for height in (480, 1080)]
    found = Profile().accuracy(TASK, 0, "480p", 2, obj_size=4_000.0, obj_speed=100.0)
    assert found == pytest.approx(f[0] * g[0] / (f[1] * g[1]), rel=1e-3)


def test_a_size_without_a_name_lies_between_those_with_one():
    values = [assumed_accuracy(pixels_of(name), 30) for name in ("480p", "800x600", "540p")]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (AccuracyPoint("360p", 30, 1.5), "accuracy 1.5 is not between 0 and 1"),
        (AccuracyPoint("360p", 30, math.nan), "accuracy nan is not between 0 and 1"),
        (AccuracyPoint("360p", 0, 0.5), "fps 0 is not between 0.001 and 1000"),
        (
            AccuracyPoint("360p", 30, 0.5, scene=Scene(obj_speed=-1.0)),
            "obj_speed -1 is not between 0 and 1e+06",
        ),
    ],
)
def test_a_point_out_of_bounds_is_refused(point: AccuracyPoint, message: str):
    expected = f"^accuracy of {TASK}: {message}$".replace("+", r"\+")
    with pytest.raises(ConfigError, match=expected):
        profile_of(point)


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(fps: float):
    with pytest.raises(ConfigError, match=r"^fps \S+ is not between 0.001 and 1000$"):
        profile_of(*GRID).accuracy(TASK, 0, "360p", fps)


POINTS = st.lists(
    st.builds(
        AccuracyPoint,
        st.sampled_from(NAMES),
        st.sampled_from(RATES),
        st.floats(0.0, 1.0),
        st.integers(0, 1000),
        st.builds(
            Scene,
            st.sampled_from([0.0, 100.0, 5_000.0, 80_000.0]),
            st.sampled_from([0.0, 50.0, 900.0]),
            st.sampled_from([5.0, 25.0, 30.0]),
        ),
    ),
    max_size=20,
)
SIZES = st.one_of(st.none(), st.just(-1.0), st.floats(0.0, 1e7))
SPEEDS = st.one_of(st.none(), st.just(-1.0), st.floats(0.0, 1e4))
CAMERAS = st.one_of(st.none(), st.sampled_from([1.0, 12.5, 30.0, 120.0]))


@settings(max_examples=150, deadline=None)
@given(POINTS, SIZES, SPEEDS, CAMERAS, st.integers(0, 3))
def test_accuracy_is_a_share_that_never_falls_with_resolution_or_rate(
    points, obj_size, obj_speed, cam_fps, model_id
):
    profile = profile_of(*points)
    rows = [
        [
            profile.accuracy(
                TASK, model_id, name, fps, obj_size=obj_size, obj_speed=obj_speed, cam_fps=cam_fps
            )
            for fps in RATES
        ]
        for name in NAMES
    ]
    assert all(0.0 <= value <= 1.0 for row in rows for value in row)
    for line in (*rows, *map(list, zip(*rows, strict=True))):
        assert all(after >= before - 1e-9 for before, after in itertools.pairwise(line))
