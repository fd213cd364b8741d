"""`car_detection` and `yolo`: objects and their classes, by a detector of the zoo or the user's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag.engines.begun import Begun
from vdag.errors import ConfigError, ModelError
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.model import Found, Model, choose

__all__ = ["CarDetection", "ObjectDetection", "Yolo"]

#: Names of the COCO classes that are vehicles on a road.
VEHICLES = ("car", "motorcycle", "bus", "truck")


class ObjectDetection:
    """Finds objects and their classes.

    Gives `result` float32 `(N, 6)`: rows of x1, y1, x2, y2 in pixels of the frame and clamped to
    it, confidence, and number of the class; and `count_result`, name of a class to how many of it
    were found.

    Attributes:
        task: its name in the zoo.
        wanted: names of the classes to report; empty for all of the model's.
    """

    task: ClassVar[str]
    wanted: ClassVar[tuple[str, ...]] = ()
    signature: ClassVar[Signature] = Signature(
        frozenset({"image"}), frozenset({"result", "count_result"})
    )

    def __init__(self, options: TaskOptions) -> None:
        self._model = Model(choose(self.task, options, "nanodet", "yolo"), options)
        self.max_batch = self._model.max_batch
        self.names: tuple[str, ...] = self._model.card.decode.classes
        wanted = self.wanted or self.names
        self._wanted = np.array([name in wanted for name in self.names], bool)

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Find the objects in each frame's `image`."""
        return self.begin(batch).result()

    def begin(self, batch: Sequence[Inputs]) -> Begun[list[Outputs]]:
        """Begin what `process` does."""
        images = [inputs["image"] for inputs in batch]
        sizes = [image.shape[1::-1] for image in images]
        return self._model.begin(images).then(
            lambda found: [
                self._outputs(item, *size) for item, size in zip(found, sizes, strict=True)
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

    def _outputs(self, found: Found, width: int, height: int) -> Outputs:
        decode = self._model.card.decode
        boxes, scores, classes = _decode(found, decode.kind, decode.layout, decode.threshold)
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self.names):
            raise ModelError(
                f"model {self._model.card.name} reports class {classes.max()}, "
                f"its card names {len(self.names)}"
            )
        wanted = self._wanted[classes]
        boxes, scores, classes = boxes[wanted], scores[wanted], classes[wanted]
        # Of one task's classes only one can be at a place: a van is not also a car.
        groups = np.zeros_like(classes) if self.wanted else classes
        kept = native.nms.nms(boxes, scores, iou=decode.iou, classes=groups)
        rows = np.empty((len(kept), 6), np.float32)
        rows[:, :4] = found.placement.to_frame(boxes[kept])
        np.clip(rows[:, 0:4:2], 0, width, out=rows[:, 0:4:2])
        np.clip(rows[:, 1:4:2], 0, height, out=rows[:, 1:4:2])
        rows[:, 4], rows[:, 5] = scores[kept], classes[kept]
        counts = Counter(self.names[number] for number in classes[kept])
        return {"result": rows, "count_result": dict(sorted(counts.items()))}


class CarDetection(ObjectDetection):
    """Finds cars, motorcycles, buses and trucks; classes are numbered as in COCO's 80."""

    task = "car_detection"
    wanted = VEHICLES


class Yolo(ObjectDetection):
    """Runs a user's own YOLO-style detector, which a model card describes."""

    task = "yolo"

    def __init__(self, options: TaskOptions) -> None:
        if options.card is None:
            raise ConfigError("yolo needs a model card, such as --card yolo=mine.toml")
        super().__init__(options)


def _decode(
    found: Found, kind: str, layout: str, threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Return boxes, scores and classes, in pixels of the input tensor."""
    if kind == "yolo":
        (output,) = found.outputs.values()
        return native.decode.yolo(output, threshold=threshold, layout=layout)
    outputs, (width, height) = found.outputs, found.size
    return native.decode.cells(
        outputs["score"],
        outputs["label"],
        outputs["cell"],
        outputs["distance"],
        size=(height, width),
        threshold=threshold,
    )
