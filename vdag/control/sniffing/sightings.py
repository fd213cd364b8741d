"""What one frame adds to the run-time context: its times, and the objects in it; values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag.results import Outputs, Result

__all__ = ["FULL_HD", "MAX_TIME_S", "Boxes", "Objects", "Sighting", "TaskSighting", "objects_in"]

Boxes = NDArray[np.float32]

#: Width and height of the picture that sizes and speeds are told for, whatever was sent.
FULL_HD = (1920, 1080)
#: A larger box is no box.
MAX_AREA = 1e12
#: More objects than this are not counted.
MAX_COUNT = 1_000_000
#: What no frame takes: other nodes tell their times, and may tell anything.
MAX_TIME_S = 3600.0


# Named tuples, which are made faster than other values: one per frame, and one per task of it.


class Objects(NamedTuple):
    """The objects of one frame.

    Attributes:
        n: how many.
        size: mean area of their boxes, in square pixels of the frame that was looked at; None
            if there is no box whose corners are numbers.
        boxes: float32 `(n, C)`, C >= 4, first xyxy in pixels of that frame, as the task gave them;
            None if it only counts. Read only: they are the result's.
    """

    n: int
    size: float | None = None
    boxes: Boxes | None = None


class TaskSighting(NamedTuple):
    """Where a frame's time at one task went, in seconds from 0 to `MAX_TIME_S`; see `TaskParts`."""

    task: str
    compute_s: float
    queue_s: float
    transfer_s: float
    nbytes: int
    batch: int = 1


class Sighting(NamedTuple):
    """What one frame adds to the run-time context.

    Attributes:
        at_s: when its result came, `time.monotonic()`.
        seq: its number among the frames taken from the video.
        plan: number of the plan that it was made under.
        delay_s: from its capture to its result, from 0 to `MAX_TIME_S`.
        home_s: of it from the last task home, likewise.
        pixels: of the frame that was looked at.
        tasks: where the time went.
        objects: in it; None if its tasks look for none.
        speed: of its fastest object since the frame before, in pixels per second at 1080p; None if
            it is not known.
        is_cut: the scene is another one than that of the frame before.
    """

    at_s: float
    seq: int
    plan: int
    delay_s: float
    home_s: float
    pixels: int
    tasks: tuple[TaskSighting, ...]
    objects: Objects | None = None
    speed: float | None = None
    is_cut: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing in it that could have moved."""
        return self.speed is not None and self.objects is not None and not self.objects.n

    @classmethod
    def of(
        cls,
        result: Result,
        now_s: float,
        objects: Objects | None,
        speed: float | None,
        is_cut: bool,
    ) -> Sighting:
        """Return what a result adds, with what was seen in it."""
        return cls(
            now_s,
            result.seq,
            result.plan,
            _time(result.delay_s),
            _time(result.home_s),
            result.width * result.height,
            tuple(
                [
                    TaskSighting(
                        task,
                        _time(parts.compute_s),
                        _time(parts.queue_s),
                        _time(parts.transfer_s),
                        parts.nbytes,
                        parts.batch,
                    )
                    for task, parts in result.parts.items()
                ]
            ),
            objects,
            speed,
            is_cut,
        )


def objects_in(outputs: Iterable[Outputs]) -> Objects | None:
    """Return the objects that the first task which looks for any has found.

    Boxes count, `bbox` or the rows of `result`; without them, `count_result`: its `total` (the
    documents' face counts), else the sum over its kinds.
    """
    for fields in outputs:
        for name in ("bbox", "result"):
            boxes = fields.get(name)
            if isinstance(boxes, np.ndarray) and _are_boxes(boxes):
                return _boxed(boxes.astype(np.float32, copy=False))
        counts = fields.get("count_result")
        if isinstance(counts, Mapping):
            numbers = [int(n) for n in counts.values() if isinstance(n, (int, np.integer))]
            total = counts.get("total")
            if isinstance(total, (int, np.integer)):
                numbers = [int(total)]
            return Objects(min(max(sum(numbers), 0), MAX_COUNT))
    return None


def _are_boxes(array: NDArray[Any]) -> bool:
    return array.ndim == 2 and array.shape[1] >= 4 and array.dtype.kind in "fiu"


def _boxed(boxes: Boxes) -> Objects:
    with_area, size = native.motion.mean_area(boxes, largest=MAX_AREA)
    return Objects(len(boxes), size if with_area else None, boxes)


def _time(value_s: float) -> float:
    """Return a time, or the nearest one that makes sense."""
    return value_s if 0.0 <= value_s <= MAX_TIME_S else MAX_TIME_S if value_s > 0.0 else 0.0
