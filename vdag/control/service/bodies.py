"""The fields of a request's body, each still as it came, until somebody wants its value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from vdag import _native as native
from vdag.control.service import images
from vdag.control.service.images import Bounds, Picture
from vdag.errors import ConfigError, ImageError
from vdag.wording import rephrase

__all__ = ["LIFTED_NBYTES", "Fields", "Parts", "Source", "check_nbytes", "lift"]

#: From this size on a body is looked at for a literal that can be taken out of it; and what is left
#: there, which no caller sends in its place: no picture is an empty text.
LIFTED_NBYTES, LIFTED = 1 << 14, b'""'
_BEGIN = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"image"[ \t\r\n]*:[ \t\r\n]*(?="[bB][\'\\])')

_T = TypeVar("_T")


class Source(Protocol):
    """The fields of a request in some encoding.

    All methods but `has` want a field that is there.
    """

    def has(self, name: str) -> bool:
        """Say whether a field is there and is not null."""
        ...

    def picture(self, name: str) -> Picture:
        """Read a field that is a picture.

        Raises:
            ImageError: it is none; the message names the field.
            ConfigError: it is there several times.
        """
        ...

    def pictures(self, name: str) -> list[Picture]:
        """Read a field that is a list of pictures.

        Raises:
            ImageError: it is none; the message names the field.
        """
        ...

    def value(self, name: str, kind: Any, limit: int) -> Any:
        """Read any other field.

        Args:
            name: of the field.
            kind: its type, as msgspec takes it.
            limit: most bytes of its text.

        Raises:
            ConfigError: it is longer, or of another type; the message names the field.
        """
        ...


class Fields:
    """The fields of JSON or MessagePack, each still as it came, but for a literal in `image`."""

    def __init__(
        self,
        fields: Mapping[str, memoryview],
        bounds: Bounds,
        *,
        is_json: bool,
        literal: bytes | None = None,
    ) -> None:
        nothing = b"null" if is_json else b"\xc0"
        self._fields = {
            name: value for name, value in fields.items() if value not in (b"", nothing)
        }
        self._bounds, self._is_json, self._literal = bounds, is_json, literal

    def has(self, name: str) -> bool:
        """See `Source`."""
        return name in self._fields

    def picture(self, name: str) -> Picture:
        """See `Source`."""
        literal = self._literal
        if literal is not None and name == "image" and self._fields[name] == LIFTED:
            return _named(name, lambda: images.from_literal(literal, self._bounds))
        read = images.from_json if self._is_json else images.from_msgpack
        return _named(name, lambda: read(self._fields[name], self._bounds))

    def pictures(self, name: str) -> list[Picture]:
        """See `Source`."""
        read = images.list_from_json if self._is_json else images.list_from_msgpack
        return _named(name, lambda: read(self._fields[name], self._bounds))

    def value(self, name: str, kind: Any, limit: int) -> Any:
        """See `Source`."""
        text = self._fields[name]
        check_nbytes(name, len(text), limit)
        return _decode(name, text, kind, is_json=self._is_json)


class Parts:
    """The parts of a form, or a picture alone."""

    def __init__(self, parts: Mapping[str, list[bytes]], bounds: Bounds) -> None:
        self._parts, self._bounds = parts, bounds

    def has(self, name: str) -> bool:
        """See `Source`."""
        return name in self._parts

    def picture(self, name: str) -> Picture:
        """See `Source`."""
        (data,) = self._only(name)
        return _named(name, lambda: self._read(data))

    def pictures(self, name: str) -> list[Picture]:
        """See `Source`."""
        return _named(name, lambda: [self._read(data) for data in self._parts[name]])

    def value(self, name: str, kind: Any, limit: int) -> Any:
        """See `Source`."""
        (text,) = self._only(name)
        check_nbytes(name, len(text), limit)
        return _decode(name, memoryview(text), kind, is_json=True)

    def _only(self, name: str) -> list[bytes]:
        if len(self._parts[name]) != 1:
            raise ConfigError(f"field {name} is there {len(self._parts[name])} times")
        return self._parts[name]

    def _read(self, data: bytes) -> Picture:
        try:  # text fields of a form carry the text forms of pictures, too
            text = data.decode("ascii") if data[:1] in (b"b", b"B", b"d") else ""
        except UnicodeDecodeError:
            text = ""
        if text:
            return images.from_text(text, self._bounds)
        return images.encoded(data, self._bounds)


def lift(body: bytes) -> tuple[bytes | None, bytes]:
    """Take the literal out of a body that begins with the field `image`, as callers' bodies do.

    A parser of JSON looks at every character of it twice, once to find its end.

    Returns:
        The text and what the body is with `LIFTED` in its place; None and the body as it is if it
        does not begin so. Whatever is wrong with either is left to who reads them.
    """
    begin = _BEGIN.match(body)
    found = None if begin is None else native.quoted.read(body, begin.end())
    if begin is None or found is None:
        return None, body
    text, end = found
    return text, b"".join((body[: begin.end()], LIFTED, body[end:]))


def _decode(name: str, text: memoryview, kind: Any, *, is_json: bool) -> Any:
    try:
        if is_json:
            return msgspec.json.decode(text, type=kind)
        return msgspec.msgpack.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ConfigError(f"field {name}: {rephrase(err)}") from err


def _named(name: str, read: Callable[[], _T]) -> _T:
    """Say in which field a picture is wrong."""
    try:
        return read()
    except ImageError as err:
        raise ImageError(f"field {name}: {err}") from err


def check_nbytes(name: str, nbytes: int, limit: int) -> None:
    """Refuse what is too long.

    Raises:
        ConfigError: it is.
    """
    if nbytes > limit:
        raise ConfigError(f"field {name} of {nbytes} bytes exceeds limit {limit}")
