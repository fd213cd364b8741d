"""JPEG through libturbojpeg; see `reference_jpeg` for the same on OpenCV."""

from collections.abc import Iterable
from typing import Final, overload

from vdag._native.jpeg_terms import Data, Info, Library, Room, UInt8Image

__all__ = [
    "MAX_PIXELS", "MAX_THREADS", "Info", "Library", "available", "decode", "decode_batch",
    "encode", "encode_batch", "library", "max_nbytes", "read_header",
]

MAX_PIXELS: Final[int]
MAX_THREADS: Final[int]

def available() -> bool: ...
def library() -> Library: ...
def read_header(data: Data, *, max_pixels: int = ...) -> Info: ...
def decode(
    data: Data,
    out: UInt8Image | None = None,
    *,
    rgb: bool = False,
    reduce: int = 1,
    max_pixels: int = ...,
    strict: bool = True,
) -> UInt8Image: ...
def decode_batch(
    datas: Iterable[Data],
    *,
    threads: int = 1,
    rgb: bool = False,
    reduce: int = 1,
    max_pixels: int = ...,
    strict: bool = True,
) -> list[UInt8Image]: ...
def max_nbytes(width: int, height: int, subsampling: str = "420") -> int: ...
@overload
def encode(
    pixels: UInt8Image,
    *,
    quality: int = 90,
    subsampling: str = "420",
    rgb: bool = False,
    out: None = None,
) -> bytes: ...
@overload
def encode(
    pixels: UInt8Image,
    *,
    quality: int = 90,
    subsampling: str = "420",
    rgb: bool = False,
    out: Room,
) -> int: ...
def encode_batch(
    images: Iterable[UInt8Image],
    *,
    quality: int = 90,
    subsampling: str = "420",
    rgb: bool = False,
    threads: int = 1,
) -> list[bytes]: ...
