"""The items of JSON lists as text, found without making objects of what is inside.

A parser would make an object of every number and list of a text that may be hostile: up to thirty
times its size. Here a list costs as much as it has items, and the caller may stop at any of them.
The text is known to be JSON: whoever found it in a body has checked that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from vdag.errors import ImageError

__all__ = ["BLANKS", "first_inside", "split_lists", "split_strings"]

#: Bytes that are looked at at once.
BLOCK_NBYTES = 1 << 16
#: Beyond so many blanks before an item nobody looks for it.
MAX_BLANKS = 64
BLANKS = b" \t\r\n"

_QUOTE = re.compile(rb'"')
_BACKSLASH = 0x5C
_BLANKS_AND_COMMA = BLANKS + b","
#: What a bracket does to the depth.
_STEPS = np.zeros(256, np.int8)
_STEPS[ord("[")], _STEPS[ord("]")] = 1, -1


def first_inside(view: memoryview) -> bytes:
    """Return the first character inside a list: `]` of an empty one."""
    return bytes(view[1 : 1 + MAX_BLANKS]).lstrip(BLANKS)[:1]


def split_lists(view: memoryview) -> Iterator[memoryview]:
    """Yield the items of a list of lists.

    Brackets inside strings are counted too; then what is yielded is no list of numbers, which its
    reader notices.

    Raises:
        ImageError: an item is no list.
    """
    codes = np.frombuffer(view, np.uint8)
    depth, start = 0, 1
    for base in range(0, len(codes), BLOCK_NBYTES):
        steps = _STEPS[codes[base : base + BLOCK_NBYTES]]
        (places,) = np.nonzero(steps)
        steps = steps[places]
        depths = depth + np.cumsum(steps, dtype=np.int64)
        for end in (places[(depths == 1) & (steps < 0)] + base + 1).tolist():
            # JSON permits nothing before an item but blanks and a comma.
            yield view[start + _skip(view, start) : end]
            start = end
        if len(depths):
            depth = int(depths[-1])
    if bytes(view[start : start + MAX_BLANKS]).strip(BLANKS)[:1] != b"]" or depth:
        raise ImageError("picture is not made of lists alone")


def split_strings(view: memoryview) -> Iterator[memoryview]:
    """Yield the items of a list of strings, with their quotes.

    Raises:
        ImageError: an item is no string.
    """
    start = 1
    while True:
        start += _skip(view, start)
        first = bytes(view[start : start + 1])
        if first == b"]":
            return
        if first != b'"':
            raise ImageError("list has an item that is no string")
        end = start + 1
        while True:
            quote = _QUOTE.search(view, end)
            assert quote is not None, "the text is known to be JSON"
            end = quote.end()
            if not _is_escaped(view, end - 1):
                break
        yield view[start:end]
        start = end


def _is_escaped(view: memoryview, place: int) -> bool:
    count = 0
    while view[place - 1 - count] == _BACKSLASH:
        count += 1
    return count % 2 == 1


def _skip(view: memoryview, start: int) -> int:
    """Return the number of blanks and commas from `start` on."""
    length = 0
    while start + length < len(view) and view[start + length] in _BLANKS_AND_COMMA:
        length += 1
    return length
