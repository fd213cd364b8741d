"""`helmet_detection`: who wears a helmet. Experimental, see the model's card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vdag.errors import DependencyMissing
from vdag.frame import UInt8Image
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.faces import FaceDetection
from vdag.tasks.model import Model, choose

__all__ = ["HelmetDetection"]


class HelmetDetection:
    """Finds heads with a helmet: every face is a head, and a classifier looks at its upper part.

    Takes `image`, or `clip`, a list of pictures; with `bbox`, the faces of `image`, it does not
    look for faces itself.

    Gives `bbox_list` float32 `(N, 4)`, the heads with a helmet, xyxy in pixels of their picture;
    `prob` float32 `(M,)`, the probability of a helmet for every head found; `clip_result`, per
    picture the heads `ntotal` and those without helmet `n_no_helmet`; and the sums of these as
    `count_result` `helmet`, `no_helmet` and `total`.
    """

    signature: ClassVar[Signature] = Signature(
        frozenset(),
        frozenset({"bbox_list", "prob", "clip_result", "count_result"}),
        optional=frozenset({"image", "clip", "bbox"}),
    )

    def __init__(self, options: TaskOptions) -> None:
        try:
            import cv2
        except ImportError as err:
            raise DependencyMissing("cv2", "video") from err
        self._cv2: Any = cv2
        self._options = options
        self._model = Model(choose("helmet_detection", options, "binary"), options)
        self._faces: FaceDetection | None = None
        self.max_batch = self._model.max_batch

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Look at the heads of each frame or clip."""
        return [self._outputs(inputs) for inputs in batch]

    def warm_up(self, max_batch: int) -> None:
        """Run the model once, so that no frame pays for its first call."""
        self._model.warm_up()

    def close(self) -> None:
        """Free the models."""
        self._model.close()
        if self._faces is not None:
            self._faces.close()

    def _outputs(self, inputs: Inputs) -> Outputs:
        if "image" not in inputs and "clip" not in inputs:
            raise ValueError("helmet_detection needs the field image or the field clip")
        pictures = [inputs["image"]] if "image" in inputs else list(inputs["clip"])
        if "image" in inputs and "bbox" in inputs:
            boxes = [np.asarray(inputs["bbox"], np.float32).reshape(-1, 4)]
        else:
            boxes = self._find(pictures)
        prob = self._classify(pictures, boxes)
        helmet = prob > self._model.card.decode.threshold
        heads = np.concatenate(boxes)
        clip_result, start = [], 0
        for found in boxes:
            worn = int(np.count_nonzero(helmet[start : start + len(found)]))
            clip_result.append({"ntotal": len(found), "n_no_helmet": len(found) - worn})
            start += len(found)
        worn = int(np.count_nonzero(helmet))
        return {
            "bbox_list": heads[helmet],
            "prob": prob,
            "clip_result": clip_result,
            "count_result": {"helmet": worn, "no_helmet": len(heads) - worn, "total": len(heads)},
        }

    def _find(self, pictures: Sequence[UInt8Image]) -> list[NDArray[np.float32]]:
        if self._faces is None:  # most graphs give the faces
            options = TaskOptions(0, self._options.device, self._options.engine)
            self._faces = FaceDetection(options)
        found = self._faces.process([{"image": picture} for picture in pictures])
        return [outputs["bbox"] for outputs in found]

    def _classify(
        self, pictures: Sequence[UInt8Image], boxes: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        heads = [
            self._crop(picture, box)
            for picture, found in zip(pictures, boxes, strict=True)
            for box in found
        ]
        prob = [float(item.outputs["prob"].ravel()[0]) for item in self._model.run(heads)]
        return np.array(prob, np.float32)

    def _crop(self, picture: UInt8Image, box: NDArray[np.float32]) -> UInt8Image:
        """Cut the head out of its picture; where it leaves the picture, the border goes on."""
        crop = self._model.card.crop
        assert crop is not None, "the card of a model for heads says how to cut them"
        left, top, side = crop.square(*(float(value) for value in box))
        size = self._model.card.input.size[0]
        scale = size / max(side, 1.0)
        shift = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]], np.float32)
        cut: UInt8Image = self._cv2.warpAffine(
            picture, shift, (size, size), borderMode=self._cv2.BORDER_REPLICATE
        )
        return cut
