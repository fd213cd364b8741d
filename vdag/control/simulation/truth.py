"""`Truth`: what tasks really cost and are worth in a simulated world, unlike what policies know.

Policies plan with a knowledge base. If the world were made of the same numbers, they would never be
wrong; so its numbers are those, each times a random factor that stays what it is for the whole run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vdag.control.profile import Cost, Profile
from vdag.control.scheduling.events import NodeInfo
from vdag.sampling import RESOLUTIONS

__all__ = ["Truth", "Work", "synthetic_profile"]

#: Standard deviations between the mean and what 95 % do not exceed, of a normal distribution.
Z95 = 1.6449
#: What the tasks of the documents take on one core of an edge, at 1080p: seconds of a frame, and of
#: each object in it. They are of the order of what small models take on such machines.
COSTS: Mapping[str, tuple[float, float]] = {
    "face_detection": (0.060, 0.0),
    "face_alignment": (0.006, 0.004),
    "car_detection": (0.090, 0.0),
    "helmet_detection": (0.050, 0.003),
}
OTHER_COST = (0.050, 0.001)
#: Seconds of a smaller model for one of the largest.
MODELS = (1.0, 0.6, 0.35)
#: A worker of a server against one of an edge.
CLOUD_FACTOR = 0.25
#: What 95 % of frames do not exceed, for one of the mean.
P95_RATIO = 1.25
OUT_NBYTES, MEM_NBYTES = 2_000, 300 << 20


class Work(NamedTuple):
    """What a frame takes of a core, drawn anew for each.

    Attributes:
        mean_s: without objects.
        per_object_s: mean, of each.
        sigma: of the logarithm of a lognormal factor with mean 1.
        out_nbytes: of what is found, as it travels.
    """

    mean_s: float
    per_object_s: float
    sigma: float
    out_nbytes: int

    def draw(self, objects: float, chance: random.Random) -> float:
        """Return the seconds of one frame."""
        return self.expected(objects) * math.exp(
            chance.gauss(-0.5 * self.sigma * self.sigma, self.sigma)
        )

    def expected(self, objects: float) -> float:
        """Return the mean seconds."""
        return self.mean_s + self.per_object_s * objects

    def p95_s(self, objects: float) -> float:
        """Return the seconds that 95 % do not exceed."""
        return self.expected(objects) * math.exp(Z95 * self.sigma - 0.5 * self.sigma * self.sigma)


class Truth:
    """The world's own numbers.

    Args:
        profile: what they are near; nobody else refines it.
        error: standard deviation of the logarithm of their factors.
        key: of the random numbers.
    """

    def __init__(self, profile: Profile, error: float, key: str) -> None:
        self._profile, self._error, self._key = profile, error, key
        self._works: dict[tuple[str, int, str, str], Work] = {}
        self._factors: dict[str, float] = {}

    def work(self, task: str, model_id: int, resolution: str, node: NodeInfo) -> Work:
        """Return what a task takes on a node of speed 1."""
        key = task, model_id, resolution, node.node_addr
        found = self._works.get(key)
        if found is None:
            found = self._works[key] = self._judge(task, model_id, resolution, node)
        return found

    def frame_nbytes(self, resolution: str, encoder: str) -> float:
        """Return the mean bytes of an encoded frame."""
        known = self._profile.frame_nbytes(resolution, encoder)
        return known if encoder == "raw" else known * self._factor(f"frame {encoder}")

    def accuracy(
        self,
        branches: Iterable[Iterable[str]],
        models: Mapping[str, int],
        resolution: str,
        fps: float,
        *,
        obj_size: float | None,
        obj_speed: float | None,
        cam_fps: float,
    ) -> float:
        """Return what a configuration is worth: along a branch the product of what its tasks are.

        Args:
            branches: the tasks of each; the worst counts.
            models: task to `model_id`.
            resolution: of the frames.
            fps: at which frames come through.
            obj_size: of the scene, px^2 at 1080p; None for no objects.
            obj_speed: likewise, px/s at 1080p.
            cam_fps: of the camera.
        """
        return min(
            math.prod(
                self._worth(task, models[task], resolution, fps, obj_size, obj_speed, cam_fps)
                for task in branch
            )
            for branch in branches
        )

    def _worth(
        self,
        task: str,
        model_id: int,
        resolution: str,
        fps: float,
        obj_size: float | None,
        obj_speed: float | None,
        cam_fps: float,
    ) -> float:
        known = self._profile.accuracy(
            task, model_id, resolution, fps,
            obj_size=obj_size, obj_speed=obj_speed, cam_fps=cam_fps,
        )  # fmt: skip
        # What lacks to a perfect result is multiplied, so that better stays better.
        missing = (1.0 - known) * self._factor(f"accuracy {task} {model_id}")
        return min(max(1.0 - missing, 0.0), 1.0)

    def _judge(self, task: str, model_id: int, resolution: str, node: NodeInfo) -> Work:
        cost = self._profile.cost(task, model_id, resolution, node)
        mean_s, per_object_s = OTHER_COST
        ratio, out_nbytes = P95_RATIO, OUT_NBYTES
        if cost is not None:
            mean_s, per_object_s = cost.compute_s, cost.per_object_s
            ratio = cost.compute_p95_s / cost.compute_s
            out_nbytes = cost.out_nbytes or OUT_NBYTES
        factor = self._factor(f"{task} {model_id} {node.node_addr}")
        return Work(mean_s * factor, per_object_s * factor, sigma_of(ratio), out_nbytes)

    def _factor(self, what: str) -> float:
        if not self._error:
            return 1.0
        found = self._factors.get(what)
        if found is None:
            chance = random.Random(f"{self._key} {what}")
            found = self._factors[what] = math.exp(chance.gauss(0.0, self._error))
        return found


def sigma_of(ratio: float) -> float:
    """Return the sigma of a lognormal whose 95 % quantile is `ratio` times its mean.

    The ratio is `e^(z s - s^2 / 2)`, which has its maximum at `s = z`; more than that, or less than
    1, is taken for the nearest that can be.
    """
    log = math.log(max(ratio, 1.0))
    return Z95 - math.sqrt(max(Z95 * Z95 - 2.0 * log, 0.0))


def synthetic_profile(tasks: Iterable[str]) -> Profile:
    """Return a knowledge base of the given tasks that nobody has measured; see `COSTS`."""
    profile = Profile()
    largest = RESOLUTIONS["1080p"][0] * RESOLUTIONS["1080p"][1]
    for task in dict.fromkeys(tasks):
        frame_s, object_s = COSTS.get(task, OTHER_COST)
        for place, factor in (("edge", 1.0), ("cloud", CLOUD_FACTOR)):
            for model_id, share in enumerate(MODELS):
                for resolution, (width, height) in RESOLUTIONS.items():
                    # A quarter of the work does not depend on the size of the picture.
                    mean_s = frame_s * factor * share * (0.25 + 0.75 * width * height / largest)
                    cost = Cost(
                        mean_s, mean_s * P95_RATIO, object_s * factor * share,
                        MEM_NBYTES, OUT_NBYTES, samples=100,
                    )  # fmt: skip
                    profile.put_cost(task, model_id, resolution, cost, place)
    return profile
