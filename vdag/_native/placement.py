"""How samples become numbers, and where a picture lands in a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vdag.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TO_UNIT", "Normalization", "Placement"]

# Far above any use, and far below where a sample could leave float32.
FACTOR_LIMIT = 1e30


@dataclass(slots=True, frozen=True)
class Normalization:
    """What becomes of a sample: `(sample * scale - mean) / std`, per output channel.

    Attributes:
        scale: multiplier of the 8-bit sample, often 1/255.
        mean: subtracted after scaling, one per output channel.
        std: divisor after that, one per output channel, above 0.
        rgb: give out RGB from BGR pictures; else the channels stay as they are.
        pad: grey level 0..255 of the border that letterboxing leaves, normalised like a pixel.

    Raises:
        ConfigError: a value is not finite, or outside its limits.
    """

    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rgb: bool = True
    pad: int = 114

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                raise ConfigError(f"{name} {values} does not have 3 values")
        if not 0 <= self.pad <= 255:
            raise ConfigError(f"pad {self.pad} is outside 0..255")
        if min(self.std) <= 0:
            raise ConfigError(f"std {self.std} is not above 0")
        for gain, bias in self.affine():
            # NaN fails this comparison too.
            if not (abs(gain) <= FACTOR_LIMIT and abs(bias) <= FACTOR_LIMIT):
                raise ConfigError(
                    f"scale {self.scale}, mean {self.mean}, std {self.std} leave float32"
                )

    def affine(self) -> list[tuple[float, float]]:
        """The same as gain and bias per output channel: output = sample * gain + bias."""
        return [
            (self.scale / std, -mean / std) for mean, std in zip(self.mean, self.std, strict=True)
        ]


TO_UNIT = Normalization()
"""RGB in 0..1, grey border: what most detectors take."""


class Placement(NamedTuple):
    """Where a frame lies in a tensor: tensor pixel = frame pixel * scale + pad.

    Attributes:
        scale_x: tensor pixels per frame pixel, across.
        scale_y: the same, down. Not quite `scale_x` even in a letterbox, whose sides are whole.
        pad_x: tensor x of the frame's left edge; negative if only a region further right was used.
        pad_y: tensor y of the frame's upper edge.
    """

    scale_x: float
    scale_y: float
    pad_x: float
    pad_y: float

    def to_frame(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map what was found in the tensor back to the frame; nothing is clipped.

        Args:
            boxes: `(..., 4)` xyxy or `(..., 2)` xy, tensor pixels, where pixel `i` covers
                `i..i+1`. Read only.

        Returns:
            A new float32 array of the same shape, frame pixels.

        Raises:
            ConfigError: the last dimension is neither 4 nor 2.
        """
        found = np.asarray(boxes, dtype=np.float32)
        if found.ndim == 0 or found.shape[-1] not in (2, 4):
            raise ConfigError(f"boxes of shape {found.shape} are neither (..., 4) nor (..., 2)")
        pairs = found.shape[-1] // 2
        pad = np.array((self.pad_x, self.pad_y) * pairs, dtype=np.float32)
        scale = np.array((self.scale_x, self.scale_y) * pairs, dtype=np.float32)
        return (found - pad) / scale
