"""Draws what tasks found into a picture: boxes, labels, head poses and counts.

Everything scales with the picture, and small pictures are enlarged first, so that a 176x144 clip
is as readable as a 1080p one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.errors import SinkError
from vdag.extras import opencv
from vdag.frame import Frame, PixelFormat, UInt8Image
from vdag.results import Outputs, Result

__all__ = ["draw", "draw_boxes", "pose_axes", "render"]

Color = tuple[int, int, int]
Floats = NDArray[np.float64]

#: BGR; far apart in hue, all light enough on dark scenes. A class or task keeps its colour.
PALETTE: tuple[Color, ...] = (
    (80, 200, 255),
    (255, 170, 60),
    (110, 220, 110),
    (110, 110, 255),
    (250, 130, 220),
    (220, 220, 90),
    (70, 150, 250),
    (200, 160, 255),
    (160, 230, 190),
    (240, 200, 160),
)

#: BGR of the axes of a head: to the image's right, up, and where it looks.
AXES: tuple[Color, ...] = ((90, 90, 245), (90, 220, 90), (255, 150, 50))

#: Height of capitals over the line and depth of a `g` below it, in units of OpenCV's stroke font.
RISE, DESCENT = 21.0, 7.0

#: What stands behind the name of a task with parameters, see `vdag.tasks.naming`.
PARAMETERS = re.compile(r"__[0-9a-v]{8,}$")

#: Numbers from here on are no coordinates, and are not drawn.
FAR = 1e9

#: Height in pixels that text is made for; it grows with larger pictures.
BASE_HEIGHT = 480


def render(
    result: Result, *, labels: Mapping[int, str] | None = None, min_height: int = BASE_HEIGHT
) -> UInt8Image:
    """Return a picture of the result's frame with everything drawn that its tasks found.

    Args:
        result: with its frame; neither is changed.
        labels: class number to name, for rows of `result` fields.
        min_height: smaller frames are enlarged by a whole factor to at least this many rows.

    Returns:
        uint8 `(H, W, 3)` BGR, C-contiguous; the caller owns it.

    Raises:
        SinkError: the result has no frame any more.
        DependencyMissing: OpenCV is not installed.
    """
    if result.frame is None:
        raise SinkError(f"result {result.seq} of {result.stream} has no frame to draw into")
    pixels = _enlarged_copy(result.frame, min_height)
    scale = (pixels.shape[1] / result.width, pixels.shape[0] / result.height)
    return draw(pixels, result.outputs, labels=labels, scale=scale)


def draw(
    pixels: UInt8Image,
    outputs: Mapping[str, Outputs],
    *,
    labels: Mapping[int, str] | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> UInt8Image:
    """Draw the outputs of all tasks into `pixels`.

    Fields are drawn by their names in the documents: `bbox` with `prob`, `head_pose` on the boxes
    of its own task or of the one with as many, rows of `result`, and `count_result` and
    `clip_result` as a legend. Others are left out, and so are numbers that are not finite.

    Args:
        pixels: uint8 `(H, W, 3)` BGR, C-contiguous. Written in place.
        outputs: task name to fields; a field `names` maps class numbers to names.
        labels: class number to name, for tasks without `names`.
        scale: factors from the coordinates in `outputs` to those in `pixels`, x and y.

    Returns:
        `pixels`.

    Raises:
        DependencyMissing: OpenCV is not installed.
    """
    canvas = _Canvas.over(pixels)
    factors = np.array([*scale, *scale])
    for task, fields in outputs.items():
        if "bbox" in fields:
            _draw_boxes(canvas, task, fields, factors)
        if "result" in fields:
            _draw_rows(canvas, fields, labels or {}, factors)
    for task, fields in outputs.items():  # above all boxes
        if "head_pose" in fields:
            _draw_poses(canvas, outputs, task, factors)
    canvas.legend(_counts(outputs))
    return pixels


def draw_boxes(
    pixels: UInt8Image, boxes: Iterable[Iterable[float]], texts: Iterable[str], color: Color
) -> UInt8Image:
    """Draw boxes into `pixels`, each with a text on it.

    Args:
        pixels: uint8 `(H, W, 3)` BGR, C-contiguous. Written in place.
        boxes: x1, y1, x2, y2 in pixels; those that are not finite are left out.
        texts: one for each box; empty for the box alone.
        color: BGR of the boxes and of what is behind the texts.

    Returns:
        `pixels`.

    Raises:
        DependencyMissing: OpenCV is not installed.
    """
    canvas = _Canvas.over(pixels)
    for box, text in zip(_matrix(list(boxes), 4), texts, strict=True):
        if np.isfinite(box).all():
            canvas.box(box, color, text)
    return pixels


def pose_axes(yaw: float, pitch: float, roll: float) -> Floats:
    """Return the axes of a head as the camera sees them.

    The inverse of `vdag.tasks.headpose`: the look direction has this yaw and pitch, and the axis
    through the ears has this roll in the image.

    Args:
        yaw: degrees, above 0 looks to the image's right.
        pitch: degrees, above 0 looks up.
        roll: degrees, above 0 is clockwise in the image.

    Returns:
        float64 `(3, 3)`, rows of length 1: to the image's right, up, look direction. Columns are
        right, down, and away from the camera.
    """
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    look = np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), -np.cos(yaw) * np.cos(pitch)])
    # A look across the image fixes no depth of the ears' axis; a hair beside it does.
    depth = look[2] if abs(look[2]) > 1e-6 else -1e-6
    right = np.array([np.cos(roll), np.sin(roll), 0.0])
    right[2] = -(right[0] * look[0] + right[1] * look[1]) / depth
    right /= np.linalg.norm(right)
    up = np.cross(look, right)
    return np.stack([right, up, look])


@dataclass(frozen=True, slots=True)
class _Canvas:
    """A picture and the sizes of things in it."""

    cv2: Any
    pixels: UInt8Image
    thickness: int
    font_scale: float

    @classmethod
    def over(cls, pixels: UInt8Image) -> _Canvas:
        unit = max(min(pixels.shape[0], pixels.shape[1] * 3 / 4) / BASE_HEIGHT, 0.5)
        return cls(opencv(), pixels, max(round(1.6 * unit), 1), 0.48 * unit)

    def box(self, box: Floats, color: Color, text: str) -> None:
        """Draw a frame around `box` (xyxy) with a label on its upper edge, or inside it."""
        x1, y1, x2, y2 = self._clamp(box)
        self.cv2.rectangle(self.pixels, (x1, y1), (x2, y2), color, self.thickness, self.cv2.LINE_AA)
        if not text:
            return
        top = y1 - self.line_height if y1 >= self.line_height else y1
        self.text((x1 - self.thickness // 2, top), text, color)

    def arrow(self, start: NDArray[Any], step: NDArray[Any], color: Color) -> None:
        """Draw an axis from `start`; both in pixels (x, y)."""
        ends = [tuple(self._clamp(point)) for point in (start, start + step)]
        args = (self.thickness + 1, self.cv2.LINE_AA, 0, 0.15)
        self.cv2.arrowedLine(self.pixels, *ends, color, *args)

    def text(self, corner: tuple[int, int], text: str, color: Color) -> None:
        """Write on a filled background whose upper left corner is `corner`, kept inside."""
        width, height = self._text_width(text), self.line_height
        x = max(min(corner[0], self.pixels.shape[1] - width), 0)
        y = max(min(corner[1], self.pixels.shape[0] - height), 0)
        self.cv2.rectangle(self.pixels, (x, y), (x + width - 1, y + height - 1), color, -1)
        self._write((x, y), text, _ink(color))

    def legend(self, lines: list[tuple[str, Color]]) -> None:
        """Write lines into a darkened panel in the upper left corner."""
        if not lines:
            return
        height, margin = self.line_height, self.padding
        swatch = height // 2
        left = 2 * margin + swatch
        width = left + max(self._text_width(text) for text, _ in lines) + margin
        panel = self.pixels[: len(lines) * height + 2 * margin, :width]
        panel[:] = panel // 3  # a third of the light: the scene shows through
        for index, (text, color) in enumerate(lines):
            top = margin + index * height
            y = top + (height - swatch) // 2
            corners = (2 * margin, y), (left - 1, y + swatch - 1)
            self.cv2.rectangle(self.pixels, *corners, color, -1)
            self._write((left, top), text, (245, 245, 245))

    def _write(self, corner: tuple[int, int], text: str, color: Color) -> None:
        origin = corner[0] + self.padding, corner[1] + self.padding + self._rise
        args = (self._font[1], color, self._font[2], self.cv2.LINE_AA)
        self.cv2.putText(self.pixels, _printable(text), origin, self._font[0], *args)

    @property
    def padding(self) -> int:
        """Pixels around a text."""
        return max(round(6 * self.font_scale), 2)

    @property
    def line_height(self) -> int:
        """Pixels of a line with its padding."""
        return self._rise + round(DESCENT * self.font_scale) + 2 * self.padding

    @property
    def _rise(self) -> int:
        return round(RISE * self.font_scale)

    @property
    def _font(self) -> tuple[int, float, int]:
        return self.cv2.FONT_HERSHEY_SIMPLEX, self.font_scale, max(self.thickness // 2, 1)

    def _text_width(self, text: str) -> int:
        (width, _), _ = self.cv2.getTextSize(_printable(text), *self._font)
        return int(width) + 2 * self.padding

    def _clamp(self, point: NDArray[Any]) -> list[int]:
        """Return coordinates as integers that are at most one picture outside."""
        side = max(self.pixels.shape[:2])
        return [int(value) for value in np.clip(np.rint(point), -side, 2 * side)]


def _draw_boxes(canvas: _Canvas, task: str, fields: Outputs, factors: Floats) -> None:
    boxes = _matrix(fields["bbox"], 4) * factors
    prob = _vector(fields.get("prob", ()))
    name = PARAMETERS.sub("", task).removesuffix("_detection").removesuffix("_alignment")
    color = _color(name)
    for index, box in enumerate(boxes):
        if np.isfinite(box).all():
            text = f"{name} {prob[index]:.2f}" if index < len(prob) else name
            canvas.box(box, color, text)


def _draw_rows(
    canvas: _Canvas, fields: Outputs, labels: Mapping[int, str], factors: Floats
) -> None:
    names = _names(fields.get("names")) or labels
    for row in _matrix(fields["result"], 6):
        if np.isfinite(row).all():
            number = int(row[5])
            name = names.get(number, f"class {number}")
            canvas.box(row[:4] * factors, _color(name), f"{name} {row[4]:.2f}")


def _draw_poses(
    canvas: _Canvas, outputs: Mapping[str, Outputs], task: str, factors: Floats
) -> None:
    poses = _matrix(outputs[task]["head_pose"], 3)
    boxes = _boxes_of(outputs, task, len(poses))
    for pose, box in zip(poses, boxes * factors, strict=False):
        if not (np.isfinite(pose).all() and np.isfinite(box).all()):
            continue
        centre = (box[:2] + box[2:]) / 2
        length = 0.6 * float(min(box[2:] - box[:2]))
        axes = pose_axes(*(float(angle) for angle in pose))
        for axis, color in sorted(zip(axes, AXES, strict=True), key=lambda pair: -pair[0][2]):
            canvas.arrow(centre, axis[:2] * length, color)  # the one nearest the camera last


def _boxes_of(outputs: Mapping[str, Outputs], task: str, count: int) -> Floats:
    """Return the boxes that belong to the poses of `task`."""
    candidates = [outputs[task], *outputs.values()]
    for fields in candidates:
        if "bbox" in fields and len(boxes := _matrix(fields["bbox"], 4)) == count:
            return boxes
    return np.empty((0, 4))


def _counts(outputs: Mapping[str, Outputs]) -> list[tuple[str, Color]]:
    """Return the lines of the legend."""
    lines: list[tuple[str, Color]] = []
    for fields in outputs.values():
        last_of_clip = list(fields.get("clip_result") or ())[-1:]
        for counts in (fields.get("count_result"), *last_of_clip):
            if isinstance(counts, Mapping):
                lines += [(f"{name}  {count}", _color(str(name))) for name, count in counts.items()]
    return lines


def _names(names: Any) -> Mapping[int, str]:
    if isinstance(names, Mapping):
        return {int(number): str(name) for number, name in names.items()}
    return dict(enumerate(map(str, names))) if names is not None else {}


def _matrix(values: Any, columns: int) -> Floats:
    """Return rows of numbers; what is too far out for any picture becomes not-a-number."""
    numbers = np.asarray(values, np.float64).reshape(-1, columns)
    return np.where(np.abs(numbers) < FAR, numbers, np.nan)


def _vector(values: Iterable[float]) -> Floats:
    return np.asarray(values, np.float64).reshape(-1)


def _color(name: str) -> Color:
    return PALETTE[zlib.crc32(name.encode()) % len(PALETTE)]  # hash() differs between runs


def _ink(background: Color) -> Color:
    blue, green, red = background
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 110 else (255, 255, 255)


def _printable(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # all that OpenCV's stroke fonts have


def _enlarged_copy(frame: Frame, min_height: int) -> UInt8Image:
    """Return the frame in BGR, enlarged by a whole factor, in memory of its own."""
    cv2 = opencv()
    conversions = {
        PixelFormat.RGB24: cv2.COLOR_RGB2BGR,
        PixelFormat.GRAY8: cv2.COLOR_GRAY2BGR,
    }
    conversion = conversions.get(frame.pixel_format)
    pixels: UInt8Image = (
        frame.pixels if conversion is None else cv2.cvtColor(frame.pixels, conversion)
    )
    factor = -(-min_height // frame.height)
    if factor > 1:
        size = (frame.width * factor, frame.height * factor)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
    elif conversion is None:
        pixels = np.array(pixels, order="C")
    return pixels
