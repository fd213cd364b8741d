"""Pictures on their way into a tensor on the GPU: where each lands, and what the kernel is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vdag._native import Normalization, Placement
from vdag.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from vdag.engines.gpu.device import Event

__all__ = [
    "BLOCK",
    "ITEM",
    "KERNELS",
    "DevicePicture",
    "Launch",
    "Picture",
    "Preparation",
    "place",
    "source",
]

#: `struct vdag_item` of pictures.cu.
ITEM = np.dtype(
    [
        ("src", np.uint64),
        ("stride", np.uint64),
        *((name, np.int32) for name in ("src_width", "src_height", "width", "height")),
        *((name, np.int32) for name in ("left", "top")),
    ]
)
#: Name of the kernel by the tensor's dtype.
KERNELS = {"float32": "vdag_pictures_float32", "float16": "vdag_pictures_float16"}
#: Threads of a block across and down: a warp is 32 neighbouring pixels of a row.
BLOCK = (32, 8)
MAX_SIDE = 65535


@dataclass(slots=True, frozen=True)
class Preparation:
    """How pictures become a model's input.

    Attributes:
        name: of the input.
        size: width and height of the tensor.
        norm: what becomes of a sample.
        mode: "letterbox" keeps the aspect ratio and pads, "stretch" does not.
    """

    name: str
    size: tuple[int, int]
    norm: Normalization
    mode: Literal["letterbox", "stretch"]

    def __post_init__(self) -> None:
        if self.mode not in ("letterbox", "stretch"):
            raise ConfigError(f"mode {self.mode!r} is not letterbox or stretch")
        for side, length in zip(("width", "height"), self.size, strict=True):
            if not 1 <= length <= MAX_SIDE:
                raise ConfigError(f"tensor {side} {length} is outside 1..{MAX_SIDE}")


@dataclass(slots=True, frozen=True)
class DevicePicture:
    """A picture in device memory: uint8, BGR, `(height, width, 3)`.

    Attributes:
        address: of its first sample.
        width: in pixels.
        height: likewise.
        stride: bytes from row to row.
        ready: what reads it waits for this; None if it is there.
        owner: keeps the memory while this is held.
    """

    address: int
    width: int
    height: int
    stride: int
    ready: Event | None = None
    owner: Any = None


#: What an engine of lanes takes: uint8 `(H, W, 3)` on the host, or a picture on its device.
Picture = NDArray[np.uint8] | DevicePicture


@dataclass(slots=True, frozen=True)
class Launch:
    """One run of the kernel.

    Attributes:
        items: device address of `ITEM`s.
        target: device address of the tensor.
        count: of the pictures.
        dtype: of the tensor, a key of `KERNELS`.
        preparation: the rest.
    """

    items: int
    target: int
    count: int
    dtype: str
    preparation: Preparation

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks of `BLOCK` threads that cover the tensor."""
        width, height = self.preparation.size
        return -(-width // BLOCK[0]), -(-height // BLOCK[1]), self.count

    def numbers(self) -> tuple[int, ...]:
        """Return width, height and whether channels swap."""
        return (*self.preparation.size, int(self.preparation.norm.rgb))

    def factors(self) -> tuple[float, ...]:
        """Return three gains, three biases and three values of the border, per output channel."""
        pairs = np.asarray(self.preparation.norm.affine(), np.float32)
        pads = np.float32(self.preparation.norm.pad) * pairs[:, 0] + pairs[:, 1]
        return tuple(float(value) for value in (*pairs[:, 0], *pairs[:, 1], *pads))


def size_of(name: str, picture: Any) -> tuple[int, int]:
    """Return width and height; refuse what is not uint8 `(H, W, 3)` with whole rows.

    Raises:
        ImageError: it is something else, as for `preprocess`.
    """
    if isinstance(picture, DevicePicture):
        return picture.width, picture.height
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3:
        shape = getattr(picture, "shape", None)
        raise ImageError(f"{name} of shape {shape} is not (H, W, 3)")
    if picture.dtype != np.uint8:
        raise ImageError(f"{name} has samples of {picture.dtype}, not uint8")
    height, width, _ = picture.shape
    for side, length in (("width", width), ("height", height)):
        if not 1 <= length <= MAX_SIDE:
            raise ImageError(f"{name} {side} {length} is outside 1..{MAX_SIDE}")
    _, across, sample = picture.strides
    if sample != 1 or (across != 3 and width > 1):
        raise ImageError(f"{name} with strides {picture.strides} has gaps inside its rows")
    return width, height


def place(item: Any, width: int, height: int, preparation: Preparation) -> Placement:
    """Fill in an `ITEM`, but for its address and stride, for a picture of this size.

    The same arithmetic as `vdag_place` of preprocess_kernel.c and the twin in numpy.
    """
    across, down = to_width, to_height = preparation.size
    if preparation.mode == "letterbox":
        scale = min(across / width, down / height)
        to_width = min(max(1, round(width * scale)), across)
        to_height = min(max(1, round(height * scale)), down)
    left, top = (across - to_width) // 2, (down - to_height) // 2
    item["src_width"], item["src_height"] = width, height
    item["width"], item["height"] = to_width, to_height
    item["left"], item["top"] = left, top
    return Placement(to_width / width, to_height / height, float(left), float(top))


def spread(pictures: Sequence[NDArray[np.uint8]]) -> int:
    """Return the bytes of all pictures, each from a multiple of 256, as rows without gaps."""
    return sum(room(picture) for picture in pictures)


def room(picture: NDArray[np.uint8]) -> int:
    """Return the bytes of one picture, rounded up to a multiple of 256."""
    return -(-picture.size // 256) * 256


def source() -> str:
    """Return the text of the kernels."""
    return Path(__file__).with_name("pictures.cu").read_text(encoding="utf-8")
