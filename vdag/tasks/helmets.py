"""`helmet_detection`: who wears a helmet. Experimental, see the model's card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vdag.engines.begun import Begun
from vdag.extras import opencv
from vdag.frame import UInt8Image
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.faces import FaceDetection
from vdag.tasks.model import Found, Model, choose

__all__ = ["HelmetDetection"]

Boxes = NDArray[np.float32]


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
        self._cv2 = opencv()
        self._options = options
        self._model = Model(choose("helmet_detection", options, "binary"), options)
        self._faces: FaceDetection | None = None
        self.max_batch = self._model.max_batch

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Look at the heads of all frames or clips, a batch of heads at a time."""
        return self.begin(batch).result()

    def begin(self, batch: Sequence[Inputs]) -> Begun[list[Outputs]]:
        """Begin what `process` does; faces that nobody has looked for are found at once."""
        frames = [_pictures(inputs) for inputs in batch]
        boxes = self._boxes(batch, frames)
        heads = [
            self._crop(picture, box)
            for pictures, found in zip(frames, boxes, strict=True)
            for picture, faces in zip(pictures, found, strict=True)
            for box in faces
        ]
        starts = np.cumsum([0, *(sum(map(len, found)) for found in boxes)])

        def finish(found: Sequence[Found]) -> list[Outputs]:
            prob = np.array([float(each.outputs["prob"].ravel()[0]) for each in found], np.float32)
            return [
                self._outputs(faces, prob[start:end])
                for faces, start, end in zip(boxes, starts[:-1], starts[1:], strict=True)
            ]

        return self._model.begin(heads).then(finish)

    def warm_up(self, max_batch: int) -> None:
        """Run the model once, so that no frame pays for its first call."""
        self._model.warm_up()

    def close(self) -> None:
        """Free the models."""
        self._model.close()
        if self._faces is not None:
            self._faces.close()

    def _outputs(self, boxes: Sequence[Boxes], prob: NDArray[np.float32]) -> Outputs:
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

    def _boxes(
        self, batch: Sequence[Inputs], frames: Sequence[Sequence[UInt8Image]]
    ) -> list[list[Boxes]]:
        """Return the faces of each picture of each frame: given, or found now."""
        given = [_given(inputs) for inputs in batch]
        missing = [
            picture
            for pictures, boxes in zip(frames, given, strict=True)
            if boxes is None
            for picture in pictures
        ]
        found = iter(self._find(missing))
        return [
            [next(found) for _ in pictures] if boxes is None else [boxes]
            for pictures, boxes in zip(frames, given, strict=True)
        ]

    def _find(self, pictures: Sequence[UInt8Image]) -> list[Boxes]:
        if not pictures:
            return []
        if self._faces is None:  # most graphs give the faces
            options = TaskOptions(0, self._options.device, self._options.engine)
            self._faces = FaceDetection(options)
        found = self._faces.process([{"image": picture} for picture in pictures])
        return [outputs["bbox"] for outputs in found]

    def _crop(self, picture: UInt8Image, box: Boxes) -> UInt8Image:
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


def _pictures(inputs: Inputs) -> list[UInt8Image]:
    if "image" not in inputs and "clip" not in inputs:
        raise ValueError("helmet_detection needs the field image or the field clip")
    return [inputs["image"]] if "image" in inputs else list(inputs["clip"])


def _given(inputs: Inputs) -> Boxes | None:
    """Return the faces of `image` that came with it, None for those that have to be found."""
    if "image" not in inputs or "bbox" not in inputs:
        return None
    return np.asarray(inputs["bbox"], np.float32).reshape(-1, 4)
