"""Pictures that the program makes itself, as a video."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from fractions import Fraction
from typing import Any

import numpy as np

from vdag.errors import SourceError
from vdag.frame import UInt8Image
from vdag.sources.base import OpenOptions, Picture, StreamInfo, check_size

__all__ = ["ArrayReader"]


class ArrayReader:
    """Reads arrays from any iterable; see `Reader`.

    The arrays are handed on as they are: a producer that writes into the same array again must
    copy it first. Only one whose rows are not contiguous, such as `rgb[..., ::-1]`, is copied.
    They have no times unless `cam_fps` gives them a rate.

    Args:
        arrays: uint8 `(H, W, 3)` BGR arrays, or one uint8 array `(N, H, W, 3)`.
        name: for messages.
        options: `cam_fps` is the rate.

    Raises:
        SourceError: `arrays` cannot be iterated.
    """

    def __init__(self, arrays: Iterable[UInt8Image], name: str, options: OpenOptions) -> None:
        self.errors = self.decoded = self.reconnects = 0
        self._rate = Fraction(options.cam_fps or 0).limit_denominator(1001)
        try:
            self._arrays: Iterator[Any] = iter(arrays)
        except TypeError as err:
            raise SourceError(f"{name}: {type(arrays).__name__} cannot be iterated") from err
        self._name = name
        height = width = 0
        if isinstance(arrays, (Sequence, np.ndarray)) and len(arrays):
            height, width = self._check(arrays[0]).shape[:2]
        count = len(arrays) if isinstance(arrays, Sized) else None
        self._info = StreamInfo(name, self._rate, width, height, count)

    @property
    def info(self) -> StreamInfo:
        """What can be known without taking a picture; a generator tells nothing."""
        return self._info

    def read(self, timeout_s: float | None = None) -> Picture | None:
        """Return the next picture, None after the last; waits as long as the producer does.

        Raises:
            SourceError: what the producer made is no picture.
        """
        del timeout_s
        try:
            pixels = self._check(next(self._arrays))
        except StopIteration:
            return None
        index = self.decoded
        self.decoded += 1
        pts_s = float(index / self._rate) if self._rate else None
        return Picture(index, pts_s, time.monotonic_ns(), functools.partial(_given, pixels))

    def close(self) -> None:
        """Take no more; a producer with a `close` of its own, as generators have, is closed."""
        arrays, self._arrays = self._arrays, iter(())
        close = getattr(arrays, "close", None)
        if close is not None:
            close()

    def _check(self, pixels: Any) -> UInt8Image:
        picture = f"{self._name}: picture {self.decoded}"
        if not isinstance(pixels, np.ndarray):
            raise SourceError(f"{picture} is a {type(pixels).__name__}, expected a numpy array")
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise SourceError(
                f"{picture} is {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3)"
            )
        check_size(self._name, pixels.shape[1], pixels.shape[0])
        return pixels


def _given(pixels: UInt8Image) -> UInt8Image:
    return pixels if pixels.strides[1:] == (3, 1) else np.ascontiguousarray(pixels)
