"""Annotated frames as picture files in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from vdag.drawing import render
from vdag.errors import ConfigError, SinkError
from vdag.extras import opencv
from vdag.results import Result
from vdag.sinks.base import PartialFile, Sink
from vdag.wording import reason

__all__ = ["FrameFolderSink"]


class FrameFolderSink(Sink):
    """Writes each result's frame as `<seq>.jpg` or `.png`, seq in eight digits; see `Sink`.

    Every picture is whole or not there. Those that are written stay, also when an error ends the
    work.

    Args:
        path: the folder; made if need be. Pictures of the same name in it are replaced.
        format: `jpg` or `png`.
        quality: of a JPEG, 1 to 100.
        labels: class number to name.
        min_height: smaller frames are enlarged by a whole factor to at least this many rows.

    Raises:
        ConfigError: an argument has no meaning.
        SinkError: the folder cannot be made.
        DependencyMissing: OpenCV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: Literal["jpg", "png"] = "jpg",  # noqa: A002  # the word of the formats themselves
        quality: int = 90,
        labels: Mapping[int, str] | None = None,
        min_height: int = 0,
    ) -> None:
        if format not in ("jpg", "png"):
            raise ConfigError(f"format of frames is {format!r}, expected jpg or png")
        if not 1 <= quality <= 100:
            raise ConfigError(f"quality is {quality}, expected 1 to 100")
        self._cv2 = opencv()
        self._path = Path(path).expanduser()
        self._suffix = f".{format}"
        self._parameters = [self._cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpg" else []
        self._labels, self._min_height = labels, min_height
        self._closed = False
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise SinkError(f"{self._path}: cannot be made: {reason(err)}") from err

    def write(self, result: Result) -> None:
        """Write one picture.

        Raises:
            SinkError: the disk is full, the result has no frame, or the sink is closed.
        """
        if self._closed:
            raise SinkError(f"{self._path}: is closed")
        pixels = render(result, labels=self._labels, min_height=self._min_height)
        encoded = self._cv2.imencode(self._suffix, pixels, self._parameters)[1]
        file = PartialFile(self._path / f"{result.seq:08d}{self._suffix}")
        try:
            file.partial.write_bytes(encoded.tobytes())
        except OSError as err:
            file.discard()
            raise SinkError(f"{file.path}: cannot be written: {reason(err)}") from err
        file.commit()

    def close(self) -> None:
        """Write no more."""
        self._closed = True

    def abort(self) -> None:
        """Write no more; the pictures stay."""
        self._closed = True
