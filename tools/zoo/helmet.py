"""Train the helmet classifier's head: no free pictures of helmets exist, so helmets are drawn.

Real bare heads are cut from sample pictures. Each gives crops with and without a drawn helmet,
both blurred, shrunk, shifted and recoloured in the same way, so that the helmet is the only
difference. Frozen ImageNet features of the crops go into a logistic regression. What it learns is
checked on a real helmet in a real video, by `measure.py`; it is a demonstration, not a product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from heads import SIZE, Head, Region, find_heads
from numpy.typing import NDArray

__all__ = ["HelmetHead", "normalise", "train"]

#: cv2's annotations promise less than it returns, so element types are said in words only.
Image = NDArray[Any]
Vector = NDArray[Any]
#: Maps points of a helmet to the crop.
Place = Callable[[Vector, Vector], NDArray[Any]]

#: Where bare heads are, in the sample pictures. Left out are rows with labels drawn over the faces.
REGIONS = (
    Region("samples.jpg", 0, 130),
    Region("screenshot-facedetect.jpg", 0, 300),
    Region("screenshot-facedetect.jpg", 300, 718, tiles=True),
    Region("screenshot-facematch.jpg", 0, 285),
    Region("screenshot-facematch.jpg", 285, 600, tiles=True),  # below 600 someone wears a hat
    Region("screenshot-facematch.jpg", 720, 954, tiles=True),
)
LEAST_FACE = 14.0
PAIRS = 8
SEED = 20240501
#: Weight of the squared norm of the head's weights, a crop; the least loss on heads left out.
RIDGE = 3e-3

#: BGR: white, yellow, red, blue, orange, green, black, grey.
COLOURS = (
    (235, 235, 235), (40, 210, 240), (40, 40, 200), (190, 90, 30),
    (30, 120, 240), (70, 160, 60), (35, 35, 35), (130, 130, 130),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HelmetHead:
    """A trained head: `sigmoid(features . direction / |features| + bias)`.

    Attributes:
        direction: float64 `(1280,)`.
        bias: of the same units.
        heads: number of different bare heads seen.
        crops: number of training crops, half of them with a drawn helmet.
    """

    direction: Vector
    bias: float
    heads: int
    crops: int

    def prob(self, features: Image) -> Vector:
        """Return the probability of a helmet for each row of `features`."""
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        return _sigmoid(unit @ self.direction + self.bias)


def train(
    detector: onnxruntime.InferenceSession,
    backbone: onnxruntime.InferenceSession,
    folder: Path,
    regions: Sequence[Region] = REGIONS,
) -> HelmetHead:
    """Train the head on the pictures in `folder`; the same files give the same head.

    Args:
        detector: CenterFace, finds the heads.
        backbone: EfficientNet-Lite0 up to its features.
        folder: holds the pictures of `regions`.
        regions: where to look for bare heads.
    """
    rng = np.random.default_rng(SEED)
    heads = list(find_heads(detector, folder, tuple(regions), LEAST_FACE))
    features, labels = [], []
    for head in heads:
        for _ in range(PAIRS):
            for label in (0.0, 1.0):
                crop = _augment(draw_helmet(head, rng) if label else head.crop, rng)
                features.append(backbone.run(None, {"images": normalise(crop)})[0][0])
                labels.append(label)
    direction, bias = _fit(np.array(features, np.float64), np.array(labels))
    return HelmetHead(direction, bias, len(heads), len(labels))


def normalise(crop: Image) -> Image:
    """Turn a BGR crop into the network's input, float32 `(1, 3, 224, 224)`."""
    tensor: Image = crop[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    return (tensor - 127) / 128


def draw_helmet(head: Head, rng: np.random.Generator) -> Image:
    """Draw a helmet on a copy of a crop: a dome along the eye line, vents, brim and straps."""
    left, right = head.landmarks[:2]
    along = (right - left) / max(float(np.linalg.norm(right - left)), 1.0)
    up = np.array([along[1], -along[0]])
    base = (left + right) / 2 + up * head.height * rng.uniform(0.14, 0.30)
    wide, high = head.height * rng.uniform(0.42, 0.56), head.height * rng.uniform(0.50, 0.72)

    def place(x: Vector, y: Vector) -> Vector:
        """Map helmet coordinates, x in -1..1 and y in 0..1 up, to sixteenths of crop pixels."""
        points = base + np.outer(x * wide, along) + np.outer(y * high, up)
        return np.array(np.round(points * 16), np.int32)

    angles = np.linspace(0, np.pi, 48)
    power = rng.uniform(0.6, 1.0)  # 1 is an ellipse, less is boxier
    x, y = np.cos(angles), np.sin(angles) ** power
    sag = rng.uniform(0.0, 0.25)  # the rim comes down over the ears
    rim = np.linspace(-1, 1, 16)
    outline = place(np.append(x, rim), np.append(y, -sag * rim**4 - 0.04 * np.cos(rim * np.pi / 2)))
    colour = np.array(COLOURS[rng.integers(len(COLOURS))]) * rng.uniform(0.75, 1.1)
    canvas: Image = head.crop.astype(np.float32)
    if rng.random() < 0.4:
        _draw_straps(canvas, head, place, rng)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA, 4)
    weight = (mask / 255.0)[:, :, None]
    canvas = canvas * (1 - weight) + _shade(colour, base, wide, high, rng) * weight
    if rng.random() < 0.7:
        _draw_vents(canvas, place, colour, rng)
    if rng.random() < 0.6:
        edge = rng.uniform(1.0, 1.25)
        brim = place(edge * rim, -0.05 - sag * rim**4 + 0.06 * np.cos(rim * np.pi / 2))
        thick = max(1, round(head.height * rng.uniform(0.02, 0.07)))
        cv2.polylines(canvas, [brim], False, (colour * 0.6).tolist(), thick, cv2.LINE_AA, 4)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _shade(
    colour: Vector, base: Vector, wide: float, high: float, rng: np.random.Generator
) -> Image:
    """Paint a curved surface lit from one side: darker to the rim, one soft highlight, grain."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    x, y = (columns - base[0]) / wide, (base[1] - rows) / high
    light = 0.65 + 0.35 * np.clip(y + rng.uniform(-0.5, 0.5) * x, 0, 1)
    spot = rng.uniform([-0.5, 0.4], [0.5, 0.8])
    gloss = rng.uniform(0, 90) * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 0.05)
    grain = rng.normal(0, 5, (SIZE, SIZE))
    painted: Image = colour * light[:, :, None] + (gloss + grain)[:, :, None]
    return painted


def _draw_vents(canvas: Image, place: Place, colour: Vector, rng: np.random.Generator) -> None:
    """Cut dark slits that run from the front to the crown."""
    count = int(rng.integers(3, 7))
    rise = np.linspace(rng.uniform(0.1, 0.3), rng.uniform(0.6, 0.85), 12)
    for lane in np.linspace(-0.7, 0.7, count):
        curve = place(lane * np.sqrt(1 - 0.8 * rise**2), rise)
        thick = int(rng.integers(2, 8))
        cv2.polylines(canvas, [curve], False, (colour * 0.25).tolist(), thick, cv2.LINE_AA, 4)


def _draw_straps(canvas: Image, head: Head, place: Place, rng: np.random.Generator) -> None:
    """Run a strap from each side of the rim to the chin."""
    mouth = head.landmarks[3:].mean(axis=0)
    chin = mouth + (mouth - head.landmarks[:2].mean(axis=0)) * 0.55
    end = np.round(chin * 16).astype(np.int32)[None]
    shade = [float(rng.uniform(10, 90))] * 3
    for side in (-0.9, 0.9):
        line = np.concatenate([place(np.array([side]), np.array([-0.1])), end])
        cv2.polylines(canvas, [line], False, shade, int(rng.integers(2, 5)), cv2.LINE_AA, 4)


def _augment(crop: Image, rng: np.random.Generator) -> Image:
    """Shift, turn, mirror, recolour, shrink and blur a crop as cameras and detectors do."""
    scale, angle = rng.uniform(0.85, 1.15), rng.uniform(-15, 15)
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), angle, scale)
    matrix[:, 2] = matrix[:, 2] + rng.uniform(-0.07, 0.07, 2) * SIZE
    crop = cv2.warpAffine(crop, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    # From sharp to the 25 pixels a head has in a street scene.
    small = round(SIZE * float(np.exp(rng.uniform(np.log(0.12), np.log(0.8)))))
    crop = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
    quality = int(rng.integers(40, 95))
    _, packed = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
    crop = cv2.resize(decoded, (SIZE, SIZE))
    colours = crop * rng.uniform(0.9, 1.1, 3) * rng.uniform(0.6, 1.3) + rng.uniform(-15, 15)
    if rng.random() < 0.15:
        colours = np.repeat(colours.mean(axis=2, keepdims=True), 3, axis=2)
    noisy = colours + rng.normal(0, rng.uniform(0, 6), colours.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _fit(features: Vector, labels: Vector) -> tuple[Vector, float]:
    """Fit a ridge logistic regression to unit features by Newton's method.

    The features are standardised for the fit; the result is folded back to unit features.
    """
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean, spread = unit.mean(axis=0), unit.std(axis=0) + 1e-6
    design = np.hstack([(unit - mean) / spread, np.ones((len(unit), 1))])
    penalty = np.full(design.shape[1], RIDGE * len(unit))
    penalty[-1] = 1e-9  # the bias is free
    weights = np.zeros(design.shape[1])
    for _ in range(25):
        prob = _sigmoid(design @ weights)
        slope = design.T @ (prob - labels) + penalty * weights
        curve = (design * (prob * (1 - prob))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    direction = weights[:-1] / spread
    return direction, float(weights[-1] - mean @ direction)


def _sigmoid(value: Vector) -> Vector:
    return 1 / (1 + np.exp(-value))
