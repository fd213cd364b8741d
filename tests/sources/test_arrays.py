from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vdag.errors import SourceError
from vdag.frame import UInt8Image
from vdag.sources import open_source


def pictures(count: int) -> Iterator[UInt8Image]:
    for number in range(count):
        yield np.full((4, 6, 3), number, np.uint8)


def test_arrays_become_frames_over_the_same_memory() -> None:
    arrays = list(pictures(3))
    with open_source(arrays, stream="mine") as source:
        assert (source.width, source.height, source.frame_count, source.fps) == (6, 4, 3, 0.0)
        frames = list(source)
    assert [frame.stream for frame in frames] == ["mine"] * 3
    assert all(frame.pixels is array for frame, array in zip(frames, arrays, strict=True))
    assert [frame.pts_s for frame in frames] == [None] * 3


def test_rows_may_have_any_stride_but_are_contiguous_themselves() -> None:
    wide = np.arange(4 * 20 * 3, dtype=np.uint8).reshape(4, 20, 3)
    for array, copied in ((wide[:, 2:8], False), (wide[..., ::-1], True), (wide[:, ::2], True)):
        (frame,) = open_source([array])
        assert np.array_equal(frame.pixels, array)
        assert np.shares_memory(frame.pixels, array) != copied
        assert frame.pixels.strides[1:] == (3, 1)


def test_a_generator_is_read_only_as_far_as_frames_are_taken() -> None:
    made: list[int] = []

    def make() -> Iterator[UInt8Image]:
        for number in range(100):
            made.append(number)
            yield np.zeros((2, 2, 3), np.uint8)

    with open_source(make()) as source:
        assert (source.width, source.frame_count) == (0, None)
        assert made == []
        source.read()
        source.read()
    assert made == [0, 1]


def test_a_generator_is_closed_with_its_source() -> None:
    arrays = pictures(100)
    with open_source(arrays) as source:
        assert source.read() is not None
    assert next(arrays, None) is None


def test_one_array_of_four_dimensions_is_a_video() -> None:
    with open_source(np.zeros((5, 4, 6, 3), np.uint8)) as source:
        assert (source.width, source.height, source.frame_count) == (6, 4, 5)
        assert len(list(source)) == 5


def test_a_given_rate_makes_times_and_sampling() -> None:
    with open_source(pictures(20), cam_fps=10, fps=5) as source:
        frames = list(source)
    assert [frame.cam_frame_id for frame in frames] == list(range(0, 20, 2))
    assert [frame.pts_s for frame in frames] == [number / 10 for number in range(0, 20, 2)]
    assert frames[0].fps == 10.0


def test_a_list_can_be_looped_and_its_times_run_on() -> None:
    with open_source(list(pictures(3)), cam_fps=10, loop=True) as source:
        assert source.frame_count is None
        frames = [frame for frame, _ in zip(source, range(7), strict=False)]
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [0, 1, 2, 0, 1, 2, 0]
    assert [frame.cam_frame_id for frame in frames] == list(range(7))
    assert [frame.pts_s for frame in frames] == pytest.approx([n / 10 for n in range(7)])


def test_a_generator_cannot_be_looped() -> None:
    source = open_source(pictures(2), loop=True)
    assert [source.read() is not None for _ in range(2)] == [True, True]
    with pytest.raises(SourceError, match=r"^frames: has no pictures to play again$"):
        source.read()
    assert source.read() is None
    source.close()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ([[1]], "frames: picture 1 is a list, expected a numpy array"),
        (np.zeros((4, 4, 3)), "frames: picture 1 is float64 (4, 4, 3), expected uint8 (H, W, 3)"),
        (np.zeros((4, 4), np.uint8), "frames: picture 1 is uint8 (4, 4), expected uint8 (H, W, 3)"),
        (
            np.zeros((0, 4, 3), np.uint8),
            "frames: picture of 4x0 has a side outside 1 to 16384",
        ),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any, message: str) -> None:
    source = open_source([np.zeros((4, 4, 3), np.uint8), picture])
    source.read()
    with pytest.raises(SourceError) as caught:
        source.read()
    assert str(caught.value) == message
    assert source.read() is None
    source.close()


def test_what_cannot_be_iterated_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^frames: int cannot be iterated$"):
        open_source(5)  # type: ignore[arg-type]
