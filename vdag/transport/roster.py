"""The workers of an exchange: who may speak, what they hold, and since when nothing was heard."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from typing import Literal

from vdag.errors import ConfigError
from vdag.transport.books import WorkerReport
from vdag.transport.queues import Item

__all__ = ["Member", "Notice", "Notify", "Roster"]

#: What the supervisor of a worker is told: it said `hello`; it is `hung`, has held frames for too
#: long without an answer; it is `broken`, takes no messages or answers nonsense; it is `released`,
#: holds nothing and was told to stop.
Notice = Literal["hello", "hung", "broken", "released"]
#: Called in the exchange's thread with the worker's name: must return at once.
Notify = Callable[[str, Notice], None]

State = Literal["expected", "serving", "retired", "released"]


class Member:
    """One worker process, from before its start until its end is known.

    Attributes:
        name: of this incarnation of it.
        task: what it serves.
        token: secret that its messages carry.
        address: where it takes its batches.
        hang_timeout_ns: it is hung when it holds frames and says nothing for so long.
        notify: whom to tell about it.
        state: `expected` until it says hello; `retired` gets nothing new; `released` holds nothing.
        has_credit: has announced credit, so that the flow rule knows it.
        pid: of the process, 0 while it is expected.
        batches: what it holds, by number of the batch.
        told: jobs whose graph it knows.
        ended: those that it may forget, not told yet.
        progress_ns: when it last answered, or was given a batch while it held nothing.
        is_reported: its supervisor knows that it has to go.
        frames: frames it has answered for.
        answers: batches it has answered for.
        failures: frames its task raised on.
        busy_ns: time its task has worked.
    """

    __slots__ = (
        "address",
        "answers",
        "batches",
        "busy_ns",
        "ended",
        "failures",
        "frames",
        "hang_timeout_ns",
        "has_credit",
        "is_reported",
        "name",
        "next_batch",
        "notify",
        "pid",
        "progress_ns",
        "state",
        "task",
        "token",
        "told",
        "worked_ns",
    )

    def __init__(
        self,
        name: str,
        task: str,
        *,
        token: str,
        address: str,
        hang_timeout_ns: int,
        notify: Notify,
    ) -> None:
        self.name, self.task, self.token, self.address = name, task, token, address
        self.hang_timeout_ns = hang_timeout_ns
        self.notify = notify
        self.state: State = "expected"
        self.has_credit = self.is_reported = False
        self.pid = self.next_batch = self.progress_ns = self.worked_ns = 0
        self.batches: dict[int, tuple[Item, ...]] = {}
        self.told: set[str] = set()
        self.ended: list[str] = []
        self.frames = self.answers = self.failures = self.busy_ns = 0

    def give(self, items: tuple[Item, ...], now_ns: int) -> int:
        """Note that it was given frames; return the number of the batch."""
        if not self.batches:
            self.progress_ns = now_ns
        number = self.next_batch
        self.next_batch += 1
        self.batches[number] = items
        return number

    def count(self, frames: int, failures: int, start_ns: int, end_ns: int) -> None:
        """Count an answer; batches that were worked on together say the same times."""
        self.answers += 1
        self.frames += frames
        self.failures += failures
        self.busy_ns += max(end_ns - max(start_ns, self.worked_ns), 0)
        self.worked_ns = max(end_ns, self.worked_ns)

    def report_fault(self, notice: Notice) -> None:
        """Tell the supervisor, once, that this worker has to go."""
        if not self.is_reported:
            self.is_reported = True
            self.notify(self.name, notice)

    def holds(self) -> list[Item]:
        """Return the frames it has not answered for."""
        return [item for items in self.batches.values() for item in items]

    def report(self) -> WorkerReport:
        """Return its figures."""
        return WorkerReport(
            task=self.task,
            state=self.state,
            pid=self.pid,
            frames=self.frames,
            batches=self.answers,
            failures=self.failures,
            busy_s=self.busy_ns / 1e9,
            holds=len(self.holds()),
        )


class Roster:
    """All workers by name; one thread at a time."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))

    def add(self, member: Member) -> None:
        """Expect a worker.

        Raises:
            ConfigError: there is one of that name.
        """
        if member.name in self._members:
            raise ConfigError(f"worker {member.name} is known already")
        self._members[member.name] = member

    def get(self, name: str) -> Member | None:
        """Return a worker, or None."""
        return self._members.get(name)

    def speaker(self, name: str, token: str) -> Member | None:
        """Return the worker that a message is from, or None if it is from somebody else."""
        member = self._members.get(name)
        if member is None or not hmac.compare_digest(member.token.encode(), token.encode()):
            return None
        return member

    def remove(self, name: str) -> Member | None:
        """Forget a worker and return it; None if it is unknown."""
        return self._members.pop(name, None)

    def forget_job(self, job: str, *, has_ended: bool) -> None:
        """Tell workers about a job anew at its next frame, or that it has ended."""
        for member in self._members.values():
            if job in member.told:
                member.told.remove(job)
                if has_ended:
                    member.ended.append(job)

    def due_ns(self) -> int | None:
        """Return when the next worker will be overdue, or None."""
        return min(
            (
                member.progress_ns + member.hang_timeout_ns
                for member in self._members.values()
                if member.batches and not member.is_reported
            ),
            default=None,
        )

    def overdue(self, now_ns: int) -> list[Member]:
        """Return the workers that hold frames and have said nothing for too long."""
        return [
            member
            for member in self._members.values()
            if member.batches
            and not member.is_reported
            and member.progress_ns + member.hang_timeout_ns <= now_ns
        ]
