"""Every documented form of a picture, as pixels, in bounded memory.

    nested lists       JSON: `(H, W, 3)` BGR or `(H, W)` gray, integers 0 to 255
    bytes literal      text: what Python writes of a JPEG's or PNG's bytes, see `native.literal`
    base64             text: of such bytes, bare or as a `data:` URL
    the bytes          a body or part of its own, or MessagePack's bin
    shape and data     MessagePack: `{"shape": [H, W, 3], "data": bin}`, BGR

What is read here is a `Picture`: it knows its size and has taken no memory for pixels. `write` puts
them where the caller wants them, which is a slot of shared memory. Sizes are checked first, so what
a hostile picture costs is bounded by its own length and by `Bounds`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag.control.service.json_lists import first_inside, split_lists, split_strings
from vdag.errors import ImageError
from vdag.extras import opencv
from vdag.frame import UInt8Image
from vdag.wording import rephrase

__all__ = [
    "MAX_SIDE",
    "Bounds",
    "Picture",
    "encoded",
    "from_json",
    "from_literal",
    "from_msgpack",
    "from_text",
    "list_from_json",
    "list_from_msgpack",
]

#: Longest side, in pixels.
MAX_SIDE = 16_384
#: Bytes of a row of nested lists: 21 for each sample of the longest, blanks included.
MAX_ROW_NBYTES = 1 << 20

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
#: PNG (W3C, third edition, 11.2.1): length and name of the first chunk, then width and height.
_PNG_HEADER = re.compile(re.escape(_PNG) + rb"\0\0\0\rIHDR(.{4})(.{4})", re.DOTALL)
#: Pictures have one of 8 KiB for each part of their pixels, and few others.
MAX_PNG_CHUNKS = 16_384
_LITERAL = re.compile(r"[ \t\r\n]*[bB]['\"]")
_DATA_URL = re.compile(r"data:image/[A-Za-z0-9.+-]{1,64};base64,")
#: First bytes of bin and str, of MessagePack's specification.
_MSGPACK_BIN = frozenset({0xC4, 0xC5, 0xC6})
_MSGPACK_STR = frozenset({*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB})

Buffer = bytes | bytearray | memoryview
_Sample = Annotated[int, msgspec.Meta(ge=0, le=255)]
_GRAY = msgspec.json.Decoder(list[_Sample])
_COLOUR = msgspec.json.Decoder(list[tuple[_Sample, _Sample, _Sample]])


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a caller may ask for.

    Attributes:
        max_pixels: of one picture.
        max_pictures: of one list of them.
        max_nbytes: of one picture as a file.
    """

    max_pixels: int = 3840 * 2160
    max_pictures: int = 256
    max_nbytes: int = 32 << 20


class Picture(Protocol):
    """A picture that was received, not decoded yet.

    Attributes:
        width: in pixels.
        height: likewise.
    """

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102

    def write(self, out: UInt8Image) -> None:
        """Decode into memory of the caller.

        Args:
            out: uint8 `(height, width, 3)`, C-contiguous; becomes BGR.

        Raises:
            ImageError: the picture is broken; what `out` holds then is undefined.
            DependencyMissing: what decodes such pictures is not installed.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Jpeg:
    data: Buffer
    width: int
    height: int

    def write(self, out: UInt8Image) -> None:
        native.jpeg.decode(_contiguous(self.data), out, max_pixels=self.width * self.height)


@dataclass(frozen=True, slots=True)
class _Png:
    data: Buffer
    width: int
    height: int

    def write(self, out: UInt8Image) -> None:
        cv2 = opencv()
        _check_chunks(self.data)
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            found: Any = cv2.imdecode(np.frombuffer(self.data, np.uint8), flags)
        except cv2.error as err:
            raise ImageError("picture is no PNG that OpenCV can decode") from err
        if found is None or found.shape != out.shape:
            raise ImageError("picture is no PNG that OpenCV can decode")
        np.copyto(out, found)


@dataclass(frozen=True, slots=True)
class _Samples:
    """Pixels as they are, of a message that stays."""

    data: Buffer
    width: int
    height: int

    def write(self, out: UInt8Image) -> None:
        np.copyto(out, np.frombuffer(self.data, np.uint8).reshape(out.shape))


@dataclass(frozen=True, slots=True)
class _Lists:
    """Nested lists: the text of each row."""

    rows: Sequence[memoryview]
    width: int
    height: int
    is_gray: bool

    def write(self, out: UInt8Image) -> None:
        for number, text in enumerate(self.rows):
            row = _read_row(text, number, is_gray=self.is_gray)
            if len(row) != self.width:
                raise ImageError(
                    f"row {number} of the picture has {len(row)} pixels, row 0 {self.width}"
                )
            out[number] = row


def encoded(data: Buffer, bounds: Bounds) -> Picture:
    """Read the head of a JPEG or PNG.

    Args:
        data: the whole file, not copied: it must not change.
        bounds: what may be asked for.

    Raises:
        ImageError: it is neither, its header is broken, or it exceeds a limit.
    """
    if len(data) > bounds.max_nbytes:
        raise ImageError(f"picture of {len(data)} bytes exceeds limit {bounds.max_nbytes}")
    start = bytes(data[:32])
    if start.startswith(_JPEG):
        info = native.jpeg.read_header(_contiguous(data), max_pixels=bounds.max_pixels)
        _check_size(info.width, info.height, bounds)
        return _Jpeg(data, info.width, info.height)
    if start.startswith(_PNG):
        header = _PNG_HEADER.match(start)
        if header is None:
            raise ImageError("picture is a PNG without a header")
        width, height = (int.from_bytes(side, "big") for side in header.groups())
        _check_size(width, height, bounds)
        return _Png(data, width, height)
    raise ImageError(f"picture is neither JPEG nor PNG: it begins with {start[:8]!r}")


def from_text(text: str, bounds: Bounds) -> Picture:
    """Read a picture from text: a bytes literal, base64, or a `data:` URL.

    Raises:
        ImageError: it is nothing of the kind, or exceeds a limit.
    """
    if _LITERAL.match(text):
        return encoded(native.literal.decode(text, max_nbytes=bounds.max_nbytes), bounds)
    start = 0
    if text.startswith("data:"):
        url = _DATA_URL.match(text)
        if url is None:
            raise ImageError("picture is a data URL, but not data:image/...;base64,")
        start = url.end()
    if (len(text) - start) * 3 // 4 > bounds.max_nbytes:
        raise ImageError(f"picture of {len(text)} characters exceeds limit {bounds.max_nbytes}")
    try:
        data = base64.b64decode(text[start:] if start else text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise ImageError(f"picture is neither a bytes literal nor base64: {err}".lower()) from err
    return encoded(data, bounds)


def from_literal(text: Buffer, bounds: Bounds) -> Picture:
    """Read a picture from the ASCII text of a bytes literal.

    Raises:
        ImageError: it is none, or exceeds a limit.
    """
    return encoded(native.literal.decode(text, max_nbytes=bounds.max_nbytes), bounds)


def from_json(value: Buffer, bounds: Bounds) -> Picture:
    """Read a picture from a JSON value: a string, or nested lists.

    Args:
        value: the text of the value, which is known to be JSON. Not copied.
        bounds: what may be asked for.

    Raises:
        ImageError: it is no picture, or exceeds a limit.
    """
    start = _first(value)
    if start == b'"':
        try:
            text = msgspec.json.decode(value, type=str)
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise ImageError(f"picture is no text: {rephrase(err)}") from err
        return from_text(text, bounds)
    if start == b"[":
        return _from_lists(memoryview(value), bounds)
    raise ImageError("picture is neither a string nor nested lists")


def list_from_json(value: Buffer, bounds: Bounds) -> list[Picture]:
    """Read a JSON list of pictures, all strings or all nested lists.

    Raises:
        ImageError: it is no such list, one is no picture, or there are too many.
    """
    view = memoryview(value)
    if _first(view) != b"[":
        raise ImageError("pictures are not in a list")
    first = first_inside(view)
    if first == b"]":
        return []
    texts = split_strings(view) if first == b'"' else split_lists(view)
    return [from_json(text, bounds) for text in _limited(texts, bounds)]


def from_msgpack(value: Buffer, bounds: Bounds) -> Picture:
    """Read a picture from a MessagePack value: bin, str, or shape and data.

    Raises:
        ImageError: it is no picture, or exceeds a limit.
    """
    kind = value[0] if len(value) else 0
    try:
        if kind in _MSGPACK_BIN:
            return encoded(msgspec.msgpack.decode(value, type=memoryview), bounds)
        if kind in _MSGPACK_STR:
            return from_text(msgspec.msgpack.decode(value, type=str), bounds)
        found = msgspec.msgpack.decode(value, type=_Shaped)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ImageError(f"picture is no bin, str, or shape and data: {rephrase(err)}") from err
    height, width, _ = found.shape
    _check_size(width, height, bounds)
    if len(found.data) != height * width * 3:
        raise ImageError(f"picture of shape {list(found.shape)} has {len(found.data)} bytes")
    return _Samples(found.data, width, height)


def list_from_msgpack(value: Buffer, bounds: Bounds) -> list[Picture]:
    """Read a MessagePack list of pictures.

    Raises:
        ImageError: it is no such list, one is no picture, or there are too many.
    """
    try:
        count = _msgpack_length(memoryview(value))
        if count > bounds.max_pictures:
            raise ImageError(f"list of {count} pictures exceeds limit {bounds.max_pictures}")
        values = msgspec.msgpack.decode(value, type=list[msgspec.Raw])
    except msgspec.DecodeError as err:
        raise ImageError(f"pictures are not in a list: {rephrase(err)}") from err
    return [from_msgpack(memoryview(item), bounds) for item in values]


class _Shaped(msgspec.Struct, forbid_unknown_fields=True):
    shape: tuple[
        Annotated[int, msgspec.Meta(ge=1)],
        Annotated[int, msgspec.Meta(ge=1)],
        Annotated[int, msgspec.Meta(ge=3, le=3)],
    ]
    data: memoryview


def _from_lists(view: memoryview, bounds: Bounds) -> Picture:
    """Find the rows of nested lists, and read the first one, which tells the width."""
    rows: list[memoryview] = []
    for row in split_lists(view):
        if len(row) > MAX_ROW_NBYTES:
            raise ImageError(f"row {len(rows)} of {len(row)} bytes exceeds limit {MAX_ROW_NBYTES}")
        if len(rows) == MAX_SIDE:
            raise ImageError(f"picture has more than {MAX_SIDE} rows")
        rows.append(row)
    if not rows:
        raise ImageError("picture is an empty list")
    is_gray = first_inside(rows[0]) != b"["
    width = len(_read_row(rows[0], 0, is_gray=is_gray))
    _check_size(width, len(rows), bounds)
    return _Lists(rows, width, len(rows), is_gray)


def _read_row(text: memoryview, number: int, *, is_gray: bool) -> NDArray[np.uint8]:
    """Return a row as uint8 `(W, 3)`, or `(W, 1)` of gray, which fits three channels as well."""
    try:
        if is_gray:
            return np.array(_GRAY.decode(text), np.uint8)[:, None]
        pixels = _COLOUR.decode(text)
    except msgspec.DecodeError as err:
        raise ImageError(f"row {number} of the picture: {rephrase(err)}") from err
    return np.fromiter(chain.from_iterable(pixels), np.uint8, 3 * len(pixels)).reshape(-1, 3)


def _limited(texts: Iterator[memoryview], bounds: Bounds) -> Iterator[memoryview]:
    for number, text in enumerate(texts):
        if number == bounds.max_pictures:
            raise ImageError(f"list has more than {bounds.max_pictures} pictures")
        yield text


def _msgpack_length(view: memoryview) -> int:
    """Return the items that an array of MessagePack announces; 0 if it is none."""
    kind = view[0] if len(view) else 0
    if 0x90 <= kind <= 0x9F:
        return kind & 0x0F
    width = {0xDC: 2, 0xDD: 4}.get(kind, 0)
    return int.from_bytes(view[1 : 1 + width], "big")


def _check_chunks(data: Buffer) -> None:
    """Make sure that the chunks of a PNG are there: OpenCV takes the memory that they announce."""
    view, place = memoryview(data), len(_PNG)
    for _ in range(MAX_PNG_CHUNKS):
        head = bytes(view[place : place + 8])
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        place += 12 + length
        if place > len(view):
            raise ImageError(f"picture is a PNG of {len(view)} bytes with a chunk up to {place}")
        if kind == b"IEND":
            return
    raise ImageError(f"picture is a PNG with more than {MAX_PNG_CHUNKS} chunks")


def _check_size(width: int, height: int, bounds: Bounds) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ImageError(f"picture of {width} x {height} pixels is not within 1 to {MAX_SIDE}")
    if width * height > bounds.max_pixels:
        raise ImageError(
            f"picture of {width} x {height} pixels exceeds max_pixels {bounds.max_pixels}"
        )


def _first(value: Buffer) -> bytes:
    return bytes(value[:1])


def _contiguous(data: Buffer) -> bytes | memoryview:
    return data if isinstance(data, (bytes, memoryview)) else memoryview(data)
