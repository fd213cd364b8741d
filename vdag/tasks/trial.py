"""How long a task takes of a picture that is made up, before any frame has come.

A few runs, so far apart that caches forget as they do between frames; of these the fastest, without
what it waited for a core, for others may be starting at the same time. What shows or writes
something is not tried, nor is what somebody else has written: who knows what comes of that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vdag import _native as native
from vdag.frame import UInt8Image
from vdag.tasks.base import Inputs, Task

__all__ = ["try_out"]

logger = logging.getLogger(__name__)

#: Runs, seconds between their beginnings, and seconds after which there are no more.
RUNS, STEP_S, MOST_S = 8, 0.06, 0.5
#: What a run takes at least, whatever the kernel says of waiting.
LEAST_S = 1e-6
WAITS = Path("/proc/thread-self/schedstat")
#: Modules of tasks that make something of a picture, and do nothing else.
PURE = frozenset(f"vdag.tasks.handlers.{name}" for name in ("align", "detect", "draw", "pictures"))
#: Of the sides of the picture, where its boxes are, and how large.
CORNERS, SIDE = (0.1, 0.4, 0.6), 0.25
#: How much finest detail varies, as in a picture of a camera.
GRAIN = 6.0


def try_out(task: Task, width: int, height: int) -> float | None:
    """Return the seconds that a task takes of a picture of that size; None if it is not tried.

    Args:
        task: loaded and warm, in use by nobody else meanwhile.
        width: of the picture, in pixels.
        height: likewise.
    """
    inputs = _inputs(task, width, height)
    if inputs is None:
        return None
    try:
        return _run(task, inputs)
    except Exception as err:  # a picture that is no scene may be none that a task expects
        logger.debug("%s cannot be tried: %s", type(task).__name__, err)
        return None


def _run(task: Task, inputs: Inputs) -> float:
    took: list[float] = []
    until_s = time.monotonic() + MOST_S
    while len(took) < RUNS and not (took and time.monotonic() >= until_s):
        begun_s, waited_s = time.perf_counter(), _waited_s()
        task.process([inputs])
        seconds = time.perf_counter() - begun_s
        took.append(max(seconds - (_waited_s() - waited_s), LEAST_S))
        time.sleep(max(STEP_S - seconds, 0.0))
    return min(took)


def _waited_s() -> float:
    """Return how long this thread has waited for a core that others had; 0 if nobody knows."""
    try:
        # Nanoseconds on a core, waiting for one, and turns: Documentation/scheduler/sched-stats.rst
        return int(WAITS.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _inputs(task: Task, width: int, height: int) -> dict[str, Any] | None:
    """Return what a task can be given; None if it is not tried."""
    signature = task.signature
    if type(task).__module__ not in PURE:
        return None
    picture = _picture(width, height)
    makers: Mapping[str, Callable[[], Any]] = {
        "image": lambda: picture,
        "jpeg": lambda: np.frombuffer(native.jpeg.encode(picture, quality=80), np.uint8),
        "boxes": lambda: _boxes(width, height),
    }
    names = signature.inputs | (signature.optional & {"image"})
    if not names or not names <= makers.keys():
        return None
    return {name: makers[name]() for name in names}


def _picture(width: int, height: int) -> UInt8Image:
    """Return waves with grain, of which a JPEG is about as large as of a photograph."""
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    waves = [np.sin(x / a) + np.sin(y / b) for a, b in ((37, 23), (29, 41), (53, 31))]
    grain = np.random.default_rng(1).normal(0.0, GRAIN, (height, width, 3))
    picture = 128 + 50 * np.stack(waves, axis=-1) + grain
    return np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))


def _boxes(width: int, height: int) -> list[dict[str, Any]]:
    return [
        {
            "label": "face",
            "prob": 0.9,
            "x": int(corner * width),
            "y": int(corner * height),
            "w": max(int(SIDE * width), 1),
            "h": max(int(SIDE * height), 1),
        }
        for corner in CORNERS
    ]
