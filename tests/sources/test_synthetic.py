from __future__ import annotations

import itertools

import numpy as np
import pytest

from vdag.errors import SourceError
from vdag.sources import open_source


def test_the_address_says_size_rate_and_length() -> None:
    with open_source("synthetic:64x48@29.97?frames=7&seed=3") as source:
        assert (source.width, source.height, source.frame_count) == (64, 48, 7)
        assert source.fps == pytest.approx(29.97)
        assert (source.name, source.live) == ("synthetic:64x48@29.97", False)
        frames = list(source)
    assert [frame.seq for frame in frames] == list(range(7))
    assert [frame.pts_s for frame in frames] == pytest.approx([n / 29.97 for n in range(7)])
    assert all(frame.pixels.shape == (48, 64, 3) for frame in frames)


def test_the_same_address_shows_the_same_pictures_and_each_one_moves() -> None:
    first = [frame.pixels for frame in open_source("synthetic:64x48@30?frames=5")]
    second = [frame.pixels for frame in open_source("synthetic:64x48@30?frames=5")]
    other = next(iter(open_source("synthetic:64x48@30?seed=1"))).pixels
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], other)
    assert all((before != after).any() for before, after in itertools.pairwise(first))


def test_without_a_length_it_has_no_end() -> None:
    with open_source("synthetic:4x4@100") as source:
        assert source.frame_count is None
        assert [frame.seq for frame, _ in zip(source, range(500), strict=False)][-1] == 499


def test_a_frame_written_into_does_not_change_later_ones() -> None:
    with open_source("synthetic:16x16@10?frames=20") as source:
        for frame in source:
            frame.pixels[:] = 7
    with open_source("synthetic:16x16@10?frames=20") as source:
        assert all((frame.pixels != 7).any() for frame in source)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("64x48", "synthetic:64x48: expected synthetic:WIDTHxHEIGHT@FPS[?frames=N&seed=S]"),
        (
            "64x48@30?length=3",
            "synthetic:64x48@30?length=3: unknown 'length', expected frames or seed",
        ),
        ("6x4@3?frames=-1", "synthetic:6x4@3?frames=-1: frames is '-1', expected a number"),
        ("6x4@0", "synthetic:6x4@0: rate 0 is not above 0 and at most 1000"),
        ("6x4@1001", "synthetic:6x4@1001: rate 1001 is not above 0 and at most 1000"),
        ("0x4@3", "synthetic:0x4@3: picture of 0x4 has a side outside 1 to 16384"),
        ("99999x4@3", "synthetic:99999x4@3: picture of 99999x4 has a side outside 1 to 16384"),
    ],
)
def test_a_wrong_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(f"synthetic:{address}")
    assert str(caught.value) == message
