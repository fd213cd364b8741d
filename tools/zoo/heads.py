"""Cut heads out of pictures for the helmet classifier, as its task does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = ["Face", "Head", "Region", "cut_head", "find_faces", "find_heads", "open_model"]

#: cv2's annotations promise less than it returns, so element types are said in words only.
Image = NDArray[Any]
Points = NDArray[Any]

#: Side of a head crop in pixels.
SIZE = 224
#: The crop's side in face heights, and how far it reaches above the face: a helmet's height.
SIDE = 1.9
ABOVE = 0.75

#: CenterFace predicts at a quarter of its input's resolution.
STRIDE = 4
OVERLAP = 0.3


@dataclass(frozen=True, slots=True)
class Region:
    """Rows of a picture that show faces without anything drawn over them.

    Attributes:
        picture: file name.
        top: first row.
        bottom: row after the last.
        tiles: faces stand in tiles, one beside the other: what is around a face belongs to another.
    """

    picture: str
    top: int
    bottom: int
    tiles: bool = False


@dataclass(frozen=True, slots=True)
class Face:
    """A detection: box as x1, y1, x2, y2, and landmarks `(5, 2)`, in pixels of the picture."""

    box: Points
    landmarks: Points


@dataclass(frozen=True, slots=True)
class Head:
    """A crop `(224, 224, 3)` BGR, and the face's landmarks `(5, 2)` and height in crop pixels."""

    crop: Image
    landmarks: Points
    height: float


def open_model(model: bytes | str) -> onnxruntime.InferenceSession:
    """Open a model on one thread of the CPU, so that the same sums come out everywhere."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def find_faces(
    detector: onnxruntime.InferenceSession, image: Image, threshold: float = 0.5
) -> list[Face]:
    """Run CenterFace on a picture and decode its maps, best face first.

    Args:
        detector: the zoo's CenterFace.
        image: uint8 `(H, W, 3)`, BGR.
        threshold: least probability.
    """
    height, width = (-(-side // 32) * 32 for side in image.shape[:2])
    tensor = cv2.resize(image, (width, height))[:, :, ::-1].transpose(2, 0, 1)[None]
    heat, size, offset, points = (
        maps[0] for maps in detector.run(None, {"images": tensor.astype(np.float32)})
    )
    rows, columns = np.nonzero(heat[0] > threshold)
    order = np.argsort(-heat[0][rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    box_height, box_width = np.exp(size[:, rows, columns]) * STRIDE
    top = (rows + offset[0][rows, columns] + 0.5) * STRIDE - box_height / 2
    left = (columns + offset[1][rows, columns] + 0.5) * STRIDE - box_width / 2
    boxes = np.stack([left, top, left + box_width, top + box_height], axis=1)
    marks = points[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
    marks = marks * np.stack([box_width, box_height], 1)[:, None] + boxes[:, None, :2]
    ratio = np.array([image.shape[1] / width, image.shape[0] / height], np.float32)
    keep = _suppress(boxes)
    return [Face(boxes[k] * np.tile(ratio, 2), marks[k] * ratio) for k in keep]


def _suppress(boxes: NDArray[Any]) -> list[int]:
    """Return the boxes, in order, that overlap no earlier one."""
    keep: list[int] = []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for index, box in enumerate(boxes):
        low = np.maximum(box[:2], boxes[keep][:, :2])
        high = np.minimum(box[2:], boxes[keep][:, 2:])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        if not np.any(common > OVERLAP * (areas[index] + areas[keep] - common)):
            keep.append(index)
    return keep


def cut_head(image: Image, face: Face, *, tiles: bool = False) -> Head:
    """Cut the square that holds a head and a helmet on it.

    Args:
        image: uint8 `(H, W, 3)`, BGR. Read only.
        face: a face in it.
        tiles: smear what is right around the face instead of showing what is further away.
    """
    left, top, right, bottom = face.box
    height = float(bottom - top)
    scale = SIZE / (SIDE * height)
    corner = np.array([(left + right) / 2 - SIDE * height / 2, top - ABOVE * height])
    marks = ((face.landmarks - corner) * scale).astype(np.float32)
    border = cv2.BORDER_REFLECT
    if tiles:
        image, corner = _around(image, face.box, corner)
        border = cv2.BORDER_REPLICATE  # so near the face a mirror would show the forehead twice
    matrix = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
    crop = cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=border)
    return Head(crop.astype(np.uint8), marks, height * scale)


def _around(image: Image, box: Points, corner: NDArray[Any]) -> tuple[Image, NDArray[Any]]:
    """Cut the tile a face is in, and move `corner` to the tile's coordinates."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    x1, x2 = max(int(left - 0.2 * width), 0), int(right + 0.2 * width)
    y1, y2 = max(int(top - 0.12 * height), 0), int(bottom + 0.08 * height)
    return image[y1:y2, x1:x2], corner - [x1, y1]


def find_heads(
    detector: onnxruntime.InferenceSession, folder: Path, regions: tuple[Region, ...], least: float
) -> Iterator[Head]:
    """Yield the heads of all faces of at least `least` pixels of height in the regions."""
    for region in regions:
        image = cv2.imread(str(folder / region.picture))
        if image is None:
            raise ValueError(f"picture {region.picture} cannot be read")
        rows = np.ascontiguousarray(image[region.top : region.bottom])
        for face in find_faces(detector, rows):
            if face.box[3] - face.box[1] >= least:
                yield cut_head(rows, face, tiles=region.tiles)
