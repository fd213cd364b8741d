"""`multipart/form-data` in memory: name to the contents of the parts of that name."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from vdag.errors import ConfigError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["read_form"]

#: Bytes of the headers of one part.
MAX_HEADERS_NBYTES = 4096


def read_form(body: bytes, content_type: str, *, max_parts: int) -> Mapping[str, list[bytes]]:
    """Read a form (RFC 7578). Its parts are copied out of the body, whose size bounds them.

    Args:
        body: as it was received.
        content_type: of the request, with its `boundary`.
        max_parts: most parts that are taken.

    Raises:
        ConfigError: it is no such form, a part has no name, or there are too many.
    """
    boundary = _parameter(content_type, "boundary")
    if not 0 < len(boundary) <= 70:
        raise ConfigError("multipart body without a boundary of 1 to 70 characters")
    form = _Form(max_parts)
    parser = MultipartParser(boundary.encode("latin-1", "replace"), form.callbacks())
    try:
        parser.write(body)
        parser.finalize()
    except MultipartParseError as err:
        raise ConfigError(f"multipart body is malformed: {err}".lower()) from err
    if not form.is_complete:
        raise ConfigError("multipart body is not complete")
    return form.parts


class _Form:
    """Collects what the parser finds."""

    def __init__(self, max_parts: int) -> None:
        self.parts: dict[str, list[bytes]] = {}
        self.is_complete = False
        self._max_parts = self._left = max_parts
        self._header = bytearray()
        self._value = bytearray()
        self._content = bytearray()
        self._name = ""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_field,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take_content,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if not self._left:
            raise ConfigError(f"multipart body has more than {self._max_parts} parts")
        self._left -= 1
        self._name = ""
        self._content = bytearray()

    def _take_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check()

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check()

    def _check(self) -> None:
        if len(self._header) + len(self._value) > MAX_HEADERS_NBYTES:
            raise ConfigError(f"header of a part exceeds {MAX_HEADERS_NBYTES} bytes")

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._name = _parameter(self._value.decode("utf-8", "replace"), "name")
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        if not self._name:
            raise ConfigError("part of a multipart body has no name")

    def _take_content(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end(self) -> None:
        self.parts.setdefault(self._name, []).append(bytes(self._content))

    def _finish(self) -> None:
        self.is_complete = True


def _parameter(header: str, name: str) -> str:
    """Return a parameter of a header's value, or ""."""
    message = Message()
    message["content-type"] = header.replace("\r", " ").replace("\n", " ")
    found = message.get_param(name, "")
    return found if isinstance(found, str) else ""
