"""Sampling, sizes, pace and ownership, over pictures made up here."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest

from vdag.errors import ConfigError, SourceError, SourceTimeout
from vdag.frame import UInt8Image
from vdag.sources import Keep, SingleFrameGenerator, Source, open_source

NS = 1_000_000_000


class Claim:
    """A lease that counts how often it was given back."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


def gradient(width: int = 40, height: int = 30) -> UInt8Image:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 8, columns * 6, rows + columns], axis=2).astype(np.uint8)


def positions(source: SingleFrameGenerator, count: int) -> list[int]:
    return [frame.cam_frame_id for frame in itertools.islice(source, count)]


def test_a_generator_is_a_source() -> None:
    with open_source("synthetic:8x8@10") as source:
        assert isinstance(source, SingleFrameGenerator)
        assert isinstance(source, Source)


def test_seq_is_dense_and_positions_keep_their_gaps() -> None:
    with open_source("synthetic:8x8@30?frames=10", fps=20) as source:
        frames = list(source)
        stats = source.stats()
    assert [frame.seq for frame in frames] == list(range(7))
    assert [frame.cam_frame_id for frame in frames] == [0, 2, 3, 5, 6, 8, 9]
    assert (stats.read, stats.decoded, stats.skipped) == (7, 10, 3)


def test_a_resolution_resizes_without_keeping_the_aspect_ratio() -> None:
    with open_source([gradient()], resolution="360p") as source:
        frame = source.read()
        assert (source.width, source.height) == (40, 30)  # the source's own
    assert frame is not None
    assert frame.pixels.shape == (360, 480, 3)
    assert np.abs(frame.pixels[::12, ::12].astype(int) - gradient()).max() <= 8


def test_native_and_the_sources_own_size_leave_the_pixels_alone() -> None:
    picture = gradient()
    for resolution in (None, "native", "40x30"):
        with open_source([picture], resolution=resolution) as source:
            assert next(iter(source)).pixels is picture


def test_rate_and_size_change_at_the_next_frame() -> None:
    with open_source("synthetic:8x8@30", fps=30) as source:
        ids = positions(source, 3)
        source.reconfigure(fps=10)
        ids += positions(source, 3)
        source.reconfigure(resolution="4x2")
        frame = source.read()
        source.reconfigure(fps=None, resolution=None)
        last = source.read()
    assert frame is not None
    assert last is not None
    assert ids == [0, 1, 2, 3, 6, 9]
    assert (frame.cam_frame_id, frame.pixels.shape) == (12, (2, 4, 3))
    assert (last.cam_frame_id, last.pixels.shape) == (13, (8, 8, 3))


def test_a_wrong_change_changes_nothing() -> None:
    with open_source("synthetic:8x8@30", fps=10) as source:
        with pytest.raises(ConfigError, match="fps 0 is not between"):
            source.reconfigure(fps=0, resolution="4x4")
        with pytest.raises(ConfigError, match="resolution 'huge' is unknown"):
            source.reconfigure(fps=30, resolution="huge")
        source.reconfigure(fps=Keep.KEEP)
        assert positions(source, 3) == [0, 3, 6]
        assert next(iter(source)).pixels.shape == (8, 8, 3)


def test_frames_are_written_into_the_memory_that_the_caller_gives() -> None:
    slots: list[tuple[UInt8Image, Claim]] = []

    def allocate(width: int, height: int) -> tuple[UInt8Image, Claim]:
        slots.append((np.zeros((height, width, 3), np.uint8), Claim()))
        return slots[-1]

    picture = gradient()
    with open_source([picture, picture], allocate=allocate) as source:
        first = source.read()
        source.reconfigure(resolution="20x10")
        second = source.read()
    assert first is not None
    assert second is not None
    assert first.pixels is slots[0][0]
    assert np.array_equal(first.pixels, picture)
    assert second.pixels is slots[1][0]
    assert second.pixels.any()
    first.release()
    assert [claim.released for _, claim in slots] == [1, 0]


def test_memory_can_be_given_while_frames_are_read() -> None:
    memory = np.zeros((60, 80, 3), np.uint8)
    with open_source([gradient()] * 3, resolution="80x60") as source:
        assert source.frame_size == (80, 60)
        before = source.read()
        source.allocate = lambda *_: (memory, None)
        inside = source.read()
        source.allocate = None
        behind = source.read()
    assert before is not None
    assert inside is not None
    assert behind is not None
    assert inside.pixels is memory
    assert np.array_equal(before.pixels, memory)
    assert np.array_equal(behind.pixels, memory)
    assert not np.shares_memory(before.pixels, memory)
    assert not np.shares_memory(behind.pixels, memory)


def test_frames_have_the_size_of_the_pictures_unless_they_are_resized() -> None:
    with open_source("synthetic:8x6@30") as source:
        assert source.frame_size == (8, 6)
        source.reconfigure(resolution="4x2")
        assert source.frame_size == (4, 2)
        frame = source.read()
    assert frame is not None
    assert frame.pixels.shape == (2, 4, 3)


def test_memory_with_padded_rows_is_written_into() -> None:
    memory = np.zeros((60, 100, 3), np.uint8)
    with open_source(
        [gradient()], resolution="80x60", allocate=lambda *_: (memory[:, :80], None)
    ) as source:
        frame = source.read()
    assert frame is not None
    assert np.shares_memory(frame.pixels, memory)
    assert memory[:, :80].any(axis=2).sum() > 4000
    assert not memory[:, 80:].any()


@pytest.mark.parametrize("resolution", ["native", "80x60"])
def test_memory_that_does_not_fit_is_given_back(resolution: str) -> None:
    slot = (np.zeros((1, 2, 3), np.uint8), claim := Claim())
    with (
        open_source([gradient()], resolution=resolution, allocate=lambda *_: slot) as source,
        pytest.raises(ValueError, match="could not broadcast"),
    ):
        source.read()
    assert claim.released == 1


def test_realtime_hands_out_no_frame_before_its_time() -> None:
    with open_source("synthetic:8x8@50?frames=6", pace="realtime") as source:
        frames = list(source)
    first = frames[0]
    for frame in frames:
        assert frame.pts_s is not None
        assert frame.capture_ns - first.capture_ns >= frame.pts_s * NS - 2_000_000


def test_a_frame_that_is_not_due_yet_stays_for_the_next_read() -> None:
    with open_source("synthetic:8x8@2?frames=2", pace="realtime") as source:
        assert source.read() is not None
        with pytest.raises(SourceTimeout) as caught:
            source.read(timeout_s=0.0)
        assert str(caught.value) == "synthetic:8x8@2: the next frame is not due yet"
        frame = source.read()
        assert frame is not None
        assert frame.cam_frame_id == 1
        assert source.read() is None


def test_close_ends_a_wait_for_the_next_frame() -> None:
    source = open_source("synthetic:8x8@0.01", pace="realtime")
    assert source.read() is not None
    found: list[Any] = [object()]
    reader = threading.Thread(target=lambda: found.append(source.read()))
    reader.start()
    source.close()
    reader.join(10)
    assert not reader.is_alive()
    assert found[-1] is None


def test_realtime_needs_times() -> None:
    with open_source([gradient()], pace="realtime") as source:
        with pytest.raises(SourceError, match=r"^frames: has no times to pace by, pass cam_fps$"):
            source.read()
        assert source.read() is None
    with open_source([gradient()], pace="realtime", cam_fps=25) as source:
        assert source.read() is not None


def test_a_closed_source_is_at_its_end_and_closes_again() -> None:
    source = open_source("synthetic:8x8@30")
    source.close()
    source.close()
    assert source.read() is None
    assert list(source) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pace": "slow"}, "pace is 'slow', expected asap or realtime"),
        ({"fps": 0}, "fps 0 is not between 0.001 and 1000"),
        ({"cam_fps": -1}, "cam_fps -1 is not between 0.001 and 1000"),
        ({"read_timeout_s": 0}, "read_timeout_s is 0, expected above 0 to 3600"),
    ],
)
def test_an_argument_without_meaning_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source("synthetic:8x8@30", **arguments)
    assert str(caught.value) == message
