"""The markers of a JPEG (ISO/IEC 10918-1, annex B), as `jpeg_header.h` has to read them.

Stricter than a decoder: whoever wants memory for a picture has to say plainly how large it is.
"""

from __future__ import annotations

import re

from vdag._native.jpeg_terms import Info, check_sides
from vdag.errors import ImageError

__all__ = ["END_OF_IMAGE", "is_complete", "parse"]

END_OF_IMAGE = b"\xff\xd9"

SUPPORTED_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # lossy, not hierarchical
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))  # TEM, RST0..RST7
SUBSAMPLING_OF_RATIO = {
    (1, 1): "444",
    (2, 1): "422",
    (2, 2): "420",
    (1, 2): "440",
    (4, 1): "411",
    (1, 4): "441",
}
#: In entropy-coded data: a marker that is neither a stuffed byte, nor a fill byte, nor a restart.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def parse(data: bytes) -> Info:
    """Read the markers up to the frame header, and that.

    Raises:
        ImageError: the markers are broken, or it is a kind of JPEG that is not supported.
    """
    if data[:2] != b"\xff\xd8":
        raise ImageError("data does not start with the JPEG marker ffd8")
    cut_short = f"data of {len(data)} bytes ends before its frame header"
    at = 2
    while True:
        if data[at : at + 1] not in (b"\xff", b""):
            raise ImageError(f"byte {at} is no JPEG marker")
        while data[at : at + 1] == b"\xff":  # any number of fill bytes
            at += 1
        if len(data) - at < 3:  # code and length
            raise ImageError(cut_short)
        code = data[at]
        at += 1
        if code in WITHOUT_LENGTH:
            continue
        if code == 0x00 or 0xD8 <= code <= 0xDA:
            raise ImageError(f"marker ff{code:02x} comes before the frame header")
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or length > len(data) - at:
            raise ImageError(cut_short)
        if code in SUPPORTED_FRAMES:
            return _parse_frame(data[at : at + length])
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xCC):  # tables are no frames
            raise ImageError(f"coding process ff{code:02x} is not supported")
        at += length


def _parse_frame(segment: bytes) -> Info:
    """Read a frame header, which starts with its length."""
    if len(segment) < 8 or len(segment) != 8 + 3 * segment[7]:
        raise ImageError(f"frame header has {len(segment)} bytes")
    precision, components = segment[2], segment[7]
    height, width = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[5:7], "big")
    if precision != 8:
        raise ImageError(f"samples have {precision} bits, not 8")
    check_sides(width, height)
    if components not in (1, 3, 4):
        raise ImageError(f"picture has {components} components, not 1, 3 or 4")
    factors = [(byte >> 4, byte & 15) for byte in segment[9::3]]
    for across, down in factors:
        if not (1 <= across <= 4 and 1 <= down <= 4):
            raise ImageError(f"sampling factors {across} x {down} are outside 1..4")
    return Info(width, height, components, _subsampling(factors))


def _subsampling(factors: list[tuple[int, int]]) -> str:
    """Name the subsampling by luma's sampling factors over chroma's."""
    if len(factors) != 3:
        return "gray" if len(factors) == 1 else "unknown"
    luma, chroma, other = factors
    if chroma != other or luma[0] % chroma[0] or luma[1] % chroma[1]:
        return "unknown"
    ratio = (luma[0] // chroma[0], luma[1] // chroma[1])
    return SUBSAMPLING_OF_RATIO.get(ratio, "unknown")


def is_complete(data: bytes) -> bool:
    """Tell whether the marker that ends the picture is there; for data that `parse` takes."""
    at = 2
    while True:
        found = MARKER.search(data, at)
        if found is None:
            return False
        code = data[found.end() - 1]
        if code == 0xD9:
            return True
        at = found.end()
        if code not in WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
