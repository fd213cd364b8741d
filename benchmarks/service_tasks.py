"""What the workers of `bench_service` do, and the threads of the Flask server beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

import vdag

#: Where the faces of `bench_faces` are, as in a picture of 1280 x 720 with three people.
BOXES = np.array([[160, 110, 280, 230], [600, 350, 720, 470], [960, 170, 1080, 290]], np.float32)


class Nothing:
    """Gives back what comes."""

    signature: ClassVar[vdag.Signature] = vdag.Signature(frozenset({"number"}), frozenset({"seen"}))
    max_batch = 32

    def __init__(self, options: vdag.TaskOptions) -> None:
        del options  # there is no model to choose

    def process(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Give back every number."""
        return [{"seen": inputs["number"]} for inputs in batch]

    def close(self) -> None:
        """Do nothing."""


vdag.register("bench_nothing", Nothing)


@vdag.task(outputs=["bbox", "prob", "faces"])
def bench_faces(image: np.ndarray) -> dict[str, Any]:
    """Find the same three faces in every picture, in no time."""
    faces = [image[int(y1) : int(y2), int(x1) : int(x2)] for x1, y1, x2, y2 in BOXES]
    return {"bbox": BOXES, "prob": np.full(len(BOXES), 0.9, np.float32), "faces": faces}
