"""`FrameSizes`: the bytes of encoded frames, by resolution and encoder."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

from vdag.control.profile.costs import pixels_of
from vdag.errors import ConfigError
from vdag.plan import ENCODERS

__all__ = ["MAX_FRAME_NBYTES", "FrameSize", "FrameSizes"]

MAX_FRAME_NBYTES = float(1 << 31)
#: Bits per pixel of a frame that nobody has measured. JPEG: street video at the quality that edges
#: use. H.264: the rate that they ask of the encoder. Raw frames have 3 bytes per pixel always.
DEFAULT_BITS = {"JPEG": 1.6, "H264": 0.1, "raw": 24.0}
#: Bits per pixel are believed between these.
MIN_BITS, MAX_BITS = 1e-4, 48.0
#: Observed frames after which earlier ones count half.
HALF_LIFE = 60.0
#: Frames that a measured size is worth when frames are observed, at most.
PRIOR_FRAMES = 30.0
#: The most that one observation counts for.
MAX_STEP = math.log(4.0)


@dataclass(frozen=True, slots=True)
class FrameSize:
    """Bytes of an encoded frame.

    Attributes:
        resolution: of the frame.
        encoder: one of `vdag.plan.ENCODERS`.
        nbytes: mean.
        samples: frames.
    """

    resolution: str
    encoder: str
    nbytes: float
    samples: int = 1


class FrameSizes:
    """Sizes that were measured, and what follows from them for others."""

    def __init__(self) -> None:
        self._measured: dict[tuple[str, int], FrameSize] = {}
        self._pixels: dict[str, list[int]] = {}
        self._cache: dict[tuple[str, str], float] = {}

    def __iter__(self) -> Iterator[FrameSize]:
        return iter(self._measured.values())

    def __len__(self) -> int:
        return len(self._measured)

    def put(self, size: FrameSize) -> None:
        """Set a size.

        Raises:
            ConfigError: the resolution or the encoder is unknown, or the size is out of bounds.
        """
        pixels = pixels_of(size.resolution)
        if size.encoder not in ENCODERS:
            raise ConfigError(f"encoder {size.encoder!r} is not one of {', '.join(ENCODERS)}")
        bits = 8 * size.nbytes / pixels
        if not (MIN_BITS <= bits <= MAX_BITS and 0 <= size.samples <= 1e9):
            raise ConfigError(
                f"{size.nbytes:g} bytes of {size.samples} frames at {size.resolution} as "
                f"{size.encoder} are no size of a frame"
            )
        if (size.encoder, pixels) not in self._measured:
            insort(self._pixels.setdefault(size.encoder, []), pixels)
        self._measured[size.encoder, pixels] = size
        self._cache.clear()

    def merge(self, size: FrameSize) -> None:
        """Take in a size, weighted by its samples."""
        known = self._measured.get((size.encoder, pixels_of(size.resolution)))
        if known is not None:
            total = known.samples + size.samples
            share = size.samples / total if total else 0.5
            nbytes = known.nbytes + (size.nbytes - known.nbytes) * share
            size = FrameSize(size.resolution, size.encoder, nbytes, min(total, 10**9))
        self.put(size)

    def nbytes(self, resolution: str, encoder: str) -> float:
        """Return the bytes to expect; bits per pixel are interpolated in the pixels' logarithm.

        Raises:
            ConfigError: the resolution or the encoder is unknown.
        """
        found = self._cache.get((resolution, encoder))
        if found is None:
            if encoder not in ENCODERS:
                raise ConfigError(f"encoder {encoder!r} is not one of {', '.join(ENCODERS)}")
            found = self._predict(pixels_of(resolution), encoder)
            if len(self._cache) >= 4096:
                self._cache.clear()
            self._cache[resolution, encoder] = found
        return found

    def observe(self, resolution: str, encoder: str, nbytes: float) -> bool:
        """Take in the size of a frame that was sent; return whether it was believed."""
        if isinstance(nbytes, bool) or not isinstance(nbytes, (int, float)):
            return False
        pixels = pixels_of(resolution)
        if encoder == "raw" or not MIN_BITS <= 8 * nbytes / pixels <= MAX_BITS:
            return False
        expected = self.nbytes(resolution, encoder)
        known = self._measured.get((encoder, pixels))
        samples = 0 if known is None else known.samples
        step = max(1 - 0.5 ** (1 / HALF_LIFE), 1 / (min(samples, PRIOR_FRAMES) + 2))
        error = min(max(math.log(nbytes / expected), -MAX_STEP), MAX_STEP)
        moved = expected * math.exp(step * error)
        self.put(FrameSize(resolution, encoder, moved, min(samples + 1, 10**9)))
        return True

    def _predict(self, pixels: int, encoder: str) -> float:
        known = self._pixels.get(encoder, [])
        if encoder == "raw" or not known:
            return pixels * DEFAULT_BITS[encoder] / 8
        index = bisect_left(known, pixels)
        below, above = known[max(index - 1, 0)], known[min(index, len(known) - 1)]
        if index < len(known) and known[index] == pixels:
            below = pixels
        share = 0.0
        if above > below:
            share = min(max(math.log(pixels / below) / math.log(above / below), 0.0), 1.0)
        low = self._measured[encoder, below].nbytes / below
        high = self._measured[encoder, above].nbytes / above
        return pixels * (low + (high - low) * share)
