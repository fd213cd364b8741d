"""`Trip`: one frame of a job between leaving and coming home, and what comes home of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vdag.errors import FrameFormatError, StageError, VdagError
from vdag.itinerary import HOME, Itinerary
from vdag.job.parts import Times, parts_of
from vdag.job.slots import Parcel
from vdag.results import Outputs, Result, TaskParts
from vdag.transport import codec, messages
from vdag.transport.context import Context
from vdag.transport.messages import TIMES, Dropped, Grant

__all__ = ["Found", "Home", "Trip", "read_message", "stage_error"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a branch brings home.

    Attributes:
        outputs: task name to what it found; the arrays are our own.
        times: task name to when and by whom it was done.
    """

    outputs: dict[str, Outputs]
    times: dict[str, Times]

    @classmethod
    def read(cls, context: Context) -> Found:
        """Read a received context. Its arrays are copied, so that the message can go.

        Raises:
            FrameFormatError: the times of a task are none, or are of no task.
        """
        outputs = {task: _own(fields) for task, fields in context.items() if task != TIMES}
        times = {}
        for task, numbers in context.get(TIMES, {}).items():
            if task not in outputs or not _are_times(numbers):
                raise FrameFormatError(f"times of {task:.80} are not numbers of a task")
            times[task] = Times(*numbers)
        return cls(outputs, times)


@dataclass(slots=True)
class Trip:
    """A frame on its way, and what was found in it so far.

    Attributes:
        parcel: the frame and its slot.
        admitted_ns: `time.monotonic_ns()` when the job took it in.
        itinerary: its routes, under the plan it was taken in with.
        outputs: task name to what it found.
        times: task name to when and by whom it was done.
        home_ns: when its last branch came home.
        error: what the caller gets instead of a result.
    """

    parcel: Parcel
    admitted_ns: int
    itinerary: Itinerary
    outputs: dict[str, Outputs] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)
    home_ns: int = 0
    error: StageError | None = None

    def bring(self, found: Found, now_ns: int) -> None:
        """Add what a branch has found."""
        self.outputs.update(found.outputs)
        self.times.update(found.times)
        self.home_ns = now_ns

    @property
    def delay_ns(self) -> int:
        """From the frame's capture to the moment it was home."""
        return self.home_ns - self.parcel.frame.capture_ns

    def parts(self) -> tuple[dict[str, TaskParts], float]:
        """Return where the time went, as far as its branches are home; see `parts_of`."""
        if not self.times:
            return {}, 0.0
        return parts_of(self.itinerary, self.times, self.parcel.frame.capture_ns, self.home_ns)

    def result(self, tasks: Iterable[str]) -> Result:
        """Return the result, which owns the frame from now on; outputs in the order of `tasks`."""
        frame = self.parcel.frame
        parts, home_s = parts_of(self.itinerary, self.times, frame.capture_ns, self.home_ns)
        return Result(
            stream=frame.stream,
            seq=frame.seq,
            cam_frame_id=frame.cam_frame_id,
            pts_s=frame.pts_s,
            width=frame.width,
            height=frame.height,
            outputs={task: self.outputs[task] for task in tasks if task in self.outputs},
            delay_s=self.delay_ns / 1e9,
            task_delay_s={task: times.compute_ns / 1e9 for task, times in self.times.items()},
            frame=frame,
            plan=self.itinerary.plan,
            parts=parts,
            home_s=home_s,
        )


@dataclass(frozen=True, slots=True)
class Home:
    """A branch of the frame `seq` has come home."""

    seq: int
    branch: int
    found: Found


def read_message(parts: Sequence[bytes], itinerary: Itinerary) -> Home | Dropped | Grant:
    """Read what a job has received.

    Raises:
        FrameFormatError: it is nothing that this job waits for.
    """
    if len(parts) != 1:
        raise FrameFormatError(f"message of {len(parts)} parts")
    if not messages.is_control(parts[0]):
        descriptor = codec.decode(parts)
        branch = itinerary.branch_home(descriptor)
        return Home(descriptor.header.seq, branch, Found.read(descriptor.context))
    message = messages.decode(parts[0])
    if isinstance(message, Grant) and message.task in itinerary.first_tasks:
        return message
    if (
        isinstance(message, Dropped)
        and (message.job, message.stream) == (itinerary.job, itinerary.stream)
        and message.task in {*itinerary.branch_of, HOME}
    ):
        return message
    raise FrameFormatError(f"{type(message).__name__} is not for this job")


def stage_error(notice: Dropped) -> StageError:
    """Return the error of a frame that a worker failed on, or that workers died over.

    Its `__cause__` has the worker's traceback in its text.
    """
    first, _, rest = notice.detail.partition("\n")
    error = StageError(notice.task, notice.seq, first or notice.reason)
    if rest:
        error.__cause__ = VdagError(f"in the worker of {notice.task}:\n{rest}")
    return error


def _are_times(value: Any) -> bool:
    """Say whether it is what a worker writes; some leave out what comes last."""
    return isinstance(value, list) and 2 <= len(value) <= 6 and {*map(type, value)} == {int}


def _own(value: Any) -> Any:
    """Copy the arrays inside a value of a context; everything else is ours already."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {name: _own(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_own(item) for item in value]
    return value
