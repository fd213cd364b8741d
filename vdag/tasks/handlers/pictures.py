"""The handlers that make a picture of a picture: resized, encoded, decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from vdag import _native as native
from vdag.errors import ImageError
from vdag.extras import opencv
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.sampling import MAX_SIDE
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.params import Param

__all__ = ["Decode", "Encode", "Resize"]


class Resize:
    """Gives `image` in the size `width` x `height`, whatever its sides were to each other."""

    signature: ClassVar[Signature] = Signature(frozenset({"image"}), frozenset({"image"}))
    params: ClassVar[Mapping[str, Param]] = MappingProxyType(
        {"width": Param(640, 1, MAX_SIDE), "height": Param(480, 1, MAX_SIDE)}
    )
    max_batch: ClassVar[int] = 1

    def __init__(self, options: TaskOptions) -> None:
        self._cv2 = opencv()
        self._size = int(options.params["width"]), int(options.params["height"])

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Resize each frame's `image`."""
        return [{"image": self._resized(inputs["image"])} for inputs in batch]

    def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _resized(self, image: Any) -> Any:
        height, width = image.shape[:2]
        if (width, height) == self._size:
            return image
        # Averaging is the one way down that shows no patterns that are not there.
        shrinks = self._size[0] <= width and self._size[1] <= height
        how = self._cv2.INTER_AREA if shrinks else self._cv2.INTER_LINEAR
        return self._cv2.resize(image, self._size, interpolation=how)


class Encode:
    """Gives `image` as JPEG in `jpeg`, uint8 `(N,)`, of `quality` 0 to 100."""

    signature: ClassVar[Signature] = Signature(frozenset({"image"}), frozenset({"jpeg"}))
    params: ClassVar[Mapping[str, Param]] = MappingProxyType({"quality": Param(80, 0, 100)})
    max_batch: ClassVar[int] = 1

    def __init__(self, options: TaskOptions) -> None:
        self._quality = max(int(options.params["quality"]), 1)  # libjpeg knows no 0

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Encode each frame's `image`."""
        return [{"jpeg": self._encoded(inputs["image"])} for inputs in batch]

    def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _encoded(self, image: Any) -> Any:
        jpeg = native.jpeg.encode(np.ascontiguousarray(image), quality=self._quality)
        return np.frombuffer(jpeg, np.uint8)


class Decode:
    """Gives the picture in `jpeg` as `image`, uint8 `(H, W, 3)` BGR."""

    signature: ClassVar[Signature] = Signature(frozenset({"jpeg"}), frozenset({"image"}))
    params: ClassVar[Mapping[str, Param]] = MappingProxyType({})
    max_batch: ClassVar[int] = 1

    def __init__(self, options: TaskOptions) -> None:
        del options  # there is nothing to choose

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Decode each frame's `jpeg`.

        Raises:
            ImageError: it is no JPEG, or too large a picture.
        """
        return [{"image": _decoded(inputs["jpeg"])} for inputs in batch]

    def close(self) -> None:
        """Do nothing: it holds nothing."""


def _decoded(jpeg: Any) -> Any:
    if not isinstance(jpeg, np.ndarray) or jpeg.dtype != np.uint8:
        raise ImageError(f"jpeg is a {type(jpeg).__name__}, not an array of bytes")
    return native.jpeg.decode(np.ascontiguousarray(jpeg).reshape(-1))
