"""`Spool`: results that the controller has not acknowledged, so that none is lost while it is away.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vdag.control import wire
from vdag.errors import ConfigError

__all__ = ["Spool", "SpoolStats"]

logger = logging.getLogger(__name__)

#: The tail becomes a segment when it has so many bytes, or results.
SEGMENT_NBYTES = 1 << 20
SEGMENT_RESULTS = wire.MAX_RESULTS
#: Of all segments together, by default.
LIMIT_NBYTES = 64 << 20
MAGIC = b"VSPL\x01"
_CRC_NBYTES = 4
SUFFIX = ".spool"
#: A segment that exceeds this was not written by a spool.
MAX_SEGMENT_NBYTES = 4 * (SEGMENT_NBYTES + wire.MAX_DOCUMENT_NBYTES)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[wire.Result])


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """How much waits, and what was lost.

    Attributes:
        results: in memory.
        segments: files.
        nbytes: of both.
        dropped: results that were thrown away because there were too many, or could not be read.
    """

    results: int
    segments: int
    nbytes: int
    dropped: int


class Spool:
    """See above; for one thread.

    Args:
        folder: for the segments, which exists and is this node's own; None to keep no more than
            fits into memory, that is two segments.
        limit_nbytes: of all segments together.
    """

    def __init__(self, folder: Path | None = None, *, limit_nbytes: int = LIMIT_NBYTES) -> None:
        self._folder, self._limit_nbytes = folder, limit_nbytes
        self._head: deque[wire.Result] = deque()
        self._tail: deque[wire.Result] = deque()
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
        return len(self._head) + len(self._tail)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, neither in memory nor in files."""
        return not (self._head or self._tail or self._segments)

    def has(self, job_uid: str, run: str) -> bool:
        """Whether results wait that a job has found in a run and that were added to this spool."""
        return self._of_job[job_uid, run] > 0

    def add(self, result: wire.Result) -> None:
        """Keep a result until it is acknowledged."""
        self._of_job[result.job_uid, result.run] += 1
        self._tail.append(result)
        self._tail_nbytes += _nbytes(result)
        if self._tail_nbytes < SEGMENT_NBYTES and len(self._tail) < SEGMENT_RESULTS:
            return
        if not self._head and not self._segments:
            self._advance()
        elif self._folder is not None:
            self._write()
        else:
            self._drop_head()

    def batch(self, limit_nbytes: int) -> list[wire.Result]:
        """Return the oldest results, at most so many bytes, but at least one if there is any."""
        if not self._head:
            self._advance()
        found: list[wire.Result] = []
        nbytes = 0
        for result in self._head:
            nbytes += _nbytes(result)
            if found and (nbytes > limit_nbytes or len(found) == wire.MAX_RESULTS):
                break
            found.append(result)
        return found

    def acknowledge(self, results: Sequence[wire.Result]) -> None:
        """Forget results that are recorded: a batch, or the beginning of one."""
        done = []
        for result in results:
            # Some of them may have been thrown away meanwhile.
            if self._head and self._head[0] is result:
                self._head_nbytes -= _nbytes(self._head.popleft())
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

    def _let_go(self, results: Iterable[wire.Result]) -> None:
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
            self._head_nbytes = sum(map(_nbytes, self._head))
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
            logger.error("%d results are lost: %s", len(self._tail), err)
            self._dropped += len(self._tail)
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
            lost = self._read(path)
            self._dropped += len(lost)
            self._let_go(lost)
            logger.warning(
                "%d results are thrown away: too many wait for the controller", len(lost)
            )
            path.unlink(missing_ok=True)

    def _drop_head(self) -> None:
        self._dropped += len(self._head)
        self._let_go(self._head)
        logger.warning(
            "%d results are thrown away: too many wait for the controller", len(self._head)
        )
        self._head.clear()
        self._advance()

    def _read(self, path: Path) -> list[wire.Result]:
        """Return the results in a segment; none if it is broken, which is said."""
        try:
            return _read(path)
        except (OSError, ConfigError) as err:
            logger.warning("spooled results are lost: %s", err)
            self._of_job.clear()  # nobody knows whose they were, and none may wait for ever
            return []


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _nbytes(result: wire.Result) -> int:
    """Return what a result takes in a message, roughly."""
    return len(result.document) + len(result.job_uid) + len(result.run) + 16


def _read(path: Path) -> list[wire.Result]:
    if (size := path.stat().st_size) > MAX_SEGMENT_NBYTES:
        raise ConfigError(f"segment {path} of {size} bytes exceeds limit {MAX_SEGMENT_NBYTES}")
    data = path.read_bytes()
    start = len(MAGIC) + _CRC_NBYTES
    crc = int.from_bytes(data[len(MAGIC) : start], "little")
    if data[: len(MAGIC)] != MAGIC or zlib.crc32(data[start:]) != crc:
        raise ConfigError(f"segment {path} is broken")
    try:
        return _DECODER.decode(data[start:])
    except msgspec.DecodeError as err:
        raise ConfigError(f"segment {path} is broken: {err}") from err
