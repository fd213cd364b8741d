"""From the outputs of detection models to boxes; see `reference_decode` for the formulas."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Float32 = NDArray[np.float32]
_Int32 = NDArray[np.int32]

def centerface(
    heat: _Float32,
    size: _Float32,
    offset: _Float32,
    landmarks: _Float32,
    *,
    threshold: float,
    stride: int = 4,
) -> tuple[_Float32, _Float32, _Float32]:
    """Decode CenterFace: every cell above the threshold is a face.

    Args:
        heat: float32 `(h, w)`, probabilities. All inputs are C-contiguous and read only.
        size: float32 `(2, h, w)`, logarithm of height and width in cells.
        offset: float32 `(2, h, w)`, y and x.
        landmarks: float32 `(10, h, w)`, y and x of five points.
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

def blazeface(
    scores: _Float32, boxes: _Float32, *, threshold: float, size: int = 256
) -> tuple[_Float32, _Float32, _Float32]:
    """Decode BlazeFace: boxes and six points relative to 896 anchors.

    Args:
        scores: float32 `(896,)`, probabilities. All inputs are C-contiguous and read only.
        boxes: float32 `(896, 16)`, centre, width, height and six points in pixels.
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

def yolo(
    output: _Float32, *, threshold: float, layout: str
) -> tuple[_Float32, _Float32, _Int32]:
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

def cells(
    score: _Float32,
    label: _Int32,
    cell: _Int32,
    distance: _Float32,
    *,
    size: tuple[int, int],
    threshold: float,
    strides: Sequence[int] = (8, 16, 32),
) -> tuple[_Float32, _Float32, _Int32]:
    """Decode the best cells that a graph has picked, as NanoDet's in the zoo.

    Each stride has a map of ceil(side / stride) cells a side. Cells are numbered row by row
    through the maps of all strides in turn.

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
