"""What `literal.pyx` and `reference_literal.py` share: faults of a text, and their wording."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from vdag.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "LEVELS",
    "WORDING",
    "Fault",
    "check_ascii",
    "check_max_nbytes",
    "fault_error",
    "view_of",
]

LEVELS: Final = ("plain", "neon", "avx2", "avx512")  # of VDAG_SIMD; there are no loops for neon
NOT_ASCII = re.compile("[^\0-\x7f]")


class Fault(IntEnum):
    """Why a text is no bytes literal; the numbers are those of `literal_kernel.h`."""

    START = 1
    QUOTE = 2
    TRIPLE = 3
    ESCAPE = 4
    HEX = 5
    OCTAL = 6
    NOT_ASCII = 7
    NEWLINE = 8
    NUL = 9
    OPEN = 10
    TRAILING = 11
    FULL = 12


WORDING: Final = {
    Fault.START: "{found} at position {at} where a bytes literal should begin",
    Fault.QUOTE: "{found} at position {at} where a quote should follow the b",
    Fault.TRIPLE: "triple quote at position {at}",
    Fault.ESCAPE: "unknown escape at position {at}: a backslash before {escaped}",
    Fault.HEX: "escape at position {at} lacks two hex digits",
    Fault.OCTAL: "octal escape at position {at} exceeds 255",
    Fault.NOT_ASCII: "{found} at position {at} is not ASCII",
    Fault.NEWLINE: "newline at position {at} within the literal",
    Fault.NUL: "NUL at position {at} within the literal",
    Fault.OPEN: "literal is not closed before the end at position {at}",
    Fault.TRAILING: "{found} at position {at} behind the literal",
    Fault.FULL: "literal exceeds {limit} at position {at}",
}


def fault_error(fault: int, at: int, around: bytes, limit: str) -> ImageError:
    """Word a fault.

    Args:
        fault: one of `Fault`.
        at: the character at fault, counted from the beginning of the text.
        around: that character and the next, as far as the text goes.
        limit: what a literal that is too long exceeds.
    """
    message = WORDING[Fault(fault)].format(
        at=at, found=_name(around[:1]), escaped=_name(around[1:2]), limit=limit
    )
    return ImageError(message)


def _name(character: bytes) -> str:
    if not character:
        return "the end"
    if b" " < character <= b"~":
        return f"'{character.decode()}'"
    return f"byte 0x{character[0]:02x}"


def check_ascii(text: str) -> None:
    """Raise ImageError unless all of `text` is ASCII; takes no memory for it."""
    found = None if text.isascii() else NOT_ASCII.search(text)
    if found:
        raise ImageError(f"U+{ord(found[0]):04X} at position {found.start()} is not ASCII")


def check_max_nbytes(max_nbytes: int) -> None:
    """Raise ConfigError unless so many bytes can be."""
    if max_nbytes < 0:
        raise ConfigError(f"max_nbytes {max_nbytes} below 0")


def view_of(data: Buffer, name: str, *, writable: bool = False) -> memoryview:
    """Look at the bytes of a buffer, which stays as it is while the view lives."""
    view = memoryview(data)
    if not view.c_contiguous:
        raise ImageError(f"{name} is not contiguous")
    if writable and view.readonly:
        raise ImageError(f"{name} is read-only")
    return view
