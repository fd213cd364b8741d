"""The handlers that find faces and objects, as boxes, on the zoo's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from vdag.errors import ConfigError
from vdag.frame import UInt8Image
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.sampling import MAX_SIDE
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.faces import FaceDetection
from vdag.tasks.handlers.align import upright
from vdag.tasks.handlers.boxes import Box, Region, box_of, crop_of, outputs_of, regions, sort_out
from vdag.tasks.headpose import eye_angle
from vdag.tasks.objects import ObjectDetection
from vdag.tasks.params import Param

__all__ = ["DetectFaces", "DetectObjects"]

Found = tuple[Box, UInt8Image]

#: Takes a frame, or boxes, of which it looks into each.
SIGNATURE = Signature(
    frozenset(),
    frozenset({"boxes", "crops", "count_result"}),
    optional=frozenset({"image", "boxes", "crops"}),
)
PARAMS: Mapping[str, Param] = MappingProxyType(
    {"multiple": Param(True), "with_crop": Param(True), "thresh": Param(0.0, 0.0, 1.0)}
)


class _Detector:
    """What both have in common: which pictures are looked at, and which boxes go on."""

    signature: ClassVar[Signature] = SIGNATURE
    name: ClassVar[str]

    def __init__(self, detector: FaceDetection | ObjectDetection, options: TaskOptions) -> None:
        self._detector = detector
        self._params = options.params
        self.max_batch = detector.max_batch

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Find what is in each frame, or in each of its boxes, all pictures in one batch."""
        looked_at = [regions(inputs, self.name) for inputs in batch]
        pictures = [{"image": region.picture} for frame in looked_at for region in frame]
        results = iter(self._detector.process(pictures) if pictures else ())
        return [
            self._outputs([pair for region in frame for pair in self._boxes(region, next(results))])
            for frame in looked_at
        ]

    def warm_up(self, max_batch: int) -> None:
        """Run the model once, so that no frame pays for its first call."""
        self._detector.warm_up(max_batch)

    def close(self) -> None:
        """Free the model."""
        self._detector.close()

    def _outputs(self, found: Sequence[Found]) -> Outputs:
        kept = sort_out(found, multiple=bool(self._params["multiple"]))
        return outputs_of(kept, with_crop=bool(self._params["with_crop"]))

    def _boxes(self, region: Region, outputs: Outputs) -> list[Found]:
        raise NotImplementedError


class DetectFaces(_Detector):
    """Finds faces by the models of `face_detection`; see `boxes` for what it gives.

    Parameters: `thresh`, the least probability (the model has one of its own, too); `min_size`,
    the least side in pixels; `multiple`, false for the most probable face alone; `with_crop`;
    `dim`, above 0: crops of so many pixels each way, with a margin and turned upright by the eyes.
    """

    name = "detect_faces"
    model_task: ClassVar[str] = "face_detection"
    params: ClassVar[Mapping[str, Param]] = MappingProxyType(
        {**PARAMS, "min_size": Param(0, 0, MAX_SIDE), "dim": Param(0, 0, MAX_SIDE)}
    )

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(FaceDetection(options), options)

    def _boxes(self, region: Region, outputs: Outputs) -> list[Found]:
        least, dim = int(self._params["min_size"]), int(self._params["dim"])
        found = []
        for corners, prob, eyes in zip(
            outputs["bbox"], outputs["prob"], outputs["landmarks"], strict=True
        ):
            box = box_of(corners, region, label="face", prob=float(prob))
            if prob < float(self._params["thresh"]) or min(box["w"], box["h"]) < least:
                continue
            crop = (
                upright(region.picture, corners, eye_angle(eyes[0], eyes[1]), dim)
                if dim
                else crop_of(region.picture, box, region.corner)
            )
            found.append((box, crop))
        return found


class DetectObjects(_Detector):
    """Finds the objects of the classes that its model knows; see `boxes` for what it gives.

    The zoo's are the 80 of COCO; a card of the user's own, loaded as that of `yolo`, has others.

    Parameters: `targets`, names of classes with commas between them, `all` for every one; `thresh`,
    `multiple` and `with_crop` as of `DetectFaces`.
    """

    name = "detect_objects"
    model_task: ClassVar[str] = "car_detection"
    params: ClassVar[Mapping[str, Param]] = MappingProxyType(
        {**PARAMS, "thresh": Param(0.5, 0.0, 1.0), "targets": Param("all")}
    )

    def __init__(self, options: TaskOptions) -> None:
        detector = _Objects(options)
        super().__init__(detector, options)
        self._names = detector.names
        try:
            self._wanted = _wanted(str(self._params["targets"]), self._names)
        except BaseException:
            detector.close()
            raise

    def _boxes(self, region: Region, outputs: Outputs) -> list[Found]:
        found: list[Found] = []
        for row in outputs["result"]:
            number, prob = int(row[5]), float(row[4])
            if number in self._wanted and prob >= float(self._params["thresh"]):
                box = box_of(row[:4], region, label=self._names[number], prob=prob)
                found.append((box, crop_of(region.picture, box, region.corner)))
        return found


class _Objects(ObjectDetection):
    """Every class of the model."""

    task = "car_detection"


def _wanted(targets: str, names: Sequence[str]) -> frozenset[int]:
    """Return the numbers of classes by their names.

    Raises:
        ConfigError: the model has no such class.
    """
    words = [word.strip() for word in targets.split(",")]
    if words == ["all"]:
        return frozenset(range(len(names)))
    if unknown := [word for word in words if word not in names]:
        raise ConfigError(
            f"detect_objects: targets has {unknown[0]!r:.40}, which is none of the "
            f"{len(names)} classes of the model: {', '.join(names):.200}"
        )
    return frozenset(names.index(word) for word in words)
