"""The handler that turns faces upright, by the head's roll that `face_alignment` finds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vdag.extras import opencv
from vdag.frame import UInt8Image
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.sampling import MAX_SIDE
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.handlers.boxes import Box, Region, outputs_of, regions, sort_out
from vdag.tasks.headpose import square_crop
from vdag.tasks.params import Param
from vdag.tasks.pose import FaceAlignment

__all__ = ["Align", "upright"]


class Align:
    """Gives each face as a square picture, upright and of one size, as recognition wants it.

    The boxes keep their label and their place, as in the documents. Takes boxes of faces, or a
    frame that is one face altogether. A face that the model does not see as one is left as it is
    turned.

    Parameters: `dim`, the side of the crops in pixels; `multiple` and `with_crop` as of detectors.
    """

    signature: ClassVar[Signature] = Signature(
        frozenset(),
        frozenset({"boxes", "crops", "count_result"}),
        optional=frozenset({"image", "boxes", "crops"}),
    )
    model_task: ClassVar[str] = "face_alignment"
    params: ClassVar[Mapping[str, Param]] = MappingProxyType(
        {"dim": Param(96, 1, MAX_SIDE), "multiple": Param(True), "with_crop": Param(True)}
    )

    def __init__(self, options: TaskOptions) -> None:
        self._alignment = FaceAlignment(options)
        self._params = options.params
        self.max_batch = self._alignment.max_batch

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Turn the faces of each frame upright, all of them in one batch of the model."""
        looked_at = [regions(inputs, "align") for inputs in batch]
        faces = [region for frame in looked_at for region in frame]
        turned = iter(self._turned(faces))
        return [
            self._outputs([(_box(face), next(turned)) for face in frame]) for frame in looked_at
        ]

    def warm_up(self, max_batch: int) -> None:
        """Run the model once, so that no frame pays for its first call."""
        self._alignment.warm_up(max_batch)

    def close(self) -> None:
        """Free the model."""
        self._alignment.close()

    def _turned(self, faces: Sequence[Region]) -> list[UInt8Image]:
        if not faces:
            return []
        boxes = [_whole(face.picture) for face in faces]
        found = self._alignment.process(
            [
                {"image": face.picture, "bbox": box[None]}
                for face, box in zip(faces, boxes, strict=True)
            ]
        )
        rolls = [float(outputs["head_pose"][0, 2]) for outputs in found]
        angles = [math.radians(roll) if math.isfinite(roll) else 0.0 for roll in rolls]
        dim = int(self._params["dim"])
        return [
            upright(face.picture, box, angle, dim)
            for face, box, angle in zip(faces, boxes, angles, strict=True)
        ]

    def _outputs(self, faces: Sequence[tuple[Box, UInt8Image]]) -> Outputs:
        kept = sort_out(faces, multiple=bool(self._params["multiple"]))
        return outputs_of(kept, with_crop=bool(self._params["with_crop"]))


def upright(
    picture: UInt8Image, corners: NDArray[np.float32], angle: float, dim: int
) -> UInt8Image:
    """Cut a face out, turned upright.

    Args:
        picture: uint8 `(H, W, 3)`; where the crop leaves it, its border goes on.
        corners: x1, y1, x2, y2 of the face in it.
        angle: how far the face is turned, in radians.
        dim: side of the crop in pixels.

    Returns:
        uint8 `(dim, dim, 3)`; the caller owns it.
    """
    cv2 = opencv()
    crop: UInt8Image = cv2.warpAffine(
        picture, square_crop(corners, dim, angle), (dim, dim), borderMode=cv2.BORDER_REPLICATE
    )
    return crop


def _whole(picture: UInt8Image) -> NDArray[np.float32]:
    """Return the box of a picture that is one face."""
    height, width = picture.shape[:2]
    return np.array([0, 0, width, height], np.float32)


def _box(face: Region) -> Box:
    if face.box is not None:
        return face.box
    height, width = face.picture.shape[:2]
    return Box(label=None, prob=None, x=0, y=0, w=width, h=height)
