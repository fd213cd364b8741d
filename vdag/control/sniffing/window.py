"""`Window`: the latest frames of one plan, summed up as they come; pure.

A frame is added, and the oldest goes, in a time that does not depend on how many there are: sums
are carried along, so that means can be told with every frame. Quantiles take a look at all frames.
Times are in seconds; the quantile `q` of n values is the ceil(q n)-th smallest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from vdag.control.sniffing.shifts import RUN, Shift
from vdag.control.sniffing.sightings import FULL_HD, Objects, Sighting

__all__ = ["Window", "quantile"]

#: The documents' bound of the deviation of `obj_n` within a window.
STABLE_DEVIATION = 0.3
#: The documents' word for a speed that is not known.
UNKNOWN = -1.0
#: Of a picture that its objects fill on average; boxes may reach beyond it.
MAX_SHARE = 4.0
FULL_HD_PIXELS = FULL_HD[0] * FULL_HD[1]
NS = 1e9


class Window:
    """See above; for one thread.

    Args:
        frames: that it holds; the oldest are forgotten for new ones.
        seconds: between the results of the first and of the last of them.
        shifts: whether it begins anew when delays change at once, see `shifts`.
    """

    def __init__(self, frames: int, seconds: float, *, shifts: bool = False) -> None:
        self._frames, self._seconds, self._shifts = frames, seconds, shifts
        self._rows: deque[Sighting] = deque()
        self._plan = 0
        self._begin_s: float | None = None
        self._before_seq: int | None = None
        self._cut_seq: int | None = None
        self._start_over(None)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Sighting) -> None:
        """Add a frame; one of another plan than those before begins a new window."""
        rows = self._rows
        if rows and row.plan != self._plan:
            self._start_over(rows[-1].at_s)
        self._plan = row.plan
        if self._before_seq is None:
            self._before_seq = row.seq - 1
        if row.is_cut:
            self._since_cut, self._cut_seq = _Counts(), row.seq
        rows.append(row)
        self._account(row)
        if self._shift is not None and self._shift.sees(row.delay_s):
            self._keep_last(RUN)
        oldest_s = row.at_s - self._seconds
        while len(rows) > self._frames or rows[0].at_s < oldest_s:
            self._drop(rows.popleft())
            self._is_changed = False  # it is as long as any other

    def _keep_last(self, count: int) -> None:
        while len(self._rows) > count:
            self._drop(self._rows.popleft())
        self._is_changed = True

    def restart(self) -> None:
        """Forget the frames, as if they had gone by age."""
        if self._rows:
            last = self._rows[-1]
            self._start_over(last.at_s)
            self._before_seq = last.seq

    def describe(self, *, tails: bool = True) -> dict[str, Any]:
        """Return what the frames are like: the documents' run-time context; `{}` without any.

        Args:
            tails: with the quantiles of each task, which take a look at every frame.

        Returns:
            `delay` with `delay_p50`, `delay_p95` and `delay_max`; `frames`, the `window_s` in which
            their results came, and `fps`, results per second, unless there is but one result yet;
            `dropped`: frames taken from the video in between that have no result; `home_delay`.
            `obj_n`, `obj_size`, `obj_size_1080p` and `obj_stable` if a task looks for objects;
            `obj_speed`, of the frames that have any. `plan_result`: per task the means of `delay`
            and its parts, and what 95 of 100 stay below; `batch`, by which `process_delay` is to be
            divided for the seconds of a worker that a frame takes. `data_trans_size`: per task that
            frames reach over the network, their mean bytes. `plan_number`: of the plan that all
            this is about. `changed`: delays have changed at once under this plan, and the window
            began with that; else it is absent.
        """
        if not self._rows:
            return {}
        count, last = len(self._rows), self._rows[-1]
        ranked = sorted([row.delay_s for row in self._rows])
        begin_s = self._rows[0].at_s if self._begin_s is None else self._begin_s
        window_s = last.at_s - begin_s
        before_seq = last.seq if self._before_seq is None else self._before_seq
        found: dict[str, Any] = {
            "delay": self._delay_s / count,
            "delay_p50": quantile(ranked, 0.5),
            "delay_p95": quantile(ranked, 0.95),
            "delay_max": ranked[-1],
            "frames": count,
            "window_s": window_s,
            "dropped": max(last.seq - before_seq - count, 0),
            "home_delay": max(self._home_s, 0.0) / count,
            "plan_number": self._plan,
        }
        if self._is_changed:
            found["changed"] = True
        if window_s > 0.0:
            found["fps"] = (count - (self._begin_s is None)) / window_s
        self._describe_objects(found)
        self._describe_tasks(found)
        if tails:
            found["plan_result"] |= self._tails()
        return found

    def _describe_objects(self, found: dict[str, Any]) -> None:
        if counts := self._counts.n:
            sized = max(self._sized, 1)
            found["obj_n"] = self._counts.total / counts
            found["obj_size"] = max(self._size, 0.0) / sized
            found["obj_size_1080p"] = max(self._size_1080p, 0.0) / sized
            found["obj_stable"] = self._is_stable()
        if self._timed:
            found["obj_speed"] = max(self._speed, 0.0) / self._timed
        else:
            found["obj_speed"] = 0.0 if self._empty else UNKNOWN

    def _is_stable(self) -> bool:
        """Whether the number of objects stays the same, since the scene was cut if it was.

        One frame after a cut says nothing, and a video that is cut all the time is not stable.
        """
        since = self._since_cut
        return since.n > (self._cut_seq is not None) and since.deviation < STABLE_DEVIATION

    def _describe_tasks(self, found: dict[str, Any]) -> None:
        delays: dict[str, float] = {}
        compute: dict[str, float] = {}
        queue: dict[str, float] = {}
        transfer: dict[str, float] = {}
        nbytes: dict[str, float] = {}
        batch: dict[str, float] = {}
        for task, sums in self._tasks.items():
            compute[task] = max(sums.compute_s, 0.0) / sums.n
            queue[task] = max(sums.queue_s, 0.0) / sums.n
            transfer[task] = max(sums.transfer_s, 0.0) / sums.n
            delays[task] = compute[task] + queue[task] + transfer[task]
            batch[task] = sums.batch
            if sums.sent:
                nbytes[task] = sums.nbytes / sums.sent
        found["plan_result"] = {
            "delay": delays,
            "process_delay": compute,
            "queue_delay": queue,
            "transfer_delay": transfer,
            "batch": batch,
        }
        found["data_trans_size"] = nbytes

    def _tails(self) -> dict[str, dict[str, float]]:
        """Return what 95 of 100 frames stay below at each task."""
        columns: dict[str, tuple[list[float], list[float], list[float]]] = {
            task: ([], [], []) for task in self._tasks
        }
        for row in self._rows:
            for task, compute_s, queue_s, transfer_s, _, _ in row.tasks:
                compute, queue, transfer = columns[task]
                compute.append(compute_s)
                queue.append(queue_s)
                transfer.append(transfer_s)
        names = ("process_delay_p95", "queue_delay_p95", "transfer_delay_p95")
        return {
            name: {task: quantile(sorted(each[index]), 0.95) for task, each in columns.items()}
            for index, name in enumerate(names)
        }

    def _start_over(self, begin_s: float | None) -> None:
        """Begin a window; `begin_s`: when the result before its first came, None for no result."""
        self._rows.clear()
        self._begin_s, self._before_seq, self._cut_seq = begin_s, None, None
        self._shift, self._is_changed = Shift() if self._shifts else None, False
        self._tasks: dict[str, _TaskSums] = {}
        self._delay_s = self._home_s = self._size = self._size_1080p = self._speed = 0.0
        self._sized = self._timed = self._empty = 0
        self._counts, self._since_cut = _Counts(), _Counts()

    def _account(self, row: Sighting) -> None:
        self._delay_s += row.delay_s
        self._home_s += row.home_s
        for task, compute_s, queue_s, transfer_s, nbytes, batch in row.tasks:
            sums = self._tasks.get(task)
            if sums is None:
                sums = self._tasks[task] = _TaskSums()
            sums.n += 1
            sums.compute_s += compute_s
            whole_ns = int(compute_s * NS)
            sums.compute_ns += whole_ns
            sums.busy_ns += whole_ns // batch
            sums.queue_s += queue_s
            sums.transfer_s += transfer_s
            sums.nbytes += nbytes
            sums.sent += nbytes > 0
        if row.speed is not None and not row.is_empty:
            self._speed += row.speed
            self._timed += 1
        self._empty += row.is_empty
        if row.objects is not None:
            self._counts.add(row.objects.n)
            self._since_cut.add(row.objects.n)
            self._add_size(row.objects, row.pixels, 1)

    def _drop(self, row: Sighting) -> None:
        self._begin_s, self._before_seq = row.at_s, row.seq
        self._delay_s -= row.delay_s
        self._home_s -= row.home_s
        for task, compute_s, queue_s, transfer_s, nbytes, batch in row.tasks:
            sums = self._tasks[task]
            sums.n -= 1
            if not sums.n:
                del self._tasks[task]
                continue
            sums.compute_s -= compute_s
            whole_ns = int(compute_s * NS)
            sums.compute_ns -= whole_ns
            sums.busy_ns -= whole_ns // batch
            sums.queue_s -= queue_s
            sums.transfer_s -= transfer_s
            sums.nbytes -= nbytes
            sums.sent -= nbytes > 0
        if row.speed is not None and not row.is_empty:
            self._timed -= 1
            self._speed = self._speed - row.speed if self._timed else 0.0
        self._empty -= row.is_empty
        if row.objects is not None:
            self._counts.remove(row.objects.n)
            if self._cut_seq is None or row.seq >= self._cut_seq:
                self._since_cut.remove(row.objects.n)
            self._add_size(row.objects, row.pixels, -1)
        if row.seq == self._cut_seq:
            self._cut_seq = None

    def _add_size(self, objects: Objects, pixels: int, sign: int) -> None:
        if objects.size is None:
            return
        self._sized += sign
        if not self._sized:  # what is left of the sum is nothing
            self._size = self._size_1080p = 0.0
            return
        share = min(objects.size / max(pixels, 1), MAX_SHARE)
        self._size += sign * share * pixels
        self._size_1080p += sign * share * FULL_HD_PIXELS


class _TaskSums:
    """Where the time of one task went, and the bytes of those frames that were sent to it."""

    __slots__ = (
        "busy_ns", "compute_ns", "compute_s", "n", "nbytes", "queue_s", "sent", "transfer_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.compute_s = self.queue_s = self.transfer_s = 0.0
        self.n = self.nbytes = self.sent = 0
        # Whole numbers, of which adding and taking away leaves nothing that could be a ratio.
        self.compute_ns = self.busy_ns = 0

    @property
    def batch(self) -> float:
        """Frames of a batch: the mean by what each frame took of the worker."""
        return self.compute_ns / self.busy_ns if self.busy_ns else 1.0


class _Counts:
    """Whole numbers that come and go: how many, their sum, and that of their squares; exact."""

    __slots__ = ("n", "squares", "total")

    def __init__(self) -> None:
        self.n = self.total = self.squares = 0

    def add(self, value: int) -> None:
        self.n += 1
        self.total += value
        self.squares += value * value

    def remove(self, value: int) -> None:
        self.n -= 1
        self.total -= value
        self.squares -= value * value

    @property
    def deviation(self) -> float:
        """Standard deviation of all there are."""
        return math.sqrt(self.n * self.squares - self.total * self.total) / max(self.n, 1)


def quantile(ranked: Sequence[float], q: float) -> float:
    """Return a quantile of values in ascending order, at least one; see the module."""
    return ranked[max(math.ceil(q * len(ranked)) - 1, 0)]
