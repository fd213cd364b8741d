"""`Accuracies`: the accuracies that were measured, and what follows for any configuration."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from vdag.control.profile.accuracy import (
    MODEL_STEP,
    AccuracyPoint,
    Surface,
    assumed_accuracy,
    assumed_grid,
    check_point,
)
from vdag.control.profile.costbook import MAX_MODEL_ID, MAX_NAME, nearest_model
from vdag.control.profile.costs import pixels_of
from vdag.errors import ConfigError
from vdag.sampling import check_fps

__all__ = ["Accuracies", "AccuracyRow"]

#: Predicted values that are kept.
MAX_CACHED = 1 << 15
MAX_POINTS = 200_000
#: Sizes and speeds of objects count as equal within an eighth of an octave, so that scenes which
#: hardly differ share what was predicted.
STEPS = 8
UNKNOWN, NONE = -(1 << 20), -(1 << 19)

#: Where a point is: scene, resolution, rate.
Place = tuple[int, str, float]
Key = tuple[str, int, str, float, int, int, "float | None"]


class AccuracyRow(NamedTuple):
    """A measured accuracy and what of."""

    task: str
    model_id: int
    point: AccuracyPoint


class Accuracies:
    """See the module."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, int], dict[Place, AccuracyPoint]] = {}
        self._models: dict[str, set[int]] = {}
        self._count = 0
        self._surfaces: dict[tuple[str, int], list[Surface]] = {}
        self._cache: dict[Key, float] = {}

    def __iter__(self) -> Iterator[AccuracyRow]:
        for (task, model_id), points in self._points.items():
            for point in points.values():
                yield AccuracyRow(task, model_id, point)

    def put(self, row: AccuracyRow) -> None:
        """Set an accuracy.

        Raises:
            ConfigError: something of it is out of bounds; nothing has changed.
        """
        where = f"accuracy of {row.task[:MAX_NAME]}"
        check_point(where, row.point)
        if not 0 <= row.model_id <= MAX_MODEL_ID:
            raise ConfigError(f"{where}: model_id {row.model_id} is not 0 to {MAX_MODEL_ID}")
        if not 0 < len(row.task) <= MAX_NAME or self._count >= MAX_POINTS:
            raise ConfigError(f"{where}: the name exceeds {MAX_NAME}, or the points {MAX_POINTS}")
        points = self._points.setdefault((row.task, row.model_id), {})
        place = _place(row.point)
        self._count += place not in points
        points[place] = row.point
        self._models.setdefault(row.task, set()).add(row.model_id)
        self._surfaces.pop((row.task, row.model_id), None)
        self._cache.clear()

    def merge(self, row: AccuracyRow) -> None:
        """Take in a point: the mean with what is there, weighted by samples; errors as `put`."""
        points = self._points.get((row.task, row.model_id), {})
        known = points.get(_place(row.point))
        self.put(row if known is None else row._replace(point=known.merged(row.point)))

    def at(
        self,
        task: str,
        model_id: int,
        resolution: str,
        fps: float,
        obj_size: float | None,
        obj_speed: float | None,
        cam_fps: float | None,
    ) -> float:
        """Return an accuracy; arguments and errors are as those of `Profile.accuracy`."""
        size, speed = _step(obj_size), _step(obj_speed)
        key = task, model_id, resolution, fps, size, speed, cam_fps
        found = self._cache.get(key)
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            found = self._cache[key] = self._judge(key)
        return found

    def grid(
        self,
        task: str,
        model_id: int,
        resolutions: Sequence[str],
        rates: Sequence[float],
        obj_size: float | None,
        obj_speed: float | None,
        cam_fps: float | None,
    ) -> list[list[float]]:
        """Return `at` of all of some resolutions, at all of some rates each."""
        if not self._models.get(task):
            return assumed_grid(
                [pixels_of(name) for name in resolutions],
                rates,
                model_id=model_id,
                obj_size=_value(_step(obj_size)),
                obj_speed=_value(_step(obj_speed)),
            )
        return [
            [self.at(task, model_id, name, fps, obj_size, obj_speed, cam_fps) for fps in rates]
            for name in resolutions
        ]

    def _judge(self, key: Key) -> float:
        task, model_id, resolution, fps, size, speed, cam_fps = key
        pixels = pixels_of(resolution)
        check_fps("fps", fps)
        if cam_fps is not None:
            check_fps("cam_fps", cam_fps)
        models = self._models.get(task)
        if not models:
            return assumed_accuracy(
                pixels, fps, model_id=model_id, obj_size=_value(size), obj_speed=_value(speed)
            )
        nearest = nearest_model(models, model_id)
        value = _between(
            self._scenes(task, nearest),
            pixels,
            fps,
            obj_size=_value(size),
            obj_speed=_value(speed),
            cam_fps=cam_fps,
        )
        return value * MODEL_STEP ** max(model_id - nearest, 0)

    def _scenes(self, task: str, model_id: int) -> list[Surface]:
        """Return the surfaces of a model, one per scene, by rising size of objects."""
        surfaces = self._surfaces.get((task, model_id))
        if surfaces is None:
            scenes: dict[int, list[AccuracyPoint]] = {}
            for (scene, _, _), point in self._points[task, model_id].items():
                scenes.setdefault(scene, []).append(point)
            surfaces = [Surface(scenes[scene]) for scene in sorted(scenes)]
            self._surfaces[task, model_id] = surfaces
        return surfaces


def _between(
    surfaces: list[Surface],
    pixels: int,
    fps: float,
    *,
    obj_size: float | None,
    obj_speed: float | None,
    cam_fps: float | None,
) -> float:
    """Return the accuracy in a scene between those that were measured, by the size of objects.

    A mean of surfaces that rise everywhere rises everywhere. If the size is unknown all of them
    count the same. Beyond the smallest and the largest size the surface itself goes on.
    """

    def at(surface: Surface, obj_size: float | None = None) -> float:
        return surface.at(pixels, fps, obj_size=obj_size, obj_speed=obj_speed, cam_fps=cam_fps)

    if obj_size is None:
        return sum(map(at, surfaces)) / len(surfaces)
    sizes = [math.log(max(surface.scene.obj_size, 1.0)) for surface in surfaces]
    size = math.log(max(obj_size, 1.0))
    index = bisect_right(sizes, size)
    if index in (0, len(sizes)):
        return at(surfaces[max(index - 1, 0)], obj_size)
    low, high = sizes[index - 1 : index + 1]
    first, second = at(surfaces[index - 1]), at(surfaces[index])
    return first + (second - first) * (size - low) / (high - low)


def _place(point: AccuracyPoint) -> Place:
    """Return where a point is; scenes count as one if their objects are within an octave."""
    return round(math.log2(max(point.scene.obj_size, 1.0))), point.resolution, point.fps


def _step(value: float | None) -> int:
    """Return a number for all values about as large as this one."""
    if value is None or not value >= 0:  # true for not a number
        return UNKNOWN
    return round(STEPS * math.log2(value)) if 1e-6 < value < 1e12 else NONE


@cache
def _value(step: int) -> float | None:
    """Return the value that stands for a step."""
    if step == UNKNOWN:
        return None
    return 0.0 if step == NONE else 2.0 ** (step / STEPS)
