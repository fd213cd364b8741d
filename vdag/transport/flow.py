"""The flow rule: which frame goes to which worker next, and which frame goes nowhere.

`Flow` is the one place of a node where frames wait. It is a pure machine: events go in as method
calls with the time in `now_ns`, and a list of frozen instructions comes out, to be carried out in
their order. It has no socket, no clock and no thread, and is not safe for several threads at once.
"""

# Theory of operation
#
# Why one place. If frames may wait at workers, the frame behind a slow one waits while another
# worker idles, and nobody can say what is droppable, for nobody sees all of it. So workers hold
# only what they asked for, and everything else is here, where it is ordered, superseded, expired
# and counted.
#
# Credit. A worker announces how many more frames it will take (`worker_ready`); each frame handed
# out uses up one. Credit is additive ("two more"), not absolute ("two"): an absolute number would
# be wrong by whatever was on its way to the worker when it was announced. A worker that wants to
# find its next batch ready when it finishes the present one has credit for that batch while it
# works; not for more, for what it holds is out of everybody else's reach. Credit may come with the
# answer to a batch (`worker_done`), which saves a message.
#
# Who gets a frame. After every event a task is settled: while it has a frame waiting and a worker
# with credit, the worker that holds the fewest frames gets a batch, as large as its credit, its
# `max_batch` and the queue permit; among equals the one that has been ready longest. So an
# idle worker is always served before a busy one gets more to hold, and no worker has credit left
# while a frame waits.
#
# Which frame. That is the queue's business (`queues`): tasks have a policy, streams have weights.
#
# Back-pressure. Under `block` no frame that was promised a place is dropped: producers ask for
# credit (`producer_ready`) and get `Grant`s in turn, one frame each at a time, never more than the
# free places that are not promised yet. A frame that comes without a grant is taken while there is
# room beyond the promises, else dropped as "full": whoever ignores credit cannot be made to wait.
# The other policies grant whatever is asked for, so that producers need not know the policy.
#
# Lost workers. What a lost worker held was perhaps what killed it. Each of its frames becomes a
# suspect and is tried once more, before all frames that wait, but alone: by a worker that holds
# nothing, and that gets nothing else until it is through. So if that worker dies too, the culprit
# is known: this frame is dropped as "poison", and its neighbours in the first batch, who did
# nothing, arrive. While suspects wait, workers that are busy get nothing more, so that they become
# idle. At most `limit` suspects wait; if workers die faster than suspects are tried, the surplus is
# dropped as "full".
#
# Fewer workers. A retired worker gets nothing more, and is released once it holds nothing.
#
# Books. `ledger` counts each frame once, per task and stream, when it moves. `check()` compares the
# books with what is really in the queues and at the workers. Events that have no meaning in the
# present state, such as a frame finished by a worker that does not hold it, raise
# `InvalidTransition` before anything has changed.
#
#   worker    worker_ready       worker_done/failed   worker_retired        worker_lost
#   -------   ----------------   ------------------   -------------------   -----------
#   absent    serving            illegal              illegal               illegal
#   serving   more credit        holds fewer          retired, or absent    absent
#   retired   ignored            absent when empty    illegal               absent
#
# What it costs. A frame passes in O(log n) with n the frames that wait or the workers that are
# ready; cancelling, closing and statistics look at everything.

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import get_args

from vdag.errors import ConfigError, InvalidTransition
from vdag.transport.credit import Worker
from vdag.transport.ledger import FlowStats
from vdag.transport.queues import DeadlineQueue, FairQueue, Item, LatestQueue, Stream
from vdag.transport.station import (
    Deliver,
    Drop,
    Grant,
    Instruction,
    Policy,
    Release,
    Station,
)

__all__ = ["Deliver", "Drop", "Flow", "Grant", "Instruction", "Item", "Policy", "Release"]

#: Limits of what may be configured and announced; they bound every list of this machine.
MAX_LIMIT = 4096
MAX_CREDIT = 4096
MAX_WEIGHT = 1000
#: Events that an `InvalidTransition` can tell about.
STORY = 64


class Flow:
    """The queues of one exchange: events in, instructions out.

    All `now_ns` are `time.monotonic_ns()` of this host; frames' dead-lines are on the same clock.
    An event that is illegal raises `InvalidTransition` and changes nothing.
    """

    def __init__(self) -> None:
        self._stations: dict[str, Station] = {}
        self._workers: dict[str, Worker] = {}
        self._weights: dict[Stream, int] = {}
        self._stray = 0
        self._story: deque[tuple[str | int | None, ...]] = deque(maxlen=STORY)

    def open_task(
        self,
        task: str,
        *,
        policy: Policy = "latest",
        limit: int = 64,
        limit_nbytes: int = 1 << 30,
        cost_ns: int = 0,
    ) -> None:
        """Take frames for a task from now on.

        Args:
            task: name of the task.
            policy: `block` makes producers wait for credit; `fifo` drops what arrives at a full
                queue; `latest` keeps the newest frame per stream; `deadline` serves the earliest
                dead-line first and drops what cannot meet its own.
            limit: most frames that wait, 1 to `MAX_LIMIT`.
            limit_nbytes: most bytes of `Item.nbytes` that wait. This drops under every policy: for
                `block` it should be no less than `limit` of the largest frames.
            cost_ns: what the task is expected to take, for `deadline`; see `expect`.

        Raises:
            ConfigError: a value is out of range.
            InvalidTransition: the task is open.
        """
        if policy not in get_args(Policy):
            raise ConfigError(
                f"unknown policy {policy!r}: expected one of {', '.join(get_args(Policy))}"
            )
        _check_range("limit", limit, 1, MAX_LIMIT)
        _check_range("limit_nbytes", limit_nbytes, 1, 1 << 62)
        _check_range("cost_ns", cost_ns, 0, 1 << 62)
        station = self._stations.get(task)
        queue = self._queue(policy, limit, limit_nbytes, cost_ns)
        if station is None:
            self._stations[task] = Station(task, policy, queue)
        elif station.is_open:
            raise self._illegal(f"task {task}", "open", "open_task", task)
        else:
            station.reopen(policy, queue)

    def close_task(self, task: str, now_ns: int) -> list[Instruction]:
        """Drop what waits for the task as `closed` and retire its workers; the books stay."""
        station = self._station(task, "close_task")
        self._story.append((now_ns, "close_task", task))
        out: list[Instruction] = []
        station.close(now_ns, out)
        return self._forget_released(out)

    def expect(self, task: str, cost_ns: int) -> None:
        """Set what the task is expected to take; without effect unless its policy is `deadline`."""
        _check_range("cost_ns", cost_ns, 0, 1 << 62)
        queue = self._station(task, "expect").queue
        if isinstance(queue, DeadlineQueue):
            queue.cost_ns = cost_ns

    def weigh(self, stream: Stream, weight: int) -> None:
        """Set the share of a stream, 1 to `MAX_WEIGHT`, for frames that arrive from now on.

        Streams of weight 1 are not remembered: set 1 when a stream ends.
        """
        _check_range("weight", weight, 1, MAX_WEIGHT)
        if weight == 1:
            self._weights.pop(stream, None)
        else:
            self._weights[stream] = weight

    def submit(self, item: Item, now_ns: int) -> list[Instruction]:
        """Take a frame. It is in the books from now on, even if it is dropped at once.

        A frame for a task that was never open here is dropped as `stray`.
        """
        station = self._stations.get(item.task)
        if station is None:
            self._stray += 1
            return [Drop(item, "stray", item.task)]
        if item in station.inside:
            frame = f"frame {item.stream}/{item.seq}"
            raise self._illegal(frame, f"inside {item.task}", "submit", item.task)
        self._story.append((now_ns, "submit", item.task, item.stream, item.seq))
        out: list[Instruction] = []
        station.submit(item, now_ns, out)
        return out

    def producer_ready(
        self, task: str, producer: str, *, wanted: int, now_ns: int
    ) -> list[Instruction]:
        """Ask for places for `wanted` more frames; the `Grant` may come with a later event."""
        station = self._station(task, f"producer_ready of {producer}")
        if not 1 <= wanted <= MAX_CREDIT:
            raise self._illegal(
                f"producer {producer}", "any", f"wish for {wanted} frames", producer
            )
        self._story.append((now_ns, "producer_ready", task, producer, wanted))
        out: list[Instruction] = []
        station.ask(producer, wanted, out)
        return out

    def producer_lost(self, producer: str, now_ns: int) -> list[Instruction]:
        """Take back the places a producer was promised; frames it submitted stay."""
        self._story.append((now_ns, "producer_lost", producer))
        out: list[Instruction] = []
        for station in self._stations.values():
            station.forget_producer(producer, out)
        return out

    def worker_ready(
        self, task: str, worker: str, *, credit: int, max_batch: int = 1, now_ns: int
    ) -> list[Instruction]:
        """Add to a worker's credit; the first announcement makes it a worker of the task.

        Args:
            task: name of an open task.
            worker: name of the worker, of this incarnation of it: a restarted one has a new name.
            credit: frames it will take beyond those announced before.
            max_batch: most frames it takes at once, from now on.
            now_ns: the time.
        """
        event = f"worker_ready of {worker} with credit {credit}, max_batch {max_batch}"
        station = self._station(task, event)
        known = self._workers.get(worker)
        if known is not None and known.task != task:
            raise self._illegal(f"worker {worker}", f"at {known.task}", event, worker)
        if known is not None and known.is_retired:
            return []  # sent before it knew
        total = credit if known is None else credit + known.credit + len(known.holds)
        if credit < 1 or max_batch < 1 or total > MAX_CREDIT:
            raise self._illegal(f"worker {worker}", f"at {task}", event, worker)
        self._story.append((now_ns, "worker_ready", task, worker, credit))
        if known is None:
            known = self._workers[worker] = Worker(worker, task)
        out: list[Instruction] = []
        station.hire(known, credit, max_batch, now_ns, out)
        return out

    def worker_done(
        self, worker: str, items: Sequence[Item], now_ns: int, credit: int = 0
    ) -> list[Instruction]:
        """Count frames as completed.

        Args:
            worker: who was given them.
            items: the frames; may be none, where only the credit matters.
            now_ns: the time.
            credit: frames it will take beyond those announced before. A retired worker's is
                ignored, as is what would make it more than `MAX_CREDIT` frames in all.
        """
        return self._finish(worker, items, now_ns, "worker_done", credit)

    def worker_failed(self, worker: str, items: Sequence[Item], now_ns: int) -> list[Instruction]:
        """Drop frames on which the task raised, as `failed`; the worker is well."""
        return self._finish(worker, items, now_ns, "worker_failed", 0)

    def worker_retired(self, worker: str, now_ns: int) -> list[Instruction]:
        """Give a worker nothing more; `Release` follows, at once or when it holds nothing."""
        known = self._worker(worker, "worker_retired")
        if known.is_retired:
            raise self._illegal(f"worker {worker}", "retired", "worker_retired", worker)
        self._story.append((now_ns, "worker_retired", worker))
        out: list[Instruction] = []
        self._stations[known.task].retire(known, now_ns, out)
        return self._forget_released(out)

    def worker_lost(self, worker: str, now_ns: int) -> list[Instruction]:
        """Forget a worker that died or hangs; its frames are tried once more, or dropped.

        What it still says afterwards is illegal, for its frames belong to others.
        """
        known = self._worker(worker, "worker_lost")
        self._story.append((now_ns, "worker_lost", worker, len(known.holds)))
        del self._workers[worker]
        out: list[Instruction] = []
        self._stations[known.task].lose(known, now_ns, out)
        return out

    def cancel(
        self, now_ns: int, *, stream: Stream | None = None, job: str | None = None
    ) -> list[Instruction]:
        """Drop the waiting frames of a stream, or of a job, as `cancelled`.

        Frames at workers run to their end, but are not tried again if the worker is lost.
        """
        if (stream is None) == (job is None):
            raise ConfigError("cancel takes either a stream or a job")
        wanted: Callable[[Item], bool] = (
            (lambda item: item.job == job)
            if stream is None
            else (lambda item: item.stream == stream)
        )
        self._story.append((now_ns, "cancel", job if stream is None else stream))
        out: list[Instruction] = []
        for station in self._stations.values():
            station.cancel(wanted, now_ns, out)
        return out

    def tick(self, now_ns: int) -> list[Instruction]:
        """Drop what has become late; worth calling at `next_due_ns`."""
        out: list[Instruction] = []
        for station in self._stations.values():
            station.settle(now_ns, out)
        return out

    def next_due_ns(self) -> int | None:
        """Return when `tick` will next have something to do, or None: only after another event."""
        due = [station.due_ns() for station in self._stations.values()]
        return min((time_ns for time_ns in due if time_ns is not None), default=None)

    def outstanding(self, worker: str) -> tuple[Item, ...]:
        """Return the frames a worker holds, oldest first; none if it is unknown."""
        known = self._workers.get(worker)
        return () if known is None else tuple(known.holds)

    def stats(self) -> FlowStats:
        """Return the books of all tasks; O(streams)."""
        return FlowStats(
            tasks={task: station.stats() for task, station in self._stations.items()},
            stray=self._stray,
        )

    def check(self) -> None:
        """Compare the books with what is really here, for tests and for a doubtful moment; O(n).

        Raises:
            InvalidTransition: an earlier event has left something wrong; the text says what.
        """
        findings = [text for station in self._stations.values() for text in station.check()]
        if findings:
            story = tuple(" ".join(map(str, line)) for line in self._story)
            raise InvalidTransition("flow", "; ".join(findings), "check", story)

    def _queue(self, policy: Policy, limit: int, limit_nbytes: int, cost_ns: int) -> FairQueue:
        if policy == "latest":
            return LatestQueue(limit, limit_nbytes, self._weights)
        if policy == "deadline":
            return DeadlineQueue(limit, limit_nbytes, self._weights, cost_ns)
        return FairQueue(limit, limit_nbytes, self._weights)

    def _finish(
        self, worker: str, items: Sequence[Item], now_ns: int, event: str, credit: int
    ) -> list[Instruction]:
        known = self._worker(worker, event)
        finished = set(items)
        if len(finished) != len(items) or not known.holds.keys() >= finished:
            frames = ", ".join(f"{item.stream}/{item.seq}" for item in items)
            state = f"holding {len(known.holds)} frames"
            raise self._illegal(f"worker {worker}", state, f"{event} of {frames}", worker)
        self._story.append((now_ns, event, worker, len(items)))
        out: list[Instruction] = []
        failed = event == "worker_failed"
        if credit and not known.is_retired:
            left = len(known.holds) - len(items)
            known.credit = min(known.credit + credit, MAX_CREDIT - left)
        self._stations[known.task].finish(known, items, failed=failed, now_ns=now_ns, out=out)
        return self._forget_released(out) if known.is_retired else out

    def _forget_released(self, out: list[Instruction]) -> list[Instruction]:
        for instruction in out:
            if isinstance(instruction, Release):
                del self._workers[instruction.worker]
        return out

    def _station(self, task: str, event: str) -> Station:
        station = self._stations.get(task)
        if station is None or not station.is_open:
            state = "absent" if station is None else "closed"
            raise self._illegal(f"task {task}", state, event, task)
        return station

    def _worker(self, worker: str, event: str) -> Worker:
        known = self._workers.get(worker)
        if known is None:
            raise self._illegal(f"worker {worker}", "absent", event, worker)
        return known

    def _illegal(self, key: str, state: str, event: str, name: str) -> InvalidTransition:
        """Make the error, with the latest events that name the same task, worker or producer."""
        story = tuple(" ".join(map(str, line)) for line in self._story if name in line)
        return InvalidTransition(key, state, event, story)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} of {value} is not within {low} to {high}")
