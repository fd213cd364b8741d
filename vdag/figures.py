"""What a pipeline says about itself, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vdag.metrics import Histogram, Summary
from vdag.stages import StageStats

__all__ = ["PipelineStats", "TaskTimes"]


@dataclass(frozen=True, slots=True)
class PipelineStats:
    """Where the frames of a pipeline are: read = delivered + sum of dropped + in_flight.

    Attributes:
        read: frames taken from the source.
        delivered: frames whose result the caller has.
        dropped: reason to number: `superseded`, `error`, `closed`; with worker processes also
            those that `docs/processes.md` lists.
        in_flight: frames being worked on, or complete and not yet taken by the caller.
        elapsed_s: from the start to the last result that the caller took.
        delay: from a frame's capture to its result being complete.
        tasks: task name to its own figures, in flow order.
    """

    read: int
    delivered: int
    dropped: Mapping[str, int]
    in_flight: int
    elapsed_s: float
    delay: Summary
    tasks: Mapping[str, StageStats]


class TaskTimes:
    """The times of tasks that work elsewhere, as their frames tell them; see `StageStats`.

    Args:
        tasks: in flow order.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        self._wait = {task: Histogram() for task in tasks}
        self._process = {task: Histogram() for task in self._wait}
        self._errors = dict.fromkeys(self._wait, 0)

    def observe(self, task: str, wait_ns: int, process_ns: int) -> None:
        """Count a frame that the task has processed."""
        self._wait[task].observe(wait_ns)
        self._process[task].observe(process_ns)

    def fail(self, task: str) -> None:
        """Count a frame that the task failed on; a name that is no task's is left out."""
        if task in self._errors:
            self._errors[task] += 1

    def stats(self) -> dict[str, StageStats]:
        """Return the figures so far."""
        return {
            task: StageStats(
                process.count, self._errors[task], self._wait[task].summary(), process.summary()
            )
            for task, process in self._process.items()
        }
