"""`Spool`: results that the controller has not acknowledged, so that none is lost while it is away.

`FrameSpool` is the same of what became of frames, which may be more: it keeps less of each.

The oldest are in memory and are sent first. What comes while these wait is gathered behind them;
when that is much, it goes into a file as one *segment*. Segments are read again, oldest first, when
what is before them has been acknowledged. A node that ends writes everything that waits, and one
that starts sends what it finds.

    head (memory)  <-  segments (files)  <-  tail (memory)

A segment is written whole or not at all, and carries its checksum: one that was cut off by a
failing disk is left out. Beyond `limit_nbytes` the oldest segment is thrown away, and counted.
Results carry their own numbers, so that it does no harm to send one twice.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from vdag.control import wire
from vdag.control.wire_log import frame_count
from vdag.errors import ConfigError

__all__ = ["FrameSpool", "Spool", "SpoolStats"]

logger = logging.getLogger(__name__)

#: The tail becomes a segment when it has so many bytes, or results.
SEGMENT_NBYTES = 1 << 20
SEGMENT_RESULTS = wire.MAX_RESULTS
#: Of all segments together, by default.
LIMIT_NBYTES = 64 << 20
FRAMES_LIMIT_NBYTES = 32 << 20
MAGIC = b"VSPL\x01"
_CRC_NBYTES = 4
SUFFIX = ".spool"
#: A segment that exceeds this was not written by a spool.
MAX_SEGMENT_NBYTES = 4 * (SEGMENT_NBYTES + wire.MAX_DOCUMENT_NBYTES)

_ENCODER = msgspec.msgpack.Encoder()
_T = TypeVar("_T", bound=wire.Result | wire.Frames)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[_T]):
    """What is kept.

    Attributes:
        noun: for it, in texts.
        decoder: of a segment.
        nbytes: returns what one takes in a message, roughly.
        count: returns how many it stands for; None for one.
    """

    noun: str
    decoder: msgspec.msgpack.Decoder[Any]
    nbytes: Callable[[_T], int]
    count: Callable[[_T], int] | None = None


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """How much waits, and what was lost.

    Attributes:
        results: in memory; of a `FrameSpool` frames, as below.
        segments: files.
        nbytes: of both.
        dropped: results that were thrown away because there were too many, or could not be read.
    """

    results: int
    segments: int
    nbytes: int
    dropped: int


class _Spool(Generic[_T]):
    """See above; for one thread."""

    def __init__(self, kind: _Kind[_T], folder: Path | None, limit_nbytes: int) -> None:
        self._kind, self._folder, self._limit_nbytes = kind, folder, limit_nbytes
        self._head: deque[_T] = deque()
        self._tail: deque[_T] = deque()
        self._of_job: Counter[tuple[str, str]] = Counter()  # by job and run
        self._head_nbytes = self._tail_nbytes = self._dropped = self._count = 0
        self._segments: deque[tuple[Path, int]] = deque()
        self._loaded: Path | None = None  # the segment that the head was read from
        if folder is not None:
            found = sorted(folder.glob(f"*{SUFFIX}"))
            self._segments.extend((path, path.stat().st_size) for path in found)
            self._count = max((_number(path) for path in found), default=0)
            self._trim()

    def __len__(self) -> int:
        return self._sum(self._head) + self._sum(self._tail)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, neither in memory nor in files."""
        return not (self._head or self._tail or self._segments)

    def has(self, job_uid: str, run: str) -> bool:
        """Whether results wait that a job has found in a run and that were added to this spool."""
        return self._of_job[job_uid, run] > 0

    def add(self, result: _T) -> None:
        """Keep a result until it is acknowledged."""
        self._of_job[result.job_uid, result.run] += 1
        self._tail.append(result)
        self._tail_nbytes += self._kind.nbytes(result)
        if self._tail_nbytes < SEGMENT_NBYTES and len(self._tail) < SEGMENT_RESULTS:
            return
        if not self._head and not self._segments:
            self._advance()
        elif self._folder is not None:
            self._write()
        else:
            self._drop_head()

    def batch(self, limit_nbytes: int) -> list[_T]:
        """Return the oldest results, at most so many bytes, but at least one if there is any."""
        if not self._head:
            self._advance()
        found: list[_T] = []
        nbytes = 0
        for result in self._head:
            nbytes += self._kind.nbytes(result)
            if found and (nbytes > limit_nbytes or len(found) == wire.MAX_RESULTS):
                break
            found.append(result)
        return found

    def acknowledge(self, results: Sequence[_T]) -> None:
        """Forget results that are recorded: a batch, or the beginning of one."""
        done = []
        for result in results:
            # Some of them may have been thrown away meanwhile.
            if self._head and self._head[0] is result:
                self._head_nbytes -= self._kind.nbytes(self._head.popleft())
                done.append(result)
        self._let_go(done)
        if not self._head:
            self._advance()

    def stats(self) -> SpoolStats:
        """Return how much waits."""
        nbytes = self._head_nbytes + self._tail_nbytes + sum(size for _, size in self._segments)
        return SpoolStats(len(self), len(self._segments), nbytes, self._dropped)

    def close(self) -> None:
        """Write what waits, for the next start of the node; without a folder it is lost."""
        if self._folder is None:
            self._dropped += len(self)
            self._head.clear()
            self._tail.clear()
            self._head_nbytes = self._tail_nbytes = 0
            return
        if self._tail:
            self._write()
        # A head that was read from a segment is still in it. Any other is older than all segments,
        # and the number before theirs is free: it was there when there were none.
        if self._head and self._loaded is None:
            first = _number(self._segments[0][0]) if self._segments else self._count + 1
            self._tail, self._tail_nbytes = self._head, self._head_nbytes
            self._head, self._head_nbytes = deque(), 0
            self._write(first - 1)

    def _let_go(self, results: Iterable[_T]) -> None:
        """Count results that wait no more."""
        self._of_job.subtract((each.job_uid, each.run) for each in results)
        self._of_job += Counter()  # forgets the jobs of which nothing waits

    def _advance(self) -> None:
        """Fill the head, which is empty, with what is next."""
        if self._loaded is not None:
            self._loaded.unlink(missing_ok=True)
            self._loaded = None
        while self._segments and not self._head:
            if self._loaded is not None:
                self._loaded.unlink(missing_ok=True)  # it was broken
            path, _ = self._segments.popleft()
            self._head.extend(self._read(path))
            self._head_nbytes = sum(map(self._kind.nbytes, self._head))
            self._loaded = path  # and stays there until all of it is acknowledged
        if not self._head:
            self._head, self._tail = self._tail, self._head
            self._head_nbytes, self._tail_nbytes = self._tail_nbytes, 0

    def _write(self, number: int | None = None) -> None:
        """Make the tail a segment; what cannot be written is lost, and counted."""
        assert self._folder is not None, "the caller has looked"
        if number is None:
            self._count += 1
        path = self._folder / f"{self._count if number is None else number:020d}{SUFFIX}"
        body = _ENCODER.encode(list(self._tail))
        draft = path.with_suffix(".draft")
        try:
            draft.write_bytes(MAGIC + zlib.crc32(body).to_bytes(_CRC_NBYTES, "little") + body)
            draft.replace(path)
        except OSError as err:
            lost = self._sum(self._tail)
            logger.error("%d %s are lost: %s", lost, self._kind.noun, err)
            self._dropped += lost
            self._let_go(self._tail)
        else:
            size = len(MAGIC) + _CRC_NBYTES + len(body)
            entry = path, size
            if number is None:
                self._segments.append(entry)
            else:
                self._segments.appendleft(entry)
        self._tail, self._tail_nbytes = deque(), 0
        self._trim()

    def _trim(self) -> None:
        while sum(size for _, size in self._segments) > self._limit_nbytes:
            path, _ = self._segments.popleft()
            self._throw_away(self._read(path))
            path.unlink(missing_ok=True)

    def _drop_head(self) -> None:
        self._throw_away(self._head)
        self._head.clear()
        self._head_nbytes = 0
        self._advance()

    def _throw_away(self, results: Collection[_T]) -> None:
        lost = self._sum(results)
        self._dropped += lost
        self._let_go(results)
        logger.warning(
            "%d %s are thrown away: too many wait for the controller", lost, self._kind.noun
        )

    def _sum(self, results: Collection[_T]) -> int:
        count = self._kind.count
        return len(results) if count is None else sum(map(count, results))

    def _read(self, path: Path) -> list[_T]:
        """Return the results in a segment; none if it is broken, which is said."""
        try:
            return _read(path, self._kind)
        except (OSError, ConfigError) as err:
            logger.warning("spooled %s are lost: %s", self._kind.noun, err)
            self._of_job.clear()  # nobody knows whose they were, and none may wait for ever
            return []


class Spool(_Spool[wire.Result]):
    """Keeps results; for one thread.

    Args:
        folder: for the segments, which exists and is this node's own; None to keep no more than
            fits into memory, that is two segments.
        limit_nbytes: of all segments together.
    """

    def __init__(self, folder: Path | None = None, *, limit_nbytes: int = LIMIT_NBYTES) -> None:
        super().__init__(_RESULTS, folder, limit_nbytes)


class FrameSpool(_Spool[wire.Frames]):
    """Keeps what became of frames; as `Spool`."""

    def __init__(
        self, folder: Path | None = None, *, limit_nbytes: int = FRAMES_LIMIT_NBYTES
    ) -> None:
        super().__init__(_FRAMES, folder, limit_nbytes)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _result_nbytes(result: wire.Result) -> int:
    return len(result.document) + len(result.job_uid) + len(result.run) + 16


def _frames_nbytes(frames: wire.Frames) -> int:
    return len(frames.columns) + len(frames.job_uid) + len(frames.run) + 64


_RESULTS: _Kind[wire.Result] = _Kind(
    "results", msgspec.msgpack.Decoder(list[wire.Result]), _result_nbytes
)
_FRAMES: _Kind[wire.Frames] = _Kind(
    "frames", msgspec.msgpack.Decoder(list[wire.Frames]), _frames_nbytes, frame_count
)


def _read(path: Path, kind: _Kind[_T]) -> list[_T]:
    if (size := path.stat().st_size) > MAX_SEGMENT_NBYTES:
        raise ConfigError(f"segment {path} of {size} bytes exceeds limit {MAX_SEGMENT_NBYTES}")
    data = path.read_bytes()
    start = len(MAGIC) + _CRC_NBYTES
    crc = int.from_bytes(data[len(MAGIC) : start], "little")
    if data[: len(MAGIC)] != MAGIC or zlib.crc32(data[start:]) != crc:
        raise ConfigError(f"segment {path} is broken")
    try:
        found: list[_T] = kind.decoder.decode(data[start:])
    except msgspec.DecodeError as err:
        raise ConfigError(f"segment {path} is broken: {err}") from err
    return found
