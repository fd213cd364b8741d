"""Counters and latency histograms, cheap enough for every frame.

A histogram has a fixed number of buckets whose bounds grow by 2 %, so a quantile read from it is
within 2 % of the exact one and its memory never grows.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Histogram", "Summary"]

GROWTH = 1.02
LOWEST_NS = 1_000
HIGHEST_NS = 3_600_000_000_000


def _bounds() -> list[int]:
    bounds = [LOWEST_NS]
    while bounds[-1] < HIGHEST_NS:
        bounds.append(int(bounds[-1] * GROWTH) + 1)
    return bounds


#: Upper bounds in ns, shared by all histograms so that two of them can be added.
BOUNDS_NS = _bounds()


@dataclass(frozen=True, slots=True)
class Summary:
    """What a histogram held when it was asked; all times in seconds."""

    count: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


class Histogram:
    """Counts of durations between 1 us and 1 h; shorter and longer ones fall into the end buckets.

    One thread at a time may call `observe`; readers see a value that is at most one short.
    """

    __slots__ = ("_buckets", "_count", "_max_ns", "_total_ns")

    def __init__(self, durations_ns: Iterable[int] = ()) -> None:
        self._buckets = [0] * (len(BOUNDS_NS) + 1)
        self._count = 0
        self._total_ns = 0
        self._max_ns = 0
        for duration_ns in durations_ns:
            self.observe(duration_ns)

    def observe(self, duration_ns: int) -> None:
        """Count one duration; a negative one, which no monotonic clock gives, counts as 0."""
        duration_ns = max(duration_ns, 0)
        self._buckets[bisect.bisect_left(BOUNDS_NS, duration_ns)] += 1
        self._count += 1
        self._total_ns += duration_ns
        self._max_ns = max(self._max_ns, duration_ns)

    @property
    def count(self) -> int:
        """Durations observed so far."""
        return self._count

    def copy(self) -> Histogram:
        """Return a histogram that stays as this one is now."""
        copy = Histogram.__new__(Histogram)
        copy._buckets = self._buckets.copy()
        copy._count, copy._total_ns, copy._max_ns = self._count, self._total_ns, self._max_ns
        return copy

    def quantile_s(self, q: float) -> float:
        """Return the duration in seconds that a share `q` of all does not exceed; 0 when empty."""
        return self._quantiles_s(q)[0]

    def summary(self) -> Summary:
        """Return count, mean, quantiles and maximum."""
        mean_s = self._total_ns / self._count / 1e9 if self._count else 0.0
        p50_s, p95_s, p99_s = self._quantiles_s(0.5, 0.95, 0.99)
        return Summary(self._count, mean_s, p50_s, p95_s, p99_s, self._max_ns / 1e9)

    def _quantiles_s(self, *shares: float) -> list[float]:
        # Sums and search are C; a loop over the buckets here would hold up every thread for 1 ms.
        seen = list(itertools.accumulate(self._buckets))
        found = []
        for share in shares:
            index = bisect.bisect_left(seen, max(share * self._count, 1))
            bound_ns = BOUNDS_NS[index] if index < len(BOUNDS_NS) else self._max_ns
            found.append(min(bound_ns, self._max_ns) / 1e9)
        return found
