from __future__ import annotations

import numpy as np
import pytest

from vdag.errors import ConfigError, SourceTimeout
from vdag.frame import UInt8Image
from vdag.sources import ClipGenerator


class Claim:
    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


def test_a_video_is_cut_into_clips_and_the_last_has_what_is_left() -> None:
    with ClipGenerator("synthetic:8x8@30?frames=12", length=5) as clips:
        found = list(clips)
    assert [[frame.seq for frame in clip.frames] for clip in found] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11],
    ]
    assert [(clip.seq, len(clip), clip.stream) for clip in found] == [
        (0, 5, "synthetic:8x8@30"),
        (1, 5, "synthetic:8x8@30"),
        (2, 2, "synthetic:8x8@30"),
    ]


def test_sampling_comes_before_cutting() -> None:
    with ClipGenerator("synthetic:8x8@30?frames=30", length=2, fps=10) as clips:
        clip = clips.read()
        assert clip is not None
        assert [frame.cam_frame_id for frame in clip.frames] == [0, 3]
        assert clips.stats().skipped == 2


def test_a_clip_that_is_not_complete_in_time_keeps_its_frames() -> None:
    with ClipGenerator("synthetic:8x8@5?frames=2", length=2, pace="realtime") as clips:
        with pytest.raises(SourceTimeout):
            clips.read(timeout_s=0.0)
        clip = clips.read()
    assert clip is not None
    assert [frame.seq for frame in clip.frames] == [0, 1]


def test_frames_of_a_clip_that_never_came_are_given_back() -> None:
    claims: list[Claim] = []

    def allocate(width: int, height: int) -> tuple[UInt8Image, Claim]:
        claims.append(Claim())
        return np.empty((height, width, 3), np.uint8), claims[-1]

    clips = ClipGenerator("synthetic:8x8@5", length=3, pace="realtime", allocate=allocate)
    with pytest.raises(SourceTimeout):
        clips.read(timeout_s=0.0)
    clips.close()
    assert [claim.released for claim in claims] == [1]


def test_a_clip_releases_all_its_frames() -> None:
    claims: list[Claim] = []

    def allocate(width: int, height: int) -> tuple[UInt8Image, Claim]:
        claims.append(Claim())
        return np.empty((height, width, 3), np.uint8), claims[-1]

    with ClipGenerator("synthetic:8x8@30?frames=3", length=3, allocate=allocate) as clips:
        for clip in clips:
            clip.release()
    assert [claim.released for claim in claims] == [1, 1, 1]


@pytest.mark.parametrize("length", [0, -1, 1025])
def test_a_length_out_of_range_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match=rf"^length of a clip is {length}, expected 1 to 1024$"):
        ClipGenerator("synthetic:8x8@30", length=length)
