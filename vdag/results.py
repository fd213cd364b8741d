"""What tasks return, and how a frame's results become JSON.

A task's outputs are a dict of fields, named as in the documents: `bbox` float32 `(N, 4)` xyxy in
pixels of the frame the task saw, `prob` float32 `(N,)`, `faces` list of uint8 `(h, w, 3)` crops,
`head_pose` float32 `(N, 3)` yaw, pitch, roll in degrees, `result` float32 `(N, 6)` rows
`x1, y1, x2, y2, confidence, class`, `count_result` dict of name to number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vdag.frame import Frame

__all__ = ["Outputs", "Result", "TaskParts", "to_json"]

Outputs = dict[str, Any]

#: Fields that hold pictures: carried between tasks, left out of JSON lines.
PICTURES = frozenset({"crops", "faces", "image", "jpeg"})


@dataclass(frozen=True, slots=True)
class TaskParts:
    """Where a frame's time at one task went.

    Attributes:
        transfer_s: from the end of the task before, or from the capture, until the frame was in the
            queue of this task; between two nodes, whose clocks differ, what nothing else explains.
        queue_s: in that queue.
        compute_s: of the batch that the frame was in.
        pid: of the worker, on its node; 0 if not known.
        nbytes: that crossed the network to bring the frame to this task; 0 for none.
        batch: frames that were in the batch, this one among them.
    """

    transfer_s: float
    queue_s: float
    compute_s: float
    pid: int = 0
    nbytes: int = 0
    batch: int = 1

    @property
    def busy_s(self) -> float:
        """What the frame took of the worker: its share of the batch."""
        return self.compute_s / self.batch

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.transfer_s + self.queue_s + self.compute_s


@dataclass(slots=True)
class Result:
    """Everything found in one frame.

    Attributes:
        stream: name of the source.
        seq: number among the frames delivered to the graph, from 0.
        cam_frame_id: position in the source, from 0.
        pts_s: presentation time in seconds, if the source has one.
        width: of the frame the tasks saw, in pixels.
        height: likewise.
        outputs: task name to that task's outputs; a task's arrays belong to the result.
        delay_s: from the frame's capture to its last task's end.
        task_delay_s: task name to the seconds of the batch that the frame was in.
        frame: the frame itself, for sinks that draw; None after `drop_frame()`.
        plan: number of the plan that it was made under; 0 without plans.
        parts: task name to where the time went; only of frames that worker processes have seen.
        home_s: of the way home from the last task; likewise.
    """

    stream: str
    seq: int
    cam_frame_id: int
    pts_s: float | None
    width: int
    height: int
    outputs: dict[str, Outputs]
    delay_s: float = 0.0
    task_delay_s: dict[str, float] = field(default_factory=dict)
    frame: Frame | None = field(default=None, repr=False)
    plan: int = 0
    parts: dict[str, TaskParts] = field(default_factory=dict)
    home_s: float = 0.0

    def __getitem__(self, task: str) -> Outputs:
        return self.outputs[task]

    def __contains__(self, task: object) -> bool:
        return task in self.outputs

    def drop_frame(self) -> None:
        """Release the frame; the outputs stay."""
        frame, self.frame = self.frame, None
        if frame is not None:
            frame.release()

    def to_dict(self, *, pictures: bool = False) -> dict[str, Any]:
        """Return the result as plain lists, numbers and strings.

        Args:
            pictures: keep the fields that hold pixels, as nested lists.
        """
        return {
            "stream": self.stream,
            "seq": self.seq,
            "frame_id": float(self.cam_frame_id),
            "pts_s": self.pts_s,
            "width": self.width,
            "height": self.height,
            "delay": self.delay_s,
            "task_delay": dict(self.task_delay_s),
            "outputs": {
                task: {
                    name: to_json(value)
                    for name, value in fields.items()
                    if pictures or name not in PICTURES
                }
                for task, fields in self.outputs.items()
            },
        }


def to_json(value: Any) -> Any:
    """Turn arrays and numpy numbers inside `value` into lists and Python numbers.

    Not-a-number and infinities, which JSON cannot hold, become None.
    """
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value
