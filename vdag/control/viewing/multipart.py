"""Finds the pictures in a reply of `multipart/x-mixed-replace`, which nodes of other makes send.

Parts have a length or have none; where they have none, a picture ends before the next delimiter. It
is not waited for: a JPEG that ends where the data end, but for the line breaks behind it, is whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vdag.control.viewing.pieces import MAX_NBYTES, Kind, Piece
from vdag.errors import FrameFormatError

__all__ = ["PartReader", "boundary_of"]

MAX_HEAD_NBYTES = 4096
#: How a JPEG ends, and the line break after a part.
END = re.compile(rb"\xff\xd9(\r\n)+\Z")
LENGTH = re.compile(rb"^content-length: *([0-9]{1,9}) *\r?$", re.IGNORECASE | re.MULTILINE)
#: RFC 2046, section 5.1.1, in quotes or without.
BOUNDARY = re.compile(r"""multipart/.*;\s*boundary="?([0-9A-Za-z'()+_,./:=?-]{1,70})"?""", re.I)


def boundary_of(content_type: str) -> str:
    """Return the boundary that a type of content names, empty for none."""
    found = BOUNDARY.match(content_type)
    return "" if found is None else found[1]


class PartReader:
    """Finds the pictures in what comes; holds at most one that is not complete.

    Args:
        boundary: between parts, without the dashes.
    """

    def __init__(self, boundary: str) -> None:
        # Programs have taken the dashes for a part of it.
        self._delimiter = b"--" + boundary.encode().removeprefix(b"--")
        self._buffer = bytearray()
        self._begin: int | None = None  # of the picture that is coming
        self._nbytes = 0  # that it has, 0 for not said
        self._searched = 0

    def read(self, data: bytes) -> Iterator[Piece]:
        """Take what has come, and yield the pictures that are complete.

        Raises:
            FrameFormatError: a head or a picture has more bytes than may be.
        """
        self._buffer += data
        while self._find_head() and (found := self._find_end()) is not None:
            begin, (end, after) = self._begin or 0, found
            piece = Piece(Kind.JPEG, bytes(memoryview(self._buffer)[begin:end]))
            self._cut(after)
            if piece.data:
                yield piece

    def _find_head(self) -> bool:
        """Return whether a picture has begun."""
        if self._begin is not None:
            return True
        at = self._buffer.find(self._delimiter)
        if at < 0:  # what is before it is of no use
            self._cut(max(len(self._buffer) - len(self._delimiter), 0))
            return False
        end = self._buffer.find(b"\r\n\r\n", at)
        if end < 0:
            if len(self._buffer) - at > MAX_HEAD_NBYTES:
                raise FrameFormatError(f"head of a part exceeds {MAX_HEAD_NBYTES} bytes")
            return False
        length = LENGTH.search(self._buffer, at, end + 2)
        self._nbytes = 0 if length is None else int(length[1])
        self._begin = self._searched = end + 4
        return True

    def _find_end(self) -> tuple[int, int] | None:
        """Return where the picture ends and where to go on, None if it has not ended."""
        begin = self._begin or 0
        if max(self._nbytes, len(self._buffer) - begin) > MAX_NBYTES + MAX_HEAD_NBYTES:
            raise FrameFormatError(f"picture exceeds {MAX_NBYTES} bytes")
        if self._nbytes:
            end = begin + self._nbytes
            return (end, end) if len(self._buffer) >= end else None
        at = self._buffer.find(b"\r\n" + self._delimiter, self._searched)
        if at >= 0:
            end = at - 2 if self._buffer[at - 2 : at] == b"\r\n" else at
            return max(end, begin), at + 2
        self._searched = max(len(self._buffer) - len(self._delimiter) - 2, begin)
        tail = END.search(self._buffer, max(len(self._buffer) - 8, begin))
        return None if tail is None else (tail.start() + 2, len(self._buffer))

    def _cut(self, at: int) -> None:
        del self._buffer[:at]
        self._begin, self._nbytes, self._searched = None, 0, 0
