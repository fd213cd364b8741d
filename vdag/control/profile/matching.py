"""What two configurations found in the same frames, compared: matching by overlap, and F1.

Boxes are compared in shares of the picture, so that frames of different sizes can be. Each box of
one side is matched to at most one of the other: greedily, the surest first, each to the free box
that it overlaps most, if by at least half (IoU), as detection benchmarks do (COCO, PASCAL VOC).
The F1 score of a frame is twice the matches over all boxes of both sides; without any it is 1.

Tasks that judge objects which another task has found, such as which way a head looks, are compared
on the objects that both sides have: the share of these that they judge alike. Missed and late boxes
are thereby counted once, with the task that finds them, and the accuracy of a chain is the product.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.sampling import FrameSampler

__all__ = [
    "Findings",
    "Motion",
    "compare",
    "findings_of",
    "iou",
    "match",
    "motion",
    "objects_in",
    "score",
    "seen_at",
]

#: Least overlap of boxes of one object in one frame.
MIN_IOU = 0.5
#: Least overlap of boxes of one object in consecutive frames.
MIN_NEXT_IOU = 0.1
#: Share of frames in which the golden configuration finds something, at least.
MIN_SHARE = 0.1
#: Pitch above which a head counts as up, in degrees; as `face_alignment` has it.
UP_PITCH_DEGREES = -10.0
#: Most objects of one kind that are compared by their count alone.
MAX_COUNTED = 10_000
#: The picture in which sizes and speeds of objects are told.
REFERENCE = (1920.0, 1080.0)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a task has found in a frame.

    Attributes:
        boxes: float32 `(N, 4)`, xyxy in shares of the picture's width and height.
        scores: float32 `(N,)`, how sure the task is.
        labels: int32 `(N,)`, what each is.
        judges: the boxes are those of a task before; only the labels are this one's.
    """

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int32]
    judges: bool = False

    def __len__(self) -> int:
        return len(self.boxes)


def findings_of(outputs: Mapping[str, Any], width: int, height: int) -> Findings | None:
    """Return what a task's outputs say, None if they have neither boxes nor counts.

    Objects that are counted and not placed get boxes without extent, which match by their label.

    Args:
        outputs: with one of the documents' fields `result`, `head_pose` and `bbox`, `bbox_list`,
            `bbox`, `count_result`.
        width: of the frame that the task saw, in pixels.
        height: likewise.
    """
    size = np.array([width, height, width, height], np.float32)
    if "result" in outputs:
        rows = np.asarray(outputs["result"], np.float32).reshape(-1, 6)
        return Findings(rows[:, :4] / size, rows[:, 4], rows[:, 5].astype(np.int32))
    if "head_pose" in outputs and "bbox" in outputs:
        boxes = _boxes(outputs["bbox"]) / size
        pitch = np.asarray(outputs["head_pose"], np.float32).reshape(-1, 3)[:, 1]
        labels = np.where(np.isnan(pitch), -1, pitch > UP_PITCH_DEGREES).astype(np.int32)
        return Findings(boxes, np.ones(len(boxes), np.float32), labels, judges=True)
    for name in ("bbox_list", "bbox"):
        if name in outputs:
            boxes = _boxes(outputs[name]) / size
            scores = np.asarray(outputs.get("prob", ()), np.float32).ravel()
            if len(scores) != len(boxes):
                scores = np.ones(len(boxes), np.float32)
            return Findings(boxes, scores, np.zeros(len(boxes), np.int32))
    if isinstance(outputs.get("count_result"), Mapping):
        return _counted(outputs["count_result"])
    return None


def objects_in(outputs: Mapping[str, Any]) -> int:
    """Return how many objects a task's outputs are about, as the run-time context counts them."""
    for name in ("bbox", "result"):
        boxes = outputs.get(name)
        if isinstance(boxes, np.ndarray) and boxes.ndim == 2:
            return len(boxes)
    counts = outputs.get("count_result")
    if not isinstance(counts, Mapping):
        return 0
    return int(counts["total"]) if "total" in counts else sum(map(int, counts.values()))


def iou(first: Floats, second: Floats) -> Floats:
    """Return intersection over union of `(N, 4)` with `(M, 4)` boxes xyxy, as `(N, M)`.

    Two equal boxes without extent have 1.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(each[:, 2:] - each[:, :2], 0), axis=1) for each in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - common
    same = np.all(first[:, None] == second[None, :], axis=2)
    overlap: Floats = np.where(union > 0, common / np.where(union > 0, union, 1), same).astype(
        np.float32
    )
    return overlap


def match(
    golden: Findings, found: Findings, *, least: float = MIN_IOU, labels: bool = True
) -> list[tuple[int, int]]:
    """Return which box of `golden` is which of `found`, as pairs of indices.

    Args:
        golden: what there is.
        found: what to judge.
        least: overlap of boxes of one object, at least.
        labels: whether boxes of one object have the same label.
    """
    if not (len(golden) and len(found)):
        return []
    overlap = iou(golden.boxes, found.boxes)
    if labels:
        overlap = np.where(golden.labels[:, None] == found.labels[None, :], overlap, 0.0)
    pairs = []
    for index in np.argsort(-found.scores, kind="stable"):
        best = int(np.argmax(overlap[:, index]))
        if overlap[best, index] >= least:
            pairs.append((best, int(index)))
            overlap[best] = 0.0
    return pairs


def score(golden: Findings, found: Findings) -> float | None:
    """Return how well one frame's findings agree, 0 to 1; None where nothing can be compared."""
    if golden.judges:
        pairs = match(golden, found, labels=False)
        alike = sum(int(golden.labels[a] == found.labels[b]) for a, b in pairs)
        return alike / len(pairs) if pairs else None
    total = len(golden) + len(found)
    return 2 * len(match(golden, found)) / total if total else 1.0


def compare(golden: Sequence[Findings], found: Sequence[Findings]) -> float | None:
    """Return the mean score of frames, both sides in the same order.

    Returns:
        None if the golden configuration finds something in too few frames: then the score says
        how few that are, and nothing of what is compared.
    """
    if sum(len(each) > 0 for each in golden) < MIN_SHARE * len(golden):
        return None
    scores = [score(a, b) for a, b in zip(golden, found, strict=True)]
    known = [value for value in scores if value is not None]
    return sum(known) / len(known) if known else None


def seen_at(found: Sequence[Findings], fps: float, cam_fps: float) -> list[Findings]:
    """Return what a viewer sees at each frame of the camera if only `fps` frames are processed.

    In between it is what was found last. Frames are chosen as sources choose them.
    """
    sampler = FrameSampler(fps, cam_fps=cam_fps)
    seen: list[Findings] = []
    for index, findings in enumerate(found):
        seen.append(findings if sampler.take(index) else seen[-1])
    return seen


@dataclass(frozen=True, slots=True)
class Motion:
    """What objects are like, in a picture of 1920 x 1080.

    Attributes:
        obj_n: objects per frame.
        obj_size: their mean area in square pixels; 0 without any.
        obj_speed: pixels per second of the fastest of each frame, on average; 0 without any.
    """

    obj_n: float
    obj_size: float
    obj_speed: float


def motion(found: Sequence[Findings], cam_fps: float) -> Motion:
    """Return what the objects of consecutive frames are like; those without extent count only."""
    counts = [len(each) for each in found]
    areas = np.concatenate([_areas(each.boxes) for each in found] or [np.zeros(0)])
    speeds = [
        speed
        for before, after in itertools.pairwise(found)
        if (speed := _speed(before, after)) is not None
    ]
    return Motion(
        float(np.mean(counts)) if counts else 0.0,
        float(areas.mean()) if len(areas) else 0.0,
        float(np.mean(speeds)) * cam_fps if speeds else 0.0,
    )


def _areas(boxes: Floats) -> NDArray[np.float64]:
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64) * REFERENCE
    areas: NDArray[np.float64] = np.prod(np.maximum(sides, 0), axis=1)
    return areas


def _speed(before: Findings, after: Findings) -> float | None:
    """Return by how many pixels the fastest object has moved; None if none is in both."""
    pairs = match(before, after, least=MIN_NEXT_IOU)
    if not pairs:
        return None
    first, second = (list(side) for side in zip(*pairs, strict=True))
    step = _centres(after.boxes[second]) - _centres(before.boxes[first])
    return float(np.hypot(step[:, 0], step[:, 1]).max())


def _centres(boxes: Floats) -> NDArray[np.float64]:
    centres: NDArray[np.float64] = (boxes[:, :2] + boxes[:, 2:]).astype(np.float64) / 2 * REFERENCE
    return centres


def _boxes(value: Any) -> Floats:
    return np.asarray(value, np.float32).reshape(-1, 4)


def _counted(counts: Mapping[str, Any]) -> Findings:
    """Return counted objects, each on a spot of its own by its number, so that equal ones match."""
    spots: list[int] = []
    labels: list[int] = []
    for name in sorted(counts):
        number = min(max(int(counts[name]), 0), MAX_COUNTED)
        spots += range(1, number + 1)
        labels += [zlib.crc32(name.encode()) >> 1] * number  # the same in every frame
    boxes = np.repeat(np.array(spots, np.float32)[:, None], 4, axis=1)
    return Findings(boxes, np.ones(len(spots), np.float32), np.array(labels, np.int32))
