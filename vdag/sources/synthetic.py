"""A made-up video: the same pictures for the same address, without any file or decoder."""

from __future__ import annotations

import functools
import re
import time
from fractions import Fraction
from urllib.parse import parse_qsl

import numpy as np

from vdag.errors import SourceError
from vdag.frame import UInt8Image
from vdag.sampling import MAX_FPS
from vdag.sources.base import OpenOptions, Picture, StreamInfo, check_size

__all__ = ["SyntheticReader"]

_ADDRESS = re.compile(
    r"synthetic:([0-9]{1,6})x([0-9]{1,6})@([0-9]{1,6}(?:\.[0-9]{1,6})?)(?:\?(.*))?"
)

#: Pixels that the background moves per picture, and the square in x and y.
_SCROLL = 2
_SPEED_X = 5
_SPEED_Y = 3


class SyntheticReader:
    """Shows a scrolling texture with a bright square moving across it; see `Reader`.

    A picture costs two copies of rows. The texture is a smooth gradient with a little noise, so
    that it compresses about as a real scene does.

    Args:
        address: `synthetic:WIDTHxHEIGHT@FPS`, then optionally `?frames=N&seed=S`. Without `frames`
            it has no end.
        options: not used beyond `cam_fps`.

    Raises:
        SourceError: the address has another form, or a size or rate beyond its limit.
    """

    def __init__(self, address: str, options: OpenOptions) -> None:
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise SourceError(f"{address}: expected synthetic:WIDTHxHEIGHT@FPS[?frames=N&seed=S]")
        self.errors = self.decoded = self.reconnects = 0
        width, height = int(match[1]), int(match[2])
        name = address.partition("?")[0]
        check_size(name, width, height)
        self._rate = _rate(name, match[3] if options.cam_fps is None else options.cam_fps)
        numbers = _numbers(address, match[4] or "")
        self._frames = numbers.get("frames")
        self._texture = _texture(width, height, numbers.get("seed", 0))
        self._info = StreamInfo(name, self._rate, width, height, self._frames)
        self._side = max(min(width, height) // 4, 1)

    @property
    def info(self) -> StreamInfo:
        """What the address says."""
        return self._info

    def read(self, timeout_s: float | None = None) -> Picture | None:
        """Return the next picture, not drawn yet; None after the last."""
        del timeout_s
        index = self.decoded
        if self._frames is not None and index >= self._frames:
            return None
        self.decoded += 1
        pixels = functools.partial(self._pixels, index)
        return Picture(index, float(index / self._rate), time.monotonic_ns(), pixels)

    def close(self) -> None:
        """Draw no more."""
        self._frames = 0

    def _pixels(self, index: int) -> UInt8Image:
        width, height = self._info.width, self._info.height
        offset = index * _SCROLL % width
        pixels: UInt8Image = self._texture[:, offset : offset + width].copy()
        x = index * _SPEED_X % max(width - self._side, 1)
        y = index * _SPEED_Y % max(height - self._side, 1)
        pixels[y : y + self._side, x : x + self._side] = (40, 220, 250)
        return pixels


def _texture(width: int, height: int, seed: int) -> UInt8Image:
    """Return `(height, 2 * width, 3)` that repeats after `width` columns."""
    noise = np.random.default_rng(seed).integers(0, 16, (height, width, 3), dtype=np.uint8)
    across = np.abs(np.linspace(-1.0, 1.0, width, endpoint=False)) * 160.0  # no edge where it wraps
    down = np.linspace(20.0, 180.0, height)
    noise[..., 0] += across.astype(np.uint8)
    noise[..., 1] += down.astype(np.uint8)[:, None]
    noise[..., 2] += ((across[None, :] + down[:, None]) / 2.0).astype(np.uint8)
    return np.concatenate([noise, noise], axis=1)


def _rate(name: str, fps: str | float) -> Fraction:
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= MAX_FPS:
        raise SourceError(f"{name}: rate {fps} is not above 0 and at most {MAX_FPS:.0f}")
    return rate


def _numbers(address: str, query: str) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in ("frames", "seed"):
            raise SourceError(f"{address}: unknown {key!r}, expected frames or seed")
        if not re.fullmatch(r"[0-9]{1,9}", value):
            raise SourceError(f"{address}: {key} is {value!r}, expected a number")
        numbers[key] = int(value)
    return numbers
