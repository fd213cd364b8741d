"""`Progress`: a frame or clip on its way through a pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vdag.errors import StageError
from vdag.frame import Frame
from vdag.results import Outputs, Result
from vdag.sources import Clip

__all__ = ["Progress"]


@dataclass(slots=True)
class Progress:
    """What was found in a frame so far, and when things happened.

    Attributes:
        item: what the source handed over.
        admitted_ns: `time.monotonic_ns()` when the pipeline took it in.
        outputs: task name to what it found.
        task_delay_s: task name to the seconds of the batch that the frame was in.
        delay_s: from the capture to the latest task's end.
        error: the first error of a task.
    """

    item: Frame | Clip
    admitted_ns: int
    outputs: dict[str, Outputs] = field(default_factory=dict)
    task_delay_s: dict[str, float] = field(default_factory=dict)
    delay_s: float = 0.0
    error: StageError | None = None

    @property
    def frame(self) -> Frame:
        """The frame that the results are about: of a clip, the last one."""
        return self.item.frames[-1] if isinstance(self.item, Clip) else self.item

    def generated(self) -> dict[str, Any]:
        """Return what the generator produced, by the documents' field names; views, read only."""
        if isinstance(self.item, Clip):
            return {"clip": [frame.view() for frame in self.item.frames], "seq": self.item.seq}
        return {"image": self.item.view(), "seq": self.item.seq}

    def result(self) -> Result:
        """Return the result, which owns the frame from now on; other frames of a clip go."""
        if isinstance(self.item, Clip):
            for earlier in self.item.frames[:-1]:
                earlier.release()
        frame = self.frame
        return Result(
            stream=frame.stream,
            seq=self.item.seq,
            cam_frame_id=frame.cam_frame_id,
            pts_s=frame.pts_s,
            width=frame.width,
            height=frame.height,
            outputs=self.outputs,
            delay_s=self.delay_s,
            task_delay_s=self.task_delay_s,
            frame=frame,
        )
