"""Boxes as they travel between handlers: the documents' `Boxes`, in fields of a context.

A field `boxes` is a list with a dict `{label, prob, x, y, w, h}` per box: `label` text or None,
`prob` a number or None, `x, y` the upper left corner and `w, h` the size in whole pixels of the
picture that was looked at. The documents' `crop` of each is in the field `crops` beside it, a list
of as many pictures, uint8 `(h, w, 3)` BGR: so pictures travel only to those who take them. Without
that field, or if it is empty, the boxes have no crops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from vdag.frame import UInt8Image
from vdag.results import Outputs
from vdag.tasks.base import Inputs

__all__ = ["MAX_BOXES", "Box", "Region", "box_of", "crop_of", "outputs_of", "regions", "sort_out"]

#: More than any detector of the zoo reports; bounds what a frame can make others do.
MAX_BOXES = 1024
#: Farther out than the sides of any picture.
_FAR = float(1 << 20)


class Box(TypedDict):
    """See above."""

    label: str | None
    prob: float | None
    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True, slots=True)
class Region:
    """A picture to look at, and the box that it was cut along; None for a whole frame."""

    picture: UInt8Image
    box: Box | None = None

    @property
    def corner(self) -> tuple[int, int]:
        """Upper left corner, in pixels of the frame."""
        return (0, 0) if self.box is None else (self.box["x"], self.box["y"])


def regions(inputs: Inputs, task: str) -> list[Region]:
    """Return what a handler looks at that takes a frame or boxes: the frame, or each box's crop.

    Args:
        inputs: `boxes` with `crops`, or with the `image` that they are cut from; or `image` alone.
        task: for the text of an error.

    Raises:
        ValueError: something lacks, or does not go together.
    """
    image, boxes, crops = (inputs.get(name) for name in ("image", "boxes", "crops"))
    if boxes is None:
        if image is None:
            raise ValueError(f"{task} needs the field image or the field boxes")
        return [Region(image)]
    if len(boxes) > MAX_BOXES:
        raise ValueError(f"{len(boxes)} boxes exceed {MAX_BOXES}")
    if not boxes:
        return []
    if not crops:
        if image is None:
            raise ValueError(f"{task}: the boxes have no crops, with_crop of the one before is off")
        return [Region(crop_of(image, box), box) for box in boxes]
    if len(crops) != len(boxes):
        raise ValueError(f"{len(crops)} crops for {len(boxes)} boxes")
    return [Region(crop, box) for crop, box in zip(crops, boxes, strict=True)]


def box_of(corners: NDArray[Any], region: Region, *, label: str, prob: float) -> Box:
    """Return a box of what was found in a region, cut off at its border.

    Args:
        corners: x1, y1, x2, y2 in pixels of the region.
        region: looked at; the box is in pixels of its frame.
        label: what it is.
        prob: how sure that is.

    Returns:
        A box of at least one pixel, inside of the region.
    """
    height, width = region.picture.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in np.clip(corners, -_FAR, _FAR))
    left, top = (
        min(max(int(np.floor(x1)), 0), width - 1),
        min(max(int(np.floor(y1)), 0), height - 1),
    )
    right = min(max(int(np.ceil(x2)), left + 1), width)
    bottom = min(max(int(np.ceil(y2)), top + 1), height)
    x, y = region.corner
    return Box(label=label, prob=prob, x=x + left, y=y + top, w=right - left, h=bottom - top)


def crop_of(picture: UInt8Image, box: Box, corner: tuple[int, int] = (0, 0)) -> UInt8Image:
    """Return a box's part of a picture whose upper left corner is at `corner`: a view.

    It is at least one pixel large, also of a box outside.
    """
    height, width = picture.shape[:2]
    left = min(max(box["x"] - corner[0], 0), width - 1)
    top = min(max(box["y"] - corner[1], 0), height - 1)
    right = min(max(left + box["w"], left + 1), width)
    return picture[top : min(max(top + box["h"], top + 1), height), left:right]


def sort_out(found: Sequence[tuple[Box, UInt8Image]], *, multiple: bool) -> list[tuple[Box, Any]]:
    """Return at most `MAX_BOXES` of the boxes, or without `multiple` the largest alone.

    That is, as in the documents, the most probable one if all have a probability, else the one with
    the largest area; of none it is none.
    """
    if multiple or not found:
        return list(found[:MAX_BOXES])
    if all(box["prob"] is not None for box, _ in found):
        return [max(found, key=lambda item: item[0]["prob"] or 0.0)]
    return [max(found, key=lambda item: item[0]["w"] * item[0]["h"])]


def outputs_of(found: Sequence[tuple[Box, UInt8Image]], *, with_crop: bool) -> Outputs:
    """Return the fields of a handler that gives boxes: with a `count_result`, label to number."""
    counts = Counter(box["label"] or "unknown" for box, _ in found)
    outputs: Outputs = {
        "boxes": [box for box, _ in found],
        "crops": [crop for _, crop in found] if with_crop else [],
        "count_result": dict(sorted(counts.items())),
    }
    return outputs
