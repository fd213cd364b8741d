"""How a node sends pictures to a cloud: pieces, one after another in the body of an HTTP reply.

    0   2   "VL"
    2   1   version, 1
    3   1   kind: 0 nothing yet, 1 JPEG, 2 H.264 key frame, 3 H.264 that refers to the one before
    4   2   width of the picture, 0 for nothing
    6   2   its height
    8   4   bytes that follow
    12      the picture: a JPEG, or a packet of ITU-T H.264 in the form of annex B

Numbers have their highest byte first. The kind may change from piece to piece; H.264 always begins
with a key frame, also anew after other pictures or when the size has changed.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from vdag.errors import FrameFormatError

__all__ = ["CONTENT_TYPE", "MAX_NBYTES", "MAX_PIXELS", "Kind", "Piece", "PieceReader", "write"]

CONTENT_TYPE = "application/x-vdag-pictures"
MAGIC, VERSION = b"VL", 1
HEAD = struct.Struct(">2sBBHHI")
#: Of one picture.
MAX_NBYTES = 16 << 20
#: Of one that is to be decoded.
MAX_PIXELS = 3840 * 2160


class Kind(enum.IntEnum):
    """What a piece is."""

    NOTHING = 0
    JPEG = 1
    KEY = 2
    DELTA = 3

    @property
    def is_h264(self) -> bool:
        """Whether it has to be decoded with those around it."""
        return self in (Kind.KEY, Kind.DELTA)


class Piece(NamedTuple):
    """A picture on its way.

    Attributes:
        kind: see `Kind`.
        data: the picture, empty for nothing.
        width: in pixels; 0 where nobody said.
        height: likewise.
    """

    kind: Kind
    data: bytes = b""
    width: int = 0
    height: int = 0


def write(piece: Piece) -> bytes:
    """Return a piece as it is sent."""
    head = HEAD.pack(MAGIC, VERSION, piece.kind, piece.width, piece.height, len(piece.data))
    return head + piece.data


class PieceReader:
    """Finds the pieces in what comes; holds at most one that is not complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def read(self, data: bytes) -> Iterator[Piece]:
        """Take what has come, and yield the pieces that are complete.

        Raises:
            FrameFormatError: it is no piece, or of more bytes or pixels than may be. What follows
                means nothing then.
        """
        self._buffer += data
        while len(self._buffer) >= HEAD.size:
            kind, width, height, nbytes = _head(self._buffer)
            end = HEAD.size + nbytes
            if len(self._buffer) < end:
                return
            piece = Piece(kind, bytes(memoryview(self._buffer)[HEAD.size : end]), width, height)
            del self._buffer[:end]
            yield piece


def _head(buffer: bytearray) -> tuple[Kind, int, int, int]:
    magic, version, number, width, height, nbytes = HEAD.unpack_from(buffer)
    if (magic, version) != (MAGIC, VERSION):
        raise FrameFormatError(f"piece begins with {bytes(buffer[:3])!r}, expected b'VL\\x01'")
    if number not in Kind.__members__.values():
        raise FrameFormatError(f"piece of kind {number} is none of 0 to {max(Kind)}")
    if nbytes > MAX_NBYTES:
        raise FrameFormatError(f"piece of {nbytes} bytes exceeds limit {MAX_NBYTES}")
    kind = Kind(number)
    if kind.is_h264 and not 0 < width * height <= MAX_PIXELS:
        raise FrameFormatError(f"piece of {width} x {height} is outside 1..{MAX_PIXELS} pixels")
    return kind, width, height, nbytes
