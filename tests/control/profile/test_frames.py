from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control.profile import FrameSize, Profile
from vdag.control.profile.costs import pixels_of
from vdag.errors import ConfigError
from vdag.plan import ENCODERS
from vdag.sampling import RESOLUTIONS


def profile_of(**sizes: float) -> Profile:
    """A profile with the JPEG bytes of resolutions, named as `r360p`."""
    profile = Profile()
    for name, nbytes in sizes.items():
        profile.put_frame(FrameSize(name.removeprefix("r"), "JPEG", nbytes, 100))
    return profile


def test_raw_frames_have_three_bytes_a_pixel():
    assert Profile().frame_nbytes("720p", "raw") == 1280 * 720 * 3


@pytest.mark.parametrize("encoder", ["JPEG", "H264"])
def test_what_was_not_measured_follows_from_bits_per_pixel(encoder: str):
    sizes = [Profile().frame_nbytes(name, encoder) for name in RESOLUTIONS]
    assert sizes == sorted(sizes)
    assert 0.01 < sizes[-1] / pixels_of("1080p") < 0.5


def test_a_measured_size_is_returned_as_it_is():
    assert profile_of(r360p=20_000.0).frame_nbytes("360p", "JPEG") == 20_000.0


def test_between_two_sizes_bits_per_pixel_lie_between_theirs():
    profile = profile_of(r360p=40_000.0, r1080p=200_000.0)
    shares = [profile.frame_nbytes(name, "JPEG") / pixels_of(name) for name in RESOLUTIONS]
    assert shares == sorted(shares, reverse=True)


def test_beyond_what_was_measured_bits_per_pixel_stay():
    profile = profile_of(r480p=40_000.0)
    ratio = pixels_of("1080p") / pixels_of("480p")
    assert profile.frame_nbytes("1080p", "JPEG") == pytest.approx(40_000.0 * ratio)


def test_observed_frames_are_followed():
    profile = profile_of(r360p=20_000.0)
    for _ in range(400):
        assert profile.observe_frame("360p", "JPEG", 30_000.0)
    assert profile.frame_nbytes("360p", "JPEG") == pytest.approx(30_000.0, rel=0.02)


def test_one_frame_alone_changes_little():
    profile = profile_of(r360p=20_000.0)
    assert profile.observe_frame("360p", "JPEG", 500_000.0)
    assert 20_000.0 < profile.frame_nbytes("360p", "JPEG") < 22_000.0


@pytest.mark.parametrize("nbytes", [math.nan, math.inf, -1.0, 0.0, 1e12, "9", None, True])
def test_a_size_that_is_none_is_refused(nbytes):
    profile = profile_of(r360p=20_000.0)
    assert not profile.observe_frame("360p", "JPEG", nbytes)
    assert profile.frame_nbytes("360p", "JPEG") == 20_000.0


def test_raw_frames_teach_nothing():
    assert not Profile().observe_frame("360p", "raw", 5_000.0)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ConfigError, match=r"^encoder 'PNG' is not one of JPEG, H264, raw$"):
        Profile().frame_nbytes("360p", "PNG")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(RESOLUTIONS)),
            st.sampled_from(ENCODERS),
            st.one_of(st.floats(), st.integers(0, 10**7)),
        ),
        max_size=30,
    )
)
def test_after_any_observations_every_size_is_that_of_a_frame(observations):
    profile = profile_of(r360p=20_000.0)
    for resolution, encoder, nbytes in observations:
        profile.observe_frame(resolution, encoder, nbytes)
    for resolution in RESOLUTIONS:
        for encoder in ENCODERS:
            nbytes = profile.frame_nbytes(resolution, encoder)
            assert 0 < nbytes <= 6 * pixels_of(resolution)
