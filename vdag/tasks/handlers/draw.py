"""The handlers that draw boxes into a picture: two inputs, joined as they are of one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from vdag.drawing import draw_boxes
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.handlers.boxes import MAX_BOXES, Box
from vdag.tasks.params import Param

__all__ = ["DrawBoxes", "DrawLabeledBoxes"]

#: Of the documents, BGR.
COLOR = (0, 255, 255)
LABELED_COLOR = (255, 0, 255)
#: Characters of a label; more would only hide the picture.
MAX_LABEL = 40


class DrawBoxes:
    """Gives a copy of `image` with the `boxes` drawn into it, which are of a picture of its size.

    It needs both of one frame; of a frame that has lost one on its way nothing comes here, and
    nothing waits for it.
    """

    signature: ClassVar[Signature] = Signature(frozenset({"image", "boxes"}), frozenset({"image"}))
    params: ClassVar[Mapping[str, Param]] = MappingProxyType({})
    max_batch: ClassVar[int] = 1
    color: ClassVar[tuple[int, int, int]] = COLOR
    labeled: ClassVar[bool] = False

    def __init__(self, options: TaskOptions) -> None:
        del options  # there is nothing to choose

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Draw the boxes of each frame."""
        return [self._drawn(inputs) for inputs in batch]

    def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _drawn(self, inputs: Inputs) -> Outputs:
        picture = np.array(inputs["image"], np.uint8, order="C")
        boxes: Sequence[Box] = inputs["boxes"]
        if len(boxes) > MAX_BOXES:
            raise ValueError(f"{len(boxes)} boxes exceed {MAX_BOXES}")
        corners = [(b["x"], b["y"], b["x"] + b["w"] - 1, b["y"] + b["h"] - 1) for b in boxes]
        texts = [_text(box) if self.labeled else "" for box in boxes]
        return {"image": draw_boxes(picture, corners, texts, self.color)}


class DrawLabeledBoxes(DrawBoxes):
    """The same, with what each box is written on it."""

    color = LABELED_COLOR
    labeled = True


def _text(box: Box) -> str:
    label = str(box["label"] or "unknown")[:MAX_LABEL]
    return label if box["prob"] is None else f"{label} {box['prob']:.2f}"
