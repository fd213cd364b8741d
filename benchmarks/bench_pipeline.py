"""A whole pipeline on real video, against the loop a user would write.

Inside: decoding, resizing, detection, alignment, until the last result is there. Outside: loading
the models. The loop is what the tutorials of OpenCV and ONNX Runtime show:
`VideoCapture`, `blobFromImage`, `InferenceSession.run` with its default threads, numpy, `NMSBoxes`.
Both run the same models on the same frames and find the same faces.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from comparison import Comparison, quantile

from vdag import Graph, Pipeline, SingleFrameGenerator
from vdag.engines import zoo
from vdag.tasks.headpose import eye_angle, head_pose, square_crop, to_frame

ROUNDS = 7
GRAPH = Graph.chain("face_detection", "face_alignment")


class PlainLoop:
    """Faces and their poses, frame after frame, on one thread of Python."""

    def __init__(self) -> None:
        self.detector = ort.InferenceSession(zoo.card("centerface").path)
        self.mesh = ort.InferenceSession(zoo.card("facemesh").path)

    def run(self, path: Path, size: tuple[int, int]) -> tuple[list[np.ndarray], list[float]]:
        """Return the poses of every frame, and what each frame took in seconds."""
        capture = cv2.VideoCapture(str(path))
        poses, times = [], []
        while True:
            start = time.perf_counter()
            read, frame = capture.read()
            if not read:
                return poses, times
            poses.append(self.frame(cv2.resize(frame, size)))
            times.append(time.perf_counter() - start)

    def frame(self, frame: np.ndarray) -> np.ndarray:
        """Return the poses in one frame."""
        height, width = frame.shape[:2]
        tensor_size = (-(-width // 32) * 32, -(-height // 32) * 32)
        blob = cv2.dnn.blobFromImage(frame, 1.0, tensor_size, swapRB=True)
        heat, size, offset, points = self.detector.run(
            ["heat", "size", "offset", "landmarks"], {"images": blob}
        )
        y, x = np.nonzero(heat[0, 0] > 0.5)
        high, wide = np.exp(size[0, 0, y, x]) * 4, np.exp(size[0, 1, y, x]) * 4
        left = (x + offset[0, 1, y, x] + 0.5) * 4 - wide / 2
        top = (y + offset[0, 0, y, x] + 0.5) * 4 - high / 2
        boxes = np.stack([left, top, wide, high], axis=1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), heat[0, 0, y, x].tolist(), 0.5, 0.3)
        ratio = np.array([width / tensor_size[0], height / tensor_size[1]])
        poses = [
            self.pose(frame, boxes[i], points[0, :, y[i], x[i]].reshape(5, 2), ratio) for i in kept
        ]
        return np.array(poses).reshape(-1, 3)

    def pose(
        self, frame: np.ndarray, box: np.ndarray, points: np.ndarray, ratio: np.ndarray
    ) -> np.ndarray:
        """Return the pose of one face."""
        corner, extent = box[:2] * ratio, box[2:] * ratio
        eyes = points[:2, ::-1] * extent + corner
        xyxy = np.concatenate([corner, corner + extent]).astype(np.float32)
        crop = square_crop(xyxy, 192, eye_angle(eyes[0], eyes[1]))
        face = cv2.warpAffine(frame, crop, (192, 192), borderMode=cv2.BORDER_REPLICATE)
        blob = cv2.dnn.blobFromImage(face, 1 / 255, swapRB=True)
        (mesh,) = self.mesh.run(["mesh"], {"images": blob})
        return head_pose(to_frame(mesh.reshape(468, 3), crop)[None])[0]


def run_pipeline(path: Path, resolution: str) -> tuple[list[np.ndarray], list[float], float]:
    """Return poses, delays from capture to result, and seconds without loading the models."""
    poses, delays = [], []
    with Pipeline(GRAPH, SingleFrameGenerator(path, resolution=resolution)) as run:
        start = time.perf_counter()
        for result in run:
            poses.append(result["face_alignment"]["head_pose"])
            delays.append(result.delay_s)
        return poses, delays, time.perf_counter() - start


def faces(clips: Path, record, name: str, resolution: str, size: tuple[int, int]) -> None:
    """Run both sides in turn; the ratio is of frames per second, p50 and p99 are delays."""
    path = clips / "carphone_pristine.mp4"
    loop = PlainLoop()
    expected, _ = loop.run(path, size)
    ratios, delays = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        loop.run(path, size)
        loop_s = time.perf_counter() - start
        poses, frame_delays, ours_s = run_pipeline(path, resolution)
        ratios.append(loop_s / ours_s)
        delays += frame_delays
    assert [len(found) for found in poses] == [len(found) for found in expected]
    assert np.abs(np.concatenate(poses) - np.concatenate(expected)).max() < 5
    record(
        Comparison(
            name,
            "vdag.Pipeline",
            "plain loop of OpenCV and ONNX Runtime",
            round(statistics.median(ratios), 3),
            round(quantile(delays, 0.5) * 1e3, 2),
            round(quantile(delays, 0.99) * 1e3, 2),
            "ms",
            ROUNDS,
        )
    )


def bench_faces(clips, record):
    faces(clips, record, "pipeline.faces", "480p", (640, 480))


def bench_faces_small(clips, record):
    faces(clips, record, "pipeline.faces_176x144", "176x144", (176, 144))
