"""Which task works on which frames next: the rule of a pipeline, without threads or clocks.

Theory of operation
-------------------
A frame is *admitted* when its source hands it over, *started* when the first task takes it, and
*complete* when every task has worked on it. It leaves in the order in which it was admitted, when
the caller *delivers* it; until then it counts as in flight, so that a slow consumer holds up the
source and memory stays bounded:

    admitted = delivered + dropped(reason) + waiting + started        at every moment

At most `max_in_flight` frames are started and not yet delivered. Behind them a few wait: as many as
the first tasks take in one batch. When another one comes, the policy decides: `block` makes the
source wait until one has started; `latest` lets only one wait and drops it (`superseded`), because
the newer one says more.

Work is handed out downstream first: a task late in the graph is served before an early one, so
that frames finish before new ones start and none of them waits longer than it must. A task takes
up to its batch size of what is ready now; nothing is ever held back to fill a batch.

All methods are called under one lock by the pipeline; none of them blocks.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vdag.errors import ConfigError
from vdag.graph import Graph

__all__ = ["Dispatcher", "Policy", "Work"]

Policy = Literal["block", "latest"]


@dataclass(frozen=True, slots=True)
class Work:
    """Frames that one instance of a task shall process together."""

    task: str
    instance: int
    seqs: tuple[int, ...]


class Dispatcher:
    """Keeps every frame's progress through a graph; see the theory of operation above.

    Args:
        graph: a checked graph.
        max_in_flight: frames that may be started and not delivered.
        policy: what happens to a frame when one is waiting already.
        batch: task to the most frames it takes at once.
        instances: task to the number of its instances; each works on one batch at a time.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        max_in_flight: int,
        policy: Policy,
        batch: Mapping[str, int],
        instances: Mapping[str, int],
    ) -> None:
        if policy not in ("block", "latest"):
            raise ConfigError(f"policy is {policy!r}, expected block or latest")
        if max_in_flight < 1:
            raise ConfigError(f"max_in_flight is {max_in_flight}, expected at least 1")
        self._graph = graph
        self._policy = policy
        self._max_in_flight = max_in_flight
        self._batch = dict(batch)
        self._free = {task: list(range(instances[task])) for task in graph.tasks}
        self._needs = {task: frozenset(graph.producers(task)) for task in graph.tasks}
        self._roots = tuple(task for task in graph.tasks if not self._needs[task])
        self._ready: dict[str, deque[int]] = {task: deque() for task in graph.tasks}
        self._order: deque[int] = deque()
        self._waiting: deque[int] = deque()
        self._max_waiting = 1 if policy == "latest" else max(batch[task] for task in self._roots)
        self._started: dict[int, set[str]] = {}  # seq -> tasks done
        self._complete: set[int] = set()
        self.dropped: Counter[str] = Counter()
        self.admitted = 0
        self.delivered = 0

    @property
    def in_flight(self) -> int:
        """Frames that wait, are started, or are complete and not yet delivered."""
        return len(self._started) + len(self._waiting)

    def has_room(self) -> bool:
        """Whether `admit` takes a frame now; with `latest` it always does."""
        return len(self._waiting) < self._max_waiting or self._policy == "latest"

    def admit(self, seq: int) -> int | None:
        """Take a frame in. Returns the frame that was dropped for it, if any."""
        assert self.has_room(), "the caller asks has_room first"
        full = len(self._waiting) == self._max_waiting
        superseded = self._drop_waiting("superseded") if full else None
        self.admitted += 1
        self._waiting.append(seq)
        self._order.append(seq)
        for task in self._roots:
            self._ready[task].append(seq)
        return superseded

    def take(self) -> Work | None:
        """Hand out the next work, or None when nothing is ready or everybody is busy."""
        for task in reversed(self._graph.tasks):
            ready, free = self._ready[task], self._free[task]
            if not (ready and free):
                continue
            seqs: list[int] = []
            while ready and len(seqs) < self._batch[task] and self._may_start(ready[0]):
                seqs.append(ready.popleft())
            if seqs:
                return Work(task, free.pop(), tuple(seqs))
        return None

    def done(self, work: Work) -> None:
        """A task has finished with its frames: they move on to the tasks that waited for it."""
        self._free[work.task].append(work.instance)
        for seq in work.seqs:
            if seq not in self._started or seq in self._complete:
                continue  # given up while another branch worked on it
            finished = self._started[seq]
            finished.add(work.task)
            for task in self._graph.consumers(work.task):
                if self._needs[task] <= finished:
                    self._ready[task].append(seq)
            if len(finished) == len(self._graph.tasks):
                self._complete.add(seq)

    def abandon(self, seq: int) -> None:
        """Let no further task work on a started frame; at its turn it is complete, as it is."""
        if seq in self._started:
            self._complete.add(seq)
            self._unready(seq)

    def drop(self, seq: int, reason: str) -> bool:
        """Give up a started frame: no further task sees it, and it is never delivered.

        Returns:
            False when it was gone already, because a second branch failed too.
        """
        if seq not in self._started:
            return False
        self.dropped[reason] += 1
        del self._started[seq]
        self._complete.discard(seq)
        self._order.remove(seq)
        self._unready(seq)
        return True

    def drop_all(self, reason: str) -> list[int]:
        """Give up every frame, when the pipeline closes; returns them, oldest first."""
        seqs = list(self._order)
        while self._waiting:
            self._drop_waiting(reason)
        for seq in tuple(self._started):
            self.drop(seq, reason)
        return seqs

    def next_complete(self) -> int | None:
        """Return the oldest frame if it is complete; younger complete frames wait for it."""
        if self._order and self._order[0] in self._complete:
            return self._order[0]
        return None

    def deliver(self, seq: int) -> None:
        """The caller has taken the frame that `next_complete` named."""
        assert self._order[0] == seq, "frames leave in order"
        self._order.popleft()
        self._complete.remove(seq)
        del self._started[seq]
        self.delivered += 1

    def _may_start(self, seq: int) -> bool:
        """Whether a task may work on `seq`; starts it if it was waiting and there is room."""
        if seq in self._started:
            return True
        if len(self._started) >= self._max_in_flight:
            return False
        self._waiting.remove(seq)
        self._started[seq] = set()
        return True

    def _unready(self, seq: int) -> None:
        for ready in self._ready.values():
            if seq in ready:
                ready.remove(seq)

    def _drop_waiting(self, reason: str) -> int:
        """Give up the frame that has waited longest."""
        seq = self._waiting.popleft()
        self.dropped[reason] += 1
        self._unready(seq)
        self._order.remove(seq)
        return seq
