"""JPEG on OpenCV: what `jpeg.pyx` must do, and what runs where there is no libturbojpeg.

The headers are read by the same rules and with the same messages (ISO/IEC 10918-1, annex B), before
any memory is taken. Pictures agree within rounding: OpenCV brings a libjpeg of its own. In two
respects OpenCV can do less: it does not report a decoder's warnings, so that `strict` only refuses
data that end before their picture does; and it decodes into memory of its own, so that `out=`
costs a copy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from vdag._native.jpeg_terms import (
    MAX_PIXELS,
    MAX_THREADS,
    Info,
    Library,
    check_decoding,
    check_encoding,
    check_pixels,
    check_sides,
    check_threads,
)
from vdag._native.reference_jpeg_header import END_OF_IMAGE, is_complete, parse
from vdag.errors import DependencyMissing, ImageError

if TYPE_CHECKING:
    from vdag._native.jpeg_terms import Data, Room, UInt8Image

__all__ = [
    "MAX_PIXELS",
    "MAX_THREADS",
    "Info",
    "Library",
    "available",
    "decode",
    "decode_batch",
    "encode",
    "encode_batch",
    "library",
    "max_nbytes",
    "read_header",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

#: One of luma, and chroma's share.
SAMPLES_PER_PIXEL = {"444": 3.0, "422": 2.0, "420": 1.5, "gray": 1.0}
#: Pixels that share one block of chroma.
MACROBLOCK = {"444": (8, 8), "422": (16, 8), "420": (16, 16), "gray": (8, 8)}
SAMPLING_FACTORS = {"444": 0x111111, "422": 0x211111, "420": 0x221111}


def available() -> bool:
    """Tell whether OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


def library() -> Library:
    """Name the library in use; its path is "opencv"."""
    return Library("opencv", str(_opencv().__version__), "opencv")


def read_header(data: Data, *, max_pixels: int = MAX_PIXELS) -> Info:
    """Tell size and kind of a JPEG without decoding it or taking memory for it.

    Args:
        data: contiguous bytes of the JPEG. Read only.
        max_pixels: largest width x height that is taken.

    Raises:
        ImageError: the header is broken, or the picture exceeds a limit.
    """
    check_decoding(1, max_pixels)
    info = parse(_bytes_of(data))
    check_pixels(info.width, info.height, max_pixels)
    return info


def decode(
    data: Data,
    out: UInt8Image | None = None,
    *,
    rgb: bool = False,
    reduce: int = 1,
    max_pixels: int = MAX_PIXELS,
    strict: bool = True,
) -> UInt8Image:
    """Decode one JPEG into uint8 `(H, W, 3)`, BGR; gray ones get three equal channels.

    Args:
        data: contiguous bytes of the JPEG. Read only.
        out: uint8 `(H, W, 3)` to write to, rows at any stride; the caller's. None: a new array.
        rgb: order the samples RGB.
        reduce: 1, 2, 4 or 8: each side shrinks to ceil(side / reduce), while decoding.
        max_pixels: largest width x height, before reduction, that is taken.
        strict: refuse a picture at the library's first warning, above all a truncated one.
            Otherwise what is missing is gray.

    Returns:
        `out`, or the new array, which the caller owns.

    Raises:
        ImageError: the data are broken or exceed a limit, or `out` does not fit. `out` is then
            untouched, unless the data broke off in the midst of the picture.
        ConfigError: an option has no meaning.
        DependencyMissing: OpenCV is not installed.
    """
    cv2 = _opencv()
    check_decoding(reduce, max_pixels)
    jpeg = _bytes_of(data)
    info = read_header(jpeg, max_pixels=max_pixels)
    if info.components == 4:
        raise ImageError("picture has 4 components: CMYK is not supported")
    shape = (-(-info.height // reduce), -(-info.width // reduce), 3)
    if out is not None:
        _check_out(out, shape)
    if not is_complete(jpeg):
        if strict:
            raise ImageError("data end before the picture does")
        jpeg += END_OF_IMAGE  # OpenCV gives no part of a picture that has no end
    reduced = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    # Otherwise OpenCV would turn the picture as Exif says.
    flags = reduced[reduce] | cv2.IMREAD_IGNORE_ORIENTATION
    found = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    if found is None or found.shape != shape:
        raise ImageError("OpenCV cannot decode the picture")
    pixels = found[..., ::-1] if rgb else found
    if out is None:
        return np.ascontiguousarray(pixels)
    np.copyto(np.asarray(out), pixels)
    return out


def decode_batch(
    datas: Iterable[Data],
    *,
    threads: int = 1,
    rgb: bool = False,
    reduce: int = 1,
    max_pixels: int = MAX_PIXELS,
    strict: bool = True,
) -> list[UInt8Image]:
    """Decode several JPEGs on several threads; options and errors as in `decode`.

    Args:
        datas: one JPEG each.
        threads: how many work, 1..64.
        rgb: as in `decode`.
        reduce: as in `decode`.
        max_pixels: as in `decode`, for each.
        strict: as in `decode`.

    Returns:
        One new array for each, in their order.

    Raises:
        ImageError: names the first item that failed; nothing of the others is kept.
    """
    check_decoding(reduce, max_pixels)

    def decode_one(data: Data) -> UInt8Image:
        return decode(data, rgb=rgb, reduce=reduce, max_pixels=max_pixels, strict=strict)

    return _on_threads(decode_one, list(datas), threads)


def max_nbytes(width: int, height: int, subsampling: str = "420") -> int:
    """Bound the bytes of a JPEG of this size, whatever it shows: room for `encode(out=)`.

    Two bytes for each sample of the whole macroblocks, and 2 KiB for the headers.
    """
    check_encoding(100, subsampling)
    check_sides(width, height)
    across, down = MACROBLOCK[subsampling]
    padded = -(-width // across) * across * -(-height // down) * down
    return int(2 * SAMPLES_PER_PIXEL[subsampling] * padded) + 2048


def encode(
    pixels: UInt8Image,
    *,
    quality: int = 90,
    subsampling: str = "420",
    rgb: bool = False,
    out: Room | None = None,
) -> bytes | int:
    """Encode one picture as a baseline JPEG.

    Args:
        pixels: uint8 `(H, W, 3)`, BGR, or `(H, W)`, gray; rows at any stride. Read only.
        quality: 1..100, libjpeg's scale.
        subsampling: "420", "422", "444", or "gray" for luma alone; gray pixels stay gray.
        rgb: the samples are ordered RGB.
        out: contiguous buffer to write to, the caller's.

    Returns:
        The JPEG; with `out`, the number of bytes written to it.

    Raises:
        ImageError: the pixels are no such array, or the JPEG does not fit in `out`, which is then
            untouched.
        ConfigError: an option has no meaning.
        DependencyMissing: OpenCV is not installed.
    """
    cv2 = _opencv()
    check_encoding(quality, subsampling)
    view = memoryview(cast(Any, pixels))
    _check_layout(view, "picture")
    picture = np.asarray(view)
    if picture.ndim == 3 and subsampling == "gray":
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY if rgb else cv2.COLOR_BGR2GRAY)
    elif picture.ndim == 3 and rgb:
        picture = picture[..., ::-1]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if picture.ndim == 3:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING_FACTORS[subsampling]]
    done, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(picture), options)
    if not done:
        raise ImageError("OpenCV cannot encode the picture")
    return bytes(jpeg) if out is None else _write(jpeg, out)


def encode_batch(
    images: Iterable[UInt8Image],
    *,
    quality: int = 90,
    subsampling: str = "420",
    rgb: bool = False,
    threads: int = 1,
) -> list[bytes]:
    """Encode several pictures on several threads; options and errors as in `encode`.

    Args:
        images: one picture each, of any sizes.
        quality: as in `encode`.
        subsampling: as in `encode`.
        rgb: as in `encode`.
        threads: how many work, 1..64.

    Returns:
        One JPEG for each, in their order; the same bytes for any number of threads.

    Raises:
        ImageError: names the first item that failed; nothing of the others is kept.
    """
    check_encoding(quality, subsampling)

    def encode_one(pixels: UInt8Image) -> bytes:
        jpeg = encode(pixels, quality=quality, subsampling=subsampling, rgb=rgb)
        assert isinstance(jpeg, bytes)
        return jpeg

    return _on_threads(encode_one, list(images), threads)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as err:
        raise DependencyMissing("cv2", "video") from err
    return cv2


def _contiguous(source: Any, name: str, *, writable: bool = False) -> memoryview:
    """Return the bytes of a buffer as a flat view."""
    view = memoryview(source)
    if not view.c_contiguous:
        raise ImageError(f"{name} is not contiguous")
    if writable and view.readonly:
        raise ImageError(f"{name} is read-only")
    return view.cast("B") if view.nbytes else memoryview(b"")


def _write(jpeg: UInt8Image, out: Any) -> int:
    """Copy a JPEG to the caller's buffer, if it fits, and return its length."""
    with _contiguous(out, "out", writable=True) as room:
        if len(jpeg) > len(room):
            raise ImageError(f"JPEG of {len(jpeg)} bytes does not fit in out of {len(room)} bytes")
        room[: len(jpeg)] = memoryview(cast(Any, jpeg))
    return len(jpeg)


def _bytes_of(data: Any) -> bytes:
    return data if isinstance(data, bytes) else bytes(_contiguous(data, "data"))


def _check_out(out: Any, shape: tuple[int, ...]) -> None:
    view = memoryview(out)
    if view.readonly:
        raise ImageError("out is read-only")
    if view.shape != shape:
        raise ImageError(f"out of shape {view.shape} does not fit a picture of shape {shape}")
    _check_layout(view, "out")


def _check_layout(view: memoryview, name: str) -> None:
    """Raise ImageError unless rows may be strided, and samples within a row are not."""
    if view.format != "B":
        raise ImageError(f"{name} has samples of format {view.format!r}, not uint8")
    shape, strides = view.shape or (), view.strides or ()
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
        raise ImageError(
            f"{name} of shape {shape} is neither (height, width, 3) nor (height, width)"
        )
    height, width, channels = (*shape, 1)[:3]
    check_sides(width, height)
    if (len(shape) == 3 and strides[2] != 1) or (width > 1 and strides[1] != channels):
        raise ImageError(f"samples within a row of {name} are not contiguous")
    row_nbytes = width * channels
    if height > 1 and abs(strides[0]) < row_nbytes:
        raise ImageError(f"{name} has rows of {row_nbytes} bytes at a stride of {strides[0]}")


def _on_threads(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> list[Result]:
    """Map `function` over `items`; an ImageError names the first item that failed."""
    check_threads(threads)
    with ThreadPoolExecutor(threads) as pool:
        futures: list[Future[Result]] = [pool.submit(function, item) for item in items]
        results = []
        for i, future in enumerate(futures):
            try:
                results.append(future.result())
            except ImageError as err:
                pool.shutdown(wait=False, cancel_futures=True)
                raise ImageError(f"item {i}: {err}") from err
    return results
