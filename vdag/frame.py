"""`Frame`: the pixels of one picture and where they come from.

A frame is what a source yields and a task looks at. Its pixels belong to whoever made it: a numpy
array of this process, or a slot of the node's shared memory that the frame holds a lease on.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError

__all__ = ["Frame", "Lease", "PixelFormat", "UInt8Image"]

UInt8Image = NDArray[np.uint8]


class PixelFormat(enum.Enum):
    """Order of the samples of a pixel, by FFmpeg's names; OpenCV's order is `BGR24`."""

    BGR24 = "bgr24"
    RGB24 = "rgb24"
    GRAY8 = "gray"

    @property
    def channels(self) -> int:
        """Samples per pixel."""
        return 1 if self is PixelFormat.GRAY8 else 3


class Lease(Protocol):
    """A claim on memory that somebody else owns; `release` may be called more than once."""

    def release(self) -> None:
        """Give the memory back; views of it must not be read afterwards."""


@dataclass(slots=True)
class Frame:
    """One picture of a stream.

    `pixels` is uint8 `(H, W, 3)`, or `(H, W)` for `GRAY8`; rows may have any stride, the samples
    of a row are contiguous. Whoever made the frame owns the memory. With a `lease` the pixels are
    valid until `release()`; without one, as long as the array lives.

    Attributes:
        pixels: the picture, see above.
        stream: name of the source, the same for all of its frames.
        seq: number among the frames that are processed, from 0, without gaps.
        cam_frame_id: position in the source, from 0; skipped frames leave gaps.
        capture_ns: `time.monotonic_ns()` when the picture was read.
        pts_s: presentation time in the source in seconds, if it has one.
        pixel_format: order of the samples.
        fps: rate of the source in frames per second, 0.0 when unknown.
        lease: claim on the memory of `pixels`, or None.
    """

    pixels: UInt8Image
    stream: str = "frames"
    seq: int = 0
    cam_frame_id: int = 0
    capture_ns: int = field(default_factory=time.monotonic_ns)
    pts_s: float | None = None
    pixel_format: PixelFormat = PixelFormat.BGR24
    fps: float = 0.0
    lease: Lease | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        channels = self.pixel_format.channels
        wanted = 2 if channels == 1 else 3
        if dtype != np.uint8 or len(shape) != wanted or (wanted == 3 and shape[2] != channels):
            layout = "(H, W)" if channels == 1 else f"(H, W, {channels})"
            raise ConfigError(
                f"pixels of a {self.pixel_format.value} frame are uint8 {layout}, "
                f"not {dtype} {shape}"
            )
        if 0 in shape:
            raise ConfigError(f"a frame of shape {shape} has no pixels")

    @property
    def width(self) -> int:
        """Pixels per row."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels, without padding between rows."""
        return int(self.pixels.nbytes)

    def view(self) -> UInt8Image:
        """Return the pixels as a read-only array over the same memory."""
        view: UInt8Image = self.pixels.view()
        view.flags.writeable = False
        return view

    def region(self, bbox: tuple[float, float, float, float]) -> UInt8Image:
        """Return the part of the picture inside `bbox`, clamped to the frame; never empty.

        Args:
            bbox: x1, y1, x2, y2 in pixels.

        Returns:
            A view of the same memory, at least one pixel large.
        """
        x1 = min(max(int(bbox[0]), 0), self.width - 1)
        y1 = min(max(int(bbox[1]), 0), self.height - 1)
        x2 = min(max(int(np.ceil(bbox[2])), x1 + 1), self.width)
        y2 = min(max(int(np.ceil(bbox[3])), y1 + 1), self.height)
        region: UInt8Image = self.pixels[y1:y2, x1:x2]
        return region

    def release(self) -> None:
        """Give up the lease, if there is one; the pixels must not be read afterwards."""
        if self.lease is not None:
            lease, self.lease = self.lease, None
            lease.release()

    def __enter__(self) -> Frame:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False and dtype is not None and np.dtype(dtype) != np.uint8:
            raise ValueError(f"pixels of dtype uint8 become {np.dtype(dtype)} only by a copy")
        array: NDArray[Any] = (
            self.pixels if dtype is None else self.pixels.astype(dtype, copy=False)
        )
        return array.copy() if copy and array is self.pixels else array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.pixels.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        device, index = self.pixels.__dlpack_device__()
        return int(device), int(index)
