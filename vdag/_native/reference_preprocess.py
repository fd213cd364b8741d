"""Pictures into planar tensors, in numpy: what `preprocess` must compute, and its oracle."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vdag._native.placement import TO_UNIT, Normalization, Placement
from vdag.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fill_batch", "letterbox", "simd", "stretch"]

MAX_SIDE = 65535
MAX_THREADS = 64
TENSOR_FORMATS = {"f": np.float32, "e": np.float16}

Region = tuple[int, int, int, int]


def letterbox(
    src: NDArray[np.uint8],
    dst: NDArray[Any],
    norm: Normalization = TO_UNIT,
    *,
    region: Region | None = None,
) -> Placement:
    """Fit a picture into a tensor, keeping its aspect ratio; see `preprocess.letterbox`."""
    _check_norm(norm)
    tensor = _open_tensor(dst, 3)
    return _fill(_open_picture("src", src), tensor, norm, region=region, keep_aspect=True)


def stretch(
    src: NDArray[np.uint8],
    dst: NDArray[Any],
    norm: Normalization = TO_UNIT,
    *,
    region: Region | None = None,
) -> Placement:
    """Fill a tensor with a picture, whatever its aspect ratio; see `preprocess.stretch`."""
    _check_norm(norm)
    tensor = _open_tensor(dst, 3)
    return _fill(_open_picture("src", src), tensor, norm, region=region, keep_aspect=False)


def fill_batch(
    srcs: Sequence[NDArray[np.uint8]],
    dst: NDArray[Any],
    norm: Normalization = TO_UNIT,
    *,
    mode: str,
    threads: int = 1,
) -> list[Placement]:
    """Fill the first tensors of a batch, one picture each; see `preprocess.fill_batch`."""
    _check_norm(norm)
    if mode not in ("letterbox", "stretch"):
        raise ConfigError(f"mode {mode!r} is not letterbox or stretch")
    if not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads {threads} is outside 1..{MAX_THREADS}")
    tensors = _open_tensor(dst, 4)
    if len(srcs) > len(tensors):
        raise ConfigError(f"batch of {len(srcs)} exceeds dst of {len(tensors)}")
    pictures = [_open_picture(f"srcs[{i}]", src) for i, src in enumerate(srcs)]
    return [
        _fill(picture, tensor, norm, region=None, keep_aspect=mode == "letterbox")
        for picture, tensor in zip(pictures, tensors, strict=False)
    ]


def simd() -> str:
    """Name what does the work: here always `numpy`."""
    return "numpy"


def _check_norm(norm: Normalization) -> None:
    if not isinstance(norm, Normalization):
        raise ConfigError(f"norm is a {type(norm).__name__}, not a Normalization")


def _open_tensor(dst: Any, ndim: int) -> NDArray[Any]:
    try:
        view = memoryview(dst)
    except (TypeError, ValueError, BufferError) as err:
        raise ConfigError(f"dst of type {type(dst).__name__} gives no access to samples") from err
    layout = "(3, h, w)" if ndim == 3 else "(N, 3, h, w)"
    if view.ndim != ndim or view.shape is None or view.shape[-3] != 3:
        raise ConfigError(f"dst of shape {view.shape} is not {layout}")
    if view.format not in TENSOR_FORMATS:
        raise ConfigError(f"dst has samples of format '{view.format}', not 'f' or 'e'")
    if view.readonly:
        raise ConfigError("dst is read-only")
    _check_sides(ConfigError, "dst", view.shape[-1], view.shape[-2])
    if not view.c_contiguous:
        raise ConfigError(f"dst with strides {view.strides} is not C-contiguous")
    return np.asarray(dst)


def _open_picture(name: str, src: Any) -> NDArray[np.uint8]:
    try:
        view = memoryview(src)
    except (TypeError, ValueError, BufferError) as err:
        raise ImageError(f"{name} of type {type(src).__name__} gives no access to samples") from err
    if view.ndim != 3 or view.shape is None or view.shape[2] != 3:
        raise ImageError(f"{name} of shape {view.shape} is not (H, W, 3)")
    if view.format != "B":
        raise ImageError(f"{name} has samples of format '{view.format}', not 'B'")
    height, width, _ = view.shape
    _check_sides(ImageError, name, width, height)
    _, across, sample = view.strides or (0, 3, 1)
    if sample != 1 or (across != 3 and width > 1):
        raise ImageError(f"{name} with strides {view.strides} has gaps inside its rows")
    return np.asarray(src)


def _check_sides(
    error: type[ConfigError] | type[ImageError], name: str, width: int, height: int
) -> None:
    for side, length in (("width", width), ("height", height)):
        if not 1 <= length <= MAX_SIDE:
            raise error(f"{name} {side} {length} is outside 1..{MAX_SIDE}")


def _crop(src: NDArray[np.uint8], region: Region | None) -> tuple[NDArray[np.uint8], int, int]:
    """The part of a frame to use, and where it begins."""
    if region is None:
        return src, 0, 0
    try:
        x1, y1, x2, y2 = (operator.index(value) for value in region)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"region {region!r} is not four integers") from err
    height, width, _ = src.shape
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ConfigError(f"region {(x1, y1, x2, y2)} is not inside the {width}x{height} src")
    return src[y1:y2, x1:x2], x1, y1


def _fill(
    src: NDArray[np.uint8],
    dst: NDArray[Any],
    norm: Normalization,
    *,
    region: Region | None,
    keep_aspect: bool,
) -> Placement:
    picture, x1, y1 = _crop(src, region)
    src_height, src_width, _ = picture.shape
    width, height = _fit(picture, dst) if keep_aspect else (dst.shape[2], dst.shape[1])
    left, top = (dst.shape[2] - width) // 2, (dst.shape[1] - height) // 2
    pixels = _resample(picture, width, height)
    for out, (gain, bias) in enumerate(norm.affine()):
        gain32, bias32 = np.float32(gain), np.float32(bias)
        channel = pixels[:, :, 2 - out if norm.rgb else out]
        # The largest factors leave float16, in the kernel too: to infinity, which is no accident.
        with np.errstate(over="ignore"):
            dst[out] = np.float32(norm.pad) * gain32 + bias32
            dst[out, top : top + height, left : left + width] = channel * gain32 + bias32
    scale_x, scale_y = width / src_width, height / src_height
    return Placement(scale_x, scale_y, left - x1 * scale_x, top - y1 * scale_y)


def _fit(src: NDArray[np.uint8], dst: NDArray[Any]) -> tuple[int, int]:
    """The largest size with the aspect ratio of `src` that `dst` holds, at least one pixel."""
    height, width, _ = src.shape
    scale = min(dst.shape[2] / width, dst.shape[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resample(src: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float32]:
    """Bilinear, pixel centres at halves, as OpenCV's INTER_LINEAR but without rounding."""
    x, next_x, weight_x = _neighbours(src.shape[1], width)
    y, next_y, weight_y = _neighbours(src.shape[0], height)
    across = weight_x[None, :, None]
    down = weight_y[:, None, None]
    upper = _lerp(src[y][:, x], src[y][:, next_x], across)
    lower = _lerp(src[next_y][:, x], src[next_y][:, next_x], across)
    return _lerp(upper, lower, down)


def _neighbours(
    src_length: int, length: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Per output pixel: its two source pixels, and the weight of the second."""
    ratio = src_length / length
    position = np.clip((np.arange(length) + 0.5) * ratio - 0.5, 0, src_length - 1)
    first = position.astype(np.intp)
    weight = (position - first).astype(np.float32)
    return first, np.minimum(first + 1, src_length - 1), weight


def _lerp(a: NDArray[Any], b: NDArray[Any], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    start = a.astype(np.float32)
    blend: NDArray[np.float32] = start + (b.astype(np.float32) - start) * weight
    return blend
