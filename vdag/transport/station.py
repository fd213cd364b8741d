"""One task of an exchange: its queue, its workers and its producers.

`flow` explains how it works and why. A station trusts its caller: `Flow` has checked that an event
has a meaning before it gets here. Every method appends what is to be done to `out`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from vdag.transport.credit import Promises, Ready, Worker
from vdag.transport.ledger import Account, Ledger, TaskStats
from vdag.transport.queues import DeadlineQueue, FairQueue, Item, Reason

__all__ = ["Deliver", "Drop", "Grant", "Instruction", "Policy", "Release", "Station"]

Policy = Literal["block", "fifo", "latest", "deadline"]


class Deliver(msgspec.Struct, frozen=True):
    """Send these frames to the worker, as one batch; the worker has credit for them."""

    worker: str
    items: tuple[Item, ...]


class Drop(msgspec.Struct, frozen=True):
    """Free what the frame holds; it is counted. A `poison` frame is worth keeping for replay.

    Attributes:
        item: the frame.
        reason: why.
        where: the task it was dropped at.
    """

    item: Item
    reason: Reason
    where: str


class Grant(msgspec.Struct, frozen=True):
    """Tell the producer that it may submit `credit` more frames for the task."""

    producer: str
    task: str
    credit: int


class Release(msgspec.Struct, frozen=True):
    """The retired worker holds nothing any more and may be stopped.

    What it may still announce is to be ignored: for `Flow`, it would be a new worker.
    """

    worker: str


Instruction = Deliver | Drop | Grant | Release


class Station:
    """One task: where its frames wait, who works on them, and the books of both.

    Attributes:
        task: its name.
        policy: how frames wait.
        queue: the frames that wait, without the suspects.
        suspects: frames that came back from lost workers, oldest first.
        workers: by name, the retired ones included while they hold frames.
        ledger: the books.
        inside: every frame that waits or is outstanding, with the account it is in; for reading.
        is_open: takes frames and workers.
    """

    def __init__(self, task: str, policy: Policy, queue: FairQueue) -> None:
        self.task = task
        self.policy = policy
        self.queue = queue
        self.ledger = Ledger()
        self.suspects: deque[Item] = deque()
        self.workers: dict[str, Worker] = {}
        self.is_open = True
        self.inside: dict[Item, Account] = {}
        self._tried: set[Item] = set()  # those among them that may not come back once more
        self._cancelled: set[Item] = set()  # those at workers that nobody wants back
        self._ready = Ready()
        self._promises = Promises()

    def submit(self, item: Item, now_ns: int, out: list[Instruction]) -> None:
        """Queue a frame."""
        account = self.ledger.account(item.stream)
        account.submitted += 1
        account.waiting += 1
        self.inside[item] = account
        if not self.is_open:
            self._drop(item, "closed", out)
            return
        has_place = self.policy != "block" or self._admit(item)
        if not has_place or item.nbytes > self.queue.limit_nbytes:
            self._drop(item, "full", out)
            return
        for victim, reason in self.queue.push(item, now_ns):
            self._drop(victim, reason, out)
        if self.suspects and self.policy == "latest":
            self._supersede(item, out)
        if self._ready.places:
            self.settle(now_ns, out)

    def ask(self, producer: str, wanted: int, out: list[Instruction]) -> None:
        """Promise a producer places, now or when there are some."""
        if self.policy != "block":
            out.append(Grant(producer, self.task, wanted))
            return
        self._promises.ask(producer, wanted)
        self._grant(out)

    def forget_producer(self, producer: str, out: list[Instruction]) -> None:
        """Promise a lost producer's places to others."""
        self._promises.forget(producer)
        self._grant(out)

    def hire(
        self, worker: Worker, credit: int, max_batch: int, now_ns: int, out: list[Instruction]
    ) -> None:
        """Add to a worker's credit; a new worker joins."""
        self.workers[worker.name] = worker
        worker.credit += credit
        worker.max_batch = max_batch
        self._rank(worker)
        self.settle(now_ns, out)

    def finish(
        self,
        worker: Worker,
        items: Iterable[Item],
        *,
        failed: bool,
        now_ns: int,
        out: list[Instruction],
    ) -> None:
        """Count frames that a worker is through with, as completed or as dropped."""
        for item in items:
            del worker.holds[item]
            account = self.inside[item]
            account.outstanding -= 1
            if failed:
                account.waiting += 1
                self._drop(item, "failed", out)
            else:
                account.completed += 1
                self._forget(item)
        worker.is_on_trial = worker.is_on_trial and bool(worker.holds)
        self._rank(worker)
        self._release(worker, out)
        self.settle(now_ns, out)

    def retire(self, worker: Worker, now_ns: int, out: list[Instruction]) -> None:
        """Give a worker nothing more."""
        worker.is_retired = True
        worker.credit = 0
        self._rank(worker)
        self._release(worker, out)
        self.settle(now_ns, out)

    def lose(self, worker: Worker, now_ns: int, out: list[Instruction]) -> None:
        """Queue a lost worker's frames once more, or drop them."""
        del self.workers[worker.name]
        worker.credit = 0
        self._rank(worker)
        for item in worker.holds:
            account = self.inside[item]
            account.outstanding -= 1
            account.waiting += 1
            reason = self._verdict(item, now_ns)
            if reason is not None:
                self._drop(item, reason, out)
                continue
            account.retried += 1
            if self.policy == "latest":
                self._supersede(item, out)
            self._tried.add(item)
            self.suspects.append(item)
        self.settle(now_ns, out)

    def cancel(self, wanted: Callable[[Item], bool], now_ns: int, out: list[Instruction]) -> None:
        """Drop the frames that wait, and do not retry those at workers."""
        for item in self.queue.discard(wanted):
            self._drop(item, "cancelled", out)
        self._drop_suspects(wanted, "cancelled", out)
        for worker in self.workers.values():
            self._cancelled.update(item for item in worker.holds if wanted(item))
        self.settle(now_ns, out)

    def close(self, now_ns: int, out: list[Instruction]) -> None:
        """Drop the frames that wait and retire the workers."""
        self.is_open = False
        self._promises = Promises()
        for item in self.queue.take(len(self.queue.entries)):
            self._drop(item, "closed", out)
        self._drop_suspects(lambda item: True, "closed", out)
        for worker in list(self.workers.values()):
            if not worker.is_retired:
                self.retire(worker, now_ns, out)

    def reopen(self, policy: Policy, queue: FairQueue) -> None:
        """Take frames and workers again; the books go on."""
        self.policy = policy
        self.queue = queue
        self.is_open = True

    def settle(self, now_ns: int, out: list[Instruction]) -> None:
        """Drop what is late, hand out what can be handed out, promise what has become free."""
        queue = self.queue
        if self.policy == "deadline":
            self._drop_late(now_ns, out)
        ready = self._ready
        while ready.places:
            worker = ready.first()
            if self.suspects:
                if worker.holds:
                    break  # as the first holds the fewest, nobody is idle
                worker.is_on_trial = True
                self._deliver(worker, [self.suspects.popleft()], out)
            elif queue.entries:
                self._deliver(worker, queue.take(min(worker.credit, worker.max_batch)), out)
            else:
                break
        if self.policy == "block":
            self._grant(out)

    def due_ns(self) -> int | None:
        """Return when `settle` will next find a late frame, or None."""
        if not isinstance(self.queue, DeadlineQueue):
            return None
        due = [
            item.deadline_ns - self.queue.cost_ns + 1 for item in self.suspects if item.deadline_ns
        ]
        first = self.queue.due_ns()
        return min(due if first is None else [first, *due], default=None)

    def stats(self) -> TaskStats:
        """Return the books and the state of the queue and the workers."""
        return TaskStats(
            policy=self.policy,
            limit=self.queue.limit,
            waiting_nbytes=self.queue.nbytes + sum(item.nbytes for item in self.suspects),
            workers=len(self.workers),
            credit=sum(worker.credit for worker in self.workers.values()),
            counts=self.ledger.total(),
            streams=self.ledger.streams(),
        )

    def check(self) -> list[str]:
        """Compare the books with the queue and the workers; return what is wrong."""
        counts = self.ledger.total()
        queued = self.queue.items()
        held = [item for worker in self.workers.values() for item in worker.holds]
        free = [w for w in self.workers.values() if w.credit and not w.is_on_trial]
        findings = {
            "the books do not balance": counts.balance != 0,
            "waiting is miscounted": counts.waiting != len(queued) + len(self.suspects),
            "outstanding is miscounted": counts.outstanding != len(held),
            "a frame is in two places or in none": (
                {*queued, *self.suspects, *held} != self.inside.keys()
                or len(queued) + len(self.suspects) + len(held) != len(self.inside)
            ),
            "bytes are miscounted": self.queue.nbytes != sum(item.nbytes for item in queued),
            "the queue is too long": len(queued) + self._promises.total > self.queue.limit,
            "too many suspects": len(self.suspects) > self.queue.limit,
            "a worker has credit while frames wait": bool(
                any(not worker.holds for worker in free) if self.suspects else free and queued
            ),
            "the ready workers are not those with credit": (
                {worker.name for worker in free} != self._ready.names()
            ),
            "a worker on trial does not hold one suspect": any(
                worker.is_on_trial
                and not (len(worker.holds) == 1 and self._tried & worker.holds.keys())
                for worker in self.workers.values()
            ),
            "a frame is remembered that has left": bool(
                (self._tried | self._cancelled) - self.inside.keys()
            ),
        }
        return [f"{self.task}: {text}" for text, is_wrong in findings.items() if is_wrong]

    def _admit(self, item: Item) -> bool:
        """Say whether there is a place that was promised to the producer, or to nobody."""
        if self._promises.spend(item.producer):
            return True
        return len(self.queue.entries) + self._promises.total < self.queue.limit

    def _grant(self, out: list[Instruction]) -> None:
        free = self.queue.limit - len(self.queue.entries) - self._promises.total
        for producer, places in self._promises.grant(free).items():
            out.append(Grant(producer, self.task, places))

    def _verdict(self, item: Item, now_ns: int) -> Reason | None:
        """Say why a frame that its worker lost cannot be tried again, if so."""
        if item in self._cancelled:
            return "cancelled"
        if not self.is_open:
            return "closed"
        if item in self._tried:
            return "poison"
        if self._is_late(item, now_ns):
            return "deadline"
        if self.policy == "latest" and self._has_newer(item):
            return "superseded"
        return "full" if len(self.suspects) >= self.queue.limit else None

    def _drop_late(self, now_ns: int, out: list[Instruction]) -> None:
        for item in self.queue.expire(now_ns):
            self._drop(item, "deadline", out)
        if self.suspects:
            self._drop_suspects(lambda item: self._is_late(item, now_ns), "deadline", out)

    def _has_newer(self, item: Item) -> bool:
        newest = self.queue.newest(item.stream)
        waiting = [*self.suspects, newest] if newest is not None else self.suspects
        return any(other.stream == item.stream and other.seq >= item.seq for other in waiting)

    def _is_late(self, item: Item, now_ns: int) -> bool:
        return isinstance(self.queue, DeadlineQueue) and self.queue.is_late(item, now_ns)

    def _supersede(self, item: Item, out: list[Instruction]) -> None:
        """Drop the suspects of the frame's stream that are older than it."""
        self._drop_suspects(
            lambda old: old.stream == item.stream and old.seq <= item.seq, "superseded", out
        )

    def _drop_suspects(
        self, wanted: Callable[[Item], bool], reason: Reason, out: list[Instruction]
    ) -> None:
        gone = [item for item in self.suspects if wanted(item)]
        if gone:
            self.suspects = deque(item for item in self.suspects if not wanted(item))
        for item in gone:
            self._drop(item, reason, out)

    def _deliver(self, worker: Worker, items: list[Item], out: list[Instruction]) -> None:
        for item in items:
            account = self.inside[item]
            account.waiting -= 1
            account.outstanding += 1
            worker.holds[item] = None
        worker.credit -= len(items)
        self._rank(worker)
        out.append(Deliver(worker.name, tuple(items)))

    def _drop(self, item: Item, reason: Reason, out: list[Instruction]) -> None:
        account = self.inside[item]
        account.waiting -= 1
        account.dropped[reason] += 1
        self._forget(item)
        out.append(Drop(item, reason, self.task))

    def _forget(self, item: Item) -> None:
        del self.inside[item]
        if self._tried:
            self._tried.discard(item)
        if self._cancelled:
            self._cancelled.discard(item)

    def _release(self, worker: Worker, out: list[Instruction]) -> None:
        if worker.is_retired and not worker.holds:
            del self.workers[worker.name]
            out.append(Release(worker.name))

    def _rank(self, worker: Worker) -> None:
        self._ready.rank(worker, worker.credit > 0 and not worker.is_on_trial)
