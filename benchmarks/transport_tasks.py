"""What the workers of the benchmarks do with frames; see `transport_lines`."""

from __future__ import annotations

from typing import Any

import numpy as np

import vdag
from vdag import _native as native

SIDE = 640
_TENSOR = np.empty((3, SIDE, SIDE), np.float32)


@vdag.task(outputs=["seen"])
def bench_look(image: np.ndarray) -> dict[str, Any]:
    """Read a byte of every page."""
    return {"seen": int(image.reshape(-1)[:: 4096 - 64].max())}


@vdag.task(outputs=["pixel"])
def bench_preprocess(image: np.ndarray) -> dict[str, Any]:
    """Make the tensor of a detector, float32 `(3, SIDE, SIDE)` RGB in 0..1."""
    native.preprocess.stretch(image, _TENSOR)
    return {"pixel": _TENSOR[:, SIDE // 2, SIDE // 2].copy()}
