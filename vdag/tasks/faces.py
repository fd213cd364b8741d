"""`face_detection`: where faces are, by CenterFace or BlazeFace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag.engines.begun import Begun
from vdag.frame import UInt8Image
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.model import Found, Model, choose

__all__ = ["FaceDetection", "crop_square"]

#: Side of a face's crop over the larger side of its box, as the alignment model wants it.
CROP_MARGIN = 1.5

Boxes = NDArray[np.float32]


class FaceDetection:
    """Finds faces.

    Gives `bbox` float32 `(N, 4)` xyxy in pixels of the frame, not clamped to it; `prob` float32
    `(N,)`; `landmarks` float32 `(N, 5, 2)`: the eyes, the nose and the corners of the mouth, left
    ones of the picture first; `faces`, a list of N square crops around the faces, each a view of
    the frame, cut off at its border.
    """

    signature: ClassVar[Signature] = Signature(
        frozenset({"image"}), frozenset({"bbox", "prob", "landmarks", "faces"})
    )

    def __init__(self, options: TaskOptions) -> None:
        self._model = Model(choose("face_detection", options, "centerface", "blazeface"), options)
        self.max_batch = self._model.max_batch

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Find the faces in each frame's `image`."""
        return self.begin(batch).result()

    def begin(self, batch: Sequence[Inputs]) -> Begun[list[Outputs]]:
        """Begin what `process` does."""
        images = [inputs["image"] for inputs in batch]
        return self._model.begin(images).then(
            lambda found: [
                self._outputs(image, item) for image, item in zip(images, found, strict=True)
            ]
        )

    def lock_pages(self, address: int, nbytes: int) -> bool:
        """Tell the model where frames will lie."""
        return self._model.lock_pages(address, nbytes)

    def warm_up(self, max_batch: int) -> None:
        """Run the model once, so that no frame pays for its first call."""
        self._model.warm_up()

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _outputs(self, image: UInt8Image, found: Found) -> Outputs:
        decode = self._model.card.decode
        boxes, prob, points = _decode(found, decode.kind, decode.threshold)
        kept = native.nms.nms(boxes, prob, iou=decode.iou)
        boxes = found.placement.to_frame(boxes[kept])
        points = found.placement.to_frame(points[kept])
        return {
            "bbox": boxes,
            "prob": prob[kept],
            "landmarks": points,
            "faces": [crop_square(image, box) for box in boxes],
        }


def _decode(found: Found, kind: str, threshold: float) -> tuple[Boxes, Boxes, Boxes]:
    """Return boxes, probabilities and five points, in pixels of the input tensor."""
    outputs = found.outputs
    if kind == "blazeface":
        boxes, prob, points = native.decode.blazeface(
            outputs["score"], outputs["boxes"], threshold=threshold
        )
        # Two eyes, nose, mouth, two ears: the mouth stands for both of its corners.
        return boxes, prob, np.ascontiguousarray(points[:, [0, 1, 2, 3, 3]])
    return native.decode.centerface(
        outputs["heat"][0],
        outputs["size"],
        outputs["offset"],
        outputs["landmarks"],
        threshold=threshold,
    )


def crop_square(image: UInt8Image, box: Boxes) -> UInt8Image:
    """Return the square around a box, `CROP_MARGIN` times as large, cut off at the border.

    Returns:
        A view of `image`, at least one pixel large also for a box outside of it.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    half = CROP_MARGIN * max(x2 - x1, y2 - y1) / 2
    left = min(max(round((x1 + x2) / 2 - half), 0), width - 1)
    top = min(max(round((y1 + y2) / 2 - half), 0), height - 1)
    right = min(max(round((x1 + x2) / 2 + half), left + 1), width)
    bottom = min(max(round((y1 + y2) / 2 + half), top + 1), height)
    return image[top:bottom, left:right]
