"""Clips: several frames in a row, for tasks that look at motion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vdag.errors import ConfigError
from vdag.frame import Frame
from vdag.sources.address import Video
from vdag.sources.base import SourceStats
from vdag.sources.generator import SingleFrameGenerator

__all__ = ["Clip", "ClipGenerator"]

MAX_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames in a row.

    Attributes:
        stream: name of the source.
        seq: number of the clip, from 0 without gaps.
        frames: at least one, oldest first; whoever holds the clip owns them.
    """

    stream: str
    seq: int
    frames: tuple[Frame, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def release(self) -> None:
        """Give up the leases of all frames."""
        for frame in self.frames:
            frame.release()


class ClipGenerator:
    """Yields a video in clips of `length` frames that do not overlap.

    The last clip has what is left, and may be shorter.

    Args:
        video: as for `SingleFrameGenerator`.
        length: frames of a clip, at most 1024.
        **options: as for `SingleFrameGenerator`; sampling comes before cutting into clips.

    Raises:
        ConfigError: `length` is out of range, or an option has no meaning.
        SourceError: the video cannot be opened.
    """

    def __init__(self, video: Video, *, length: int = 5, **options: Any) -> None:
        if not 1 <= length <= MAX_LENGTH:
            raise ConfigError(f"length of a clip is {length}, expected 1 to {MAX_LENGTH}")
        self.length = length
        self.source = SingleFrameGenerator(video, **options)
        self._frames: list[Frame] = []
        self._seq = 0

    def read(self, timeout_s: float | None = None) -> Clip | None:
        """Return the next clip, None at the end or after `close`.

        Raises:
            SourceTimeout: it was not complete within `timeout_s`; the frames it has are kept, and
                reading may go on.
            SourceError: the video cannot be read further.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while len(self._frames) < self.length:
            left_s = None if deadline_s is None else max(deadline_s - time.monotonic(), 0.0)
            frame = self.source.read(left_s)
            if frame is None:
                break
            self._frames.append(frame)
        if not self._frames:
            return None
        clip = Clip(self.source.name, self._seq, tuple(self._frames))
        self._frames.clear()
        self._seq += 1
        return clip

    def stats(self) -> SourceStats:
        """Return what became of the pictures up to now."""
        return self.source.stats()

    def close(self) -> None:
        """Close the video, and give up the frames of an unfinished clip."""
        self.source.close()
        while self._frames:
            self._frames.pop().release()

    def __iter__(self) -> Iterator[Clip]:
        while (clip := self.read()) is not None:
            yield clip

    def __enter__(self) -> ClipGenerator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
