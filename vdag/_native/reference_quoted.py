"""JSON strings that hold long ASCII text, in Python: specification and oracle of `quoted`.

Of RFC 8259, section 7, this reads the strings whose characters are printable ASCII and in which
only quotes and backslashes are escaped, by a backslash. The text of a bytes literal is nothing
else: `repr` leaves no other character for JSON to escape. Every other string is left to a parser of
all of JSON.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vdag._native.quoted_terms import check_start

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["read", "simd"]

_STRING = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPE = re.compile(rb"\\(.)")


def read(text: Buffer, start: int) -> tuple[bytes, int] | None:
    """Read a string that has no escapes but those of quotes and backslashes.

    Args:
        text: JSON, or what is taken for it, contiguous. Read only.
        start: place of the string's opening quote.

    Returns:
        The characters and the place behind the closing quote; None if the string has other escapes,
        control characters or more than ASCII, or does not end: a parser has to look at it.

    Raises:
        ConfigError: `start` is not the place of a quote.
    """
    view = memoryview(text).cast("B")
    check_start(0 <= start < len(view) and view[start] == ord('"'), start)
    found = _STRING.match(view, start)
    return None if found is None else (_ESCAPE.sub(rb"\1", found[1]), found.end())


def simd() -> str:
    """Name what runs here: `python`."""
    return "python"
