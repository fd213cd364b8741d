"""Side by side: what vdag does and what a user would otherwise pick, interleaved in one run.

Machines are noisy and drift. So the two sides take turns, round by round, and the figure that is
reported is the median of the per-round ratios, not the ratio of two averages.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
SCALE = {"s": 1.0, "ms": 1e3, "us": 1e6}
#: A round shorter than this is dominated by the clock and the scheduler: such calls are repeated.
ROUND_S = 0.02

Side = tuple[str, Callable[[], Any]]


@dataclass(frozen=True)
class Comparison:
    """One line of the report.

    Attributes:
        name: `<group>.<case>`.
        subject: what is vdag's.
        against: what it is held against.
        ratio: how many times better the subject is; above 1 it wins.
        p50: median of the subject, per call, in `unit`.
        p99: likewise the 99th percentile; with few rounds the worst one.
        unit: of p50 and p99.
        runs: rounds measured.
    """

    name: str
    subject: str
    against: str
    ratio: float
    p50: float
    p99: float
    unit: str
    runs: int

    def __str__(self) -> str:
        return (
            f"{self.name:<40} {self.ratio:7.2f}x  {self.subject} {self.p50:.3f} {self.unit}"
            f" (p99 {self.p99:.3f}) against {self.against}, {self.runs} runs"
        )


def quantile(values: list[float], q: float) -> float:
    """Return the value that a share `q` of `values` does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)]


def repetitions(function: Callable[[], Any]) -> int:
    """Return how often to call `function` per round, after warming it up."""
    function()
    start = time.perf_counter()
    function()
    return max(1, math.ceil(ROUND_S / max(time.perf_counter() - start, 1e-7)))


def repeat(function: Callable[[], Any], times: int) -> None:
    """Call `function` so often."""
    for _ in range(times):
        function()


def seconds_per_call(function: Callable[[], Any], times: int) -> float:
    """Measure the wall time of one call, over `times` calls."""
    start = time.perf_counter()
    repeat(function, times)
    return (time.perf_counter() - start) / times


def paired(
    name: str,
    subject: str,
    against: str,
    *,
    subject_s: list[float],
    against_s: list[float],
    unit: str = "ms",
) -> Comparison:
    """Make the line of two lists of figures, one entry per round and lower is better."""
    ratios = [theirs / ours for ours, theirs in zip(subject_s, against_s, strict=True)]
    scale = SCALE[unit]
    return Comparison(
        name,
        subject,
        against,
        round(statistics.median(ratios), 3),
        round(quantile(subject_s, 0.5) * scale, 4),
        round(quantile(subject_s, 0.99) * scale, 4),
        unit,
        len(ratios),
    )


def save(comparisons: list[Comparison]) -> None:
    """Merge the lines into `benchmarks/results.json`: a name measured again replaces its line."""
    lines = (
        {line["name"]: line for line in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    )
    lines |= {comparison.name: asdict(comparison) for comparison in comparisons}
    RESULTS.write_text(json.dumps([lines[name] for name in sorted(lines)], indent=2) + "\n")
