"""Greedy non-maximum suppression and IoU; see `reference_nms` for the formulas."""

import numpy as np
from numpy.typing import NDArray

def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    iou: float,
    score: float = 0.0,
    classes: NDArray[np.int32] | None = None,
    max_out: int = 0,
) -> NDArray[np.int32]: ...
def iou_matrix(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]: ...
