"""Results with objects in them, for what looks at them."""

from __future__ import annotations

from typing import Any

import numpy as np

from vdag.control.sniffing import Sniffer
from vdag.results import Result


def boxes_at(*corners: tuple[float, float], side: float = 100.0) -> np.ndarray:
    found = np.array(corners, np.float32).reshape(-1, 2)
    return np.hstack([found, found + np.float32(side)])


def result_of(seq: int, boxes: Any = None, *, plan: int = 1, **fields: Any) -> Result:
    outputs = {} if boxes is None else {"face_detection": {"bbox": boxes}}
    values = {"pts_s": seq / 10, "width": 1920, "height": 1080, "delay_s": 0.1} | fields
    return Result("cam", seq, seq, outputs=outputs, plan=plan, **values)


def observe_all(sniffer: Sniffer, *results: Result) -> None:
    for result in results:
        sniffer.observe(result, result.seq / 10)
