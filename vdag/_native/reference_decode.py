"""From the outputs of detection models to boxes, in numpy: what `decode.pyx` must give.

The same cells are chosen, exactly; coordinates agree to float32's last digits, because the
exponential function of a C library and of numpy may round differently. A model that puts out NaN
finds nothing there; one that puts out infinities gets infinite boxes, which `nms` drops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError, ModelError

__all__ = ["blazeface", "cells", "centerface", "yolo"]

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Boxes = tuple[Float32, Float32, Int32]

MAX_SIDE = 1 << 20  # of a model's input in pixels: cells then count without an overflow
MAX_STRIDES = 8
BLAZEFACE_ANCHORS = 896
#: Where left, top, right and bottom of a box lie as seen from its cell's centre.
BOX_SIDES = np.array([-1, -1, 1, 1], np.float32)


def centerface(
    heat: Float32,
    size: Float32,
    offset: Float32,
    landmarks: Float32,
    *,
    threshold: float,
    stride: int = 4,
) -> tuple[Float32, Float32, Float32]:
    """Decode CenterFace: every cell above the threshold is a face.

    With cell x, y, log size s, offset o and landmarks l, each pair in the order y, x:

        h, w   = exp(s0) * stride, exp(s1) * stride
        x1, y1 = (x + o1 + 0.5) * stride - w / 2, (y + o0 + 0.5) * stride - h / 2
        point  = l[2j + 1] * w + x1, l[2j] * h + y1

    Args:
        heat: float32 `(h, w)`, probabilities. All inputs are C-contiguous and read only.
        size: float32 `(2, h, w)`, height and width.
        offset: float32 `(2, h, w)`.
        landmarks: float32 `(10, h, w)`.
        threshold: cells with more heat are faces, 0..1.
        stride: input pixels per cell.

    Returns:
        Boxes float32 `(N, 4)`, x1, y1, x2, y2; scores float32 `(N,)`; points float32
        `(N, 5, 2)`, x, y: left-hand eye, right-hand eye, nose, left-hand and right-hand corner
        of the mouth as seen in the picture. In input pixels, row by row of cells; not yet
        suppressed. The caller owns them.

    Raises:
        ModelError: the shapes do not fit each other.
        ConfigError: the threshold or the stride has no meaning.
    """
    _check(heat, "heat", "(h, w)", 2)
    for array, name, channels in ((size, "size", 2), (offset, "offset", 2)):
        _check_planes(array, name, channels, heat.shape)
    _check_planes(landmarks, "landmarks", 10, heat.shape)
    _check_threshold(threshold)
    _check_stride(stride)
    rows, columns = np.nonzero(heat > np.float32(threshold))
    at = (slice(None), rows, columns)
    with np.errstate(over="ignore", invalid="ignore"):
        sides = np.exp(size[at]) * np.float32(stride)
        cells = np.stack([rows, columns]).astype(np.float32)
        corner = (cells + offset[at] + np.float32(0.5)) * np.float32(stride) - sides / 2
        boxes = np.stack([corner[1], corner[0], corner[1] + sides[1], corner[0] + sides[0]], axis=1)
        points = landmarks[at].reshape(5, 2, -1) * sides + corner
    return boxes, heat[rows, columns], np.ascontiguousarray(points.transpose(2, 0, 1)[..., ::-1])


def blazeface(
    scores: Float32, boxes: Float32, *, threshold: float, size: int = 256
) -> tuple[Float32, Float32, Float32]:
    """Decode BlazeFace: boxes and six points relative to 896 anchors.

    Anchors lie in the centres of 16 x 16 cells, two each, then of 8 x 8 cells, six each, row by
    row. With the anchor a and the row r of `boxes`, in pixels:

        centre = r0 + ax, r1 + ay    w, h = r2, r3    point k = r[4 + 2k] + ax, r[5 + 2k] + ay

    Args:
        scores: float32 `(896,)`, probabilities. All inputs are C-contiguous and read only.
        boxes: float32 `(896, 16)`.
        threshold: anchors that score more are faces, 0..1.
        size: width and height of the model's input in pixels, a multiple of 16.

    Returns:
        Boxes float32 `(N, 4)`, x1, y1, x2, y2; scores float32 `(N,)`; points float32
        `(N, 6, 2)`, x, y: left-hand eye, right-hand eye, nose, mouth, left-hand and right-hand
        ear as seen in the picture. In input pixels, in the order of the anchors, not yet
        suppressed. The caller owns them.

    Raises:
        ModelError: a shape is not BlazeFace's.
        ConfigError: the threshold or the size has no meaning.
    """
    _check(scores, "scores", "(896,)", 1)
    _check(boxes, "boxes", "(896, 16)", 2)
    if scores.shape != (BLAZEFACE_ANCHORS,):
        raise ModelError(f"scores is float32 (896,), not float32 {scores.shape}")
    if boxes.shape != (BLAZEFACE_ANCHORS, 16):
        raise ModelError(f"boxes is float32 (896, 16), not float32 {boxes.shape}")
    _check_threshold(threshold)
    if not 16 <= size <= MAX_SIDE or size % 16:
        raise ConfigError(f"size {size} is no multiple of 16 in 16..{MAX_SIDE}")
    chosen = np.flatnonzero(scores > np.float32(threshold))
    rows, anchors = boxes[chosen], _blazeface_anchors(size)[chosen]
    with np.errstate(over="ignore", invalid="ignore"):
        centre, half = rows[:, :2] + anchors, rows[:, 2:4] / 2
        corners = np.concatenate([centre - half, centre + half], axis=1)
        points = rows[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
    return corners, scores[chosen], points


def yolo(output: Float32, *, threshold: float, layout: str) -> Boxes:
    """Decode a YOLO head whose boxes are already centre x, centre y, width, height in pixels.

    Layout "v8" has a row of `output` per value and a column per anchor: 4 of the box, then the
    classes. Layout "v5" has a row per anchor: 4 of the box, the objectness, then the classes; the
    confidence is objectness times class, and an anchor whose objectness alone is not above the
    threshold is left out. The best class counts, the lowest of equal ones; NaN is never best.

    Args:
        output: float32 `(4 + C, A)` or `(A, 5 + C)`, C-contiguous. Read only.
        threshold: anchors with a higher confidence are objects, 0..1.
        layout: "v8" or "v5".

    Returns:
        Boxes float32 `(N, 4)`, x1, y1, x2, y2 in input pixels; scores float32 `(N,)`; classes
        int32 `(N,)`. In the order of the anchors, not yet suppressed. The caller owns them.

    Raises:
        ModelError: the shape does not fit the layout.
        ConfigError: the threshold or the layout has no meaning.
    """
    if layout not in ("v8", "v5"):
        raise ConfigError(f"layout {layout!r} is neither 'v8' nor 'v5'")
    is_v8 = layout == "v8"
    wanted = "(4 + C, A)" if is_v8 else "(A, 5 + C)"
    _check(output, "output", wanted, 2)
    if (is_v8 and output.shape[0] < 5) or (not is_v8 and output.shape[1] < 6):
        raise ModelError(f"output is float32 {wanted}, not float32 {output.shape}")
    _check_threshold(threshold)
    if is_v8:
        sides, (best, classes) = output[:4].T, _best(output[4:].T)
        chosen = np.flatnonzero(best > np.float32(threshold))
    else:
        sides, (best, classes) = output[:, :4], _best(output[:, 5:])
        objectness = output[:, 4]
        with np.errstate(over="ignore", invalid="ignore"):
            best = best * objectness
        above = (objectness > np.float32(threshold)) & (best > np.float32(threshold))
        chosen = np.flatnonzero(above)
    with np.errstate(over="ignore", invalid="ignore"):
        centre, half = sides[chosen, :2], sides[chosen, 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes, best[chosen], classes[chosen]


def cells(
    score: Float32,
    label: Int32,
    cell: Int32,
    distance: Float32,
    *,
    size: tuple[int, int],
    threshold: float,
    strides: Sequence[int] = (8, 16, 32),
) -> Boxes:
    """Decode the best cells that a graph has picked, as NanoDet's in the zoo.

    Each stride has a map of ceil(side / stride) cells a side. Cells are numbered row by row
    through the maps of all strides in turn.

        x, y = column + 0.5, row + 0.5
        box  = (x - left, y - top, x + right, y + bottom) * stride

    Args:
        score: float32 `(K,)`, probabilities. All inputs are C-contiguous and read only.
        label: int32 `(K,)`, the class of each entry; passed on as it is.
        cell: int32 `(K,)`, the cell of each entry. All are checked, also of entries left out.
        distance: float32 `(K, 4)`, from the cell's centre to left, top, right and bottom of the
            box, in strides.
        size: height and width of the model's input in pixels.
        threshold: entries that score more are objects, 0..1.
        strides: input pixels per cell of each map, in the order of their cells' numbers.

    Returns:
        Boxes float32 `(N, 4)`, x1, y1, x2, y2 in input pixels, not clipped; scores float32
        `(N,)`; classes int32 `(N,)`. In the order of the entries, not yet suppressed. The caller
        owns them.

    Raises:
        ModelError: the shapes do not fit each other, or a cell lies outside the maps.
        ConfigError: the threshold, the size or a stride has no meaning.
    """
    _check(score, "score", "(K,)", 1)
    _check_entries(label, "label", "(K,)", 1, np.int32, len(score))
    _check_entries(cell, "cell", "(K,)", 1, np.int32, len(score))
    _check_entries(distance, "distance", "(K, 4)", 2, np.float32, len(score))
    if distance.shape[1] != 4:
        raise ModelError(f"distance is float32 (K, 4), not float32 {distance.shape}")
    _check_threshold(threshold)
    first, columns, total = _maps(size, strides)
    for at in np.flatnonzero((cell < 0) | (cell >= total))[:1]:
        raise ModelError(
            f"cell[{at}] {cell[at]} outside 0..{total - 1}: {size[0]} x {size[1]} pixels "
            f"with strides {tuple(strides)}"
        )
    chosen = np.flatnonzero(score > np.float32(threshold))
    level = np.searchsorted(first, cell[chosen], side="right") - 1
    y, x = np.divmod(cell[chosen] - first[level], columns[level])
    centre = np.stack([x, y, x, y], axis=1).astype(np.float32) + np.float32(0.5)
    step = np.array(strides, np.float32)[level, None]
    with np.errstate(over="ignore"):
        boxes = (centre + distance[chosen] * BOX_SIDES) * step
    return boxes, score[chosen], label[chosen]


def _best(table: Float32) -> tuple[Float32, Int32]:
    """Return the highest entry of each row and its column, the lowest of equal ones."""
    numbers = np.where(np.isnan(table), np.float32(-np.inf), table)
    classes = numbers.argmax(axis=1)
    return numbers[np.arange(len(table)), classes], classes.astype(np.int32)


def _maps(
    size: tuple[int, int], strides: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the first cell and the columns of each stride's map, and the number of all cells."""
    height, width = size
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ConfigError(f"size {height} x {width} outside 1..{MAX_SIDE}")
    if not 1 <= len(strides) <= MAX_STRIDES:
        raise ConfigError(f"{len(strides)} strides outside 1..{MAX_STRIDES}")
    for stride in strides:
        _check_stride(stride)
    columns = np.array([-(-width // stride) for stride in strides], np.int64)
    counts = np.array([-(-height // stride) for stride in strides], np.int64) * columns
    return np.cumsum(counts) - counts, columns, int(counts.sum())


def _blazeface_anchors(size: int) -> Float32:
    levels = []
    for cells, each in ((16, 2), (8, 6)):
        y, x = (np.mgrid[:cells, :cells].astype(np.float32) + np.float32(0.5)) * (size / cells)
        places = np.stack([x.ravel(), y.ravel()], axis=1)
        levels.append(np.repeat(places, each, axis=0).astype(np.float32))
    return np.concatenate(levels)


def _check(
    array: Any, name: str, wanted: str, ndim: int, dtype: type[np.generic] = np.float32
) -> None:
    wanted = f"{name} is {np.dtype(dtype)} {wanted}"
    if not isinstance(array, np.ndarray):
        raise ModelError(f"{wanted}, not {type(array).__name__}")
    if array.dtype != dtype or array.ndim != ndim:
        raise ModelError(f"{wanted}, not {array.dtype} {array.shape}")
    if not array.flags.c_contiguous:
        raise ModelError(f"{wanted}, C-contiguous, not strides {array.strides}")


def _check_entries(
    array: Any, name: str, wanted: str, ndim: int, dtype: type[np.generic], count: int
) -> None:
    _check(array, name, wanted, ndim, dtype)
    if len(array) != count:
        raise ModelError(f"{len(array)} entries of {name} do not fit {count} of score")


def _check_planes(array: Any, name: str, channels: int, cells: tuple[int, ...]) -> None:
    _check(array, name, f"({channels}, h, w)", 3)
    if array.shape != (channels, *cells):
        raise ModelError(f"{name} of shape {array.shape} does not fit heat of shape {cells}")


def _check_threshold(threshold: float) -> None:
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold {float(threshold)} outside 0..1")


def _check_stride(stride: int) -> None:
    if not 1 <= stride <= MAX_SIDE:
        raise ConfigError(f"stride {stride} outside 1..{MAX_SIDE}")
