"""How large boxes are and how far they have moved, in numpy: what `motion.pyx` must give.

All in float64, which float32 corners fit into without an overflow:

    area   = max(x2 - x1, 0) * max(y2 - y1, 0)
    w, h   = min(x2, x2') - max(x1, x1'), likewise in y; no overlap unless both are above 0
    iou    = w * h / (area + area' - w * h)
    way    = sqrt(dx^2 + dy^2), of the centres ((x1 + x2) / 2, (y1 + y2) / 2) and two factors
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError

__all__ = ["MAX_BOXES", "longest_way", "mean_area"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MAX_BOXES = 1024


def mean_area(boxes: Float32, *, largest: float) -> tuple[int, float]:
    """Return how many boxes have an area, and the mean of it.

    Args:
        boxes: float32 `(N, C)`, of C >= 4 columns the first are x1, y1, x2, y2; any strides.
            Read only.
        largest: area; beyond it, and with a corner that is not finite, a box counts for nothing.

    Returns:
        The number and the mean, 0.0 for the mean of none. A side that ends before it begins is 0.

    Raises:
        ConfigError: the shape or the dtype does not fit.
    """
    _, areas = _corners(boxes, "boxes")
    counted = areas[(areas >= 0.0) & (areas <= largest)]
    return len(counted), float(counted.mean()) if len(counted) else 0.0


def longest_way(
    before: Float32, after: Float32, *, iou: float, x: float = 1.0, y: float = 1.0
) -> tuple[int, float]:
    """Match the boxes of two pictures, and return how far the one that has moved most has.

    Greedy: the two that overlap most are one object, then the two among the others that do, and so
    on. Equal overlaps go by the index in `before`, then by that in `after`. A box with a corner
    that is not finite, or without an area, matches none.

    Args:
        before: as of `mean_area`, at most `MAX_BOXES`.
        after: likewise.
        iou: intersection over union that two boxes of one object have at least, above 0 to 1.
        x: by how much ways along x are multiplied.
        y: likewise.

    Returns:
        How many are matched, and the longest way between the centres of two that are, 0.0 if none.

    Raises:
        ConfigError: a shape, a dtype or a limit does not fit.
    """
    was, was_areas = _corners(before, "before")
    now, now_areas = _corners(after, "after")
    if not 0.0 < iou <= 1.0:
        raise ConfigError(f"iou {float(iou)} outside 0..1")
    if (most := max(len(was), len(now))) > MAX_BOXES:
        raise ConfigError(f"{most} boxes exceed limit {MAX_BOXES}")
    overlaps = _overlaps(was, was_areas, now, now_areas)
    rows, columns = np.nonzero(overlaps >= iou)
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    taken: tuple[set[int], set[int]] = set(), set()
    longest = 0.0
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i in taken[0] or j in taken[1]:
            continue
        taken[0].add(i)
        taken[1].add(j)
        step = ((now[j, :2] + now[j, 2:]) - (was[i, :2] + was[i, 2:])) / 2.0 * (x, y)
        longest = max(longest, float(step @ step))
    return len(taken[0]), float(np.sqrt(longest))


def _overlaps(a: Float64, a_areas: Float64, b: Float64, b_areas: Float64) -> Float64:
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = (sides > 0.0).all(axis=2) & (a_areas > 0.0)[:, None] & (b_areas > 0.0)
    inter = np.where(overlap, sides.prod(axis=2), 0.0)
    union = np.where(overlap, a_areas[:, None] + b_areas - inter, 1.0)
    return inter / union


def _corners(array: Any, name: str) -> tuple[Float64, Float64]:
    """Return the boxes, zeros for one with a corner that is not finite, and their areas, or -1."""
    fits = isinstance(array, np.ndarray) and array.dtype == np.float32 and array.ndim == 2
    if not fits or array.shape[1] < 4:
        found = (
            f"{array.dtype} {array.shape}"
            if isinstance(array, np.ndarray)
            else type(array).__name__
        )
        raise ConfigError(f"{name} are float32 (N, 4) or wider, not {found}")
    boxes = array[:, :4].astype(np.float64)
    is_box = np.isfinite(boxes).all(axis=1)
    boxes[~is_box] = 0.0
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0).prod(axis=1)
    return boxes, np.where(is_box, areas, -1.0)
