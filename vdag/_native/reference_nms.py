"""Greedy non-maximum suppression and IoU in numpy: what `nms.pyx` must give, bit for bit.

With the corners of two boxes as float32 and every operation rounded to float32:

    w, h   = max(min(x2, x2') - max(x1, x1'), 0), likewise in y
    inter  = w * h
    union  = (area + area') - inter
    a better box drops another one of its class if inter > iou * union

The comparison has no division, so that boxes without area need no special case: their union with
each other is 0 and 0 > 0 is false.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError

__all__ = ["iou_matrix", "nms"]

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

MAX_BOXES = 2**31 - 1  # indices are int32


def nms(
    boxes: Float32,
    scores: Float32,
    *,
    iou: float,
    score: float = 0.0,
    classes: Int32 | None = None,
    max_out: int = 0,
) -> Int32:
    """Pick the best boxes, dropping each that overlaps a better one too much.

    Greedy: the best box stays, all boxes with an IoU above `iou` with it go, and so on. Equal
    scores go by index, lower first. A box with a coordinate that is not finite and a box whose
    score is NaN are never kept. Boxes without area overlap nothing.

    Args:
        boxes: float32 `(N, 4)`, x1, y1, x2, y2, any strides. Read only.
        scores: float32 `(N,)`, any stride. Read only.
        iou: boxes of the same class that overlap by more are dropped, 0..1.
        score: boxes that score less are left out.
        classes: int32 `(N,)`; boxes of different classes do not drop each other. None: one class.
        max_out: stop after so many boxes, 0 for all.

    Returns:
        int32 `(K,)`, indices of the boxes that stay, best first. The caller owns it.

    Raises:
        ConfigError: a shape, a dtype or a limit does not fit.
    """
    _check_boxes(boxes, "boxes")
    _check_column(scores, "scores", np.float32, len(boxes))
    _check_limits(iou, score, max_out, len(boxes))
    if classes is not None:
        _check_column(classes, "classes", np.int32, len(boxes))
    taking_part = (scores >= np.float32(score)) & np.isfinite(boxes).all(axis=1)
    order = np.flatnonzero(taking_part)
    order = order[np.argsort(-scores[order], kind="stable")]
    kept: list[int] = []
    while len(order) and not (max_out and len(kept) == max_out):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        dropped = _overlaps(boxes[best], boxes[rest], np.float32(iou))
        if classes is not None:
            dropped &= classes[rest] == classes[best]
        order = rest[~dropped]
    return np.array(kept, np.int32)


def iou_matrix(a: Float32, b: Float32) -> Float32:
    """Compare every box of `a` with every box of `b`.

    Args:
        a: float32 `(N, 4)`, x1, y1, x2, y2, any strides. Read only.
        b: float32 `(M, 4)`, likewise.

    Returns:
        float32 `(N, M)`, intersection over union, 0..1. 0 where the union has no area or a
        coordinate is not finite. The caller owns it.

    Raises:
        ConfigError: a shape or a dtype does not fit.
    """
    _check_boxes(a, "a")
    _check_boxes(b, "b")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        inter, union = _inter_union(a[:, None], b[None])
        finite = np.isfinite(a[:, None]).all(axis=2) & np.isfinite(b).all(axis=1)
        return np.where(finite & (union > 0), inter / union, np.float32(0))


def _overlaps(box: Float32, boxes: Float32, iou: np.float32) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        inter, union = _inter_union(box, boxes)
        return np.asarray(inter > iou * union)


def _inter_union(a: Float32, b: Float32) -> tuple[Float32, Float32]:
    corner = np.maximum(a[..., :2], b[..., :2])
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - corner, np.float32(0))
    inter = sides[..., 0] * sides[..., 1]
    return inter, (_area(a) + _area(b)) - inter


def _area(boxes: Float32) -> Float32:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], np.float32(0))
    return np.asarray(sides[..., 0] * sides[..., 1])


def _check_boxes(array: Any, name: str) -> None:
    fits = isinstance(array, np.ndarray) and array.dtype == np.float32 and array.ndim == 2
    if not fits or array.shape[1] != 4:
        raise ConfigError(f"{name} are float32 (N, 4), not {_described(array)}")


def _check_column(array: Any, name: str, dtype: type[np.generic], n: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        raise ConfigError(f"{name} are {np.dtype(dtype)} (N,), not {_described(array)}")
    if len(array) != n:
        raise ConfigError(f"{len(array)} {name} do not fit {n} boxes")


def _check_limits(iou: float, score: float, max_out: int, n: int) -> None:
    if not 0.0 <= iou <= 1.0:
        raise ConfigError(f"iou {float(iou)} outside 0..1")
    if math.isnan(score):
        raise ConfigError("score nan is not a limit")
    if max_out < 0:
        raise ConfigError(f"max_out {max_out} below 0")
    if n > MAX_BOXES:
        raise ConfigError(f"{n} boxes exceed limit {MAX_BOXES}")


def _described(array: Any) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {array.shape}"
    return type(array).__name__
