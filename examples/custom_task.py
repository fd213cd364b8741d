"""A task as a class: how many vehicles are inside a zone of the picture?

    vdag run car_detection,zone_count --tasks examples/custom_task.py --source street.mp4

It takes what `car_detection` has found. A class is for a task that loads something once, or that
works on several frames at a time; for anything simpler see brightness.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vdag


class ZoneCount:
    """Counts the vehicles that stand inside `zone`.

    Takes `image`, for its size, and `result`, the rows of a detector. Gives `inside`, one bool for
    each row, and `count_result`, which is drawn into an annotated video.

    Attributes:
        zone: corners of a polygon, x and y in fractions of the picture: here its lower half.
    """

    signature = vdag.Signature(
        frozenset({"image", "result"}), frozenset({"inside", "count_result"})
    )
    max_batch = 8
    zone = ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0))

    def __init__(self, options: vdag.TaskOptions) -> None:
        del options  # there is no model to choose
        self._corners = np.array(self.zone, np.float32)

    def process(self, batch: Sequence[Any]) -> list[dict[str, Any]]:
        """Count in each frame of the batch."""
        return [self._count(inputs["image"].shape, inputs["result"]) for inputs in batch]

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _count(self, shape: tuple[int, ...], rows: NDArray[np.float32]) -> dict[str, Any]:
        height, width = shape[:2]
        # A vehicle stands where its wheels are: in the middle of the lower edge of its box.
        feet = np.stack([(rows[:, 0] + rows[:, 2]) / 2, rows[:, 3]], axis=1)
        inside = self._contains((feet / (width, height)).astype(np.float32))
        return {"inside": inside, "count_result": {"in zone": int(inside.sum())}}

    def _contains(self, points: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Say of each point whether a ray from it to the right leaves the polygon, net, once."""
        x, y = points[:, :1], points[:, 1:]
        (x1, y1), (x2, y2) = self._corners.T, np.roll(self._corners, -1, axis=0).T
        between = (y1 < y) != (y2 < y)
        with np.errstate(divide="ignore", invalid="ignore"):  # level edges are never `between`
            crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
        crossed: NDArray[np.bool_] = (between & (x < crossing)).sum(axis=1) % 2 == 1
        return crossed


vdag.register("zone_count", ZoneCount)
