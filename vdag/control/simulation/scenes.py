"""`Scene`: how many objects a camera sees at a moment, how large, and how fast they are."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from typing import NamedTuple

from vdag.control.simulation.scenario import ScenePhase, SceneSpec

__all__ = ["Scene", "View"]

#: The number of objects wanders about its mean and comes back within so many seconds.
MEMORY_S = 2.0


class View(NamedTuple):
    """A moment of a scene.

    Attributes:
        objects: in the frame.
        size: mean area, square pixels at 1920x1080; 0 without objects.
        speed: mean, pixels per second at 1920x1080.
        is_cut: nothing is where it was in the view before.
    """

    objects: int
    size: float
    speed: float
    is_cut: bool


class Scene:
    """A scene, looked at from time to time.

    The number of objects is a mean-reverting walk (an Ornstein-Uhlenbeck process, whose exact
    update over any interval is known), rounded; so it does not matter how often somebody looks.

    Args:
        spec: what it is like.
        key: of its own random numbers.

    Attributes:
        phase: of its camera: when its frames come, as a share of the time between two of them.
    """

    def __init__(self, spec: SceneSpec, key: str) -> None:
        self._spec = spec
        self._times = [phase.at_s for phase in spec.phases]
        self._random = random.Random(key)
        self.phase = self._random.random()
        self._wander = self._random.gauss(0.0, 1.0)
        self._seen_s = 0.0

    def phase_at(self, at_s: float) -> ScenePhase:
        """Return the phase of a moment."""
        return self._spec.phases[max(bisect_right(self._times, at_s) - 1, 0)]

    def look(self, at_s: float) -> View:
        """Return the view at a moment, seconds after the query's arrival; not before the last."""
        elapsed_s = max(at_s - self._seen_s, 0.0)
        keeps = math.exp(-elapsed_s / MEMORY_S)
        news = math.sqrt(1.0 - keeps * keeps)
        self._wander = keeps * self._wander + news * self._random.gauss(0.0, 1.0)
        cuts = bisect_right(self._spec.cuts, at_s) - bisect_right(self._spec.cuts, self._seen_s)
        self._seen_s = at_s
        phase = self.phase_at(at_s)
        objects = max(round(phase.objects * (1.0 + self._spec.spread * self._wander)), 0)
        return View(objects, phase.size if objects else 0.0, phase.speed, cuts > 0)
