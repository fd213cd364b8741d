"""What an exchange knows about itself: counts, times, and the record of both.

Every frame that was received is in exactly one column, at every moment:

    received = home + peer + dropped[reason] + waiting + outstanding
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from vdag.errors import TransportError
from vdag.metrics import Histogram, Summary
from vdag.transport.ledger import FlowStats, TaskStats
from vdag.transport.queues import REASONS as FLOW_REASONS
from vdag.transport.queues import Reason as FlowReason

if TYPE_CHECKING:
    from vdag._native.ring import ArenaStats

__all__ = ["REASONS", "Books", "ExchangeStats", "Reason", "TaskReport", "WorkerReport"]

Reason = FlowReason | Literal["peer_full", "stale", "unreachable", "unreadable"]
#: Every reason an exchange drops a frame for: those of the flow rule (`full`, `superseded`,
#: `deadline`, `failed`: the task raised, `poison`: two workers died over it, `cancelled`,
#: `closed`, `stray`: for a task or a job that is not known here), and
#: `peer_full`: who should take it next does not, `stale`: its slot was reused, `unreachable`: its
#: next hop has no edge, `unreadable`: its pixels are not what workers read.
REASONS: tuple[Reason, ...] = (*FLOW_REASONS, "peer_full", "stale", "unreachable", "unreadable")


class Times:
    """The histograms of one task.

    Attributes:
        wait: from arrival to being given to a worker.
        compute: what the task took, for the whole batch that a frame was in.
        hop: from arrival to the worker's answer.
    """

    __slots__ = ("compute", "hop", "wait")

    def __init__(self) -> None:
        self.wait, self.compute, self.hop = Histogram(), Histogram(), Histogram()

    def copy(self) -> Times:
        """Return the times as they are now."""
        copy = Times.__new__(Times)
        copy.wait, copy.compute, copy.hop = self.wait.copy(), self.compute.copy(), self.hop.copy()
        return copy


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task: its queue and its times.

    Attributes:
        flow: queue, credit and counts.
    """

    flow: TaskStats
    _times: Times

    # Worked out when somebody looks: frames wait while an exchange makes its report.
    @property
    def wait(self) -> Summary:
        """From arrival to being given to a worker."""
        return self._times.wait.summary()

    @property
    def compute(self) -> Summary:
        """What the task took, for the whole batch that a frame was in."""
        return self._times.compute.summary()

    @property
    def hop(self) -> Summary:
        """From arrival to the worker's answer."""
        return self._times.hop.summary()


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker process, as the exchange sees it.

    Attributes:
        task: what it serves.
        state: `expected` until it says hello, then `serving`, at last `retired`.
        pid: of the process, 0 while it is expected.
        frames: frames it has answered for, failed ones included.
        batches: batches they came in.
        failures: frames its task raised on.
        busy_s: time its task has worked.
        holds: frames it has not answered for.
    """

    task: str
    state: str
    pid: int
    frames: int
    batches: int
    failures: int
    busy_s: float
    holds: int


@dataclass(frozen=True, slots=True)
class ExchangeStats:
    """Where the frames of an exchange are, at one moment.

    Attributes:
        received: descriptors that came, from jobs and from other nodes.
        home: frames sent to the job they belong to.
        peer: frames handed to another node's edge.
        dropped: reason to number; reasons that never occurred are missing.
        waiting: frames in the queues.
        outstanding: frames at workers.
        malformed: messages that were neither a descriptor nor a control message.
        refused: control messages from strangers, with a wrong token, or without a meaning now.
        unsent: notices of dropped frames that their job could not be sent.
        jobs: jobs that have joined.
        tasks: by name.
        workers: by name.
        arena: the shared memory.
    """

    received: int
    home: int
    peer: int
    dropped: Mapping[str, int]
    waiting: int
    outstanding: int
    malformed: int
    refused: int
    unsent: int
    jobs: int
    tasks: Mapping[str, TaskReport]
    workers: Mapping[str, WorkerReport]
    arena: ArenaStats

    @property
    def balance(self) -> int:
        """Frames that are in no column: 0, or the books are wrong."""
        gone = self.home + self.peer + sum(self.dropped.values())
        return self.received - gone - self.waiting - self.outstanding

    def check(self) -> None:
        """Raise a `TransportError` if these figures contradict each other."""
        if self.balance:
            raise TransportError(f"{self.balance} of {self.received} frames are in no column")
        held = sum(worker.holds for worker in self.workers.values())
        if held != self.outstanding:
            raise TransportError(
                f"{held} frames are at workers, {self.outstanding} are outstanding"
            )


class Books:
    """The running counts of one exchange; one thread writes."""

    __slots__ = (
        "dropped",
        "home",
        "malformed",
        "peer",
        "received",
        "refused",
        "times",
        "unsent",
    )

    def __init__(self) -> None:
        self.received = self.home = self.peer = 0
        self.malformed = self.refused = self.unsent = 0
        self.dropped: Counter[str] = Counter()
        self.times: dict[str, Times] = {}

    def report(
        self,
        flow: FlowStats,
        *,
        jobs: int,
        workers: Mapping[str, WorkerReport],
        arena: ArenaStats,
    ) -> ExchangeStats:
        """Return the books of now, beside what the flow rule, the roster and the arena say."""
        counts = [task.counts for task in flow.tasks.values()]
        tasks = {
            name: TaskReport(task, self.times[name].copy()) for name, task in flow.tasks.items()
        }
        return ExchangeStats(
            received=self.received,
            home=self.home,
            peer=self.peer,
            dropped=MappingProxyType(dict(self.dropped)),
            waiting=sum(count.waiting for count in counts),
            outstanding=sum(count.outstanding for count in counts),
            malformed=self.malformed,
            refused=self.refused,
            unsent=self.unsent,
            jobs=jobs,
            tasks=MappingProxyType(tasks),
            workers=MappingProxyType(dict(workers)),
            arena=arena,
        )
