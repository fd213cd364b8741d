"""`Tally`: adds frames up to a `Summary`. It keeps numbers, no frames, a hundred bytes for each."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vdag.control.tracing.frames import PARTS, Frame, Part

__all__ = ["Figures", "FrameKey", "Summary", "Tally", "figures_of"]

#: Frames that are named as the slowest.
SLOWEST = 5


class Figures(NamedTuple):
    """What many lengths come to; percentiles by nearest rank, so that each is one of them."""

    frames: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


class FrameKey(NamedTuple):
    """Names a frame, with its delay."""

    delay_s: float
    sequence: int
    run: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What frames come to.

    Attributes:
        frames: all of them.
        whole: that came to their end; the delays are of these.
        delay: from the source to the end; None if no frame came there.
        parts: by handler and part in their orders, of the frames that have such a part on their
            way; without those that took no time, ever.
        slowest: whole frames, the slowest first.
        typical: the whole frame with the median delay; None without any.
        unfinished: others, by handler and event of their last row.
        skewed: frames in which an end was before its begin.
        ignored: rows that were passed over.
        since_s: when the first frame was born, seconds since the epoch; 0 without frames.
        until_s: when the last one was done.
    """

    frames: int
    whole: int
    delay: Figures | None
    parts: Mapping[tuple[int, Part], Figures]
    slowest: Sequence[FrameKey]
    typical: FrameKey | None
    unfinished: Mapping[tuple[int, str], int]
    skewed: int
    ignored: int
    since_s: float
    until_s: float


class Tally:
    """See above; frames come in any order."""

    def __init__(self) -> None:
        self._frames = self._skewed = self._ignored = 0
        self._since_s, self._until_s = float("inf"), 0.0
        self._delays = array("d")
        self._keys = array("q"), array("l")
        self._parts: dict[tuple[int, Part], array[float]] = {}
        self._unfinished: Counter[tuple[int, str]] = Counter()

    def add(self, frame: Frame) -> None:
        """Count a frame."""
        self._frames += 1
        self._skewed += frame.skewed > 0
        self._ignored += frame.ignored
        self._since_s = min(self._since_s, frame.born_s)
        self._until_s = max(self._until_s, frame.done_s)
        if not frame.is_whole:
            self._unfinished[frame.last] += 1
            return
        self._delays.append(frame.delay_s)
        self._keys[0].append(frame.sequence)
        self._keys[1].append(frame.run)
        for key, length_s in parts_of(frame).items():
            lengths = self._parts.get(key)
            if lengths is None:
                lengths = self._parts[key] = array("d")
            lengths.append(length_s)

    @property
    def delays_s(self) -> Sequence[float]:
        """The delays of the whole frames, as they came."""
        return self._delays

    def summary(self) -> Summary:
        """Return what all frames so far come to."""
        order = sorted(range(len(self._delays)), key=self._delays.__getitem__)
        slowest = heapq.nlargest(SLOWEST, map(self._key, order[-SLOWEST:]))
        return Summary(
            self._frames,
            len(self._delays),
            figures_of(self._delays) if self._delays else None,
            {
                key: figures_of(self._parts[key])
                for key in sorted(self._parts, key=_in_order)
                if any(self._parts[key])
            },
            slowest,
            self._key(order[rank(50, len(order))]) if order else None,
            dict(self._unfinished.most_common()),
            self._skewed,
            self._ignored,
            self._since_s if self._frames else 0.0,
            self._until_s,
        )

    def _key(self, index: int) -> FrameKey:
        return FrameKey(self._delays[index], self._keys[0][index], self._keys[1][index])


def _in_order(key: tuple[int, Part]) -> tuple[int, int]:
    return key[0], PARTS.index(key[1])


def parts_of(frame: Frame) -> dict[tuple[int, Part], float]:
    """Return the lengths of the spans on a frame's way, added up by handler and part."""
    found: dict[tuple[int, Part], float] = {}
    for span in frame.spans():
        key = (span.handler_id, span.part)
        found[key] = found.get(key, 0.0) + (span.end_s - span.begin_s)
    return found


def figures_of(lengths_s: Iterable[float]) -> Figures:
    """Return the figures of at least one length."""
    ordered = sorted(lengths_s)
    count = len(ordered)
    return Figures(
        count,
        sum(ordered) / count,
        ordered[rank(50, count)],
        ordered[rank(95, count)],
        ordered[rank(99, count)],
        ordered[-1],
    )


def rank(percent: int, count: int) -> int:
    """Return the index of a percentile in sorted values: the first that so many do not exceed."""
    return max(0, -(-percent * count // 100) - 1)
