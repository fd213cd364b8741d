"""Non-maximum suppression against OpenCV's.

Measured: from boxes and scores to the indices that stay. Outside: OpenCV wants x, y, width, height,
so its array is prepared beforehand, in float64, which it takes without a conversion and is its
fastest form. Both sides run one thread and give the same indices, which is asserted first.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vdag import _native as native

IOU, SCORE = 0.45, 0.25


def scattered(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes anywhere in a 1080p frame: most stay, so that most pairs are compared."""
    random = np.random.default_rng(n)
    corner = random.uniform(0, (1800, 960), (n, 2))
    boxes = np.concatenate([corner, corner + random.uniform(10, 160, (n, 2))], axis=1)
    return boxes.astype(np.float32), random.uniform(0, 1, n).astype(np.float32)


def clustered(n: int) -> tuple[np.ndarray, np.ndarray]:
    """About 25 boxes around each of n / 25 objects, as a detector's head gives them."""
    random = np.random.default_rng(n)
    objects = np.repeat(scattered(n // 25)[0], 25, axis=0)
    side = objects[:, 2:] - objects[:, :2]
    boxes = objects + np.tile(side, 2) * random.normal(0, 0.06, objects.shape)
    return boxes.astype(np.float32), random.uniform(0, 1, len(boxes)).astype(np.float32)


CASES = {
    "nms.100_boxes": scattered(100),
    "nms.1000_boxes": scattered(1000),
    "nms.1000_boxes_clustered": clustered(1000),
    "nms.8400_boxes": scattered(8400),
}


@pytest.mark.parametrize("name", CASES)
def bench_nms(compare, name):
    boxes, scores = CASES[name]
    rectangles = boxes.astype(np.float64)
    rectangles[:, 2:] -= rectangles[:, :2]
    cv2.setNumThreads(1)

    def ours():
        return native.nms.nms(boxes, scores, iou=IOU, score=SCORE)

    def theirs():
        return cv2.dnn.NMSBoxes(rectangles, scores, SCORE, IOU)

    np.testing.assert_array_equal(ours(), np.ravel(theirs()))
    compare(name, subject=("vdag", ours), against=("cv2.dnn.NMSBoxes", theirs), unit="us")
