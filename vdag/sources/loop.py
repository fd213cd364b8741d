"""A finite video played again and again, as if it were one without end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from vdag.errors import SourceError
from vdag.sources.base import Picture, Reader, StreamInfo

__all__ = ["LoopReader"]


class LoopReader:
    """Opens a reader again whenever it ends; see `Reader`. Positions and times run on.

    Args:
        open_reader: opens the video from its start.

    Raises:
        SourceError: as `open_reader`.
    """

    def __init__(self, open_reader: Callable[[], Reader]) -> None:
        self._open_reader = open_reader
        self._reader = open_reader()
        self._info = dataclasses.replace(self._reader.info, frame_count=None)
        self._earlier_errors = 0
        self._round_start = 0
        self._round_start_s = 0.0
        self._next_s: float | None = None
        self.decoded = self.reconnects = 0

    @property
    def info(self) -> StreamInfo:
        """What is known about the video; its `frame_count` is None."""
        return self._info

    @property
    def errors(self) -> int:
        """Damaged packets of all rounds."""
        return self._earlier_errors + self._reader.errors

    def read(self, timeout_s: float | None = None) -> Picture | None:
        """Return the next picture; never None before `close`.

        Raises:
            SourceError: a whole round had no picture.
        """
        picture = self._reader.read(timeout_s)
        if picture is None:
            if self.decoded == self._round_start:
                raise SourceError(f"{self._info.name}: has no pictures to play again")
            self._start_again()
            return self.read(timeout_s)
        index = self.decoded
        self.decoded += 1
        pts_s = None if picture.pts_s is None else picture.pts_s + self._round_start_s
        self._note_time(pts_s)
        return dataclasses.replace(picture, index=index, pts_s=pts_s)

    def close(self) -> None:
        """Close the reader of this round."""
        self._reader.close()

    def _start_again(self) -> None:
        self._earlier_errors += self._reader.errors
        self._reader.close()
        self._round_start = self.decoded
        self._round_start_s = self._next_s or 0.0
        self._reader = self._open_reader()

    def _note_time(self, pts_s: float | None) -> None:
        """Keep when the next round starts: one period after the last picture."""
        if pts_s is not None:
            rate = float(self._info.fps) or 25.0
            self._next_s = pts_s + 1.0 / rate
