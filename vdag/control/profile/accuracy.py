"""How good results are against those of the golden configuration, 0 to 1.

The golden configuration is the largest model at the largest resolution and every frame. Where
points were measured, a `Surface` interpolates them; elsewhere a formula stands in.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vdag.control.profile.costs import pixels_of
from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS

__all__ = ["AccuracyPoint", "Scene", "Surface", "assumed_accuracy", "check_point"]

MAX_POINT_SAMPLES = 10**9
#: Rate of the golden configuration where nothing is measured.
GOLDEN_FPS = 30.0
#: How far a scene may differ from the measured one before the difference counts no more.
MAX_WARP = 8.0

#: Accuracy below which nothing is told from nothing.
FAINT = 0.01

#: `a + b * e^(c * fps)` by the speed of objects, in px/s at 1080p, up to so much.
_BY_SPEED = (
    (260.0, (0.98, -0.75, -0.85)),
    (520.0, (0.97, -1.20, -0.78)),
    (780.0, (0.985, -0.90, -0.29)),
    (math.inf, (1.0, -0.84, -0.18)),
)
_UNKNOWN_SPEED = 520.0
#: `a + b * e^(c * (height - 350))` by the size of objects, in px^2 at 1080p, up to so much.
_BY_SIZE = (
    (0.0, (0.99, -0.20, -0.008)),
    (50_000.0, (0.98, -0.63, -0.006)),
    (100_000.0, (0.99, -0.47, -0.008)),
    (math.inf, (0.99, -0.20, -0.008)),
)
_UNKNOWN_SIZE = 100_000.0
#: What each step to a smaller model is assumed to cost where it was not measured.
MODEL_STEP = 0.95

#: Pixels and nominal height of the documents' resolutions, to read a height off any size.
_HEIGHTS = [
    (width * height, float(name.removesuffix("p"))) for name, (width, height) in RESOLUTIONS.items()
]


@dataclass(frozen=True, slots=True)
class Scene:
    """What was seen where points were measured.

    Attributes:
        obj_size: mean area of objects, px^2 at 1080p; 0 for unknown.
        obj_speed: their mean speed, px/s at 1080p; 0 for unknown or none.
        cam_fps: rate of the camera.
    """

    obj_size: float = 0.0
    obj_speed: float = 0.0
    cam_fps: float = GOLDEN_FPS


@dataclass(frozen=True, slots=True)
class AccuracyPoint:
    """What was measured for one model of a task.

    Attributes:
        resolution: of the frames.
        fps: at which they were processed.
        accuracy: mean F1 score against the golden configuration, 0 to 1.
        samples: frames that it was measured on.
        scene: what was in them.
    """

    resolution: str
    fps: float
    accuracy: float
    samples: int = 1
    scene: Scene = Scene()

    def merged(self, other: AccuracyPoint) -> AccuracyPoint:
        """Return the mean of two points of the same place, weighted by their samples."""
        total = self.samples + other.samples
        share = other.samples / total if total else 0.5

        def mix(a: float, b: float) -> float:
            return a + (b - a) * share

        return AccuracyPoint(
            self.resolution,
            self.fps,
            mix(self.accuracy, other.accuracy),
            min(total, MAX_POINT_SAMPLES),
            Scene(
                mix(self.scene.obj_size, other.scene.obj_size),
                mix(self.scene.obj_speed, other.scene.obj_speed),
                mix(self.scene.cam_fps, other.scene.cam_fps),
            ),
        )


def check_point(where: str, point: AccuracyPoint) -> None:
    """Raise ConfigError unless every value of a point is finite and within bounds."""
    pixels_of(point.resolution)
    scene = point.scene
    for name, value, low, high in (
        ("accuracy", point.accuracy, 0.0, 1.0),
        ("fps", point.fps, 0.001, 1000.0),
        ("samples", point.samples, 0, MAX_POINT_SAMPLES),
        ("obj_size", scene.obj_size, 0.0, 1e9),
        ("obj_speed", scene.obj_speed, 0.0, 1e6),
        ("cam_fps", scene.cam_fps, 0.001, 1000.0),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{where}: {name} {value:g} is not between {low:g} and {high:g}")


def assumed_accuracy(
    pixels: int,
    fps: float,
    *,
    model_id: int = 0,
    obj_size: float | None = None,
    obj_speed: float | None = None,
) -> float:
    """Return the accuracy where nothing is measured.

    The reference system's formula, `f(fps) * g(height)` with two saturating exponentials whose
    coefficients go by how fast and how large objects are; it was fitted there to faces and persons
    of street cameras. It is divided by what it gives for the golden configuration (1080p, 30 fps),
    because that has an accuracy of 1 by definition.

    Args:
        pixels: of the frames.
        fps: at which they are processed.
        model_id: each step to a smaller model is assumed to cost 5 %.
        obj_size: mean area of objects in px^2 at 1080p; None and below 0 for unknown.
        obj_speed: px/s at 1080p; None and below 0 for unknown.
    """
    ((value,),) = assumed_grid(
        (pixels,), (fps,), model_id=model_id, obj_size=obj_size, obj_speed=obj_speed
    )
    return value


def assumed_grid(
    pixels: Sequence[int],
    rates: Sequence[float],
    *,
    model_id: int = 0,
    obj_size: float | None = None,
    obj_speed: float | None = None,
) -> list[list[float]]:
    """Return `assumed_accuracy` of all of some sizes, at all of some rates each."""
    speed = _UNKNOWN_SPEED if obj_speed is None or obj_speed < 0 else obj_speed
    size = _UNKNOWN_SIZE if obj_size is None or obj_size < 0 else obj_size
    by_fps, by_height = _row(_BY_SPEED, speed), _row(_BY_SIZE, size)
    golden = _saturating(by_fps, GOLDEN_FPS) * _saturating(by_height, 1080.0 - 350.0)
    step = MODEL_STEP**model_id
    along = [_saturating(by_fps, fps) for fps in rates]
    heights = (_saturating(by_height, _height(each) - 350.0) for each in pixels)
    return [[min(value * height / golden, 1.0) * step for value in along] for height in heights]


def _row(
    table: Sequence[tuple[float, tuple[float, float, float]]], value: float
) -> tuple[float, float, float]:
    return next(row for limit, row in table if value <= limit)


def _saturating(row: tuple[float, float, float], x: float) -> float:
    a, b, c = row
    return max(a + b * math.exp(c * x), 0.0)


def _height(pixels: int) -> float:
    """Return the nominal height of a size: what its name would say if it had one."""
    index = bisect_right(_HEIGHTS, (pixels, 0.0))
    if index == 0:
        return _HEIGHTS[0][1] * math.sqrt(pixels / _HEIGHTS[0][0])
    if index == len(_HEIGHTS):
        return _HEIGHTS[-1][1] * math.sqrt(pixels / _HEIGHTS[-1][0])
    (below, low), (above, high) = _HEIGHTS[index - 1 : index + 1]
    return low + (high - low) * (pixels - below) / (above - below)


class Surface:
    """Measured accuracy of one model of a task, over pixels and rate.

    Between points it is bilinear in the logarithms of both. Before that every point gets at least
    the accuracy of those with fewer pixels and lower rates: where a measurement says otherwise it
    is noise. So the surface rises with both everywhere. A gap of the grid gets what the nearest
    known point has, times what the formula says of the way there. Below the lowest rate and
    resolution it falls as the formula does; above the highest it stays.

    Scenes differ from the one that was measured, and are brought to it by likeness: objects of half
    the area are seen as well as in that scene with half the pixels; objects of twice the speed move
    as far between two results as in that scene with twice the time. The time counted is what a rate
    adds to the camera's own period, for where every frame is processed nothing is late.

    Args:
        points: at least one.
    """

    __slots__ = ("_fps", "_log_fps", "_log_pixels", "_pixels", "_values", "scene")

    def __init__(self, points: Iterable[AccuracyPoint]) -> None:
        known = {(pixels_of(point.resolution), point.fps): point for point in points}
        self._pixels = sorted({pixels for pixels, _ in known})
        self._fps = sorted({fps for _, fps in known})
        self._log_pixels = [math.log(pixels) for pixels in self._pixels]
        self._log_fps = [math.log(fps) for fps in self._fps]
        self.scene = _mean_scene(list(known.values()))
        grid = [
            [point.accuracy if (point := known.get((p, f))) else None for f in self._fps]
            for p in self._pixels
        ]
        self._values = _risen(_filled(grid, self._pixels, self._fps))

    def at(
        self,
        pixels: int,
        fps: float,
        *,
        obj_size: float | None = None,
        obj_speed: float | None = None,
        cam_fps: float | None = None,
    ) -> float:
        """Return the accuracy of a configuration in a scene; None and below 0 for unknown."""
        scene = self.scene
        likeness = 1.0
        if obj_size is not None and obj_size > 0 and scene.obj_size > 0:
            likeness = _warp(obj_size / scene.obj_size)
        golden = scene.cam_fps if cam_fps is None else min(scene.cam_fps, cam_fps)
        late_s = max(1 / fps - 1 / golden, 0.0)
        if obj_speed is not None and obj_speed >= 0 and scene.obj_speed > 0:
            late_s *= _warp(obj_speed / scene.obj_speed)
        value = self._at(pixels * likeness, 1 / (late_s + 1 / scene.cam_fps))
        if likeness < 1.0:  # what is too small for the golden configuration as well is no loss
            best = self._at(self._pixels[-1] * likeness, scene.cam_fps)
            value = self._values[-1][-1] * (value + FAINT) / (best + FAINT)
        return min(value, 1.0)

    def _at(self, pixels: float, fps: float) -> float:
        row, down = _place(self._log_pixels, math.log(pixels))
        column, right = _place(self._log_fps, math.log(fps))
        values = self._values
        above, below = values[row], values[min(row + 1, len(values) - 1)]
        after = min(column + 1, len(above) - 1)
        first = above[column] + (above[after] - above[column]) * right
        second = below[column] + (below[after] - below[column]) * right
        value = first + (second - first) * down
        if fps < self._fps[0]:
            value *= _fall(assumed_accuracy(self._pixels[-1], fps),
                           assumed_accuracy(self._pixels[-1], self._fps[0]))  # fmt: skip
        if pixels < self._pixels[0]:
            value *= _fall(assumed_accuracy(round(pixels), GOLDEN_FPS),
                           assumed_accuracy(self._pixels[0], GOLDEN_FPS))  # fmt: skip
        return min(max(value, 0.0), 1.0)


def _fall(here: float, there: float) -> float:
    return min(here / there, 1.0) if there > 0 else 0.0


def _warp(ratio: float) -> float:
    return min(max(ratio, 1 / MAX_WARP), MAX_WARP)


def _place(axis: Sequence[float], value: float) -> tuple[int, float]:
    """Return the step of an axis that a value is in, and how far, 0 to 1; its ends go on."""
    if value <= axis[0]:
        return 0, 0.0
    if value >= axis[-1]:
        return len(axis) - 1, 0.0
    index = bisect_right(axis, value) - 1
    return index, (value - axis[index]) / (axis[index + 1] - axis[index])


def _mean_scene(points: Sequence[AccuracyPoint]) -> Scene:
    total = sum(max(point.samples, 1) for point in points)

    def mean(name: str) -> float:
        values = ((getattr(point.scene, name), max(point.samples, 1)) for point in points)
        return float(sum(value * count for value, count in values)) / total

    return Scene(mean("obj_size"), mean("obj_speed"), mean("cam_fps"))


def _filled(
    grid: list[list[float | None]], pixels: Sequence[int], fps: Sequence[float]
) -> list[list[float]]:
    """Fill the gaps of a grid: from the nearest known point of the row, by the formula's ratio."""
    known = [
        (r, c) for r, row in enumerate(grid) for c, value in enumerate(row) if value is not None
    ]

    def fill(row: int, column: int) -> float:
        r, c = min(known, key=lambda at: (abs(at[0] - row) + abs(at[1] - column), at))
        value = grid[r][c]
        assert value is not None, "it is one of the known"
        ratio = _fall(
            assumed_accuracy(pixels[row], fps[column]), assumed_accuracy(pixels[r], fps[c])
        )
        return value * ratio

    return [
        [fill(r, c) if value is None else value for c, value in enumerate(row)]
        for r, row in enumerate(grid)
    ]


def _risen(grid: list[list[float]]) -> list[list[float]]:
    """Return the smallest grid that is nowhere below this one and rises along both axes."""
    risen: list[list[float]] = []
    for row in grid:
        above = risen[-1] if risen else [0.0] * len(row)
        best, line = 0.0, []
        for value, upper in zip(row, above, strict=True):
            best = max(best, value, upper)
            line.append(best)
        risen.append(line)
    return risen
