"""`Measured`: the runtime document as far as it can be believed.

It comes from a node. What is no number, not finite, negative or absurd is left out, as if it had
not been measured; nothing in it makes a policy fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.control.profile.costs import MAX_BATCH

__all__ = ["Measured", "read_number"]

#: No frame takes longer, no window is longer, in seconds.
MOST_S = 3600.0
#: More objects than this are not in a picture.
MOST_OBJECTS = 10_000.0
MOST_FRAMES = 1e9
#: Frames that a window of a node counts as which does not say how many it had.
UNSAID_FRAMES = 10.0
#: What a frame counts for in a window that began with a change: what was before is no more.
CHANGED = 8.0
#: Of a picture of 1920x1080.
MOST_PIXELS = 1920.0 * 1080.0
MOST_SPEED = 1e5
#: Tasks that are looked at; a graph has at most 64.
MOST_TASKS = 64


@dataclass(frozen=True, slots=True)
class Measured:
    """What a job has measured over a window; None for what is not known.

    Attributes:
        delay_s: mean between a frame and its result.
        delay_p95_s: what 95 % of frames did not exceed; the mean stands in where it lacks.
        delay_p50_s: the median; the mean stands in likewise.
        frames: of the window; 0 if that makes no sense.
        window_s: how long it was.
        fps: results per second.
        dropped: frames that were given up.
        obj_n: objects per frame.
        obj_size: their mean area in square pixels at 1080p.
        obj_speed: pixels per second at 1080p.
        compute_s: task to mean seconds of work on the batch that a frame was in; `queue_s` and
            `transfer_s` likewise of waits and ways.
        batch: task to frames of a batch, 1 to `MAX_BATCH`; 1 for tasks that it does not name.
        home_s: of the way home.
        is_changed: delays have changed at once, and the window began with that.
    """

    delay_s: float | None = None
    delay_p95_s: float | None = None
    delay_p50_s: float | None = None
    frames: float = 0.0
    window_s: float | None = None
    fps: float | None = None
    dropped: float = 0.0
    obj_n: float | None = None
    obj_size: float | None = None
    obj_speed: float | None = None
    compute_s: Mapping[str, float] = field(default_factory=dict)
    queue_s: Mapping[str, float] = field(default_factory=dict)
    transfer_s: Mapping[str, float] = field(default_factory=dict)
    home_s: float | None = None
    is_changed: bool = False
    batch: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, runtime: Any) -> Measured:
        """Read a runtime document, whatever it is."""
        if not isinstance(runtime, Mapping):
            return cls()
        parts = runtime.get("plan_result")
        parts = parts if isinstance(parts, Mapping) else {}
        delay_s = read_number(runtime.get("delay"), MOST_S)
        p95_s = read_number(runtime.get("delay_p95"), MOST_S)
        p50_s = read_number(runtime.get("delay_p50"), MOST_S)
        if p95_s is not None and delay_s is not None:
            p95_s = max(p95_s, delay_s) if p95_s > 0 else delay_s
        size = runtime.get("obj_size_1080p")
        return cls(
            delay_s,
            delay_s if p95_s is None else p95_s,
            delay_s if p50_s is None else p50_s,
            _read_frames(runtime, delay_s),
            read_number(runtime.get("window_s"), MOST_S),
            read_number(runtime.get("fps"), MOST_FRAMES),
            read_number(runtime.get("dropped"), MOST_FRAMES) or 0.0,
            read_number(runtime.get("obj_n"), MOST_OBJECTS),
            read_number(runtime.get("obj_size") if size is None else size, MOST_PIXELS),
            read_number(runtime.get("obj_speed"), MOST_SPEED),
            _read_parts(parts.get("process_delay")),
            _read_parts(parts.get("queue_delay")),
            _read_parts(parts.get("transfer_delay")),
            read_number(runtime.get("home_delay"), MOST_S),
            runtime.get("changed") is True,
            _read_batches(parts.get("batch")),
        )

    @property
    def weight(self) -> float:
        """What the window counts for, in frames: more where it is known that it is all new."""
        return self.frames * (CHANGED if self.is_changed else 1.0)

    @property
    def drop_share(self) -> float:
        """Share of the window's frames that were given up."""
        total = self.frames + self.dropped
        return self.dropped / total if total else 0.0

    def to_document(self) -> dict[str, Any]:
        """Return the numbers that a decision went by, for its explanation."""
        named = {
            "delay": self.delay_s,
            "delay_p95": self.delay_p95_s,
            "frames": self.frames,
            "fps": self.fps,
            "dropped": self.dropped,
            "obj_n": self.obj_n,
            "obj_size": self.obj_size,
            "obj_speed": self.obj_speed,
        }
        return {name: value for name, value in named.items() if value is not None}


def read_number(value: Any, most: float) -> float | None:
    """Return a number between 0 and `most`, None if the value is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Comparing first: an int may be too large to become a float.
    return float(value) if 0 <= value <= most and math.isfinite(value) else None


def _read_frames(runtime: Mapping[str, Any], delay_s: float | None) -> float:
    if "frames" not in runtime:
        return 0.0 if delay_s is None else UNSAID_FRAMES
    return read_number(runtime["frames"], MOST_FRAMES) or 0.0


def _read_parts(document: Any, most: float = MOST_S) -> dict[str, float]:
    if not isinstance(document, Mapping):
        return {}
    found = {}
    for task in [*document][:MOST_TASKS]:
        number = read_number(document[task], most)
        if isinstance(task, str) and number is not None:
            found[task] = number
    return found


def _read_batches(document: Any) -> dict[str, float]:
    found = _read_parts(document, MOST_FRAMES)
    return {task: min(max(batch, 1.0), MAX_BATCH) for task, batch in found.items()}
