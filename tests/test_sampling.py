from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.errors import ConfigError
from vdag.sampling import MAX_SIDE, RESOLUTIONS, FrameSampler, parse_resolution

CAMERA_RATES = st.one_of(
    st.sampled_from([Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)]),
    st.integers(1, 240).map(Fraction),
    st.fractions(Fraction(1, 2), 120, max_denominator=1001),
)
RATES = st.one_of(st.integers(1, 120), st.floats(0.1, 120.0))


def taken(sampler: FrameSampler, count: int, start: int = 0) -> list[int]:
    return [number for number in range(start, start + count) if sampler.take(number)]


def test_the_documented_names_have_the_documented_sizes() -> None:
    assert dict(RESOLUTIONS) == {
        "360p": (480, 360),
        "480p": (640, 480),
        "540p": (960, 540),
        "630p": (1120, 630),
        "720p": (1280, 720),
        "810p": (1440, 810),
        "900p": (1600, 900),
        "990p": (1760, 990),
        "1080p": (1920, 1080),
    }


@pytest.mark.parametrize(
    ("resolution", "size"),
    [("480p", (640, 480)), ("1280x720", (1280, 720)), ("1x16384", (1, MAX_SIDE)), ("native", None)],
)
def test_a_resolution_is_a_name_a_size_or_native(
    resolution: str, size: tuple[int, int] | None
) -> None:
    assert parse_resolution(resolution) == size


@pytest.mark.parametrize("resolution", ["", "480", "480P", "640x", "640x480x3", "-1x5", " 480p"])
def test_another_resolution_is_refused_with_the_known_ones(resolution: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_resolution(resolution)
    assert str(caught.value) == (
        f"resolution {resolution!r} is unknown, expected 360p, 480p, 540p, 630p, 720p, 810p, "
        "900p, 990p, 1080p, WIDTHxHEIGHT or native"
    )


@pytest.mark.parametrize("resolution", ["0x5", "5x0", "16385x1", "1x999999"])
def test_a_size_beyond_the_limit_is_refused(resolution: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_resolution(resolution)
    assert str(caught.value) == f"resolution {resolution!r} has a side outside 1 to 16384"


@pytest.mark.parametrize(
    ("cam_fps", "fps", "expected"),
    [
        (30, 30, [0, 1, 2, 3, 4, 5, 6]),
        (30, 20, [0, 2, 3, 5, 6, 8, 9]),
        (30, 10, [0, 3, 6, 9, 12, 15, 18]),
        (30, 5, [0, 6, 12, 18, 24, 30, 36]),
        (30, 1, [0, 30, 60, 90, 120, 150, 180]),
        (25, 20, [0, 2, 3, 4, 5, 7, 8]),
        (25, 10, [0, 3, 5, 8, 10, 13, 15]),
        (25, 1, [0, 25, 50, 75, 100, 125, 150]),
        (25, 60, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_positions_are_those_of_the_documents_with_the_first_frame(
    cam_fps: int, fps: int, expected: list[int]
) -> None:
    assert taken(FrameSampler(fps, cam_fps=cam_fps), 200)[:7] == expected


def test_without_a_rate_every_frame_is_taken() -> None:
    assert taken(FrameSampler(None, cam_fps=25), 9) == list(range(9))
    assert taken(FrameSampler(10), 9) == list(range(9))  # neither rate nor times to go by


@given(CAMERA_RATES, RATES)
def test_gaps_differ_by_at_most_one_frame(cam_fps: Fraction, fps: float) -> None:
    numbers = taken(FrameSampler(fps, cam_fps=cam_fps), 1500)
    gaps = {after - before for before, after in itertools.pairwise(numbers)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(CAMERA_RATES, RATES, st.integers(1, 1000))
def test_any_stretch_has_the_right_number_of_frames(
    cam_fps: Fraction, fps: float, length: int
) -> None:
    numbers = taken(FrameSampler(fps, cam_fps=cam_fps), 2000)
    expected = float(length * min(Fraction(fps) / cam_fps, Fraction(1)))
    for start in range(0, 1000, 97):
        count = sum(start <= number < start + length for number in numbers)
        # One frame of the start, and one for where the stretch cuts the grid.
        assert abs(count - expected) < 1.001 + (start == 0)


@given(st.integers(0, 3_000_000), RATES)
def test_hours_at_a_broken_rate_do_not_drift(hours_of_frames: int, fps: float) -> None:
    cam_fps = Fraction(30000, 1001)
    ratio = min(Fraction(fps).limit_denominator(1_000_000) / cam_fps, Fraction(1))
    sampler = FrameSampler(fps, cam_fps=29.97002997002997)
    before = None
    for number in range(hours_of_frames, hours_of_frames + 100):
        due = ratio * number // 1
        assert sampler.take(number) == (due != before)
        before = due


@given(st.lists(st.tuples(st.integers(1, 60), RATES), min_size=1, max_size=20))
def test_after_a_change_the_next_frame_is_due_one_new_interval_later(
    changes: list[tuple[int, float]],
) -> None:
    cam_fps = 30
    sampler = FrameSampler(1, cam_fps=cam_fps)
    assert sampler.take(0)
    number = last = 0
    for length, fps in changes:
        sampler.fps = fps
        interval = max(cam_fps / fps, 1.0)
        for number in range(number + 1, number + 1 + length):  # noqa: B020  # goes on counting
            if sampler.take(number):
                last = number
            assert number - last < interval + 1.0


def test_the_rate_can_be_taken_away_and_given_again() -> None:
    sampler = FrameSampler(10, cam_fps=30)
    assert taken(sampler, 4) == [0, 3]
    sampler.fps = None
    assert sampler.fps is None
    assert taken(sampler, 3, start=4) == [4, 5, 6]
    sampler.fps = 10
    assert taken(sampler, 6, start=7) == [9, 12]


@given(st.lists(st.floats(-0.015, 0.015), min_size=50, max_size=50))
def test_by_time_a_camera_at_the_asked_rate_keeps_every_frame(jitter: list[float]) -> None:
    sampler = FrameSampler(30)
    times = [max(number / 30 + late, 0.0) for number, late in enumerate(jitter)]
    assert all(sampler.take(number, t_s) for number, t_s in enumerate(times))


@given(RATES, st.floats(1.0, 120.0))
def test_by_time_no_more_frames_are_taken_than_asked(fps: float, cam_fps: float) -> None:
    sampler = FrameSampler(fps)
    count = sum(sampler.take(number, number / cam_fps) for number in range(1000))
    lasted_s = 999 / cam_fps
    assert min(fps, cam_fps) * lasted_s - 1.01 <= count <= fps * lasted_s + 2.01


def test_frames_that_were_due_and_did_not_come_are_counted() -> None:
    sampler = FrameSampler(10, cam_fps=30)
    assert sampler.take(0)
    assert sampler.take(3)
    assert sampler.passed_over == 0
    assert sampler.take(12)
    assert sampler.passed_over == 2


def test_positions_may_start_again() -> None:
    sampler = FrameSampler(10, cam_fps=30)
    assert taken(sampler, 7) == [0, 3, 6]
    assert sampler.take(0)
    assert sampler.passed_over == 0


@pytest.mark.parametrize("fps", [0, -1, 0.0009, 1001, float("nan"), float("inf")])
def test_a_rate_out_of_range_is_refused_and_the_old_one_stays(fps: float) -> None:
    sampler = FrameSampler(10, cam_fps=30)
    with pytest.raises(ConfigError, match=rf"^fps {fps:g} is not between 0\.001 and 1000$"):
        sampler.fps = fps
    assert sampler.fps == 10


def test_a_negative_camera_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^cam_fps -25 is not a rate of at least 0$"):
        FrameSampler(10, cam_fps=-25)
