"""Results as JSON, one line per frame."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import BinaryIO

import msgspec

from vdag.errors import SinkError
from vdag.results import Result
from vdag.sinks.base import PartialFile, Sink
from vdag.wording import reason

__all__ = ["JsonLinesSink"]


class JsonLinesSink(Sink):
    """Writes one JSON object per result, UTF-8, ended by a line feed; see `Sink`.

    A file appears under its name when the sink is closed. On standard output every line is flushed
    at once, so that a program behind a pipe sees it.

    Args:
        path: the file, or `-` for standard output.
        pictures: write fields that hold pixels too, as nested lists.

    Raises:
        SinkError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, pictures: bool = False) -> None:
        self._pictures = pictures
        self._encoder = msgspec.json.Encoder()
        self._partial = None if os.fspath(path) == "-" else PartialFile(path)
        self._name = "standard output" if self._partial is None else str(self._partial.path)
        self._file: BinaryIO | None = (
            sys.stdout.buffer if self._partial is None else self._partial.open()
        )

    def write(self, result: Result) -> None:
        """Write one line.

        Raises:
            SinkError: the disk is full, the pipe is closed, or the sink is.
        """
        if self._file is None:
            raise SinkError(f"{self._name}: is closed")
        line = self._encoder.encode(result.to_dict(pictures=self._pictures)) + b"\n"
        try:
            self._file.write(line)
            if self._partial is None:
                self._file.flush()
        except OSError as err:
            self.abort()
            raise SinkError(f"{self._name}: cannot be written: {reason(err)}") from err

    def close(self) -> None:
        """Complete the file and give it its name; standard output stays open.

        Raises:
            SinkError: the disk is full; the file is removed.
        """
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.flush()
            if self._partial is not None:
                file.close()
        except OSError as err:
            self._discard(file)
            raise SinkError(f"{self._name}: cannot be written: {reason(err)}") from err
        if self._partial is not None:
            self._partial.commit()

    def abort(self) -> None:
        """Remove the file; lines on standard output stay."""
        file, self._file = self._file, None
        if file is not None:
            self._discard(file)

    def _discard(self, file: BinaryIO) -> None:
        if self._partial is None:
            return
        self._partial.discard()
        with contextlib.suppress(OSError):  # its last lines may find no room either
            file.close()
