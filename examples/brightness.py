"""A task as a function: is a picture good enough to look for anything in it?

    vdag run brightness --tasks examples/brightness.py --source street.mp4 --results -

It says of every frame how bright and how sharp it is, and what is wrong with it: a covered lens, a
lamp that shines into the camera, a lens out of focus.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import vdag

#: Mean luma, 0 to 255, outside which a detector finds little.
DARK, BRIGHT = 40.0, 215.0
#: Variance of the Laplacian below which a picture has no edges left. Streets in focus have 20 and
#: more, the same ones blurred by a Gaussian of 3 pixels at most 5.
BLURRED = 10.0
#: Larger pictures are looked at in every second, third, ... row and column.
ROWS = 360


@vdag.task(outputs=["brightness", "sharpness", "problems"])
def brightness(image: NDArray[np.uint8]) -> dict[str, Any]:
    """Measure one picture, uint8 `(H, W, 3)` BGR."""
    step = max(image.shape[0] // ROWS, 1)
    blue, green, red = np.moveaxis(image[::step, ::step].astype(np.float32), 2, 0)
    luma = 0.114 * blue + 0.587 * green + 0.299 * red  # ITU-R BT.601
    mean, edges = float(luma.mean()), _sharpness(luma)
    found = {
        "dark": mean < DARK,
        "bright": mean > BRIGHT,
        "blurred": edges < BLURRED,
    }
    problems = [name for name, is_so in found.items() if is_so]
    return {"brightness": mean, "sharpness": edges, "problems": problems}


def _sharpness(luma: NDArray[np.float32]) -> float:
    """Return the variance of the Laplacian: what a lens out of focus takes away first."""
    if min(luma.shape) < 3:
        return 0.0
    beside = luma[1:-1, :-2] + luma[1:-1, 2:] + luma[:-2, 1:-1] + luma[2:, 1:-1]
    return float((beside - 4 * luma[1:-1, 1:-1]).var())
