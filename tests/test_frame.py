from __future__ import annotations

import numpy as np
import pytest

from vdag.errors import ConfigError
from vdag.frame import Frame, PixelFormat


class CountingLease:
    def __init__(self):
        self.released = 0

    def release(self):
        self.released += 1


def test_a_frame_knows_its_size():
    frame = Frame(np.zeros((48, 64, 3), np.uint8))
    assert (frame.width, frame.height, frame.nbytes) == (64, 48, 48 * 64 * 3)


@pytest.mark.parametrize(
    ("pixels", "pixel_format", "message"),
    [
        (
            np.zeros((4, 4, 3), np.float32),
            PixelFormat.BGR24,
            "pixels of a bgr24 frame are uint8 (H, W, 3), not float32 (4, 4, 3)",
        ),
        (
            np.zeros((4, 4), np.uint8),
            PixelFormat.RGB24,
            "pixels of a rgb24 frame are uint8 (H, W, 3), not uint8 (4, 4)",
        ),
        (
            np.zeros((4, 4, 3), np.uint8),
            PixelFormat.GRAY8,
            "pixels of a gray frame are uint8 (H, W), not uint8 (4, 4, 3)",
        ),
        (
            np.zeros((0, 4, 3), np.uint8),
            PixelFormat.BGR24,
            "a frame of shape (0, 4, 3) has no pixels",
        ),
    ],
)
def test_pixels_that_do_not_fit_the_format_are_refused(pixels, pixel_format, message):
    with pytest.raises(ConfigError) as caught:
        Frame(pixels, pixel_format=pixel_format)
    assert str(caught.value) == message


def test_views_share_memory_and_cannot_be_written():
    frame = Frame(np.zeros((4, 4, 3), np.uint8))
    view = frame.view()
    assert np.shares_memory(view, frame.pixels)
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1


def test_numpy_and_dlpack_see_the_same_memory():
    frame = Frame(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    assert np.shares_memory(np.asarray(frame), frame.pixels)
    assert np.shares_memory(np.from_dlpack(frame), frame.pixels)
    assert not np.shares_memory(np.array(frame, copy=True), frame.pixels)
    assert np.asarray(frame, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize(
    ("bbox", "shape"),
    [
        ((1.0, 1.0, 3.0, 2.0), (1, 2, 3)),
        ((-10.0, -10.0, 100.0, 100.0), (4, 6, 3)),
        ((50.0, 50.0, 60.0, 60.0), (1, 1, 3)),
        ((2.0, 2.0, 1.0, 1.0), (1, 1, 3)),
        ((0.5, 0.5, 1.5, 1.5), (2, 2, 3)),
    ],
)
def test_a_region_is_clamped_and_never_empty(bbox, shape):
    frame = Frame(np.zeros((4, 6, 3), np.uint8))
    region = frame.region(bbox)
    assert region.shape == shape
    assert np.shares_memory(region, frame.pixels)


def test_a_lease_is_released_once():
    lease = CountingLease()
    with Frame(np.zeros((4, 4, 3), np.uint8), lease=lease) as frame:
        assert lease.released == 0
    frame.release()
    assert lease.released == 1
