"""How large boxes are and how far they have moved; see `reference_motion` for the formulas."""

import numpy as np
from numpy.typing import NDArray

MAX_BOXES: int

def mean_area(boxes: NDArray[np.float32], *, largest: float) -> tuple[int, float]: ...
def longest_way(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    *,
    iou: float,
    x: float = 1.0,
    y: float = 1.0,
) -> tuple[int, float]: ...
