r"""The text form of bytes in plain Python: what `literal.pyx` must give, faults included.

The form is Python's own, of its reference under "String and Bytes literals". What is written is
what `repr` writes:

    literal = "b" quote unit* quote     quote: ' unless there is a ' and no " among the bytes
    unit    = \t | \n | \r | \\ | \quote | any other of 0x20..0x7e as it is | \xhh in lower case

What is read is one literal as below, blanks before it, and white space behind it. In every text
that is accepted `ast.literal_eval` sees the same bytes, unless it takes blanks behind a last line
break for an indentation; it accepts more, namely raw and triple quoted literals, several in a row,
parentheses, comments, unknown escapes, which stand for themselves, and octal ones above 255, which
lose their top bit.

    text    = [ \t]* [\n\r]* ("b" | "B") quote item* quote [ \t\n\r\f]*
    item    = any ASCII but NUL, \n, \r, \ and the quote
            | \\ | \' | \" | \a | \b | \f | \n | \r | \t | \v
            | \x and two hex digits | \ and one to three octal digits, at most 377
            | \ before a newline (\n, \r or both), which stands for nothing

The first fault from the left is the one that is reported, except that a `str` is looked through
for characters beyond ASCII first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from vdag._native.literal_terms import (
    Fault,
    check_ascii,
    check_max_nbytes,
    fault_error,
    view_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

__all__ = ["decode", "decode_into", "encode", "simd"]

OPENING: Final = re.compile(rb"[ \t]*[\n\r]*([bB]?)(['\"]?)")
CLOSING: Final = re.compile(rb"[ \t\n\r\f]*")
ITEMS: Final = {
    quote: re.compile(
        rb"(?P<run>[^\x00\n\r\\%(quote)b\x80-\xff]+)"
        rb"|\\x(?P<hex>[0-9a-fA-F]{2})"
        rb"|\\(?P<octal>[0-7]{1,3})"
        rb"|\\(?P<letter>[\\'\"abfnrtv])"
        rb"|\\(?P<newline>\r\n|\n|\r)" % {b"quote": quote}
    )
    for quote in (b"'", b'"')
}
LETTERS: Final = dict(zip(b"\\'\"abfnrtv", b"\\'\"\a\b\f\n\r\t\v", strict=True))
UNITS: Final = {
    **{c: f"\\x{c:02x}" for c in range(256)},
    **{c: chr(c) for c in range(0x20, 0x7F)},
    **{ord(c): escape for c, escape in {"\t": r"\t", "\n": r"\n", "\r": r"\r"}.items()},
    ord("\\"): r"\\",
}


class _Stop(Exception):
    """A fault, and the character where it is."""

    def __init__(self, fault: Fault, at: int) -> None:
        super().__init__(fault, at)
        self.fault, self.at = fault, at


def encode(data: Buffer) -> str:
    """Write bytes as the text of their literal: `repr(bytes(data))`.

    Args:
        data: contiguous buffer of any shape and format, whose bytes count. Read only.

    Returns:
        ASCII text, at most four characters per byte and three more.

    Raises:
        ImageError: `data` is not contiguous.
    """
    content = view_of(data, "data").tobytes()
    quote = '"' if b"'" in content and b'"' not in content else "'"
    units = UNITS | {ord(quote): "\\" + quote}
    return f"b{quote}{content.decode('latin-1').translate(units)}{quote}"


def decode(text: str | Buffer, *, max_nbytes: int) -> bytes:
    """Read the bytes that a literal stands for.

    Args:
        text: one bytes literal: `str`, or a contiguous buffer of ASCII. Read only.
        max_nbytes: of the result; no more memory than this is taken.

    Returns:
        What `ast.literal_eval` would, for every text that is accepted.

    Raises:
        ImageError: `text` is not ASCII, not one bytes literal, or stands for too many bytes; the
            message says at which character.
        ConfigError: `max_nbytes` is negative.
    """
    check_max_nbytes(max_nbytes)
    return _read(_characters(text), max_nbytes, f"max_nbytes {max_nbytes}")


def decode_into(text: str | Buffer, out: Buffer) -> int:
    """Read the bytes that a literal stands for into memory of the caller.

    Args:
        text: as for `decode`. Read only; must not overlap `out`.
        out: writable contiguous buffer of any shape and format. Written from its first byte on.

    Returns:
        How many bytes were written.

    Raises:
        ImageError: as for `decode`, the limit being the size of `out`, or `out` is read-only or
            not contiguous. What `out` holds after a fault of the text is undefined.
    """
    characters = _characters(text)
    room = view_of(out, "out", writable=True)
    content = _read(characters, room.nbytes, f"out of {room.nbytes} bytes")
    if content:  # an empty view of several dimensions cannot be cast
        room.cast("B")[: len(content)] = content
    return len(content)


def simd() -> str:
    """Name what runs here: `python`."""
    return "python"


def _characters(text: str | Buffer) -> bytes:
    if isinstance(text, str):
        check_ascii(text)
        return text.encode("ascii")
    return view_of(text, "text").tobytes()


def _read(text: bytes, room: int, limit: str) -> bytes:
    content = bytearray()
    try:
        for at, item in _items(text):
            if len(content) + len(item) > room:
                raise _Stop(Fault.FULL, at + room - len(content))
            content += item
    except _Stop as stop:
        raise fault_error(stop.fault, stop.at, text[stop.at : stop.at + 2], limit) from None
    return bytes(content)


def _items(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Give each item's place and bytes; those of a run follow each other."""
    quote, at = _open(text)
    pattern = ITEMS[quote]
    while item := pattern.match(text, at):
        yield at, _value(item)
        at = item.end()
    if text[at : at + 1] != quote:
        raise _Stop(*_fault(text, at))
    end = CLOSING.match(text, at + 1)
    assert end is not None  # it matches nothing at all too
    if end.end() != len(text):
        raise _Stop(Fault.TRAILING, end.end())


def _open(text: bytes) -> tuple[bytes, int]:
    """Return the quote, and where the first item is."""
    opening = OPENING.match(text)
    assert opening is not None  # every part of it may be empty
    prefix, quote = opening.groups()
    if not prefix:
        raise _Stop(Fault.START, opening.start(1))
    if not quote:
        raise _Stop(Fault.QUOTE, opening.end())
    if text.startswith(quote * 2, opening.end()):
        raise _Stop(Fault.TRIPLE, opening.start(2))
    return quote, opening.end()


def _value(item: re.Match[bytes]) -> bytes:
    """Return the bytes of an item."""
    kind, matched = item.lastgroup, item[item.lastgroup or 0]
    if kind == "run":
        return matched
    if kind == "newline":
        return b""
    if kind == "letter":
        return bytes([LETTERS[ord(matched)]])
    value = int(matched, 16 if kind == "hex" else 8)
    if value > 255:
        raise _Stop(Fault.OCTAL, item.start())
    return bytes([value])


def _fault(text: bytes, at: int) -> tuple[Fault, int]:
    """Say why no item begins at `at`."""
    stop, behind = text[at : at + 1], text[at + 1 : at + 2]
    if not stop or (stop == b"\\" and not behind):
        return Fault.OPEN, len(text)
    if stop == b"\\":
        return (Fault.HEX if behind == b"x" else Fault.ESCAPE), at
    if stop == b"\0":
        return Fault.NUL, at
    return (Fault.NEWLINE if stop in b"\n\r" else Fault.NOT_ASCII), at
