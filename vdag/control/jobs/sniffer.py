"""`Sniffer`: what a job has seen lately, the documents' run-time context.

A window of frames is summed up when somebody looks: `delay` in seconds, `obj_n` and `obj_size` as
means over its frames, `obj_stable`: whether the number of objects stays the same, and per task
where the time went. A frame without objects is an ordinary one: it counts as 0 of no size.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vdag.results import Outputs, Result, TaskParts

__all__ = ["MAX_FRAMES", "Objects", "Sighting", "Sniffer", "objects_in"]

#: Frames of a window, unless another number is given.
MAX_FRAMES = 512
#: The documents' bound of the deviation of `obj_n` within a window.
STABLE_DEVIATION = 0.3
#: What sizes are compared at.
FULL_HD_PIXELS = 1920 * 1080


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one frame.

    Attributes:
        n: how many.
        size: mean area of their boxes, in square pixels of the frame that was looked at; None
            if there is no box.
    """

    n: int
    size: float | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one frame adds to the run-time context.

    Attributes:
        delay_s: from its capture to its result.
        objects: in it; None if its tasks look for none.
        pixels: of the frame that was looked at.
        parts: task name to where the time went.
    """

    delay_s: float
    objects: Objects | None
    pixels: int
    parts: Mapping[str, TaskParts]

    @classmethod
    def of(cls, result: Result) -> Sighting:
        """Return what a result adds."""
        pixels = result.width * result.height
        return cls(result.delay_s, objects_in(result.outputs.values()), pixels, result.parts)


def objects_in(outputs: Iterable[Outputs]) -> Objects | None:
    """Return the objects that the first task which looks for any has found.

    Boxes count, `bbox` or the rows of `result`; without them, `count_result`: its `total` (the
    documents' face counts), else the sum over its kinds.
    """
    for fields in outputs:
        for name in ("bbox", "result"):
            boxes = fields.get(name)
            if isinstance(boxes, np.ndarray) and boxes.ndim == 2 and boxes.shape[1] >= 4:
                return _boxed(boxes)
        counts = fields.get("count_result")
        if isinstance(counts, Mapping):
            numbers = [int(n) for n in counts.values() if isinstance(n, (int, np.integer))]
            return Objects(int(counts["total"]) if "total" in counts else sum(numbers))
    return None


class Sniffer:
    """One reader's window onto a job; not for several threads at once.

    Args:
        frames: that it holds; the oldest are forgotten for new ones.
    """

    def __init__(self, frames: int = MAX_FRAMES) -> None:
        self._sightings: deque[Sighting] = deque(maxlen=frames)
        self._latest: dict[str, Any] = {}

    @property
    def has_news(self) -> bool:
        """Whether a frame was observed since `describe`."""
        return bool(self._sightings)

    def observe(self, sighting: Sighting) -> None:
        """Add a frame."""
        self._sightings.append(sighting)

    def peek(self) -> dict[str, Any]:
        """Return what `describe` would, and leave the window as it is."""
        return _describe(list(self._sightings)) if self._sightings else dict(self._latest)

    def describe(self) -> dict[str, Any]:
        """Return the context of the frames since the last call, and begin a new window.

        Returns:
            `delay`, `obj_n`, `obj_size`, `obj_stable` and `plan_result` as documented, and
            `obj_size_1080p`: the size as it were at 1920x1080; `frames`: of the window;
            `delay_p95`. Without new frames what was returned last, `{}` if there never were any.
        """
        if self._sightings:
            self._latest = _describe(list(self._sightings))
            self._sightings.clear()
        return dict(self._latest)


def _boxed(boxes: np.ndarray[Any, Any]) -> Objects:
    if not len(boxes):
        return Objects(0)
    sides = np.maximum(boxes[:, 2:4] - boxes[:, 0:2], 0)
    size = float(np.mean(sides[:, 0] * sides[:, 1]))
    return Objects(len(boxes), size if math.isfinite(size) else None)


def _describe(sightings: list[Sighting]) -> dict[str, Any]:
    delays = sorted(sighting.delay_s for sighting in sightings)
    context: dict[str, Any] = {
        "delay": statistics.fmean(delays),
        "delay_p95": delays[math.ceil(0.95 * len(delays)) - 1],
        "frames": len(sightings),
    }
    counts = [s.objects.n for s in sightings if s.objects is not None]
    if counts:
        context["obj_n"] = statistics.fmean(counts)
        context["obj_stable"] = statistics.pstdev(counts) < STABLE_DEVIATION
    sizes = [
        (s.objects.size, s.objects.size * FULL_HD_PIXELS / max(s.pixels, 1))
        for s in sightings
        if s.objects is not None and s.objects.size is not None
    ]
    if counts:
        context["obj_size"] = statistics.fmean(size for size, _ in sizes) if sizes else 0.0
        context["obj_size_1080p"] = statistics.fmean(size for _, size in sizes) if sizes else 0.0
    context["plan_result"] = _plan_result(sightings)
    return context


def _plan_result(sightings: list[Sighting]) -> dict[str, dict[str, float]]:
    """Return the means per task, in seconds, under the documents' names and our own."""
    parts: dict[str, list[TaskParts]] = {}
    for sighting in sightings:
        for task, part in sighting.parts.items():
            parts.setdefault(task, []).append(part)
    columns = {
        "delay": lambda part: part.total_s,
        "process_delay": lambda part: part.compute_s,
        "queue_delay": lambda part: part.queue_s,
        "transfer_delay": lambda part: part.transfer_s,
    }
    return {
        name: {task: statistics.fmean(map(value, found)) for task, found in parts.items()}
        for name, value in columns.items()
    }
