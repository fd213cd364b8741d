"""A folder of pictures, or one picture, as a video."""

from __future__ import annotations

import functools
import re
import struct
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from vdag.errors import ImageError, SourceError
from vdag.extras import opencv
from vdag.frame import UInt8Image
from vdag.sources.base import OpenOptions, Picture, StreamInfo, check_size
from vdag.wording import reason

__all__ = ["IMAGE_SUFFIXES", "ImageReader"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})

#: JPEG markers that carry the size (ITU-T T.81, table B.1): every SOF, not DHT, JPG and DAC.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

#: Markers without a length: TEM, RST0 to RST7, SOI.
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


class ImageReader:
    """Reads JPEG, PNG and BMP files in the order of their names; see `Reader`.

    Numbers in names count as numbers: `frame10.jpg` comes after `frame9.jpg`. A picture is decoded
    only when its pixels are asked for. Pictures have no times unless `cam_fps` gives them a rate.

    Args:
        path: a folder, not searched below, or one picture.
        name: for messages.
        options: `cam_fps` is the rate.

    Raises:
        DependencyMissing: OpenCV is not installed.
        SourceError: there are no pictures, or the first is broken or too large.
    """

    def __init__(self, path: Path, name: str, options: OpenOptions) -> None:
        self._cv2 = opencv()
        self.errors = self.decoded = self.reconnects = 0
        self._rate = Fraction(options.cam_fps or 0).limit_denominator(1001)
        paths = sorted(_pictures(path), key=_by_number)
        if not paths:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"{name}: has no pictures ({suffixes})")
        try:
            width, height = _read_size(paths[0])
        except (ImageError, OSError) as err:
            raise SourceError(f"{name}: {reason(err)}") from err
        check_size(name, width, height)
        self._info = StreamInfo(name, self._rate, width, height, len(paths))
        self._paths: Iterator[Path] = iter(paths)

    @property
    def info(self) -> StreamInfo:
        """How many pictures there are, and the size of the first."""
        return self._info

    def read(self, timeout_s: float | None = None) -> Picture | None:
        """Return the next picture, still undecoded; None after the last."""
        del timeout_s
        path = next(self._paths, None)
        if path is None:
            return None
        index = self.decoded
        self.decoded += 1
        pts_s = float(index / self._rate) if self._rate else None
        pixels = functools.partial(self._pixels, path)
        return Picture(index, pts_s, time.monotonic_ns(), pixels)

    def close(self) -> None:
        """Read no more."""
        self._paths = iter(())

    def _pixels(self, path: Path) -> UInt8Image:
        try:
            check_size(path.name, *_read_size(path))
            pixels: UInt8Image | None = self._cv2.imread(str(path), self._cv2.IMREAD_COLOR)
        except (OSError, self._cv2.error) as err:
            raise ImageError(reason(err)) from err
        if pixels is None:
            raise ImageError(f"{path.name}: cannot be decoded")
        return pixels


def _pictures(path: Path) -> list[Path]:
    found = path.iterdir() if path.is_dir() else [path]
    return [item for item in found if item.suffix.lower() in IMAGE_SUFFIXES and item.is_file()]


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Return a sort key in which runs of digits compare as numbers."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), part) if part.isdigit() else (-1, part) for part in parts]


def _read_size(path: Path) -> tuple[int, int]:
    """Return width and height from a file's header, before any memory is taken for pixels.

    Raises:
        ImageError: the file is no JPEG, PNG or BMP, or its header is cut short.
    """
    with path.open("rb") as file:
        try:
            magic = file.read(2)
            if magic == b"\xff\xd8":
                return _jpeg_size(file)
            if magic == b"\x89P":
                return _unpack(file, ">II", 14)  # IHDR is the first chunk (PNG, 5.6)
            if magic == b"BM":
                width, height = _unpack(file, "<ii", 16)  # BITMAPINFOHEADER
                return width, abs(height)  # rows top down when it is negative
        except struct.error as err:
            raise ImageError(f"{path.name}: header is cut short") from err
    raise ImageError(f"{path.name}: not a JPEG, PNG or BMP picture")


def _unpack(file: BinaryIO, layout: str, skip: int) -> tuple[int, int]:
    file.seek(skip, 1)
    first, second = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return int(first), int(second)


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    """Walk the segments of a JPEG up to the frame header (ITU-T T.81, B.2.2)."""
    while True:
        prefix, marker = struct.unpack(">BB", file.read(2))
        while marker == 0xFF:  # fill bytes
            (marker,) = struct.unpack(">B", file.read(1))
        if prefix != 0xFF:
            raise struct.error("no marker where one must be")
        if marker in _STANDALONE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _START_OF_FRAME:
            height, width = _unpack(file, ">HH", 1)
            return width, height
        if length < 2:
            raise struct.error("segment shorter than its length field")
        file.seek(length - 2, 1)
