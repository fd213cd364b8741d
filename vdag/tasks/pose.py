"""`face_alignment`: which way heads look, by a face mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vdag.engines.begun import Begun
from vdag.extras import opencv
from vdag.frame import UInt8Image
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.tasks.base import Inputs, TaskOptions
from vdag.tasks.faces import CROP_MARGIN
from vdag.tasks.headpose import (
    LEFT_EYE,
    RIGHT_EYE,
    UP_PITCH_DEGREES,
    eye_angle,
    head_pose,
    square_crop,
    to_frame,
)
from vdag.tasks.model import Found, Model, choose

__all__ = ["FaceAlignment"]

#: How far a crop's sides may be from its box's to count as cut along the box.
TIGHT_PIXELS = 2


#: Meshes float32 `(N, 468, 3)` in pixels of the faces' pictures, and how probable it is that there
#: is a face, float32 `(N,)`.
_Fitted = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Face:
    """A face to align: the picture it is in, its box there, and how far it is turned."""

    image: UInt8Image
    bbox: NDArray[np.float32]
    angle: float | None


class FaceAlignment:
    """Finds the pose of every head that face detection found.

    Takes `bbox` and either `image`, the frame the boxes are in, or `faces`, a crop per box with a
    margin around it. With `landmarks` a face is turned upright before the mesh is fitted;
    without, the mesh is fitted twice, and the first one tells how far to turn.

    Gives `head_pose` float32 `(N, 3)`: yaw (above 0: to the image's right), pitch (above 0: up)
    and roll (above 0: clockwise) in degrees, not a number where the model sees no face; `bbox` as
    it came; and `count_result` with `up`, the heads whose pitch is above -10 degrees, and `total`.
    """

    signature: ClassVar[Signature] = Signature(
        frozenset({"bbox"}),
        frozenset({"bbox", "head_pose", "count_result"}),
        optional=frozenset({"image", "faces", "prob", "landmarks"}),
    )

    def __init__(self, options: TaskOptions) -> None:
        self._cv2 = opencv()
        self._model = Model(choose("face_alignment", options, "facemesh"), options)
        self._side = self._model.card.input.size[0]
        self.max_batch = self._model.max_batch

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Find the poses of all faces of all frames, a batch of faces at a time."""
        return self.begin(batch).result()

    def begin(self, batch: Sequence[Inputs]) -> Begun[list[Outputs]]:
        """Begin what `process` does, but for fits that tell how far to turn: those are done."""
        faces = [_faces(inputs) for inputs in batch]
        starts = np.cumsum([0, *(len(frame) for frame in faces)])
        return self._poses([face for frame in faces for face in frame]).then(
            lambda poses: [
                _outputs(inputs, poses[start:end])
                for inputs, start, end in zip(batch, starts[:-1], starts[1:], strict=True)
            ]
        )

    def warm_up(self, max_batch: int) -> None:
        """Run the model once, so that no frame pays for its first call."""
        self._model.warm_up()

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _poses(self, faces: list[_Face]) -> Begun[NDArray[np.float32]]:
        if not faces:
            return Begun.finished(np.empty((0, 3), np.float32))
        unknown = [index for index, face in enumerate(faces) if face.angle is None]
        angles = [face.angle or 0.0 for face in faces]
        if unknown:
            level = self._fit([faces[index] for index in unknown], [0.0] * len(unknown))
            meshes, _ = level.result()
            for index, mesh in zip(unknown, meshes, strict=True):
                angles[index] = eye_angle(mesh[LEFT_EYE], mesh[RIGHT_EYE])
        return self._fit(faces, angles).then(self._seen_poses)

    def _seen_poses(self, fitted: _Fitted) -> NDArray[np.float32]:
        meshes, present = fitted
        poses = head_pose(meshes)
        poses[present < self._model.card.decode.threshold] = np.nan
        return poses

    def _fit(self, faces: Sequence[_Face], angles: Sequence[float]) -> Begun[_Fitted]:
        """Begin to fit a mesh to each face, turned upright by its angle."""
        crops = [
            square_crop(face.bbox, self._side, angle)
            for face, angle in zip(faces, angles, strict=True)
        ]
        begun = self._model.begin(
            [self._warp(face.image, crop) for face, crop in zip(faces, crops, strict=True)]
        )
        return begun.then(lambda found: _fitted(found, crops))

    def _warp(self, image: UInt8Image, crop: NDArray[np.float32]) -> UInt8Image:
        warped: UInt8Image = self._cv2.warpAffine(
            image, crop, (self._side, self._side), borderMode=self._cv2.BORDER_REPLICATE
        )
        return warped


def _fitted(found: Sequence[Found], crops: Sequence[NDArray[np.float32]]) -> _Fitted:
    meshes = [
        to_frame(item.outputs["mesh"].reshape(468, 3), crop)
        for item, crop in zip(found, crops, strict=True)
    ]
    present = [float(item.outputs["presence"].ravel()[0]) for item in found]
    return np.stack(meshes), np.array(present, np.float32)


def _faces(inputs: Inputs) -> list[_Face]:
    boxes = np.asarray(inputs["bbox"], np.float32).reshape(-1, 4)
    points = inputs.get("landmarks")
    angles: list[float | None] = (
        [None] * len(boxes) if points is None else [eye_angle(eyes[0], eyes[1]) for eyes in points]
    )
    if "image" in inputs:
        return [_Face(inputs["image"], *face) for face in zip(boxes, angles, strict=True)]
    if "faces" not in inputs:
        raise ValueError("face_alignment needs the field image or the field faces")
    crops = inputs["faces"]
    if len(crops) != len(boxes):
        raise ValueError(f"{len(crops)} faces for {len(boxes)} boxes")
    return [
        _Face(image, _box_in_crop(image, box), angle)
        for image, box, angle in zip(crops, boxes, angles, strict=True)
    ]


def _box_in_crop(crop: UInt8Image, box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return where the face is in a crop of it, whose upper left corner the frame may have cut.

    Face detection cuts a square with a margin; other senders cut along the box.
    """
    height, width = crop.shape[:2]
    first = np.maximum(np.floor(box[:2]), 0)
    if np.all(np.abs(np.ceil(box[2:]) - first - (width, height)) <= TIGHT_PIXELS):
        return box - np.tile(first, 2).astype(np.float32)
    half = CROP_MARGIN * float(np.max(box[2:] - box[:2])) / 2
    corner = np.maximum(np.round((box[:2] + box[2:]) / 2 - half), 0)
    return box - np.tile(corner, 2).astype(np.float32)


def _outputs(inputs: Inputs, poses: NDArray[np.float32]) -> Outputs:
    up = int(np.count_nonzero(poses[:, 1] > UP_PITCH_DEGREES))
    return {
        "bbox": inputs["bbox"],
        "head_pose": poses,
        "count_result": {"up": up, "total": len(poses)},
    }
