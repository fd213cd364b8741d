"""`Cost`: what a task takes of a node for one frame, and `CostTable`: that over resolutions.

A cost has a part that every frame pays and a part for each object, because aligning twenty faces
takes twenty times as long as aligning one, while finding them takes as long as finding none.

A worker that has several frames before it works on them together. On a GPU a batch takes less than
its frames one by one, so what a frame takes (`compute_s`, its delay) and what it takes of the
worker (`busy_s`, which says how many frames there is room for) are two things.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS, parse_resolution

__all__ = [
    "MAX_BATCH",
    "MAX_COMPUTE_S",
    "MAX_NBYTES",
    "MAX_SAMPLES",
    "MIN_COMPUTE_S",
    "BatchPoint",
    "Cost",
    "CostTable",
    "blend",
    "pixels_of",
]

#: No frame takes less; it also keeps ratios of costs finite.
MIN_COMPUTE_S = 1e-6
#: A frame that takes longer is given up long before.
MAX_COMPUTE_S = 600.0
MAX_NBYTES = 1 << 40
#: More samples than this count as this many, so that old knowledge can still be outweighed.
MAX_SAMPLES = 1_000_000
#: Frames of a batch, and sizes of batches that are known of one cost.
MAX_BATCH, MAX_BATCHES = 256, 32
#: What a frame takes of a worker, over what it takes alone: no batch saves more.
LEAST_SHARE = 1e-3
#: Share of a cost that does not grow with the pixels, where only one resolution is known.
FIXED_SHARE = 0.25


class BatchPoint(NamedTuple):
    """What batches of one size take of a worker, with as many objects as the cost is measured with.

    Attributes:
        batch: frames of each.
        seconds: from the end of one to the end of the next, while there is always a next.
        mem_nbytes: of the worker, resident; 0 for unknown.
        device_nbytes: that it takes of a GPU's memory; 0 for unknown.
    """

    batch: int
    seconds: float
    mem_nbytes: int = 0
    device_nbytes: int = 0

    def scaled(self, factor: float) -> BatchPoint:
        """Return what they take where all takes `factor` times as long."""
        return self._replace(seconds=_bounded(self.seconds * factor))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one worker takes for one frame: `compute_s + per_object_s * obj_n`.

    Attributes:
        compute_s: mean seconds of a frame without objects.
        compute_p95_s: the seconds that 95 % of such frames do not exceed.
        per_object_s: seconds that each object adds to both.
        mem_nbytes: of a worker, resident.
        out_nbytes: mean bytes of the task's results as they travel; 0 for unknown.
        samples: frames that this was measured on; 0 for predicted.
        obj_n: objects per frame while it was measured.
        compute_p50_s: median, of a frame without objects; 0 for unknown.
        compute_p99_s: likewise what 99 % do not exceed.
        batches: what batches take, by size, the smallest first; empty for unknown.
    """

    compute_s: float
    compute_p95_s: float
    per_object_s: float = 0.0
    mem_nbytes: int = 0
    out_nbytes: int = 0
    samples: int = 0
    obj_n: float = 0.0
    compute_p50_s: float = 0.0
    compute_p99_s: float = 0.0
    batches: tuple[BatchPoint, ...] = ()

    def mean_s(self, obj_n: float | None = None) -> float:
        """Return the mean seconds of a frame with `obj_n` objects, None for as many as measured."""
        return self.compute_s + self.per_object_s * (self.obj_n if obj_n is None else obj_n)

    def p95_s(self, obj_n: float | None = None) -> float:
        """Return the seconds that 95 % of frames with `obj_n` objects do not exceed."""
        return self.compute_p95_s + self.per_object_s * (self.obj_n if obj_n is None else obj_n)

    @property
    def busy_share(self) -> float:
        """What a frame of the best batch takes of a worker over what one alone takes, at most 1."""
        if not self.batches:
            return 1.0
        alone_s = self.mean_s()
        best = min(point.seconds / (point.batch * alone_s) for point in self.batches)
        return min(max(best, LEAST_SHARE), 1.0)

    @property
    def busy_s(self) -> float:
        """Mean seconds that a frame without objects takes of a worker, in the best batch.

        It says how many frames there is room for; `compute_s` is what a frame waits for its result.
        """
        return self.compute_s * self.busy_share

    def stretch(self, batch: float) -> float:
        """Return how many times as long a batch takes as a frame alone.

        Between sizes that are known it is linear, and beyond them more frames take as much more.
        Where none are known it is 1: what a batch took then counts as what a frame takes.
        """
        if batch <= 1.0 or not self.batches:
            return 1.0
        alone_s, below, ratio = self.mean_s(), 1.0, 1.0
        for point in self.batches:
            if point.batch == 1:
                continue  # a frame alone is what others are compared with
            at = point.seconds / alone_s
            if point.batch >= batch:
                return ratio + (at - ratio) * (batch - below) / (point.batch - below)
            below, ratio = float(point.batch), at
        return ratio * batch / below

    def busy_at(self, seconds: float, batch: float = 1.0) -> float:
        """Return what a frame takes of a worker in the best batch, from what was measured.

        Args:
            seconds: that batches took.
            batch: mean of the frames that were in one.
        """
        return seconds / self.stretch(batch) * self.busy_share

    def scaled(self, factor: float) -> Cost:
        """Return the cost on a machine that takes `factor` times as long."""
        return replace(
            self,
            compute_s=_bounded(self.compute_s * factor),
            compute_p95_s=_bounded(self.compute_p95_s * factor),
            per_object_s=min(self.per_object_s * factor, MAX_COMPUTE_S),
            compute_p50_s=min(self.compute_p50_s * factor, MAX_COMPUTE_S),
            compute_p99_s=min(self.compute_p99_s * factor, MAX_COMPUTE_S),
            batches=tuple(point.scaled(factor) for point in self.batches),
        )

    def merged(self, other: Cost) -> Cost:
        """Return the mean of two costs, weighted by their samples; quantiles likewise."""
        total = self.samples + other.samples
        mixed = blend(self, other, other.samples / total if total else 0.5)
        return replace(mixed, samples=min(total, MAX_SAMPLES))


def blend(first: Cost, second: Cost, share: float) -> Cost:
    """Return what lies between two costs: the first at a `share` of 0, the second at 1."""

    def mix(a: float, b: float) -> float:
        return a + (b - a) * share

    mixed = Cost(
        mix(first.compute_s, second.compute_s),
        mix(first.compute_p95_s, second.compute_p95_s),
        mix(first.per_object_s, second.per_object_s),
        round(mix(first.mem_nbytes, second.mem_nbytes)),
        round(mix(first.out_nbytes, second.out_nbytes)),
        min(first.samples, second.samples),
        mix(first.obj_n, second.obj_n),
        mix(first.compute_p50_s, second.compute_p50_s),
        mix(first.compute_p99_s, second.compute_p99_s),
    )
    if not (first.batches or second.batches):
        return mixed
    return replace(mixed, batches=tuple(_blended(first, second, mixed, share)))


def _blended(first: Cost, second: Cost, mixed: Cost, share: float) -> Iterator[BatchPoint]:
    """Yield the batches of what lies between: sizes that both know, else those that one knows."""
    theirs = {point.batch: point for point in second.batches}
    both = [(point, theirs[point.batch]) for point in first.batches if point.batch in theirs]
    if not both:
        known = first if first.batches else second
        both = [(point, point) for point in known.batches]
        first = second = known
    for a, b in both:
        # Of each as many times what a frame alone takes: so a factor between the two stays one.
        here, there = a.seconds / first.mean_s(), b.seconds / second.mean_s()
        yield BatchPoint(
            a.batch,
            _bounded((here + (there - here) * share) * mixed.mean_s()),
            round(a.mem_nbytes + (b.mem_nbytes - a.mem_nbytes) * share),
            round(a.device_nbytes + (b.device_nbytes - a.device_nbytes) * share),
        )


@lru_cache(maxsize=1024)
def pixels_of(resolution: str) -> int:
    """Return the pixels of a resolution; `native` counts as the largest that has a name.

    Raises:
        ConfigError: it is no resolution.
    """
    size = parse_resolution(resolution) or RESOLUTIONS["1080p"]
    return size[0] * size[1]


class CostTable:
    """Costs of one model of a task on one kind of node, by resolution."""

    __slots__ = ("_costs", "_pixels", "resolutions")

    def __init__(self) -> None:
        self._pixels: list[int] = []
        self._costs: dict[int, Cost] = {}
        #: Pixels to the resolution's name.
        self.resolutions: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._pixels)

    def __iter__(self) -> Iterator[tuple[str, Cost]]:
        for pixels in self._pixels:
            yield self.resolutions[pixels], self._costs[pixels]

    def put(self, resolution: str, cost: Cost) -> None:
        """Set the cost at a resolution."""
        pixels = pixels_of(resolution)
        if pixels not in self._costs:
            insort(self._pixels, pixels)
            self.resolutions[pixels] = resolution
        self._costs[pixels] = cost

    def at(self, pixels: int) -> Cost | None:
        """Return the cost that is known at this size, None if it is not."""
        return self._costs.get(pixels)

    def encloses(self, pixels: int) -> bool:
        """Whether there is a cost at this size, or at a smaller one and at a larger one."""
        return bool(self._pixels) and self._pixels[0] <= pixels <= self._pixels[-1]

    def nearest(self, pixels: int) -> int:
        """Return the known size that is nearest to one, in pixels; the table is not empty."""
        return min(self._pixels, key=lambda known: abs(math.log(known / pixels)))

    def predict(self, pixels: int) -> Cost:
        """Return the cost at any size; the table is not empty.

        Between two known sizes it is linear in the pixels. Beyond them it goes on along the line
        through the last two, but never falls faster nor rises faster than the pixels do.
        """
        if (found := self._costs.get(pixels)) is not None:
            return found
        index = bisect_left(self._pixels, pixels)
        if 0 < index < len(self._pixels):
            below, above = self._pixels[index - 1 : index + 1]
            share = (pixels - below) / (above - below)
            return replace(blend(self._costs[below], self._costs[above], share), samples=0)
        return self._beyond(pixels, 0 if index == 0 else -1)

    def _beyond(self, pixels: int, end: int) -> Cost:
        edge = self._pixels[end]
        known, ratio = self._costs[edge], pixels / edge
        factor = FIXED_SHARE + (1 - FIXED_SHARE) * ratio
        if len(self._pixels) > 1:
            inner = self._pixels[1 if end == 0 else -2]
            rise = (known.mean_s() - self._costs[inner].mean_s()) / (edge - inner)
            factor = 1 + rise * (pixels - edge) / known.mean_s()
        factor = min(max(factor, min(ratio, 1.0)), max(ratio, 1.0))
        return replace(known.scaled(factor), samples=0)


def check_cost(where: str, cost: Cost) -> None:
    """Raise ConfigError unless every value of a cost is finite and within bounds."""
    for name in ("compute_s", "compute_p95_s"):
        value = getattr(cost, name)
        if not MIN_COMPUTE_S <= value <= MAX_COMPUTE_S:
            raise ConfigError(
                f"{where}: {name} {value:g} is not between {MIN_COMPUTE_S:g} and {MAX_COMPUTE_S:g}"
            )
    for name, limit in (
        ("per_object_s", MAX_COMPUTE_S),
        ("compute_p50_s", MAX_COMPUTE_S),
        ("compute_p99_s", MAX_COMPUTE_S),
        ("mem_nbytes", MAX_NBYTES),
        ("out_nbytes", MAX_NBYTES),
        ("samples", MAX_SAMPLES),
        ("obj_n", 1e6),
    ):
        value = getattr(cost, name)
        if not 0 <= value <= limit:
            raise ConfigError(f"{where}: {name} {value:g} is not between 0 and {limit:g}")
    if len(cost.batches) > MAX_BATCHES:
        raise ConfigError(f"{where}: {len(cost.batches)} batches exceed {MAX_BATCHES}")
    before = 0
    for point in cost.batches:
        _check_batch(where, point)
        if point.batch <= before:
            raise ConfigError(f"{where}: batch {point.batch} does not exceed {before} before it")
        before = point.batch


def _check_batch(where: str, point: BatchPoint) -> None:
    for name, low, high in (
        ("batch", 1, MAX_BATCH),
        ("seconds", MIN_COMPUTE_S, MAX_COMPUTE_S),
        ("mem_nbytes", 0, MAX_NBYTES),
        ("device_nbytes", 0, MAX_NBYTES),
    ):
        value = getattr(point, name)
        if not low <= value <= high:
            raise ConfigError(
                f"{where}: {name} {value:g} of a batch is not between {low:g} and {high:g}"
            )


def _bounded(seconds: float) -> float:
    return min(max(seconds, MIN_COMPUTE_S), MAX_COMPUTE_S)
