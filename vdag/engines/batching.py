"""When a batch leaves: pure, without clock, thread or engine in it.

Whoever runs an engine adds what arrives and sleeps until `next_due_ns()` at most. When it wakes it
counts what is `expired()`, and `take()`s a batch if one is `ready()`. All times are its own, in
nanoseconds of one monotonic clock.
"""

# Theory of operation
# -------------------
#
# A batch costs less than its items one by one, so waiting for more items is worth something. It
# costs the items that wait. The rule has three reasons to stop waiting; the earliest one counts:
#
#   full      `max_batch` items are there.
#   patience  the oldest has waited `max_wait_ns`.
#   slack     one item more, and somebody would be late.
#
# Slack needs care. Let the queue hold n < max_batch items, let D be the earliest dead-line among
# them and cost(k) what a batch of k takes. Leaving at D - cost(n) would be in time. But between
# now and then another item may arrive, and the batch of n + 1 takes longer: if it arrived just
# before D - cost(n), the most urgent item would be late because of it. Waiting is for that item
# and for nothing else, so the batch has to leave while it could still take it along:
#
#   due = D - cost(n + 1)
#
# If the item does arrive, at t <= due, the batch of n + 1 may leave at once and ends at
# t + cost(n + 1) <= D; whether it waits for yet another one is the same question again. So:
#
#   An item that arrives with at least cost(max_batch) to its dead-line is in time, and no item
#   waits longer than `max_wait_ns`, provided that the caller looks after every `add` and at every
#   `next_due_ns()`, and that the costs are right.
#
# The proviso fails in practice: the engine is busy when a batch falls due. Then more than one
# item arrives between two looks, and taking all of them may be what makes the first one late.
# `take` therefore lets as many go as the dead-lines allow: an item in position i can be helped if
# a batch of some size k > i still reaches its dead-line, and the largest such k limits the batch.
# Items that nothing can help do not limit it, and their turn does not change: order is arrival.
# An item whose dead-line is over is never in a batch. It comes out of `expired()`, so that it is
# counted as what it is, a drop.
#
# Costs are learned as TCP learns its round-trip time (RFC 6298): a moving mean, gain 1/8, and a
# moving mean deviation, gain 1/4. The estimate is the mean plus two deviations, because a batch
# planned with the mean alone is late every second time. Sizes never seen lie between their
# neighbours; beyond the largest they grow in proportion. A table is made non-decreasing: a
# larger batch never counts as faster than a smaller one.

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vdag.errors import ConfigError, EngineError

__all__ = ["BatchRule", "Batcher", "CostTable"]

Item = TypeVar("Item")


@dataclass(slots=True, frozen=True)
class BatchRule:
    """How large a batch may get and how long an item may wait for it.

    Attributes:
        max_batch: items in a batch, at least 1.
        max_wait_ns: how long the first item of a batch waits for others; 0 takes what is there.
        capacity: items that may wait at once, at least `max_batch`.

    Raises:
        ConfigError: a number is out of range.
    """

    max_batch: int
    max_wait_ns: int
    capacity: int = 1024

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ConfigError(f"max_batch {self.max_batch} is below 1")
        if self.max_wait_ns < 0:
            raise ConfigError(f"max_wait_ns {self.max_wait_ns} is below 0")
        if self.capacity < self.max_batch:
            raise ConfigError(f"capacity {self.capacity} is below max_batch {self.max_batch}")


class CostTable:
    """What a batch of each size takes, learned from what batches took; see the theory above."""

    __slots__ = ("_deviation_ns", "_mean_ns", "_sizes")

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._mean_ns: dict[int, int] = {}
        self._deviation_ns: dict[int, int] = {}

    def observe(self, batch: int, elapsed_ns: int) -> None:
        """Learn that a batch of `batch` items took `elapsed_ns`.

        Raises:
            ConfigError: the batch is empty or the time negative; nothing is learned.
        """
        if batch < 1 or elapsed_ns < 0:
            raise ConfigError(f"a batch of {batch} cannot take {elapsed_ns} ns")
        mean_ns = self._mean_ns.get(batch)
        if mean_ns is None:
            self._sizes.insert(bisect_left(self._sizes, batch), batch)
            self._mean_ns[batch], self._deviation_ns[batch] = elapsed_ns, 0
            return
        error_ns = elapsed_ns - mean_ns
        # Rounded away from zero: whole numbers would otherwise stop short of what they follow.
        self._deviation_ns[batch] += _part(abs(error_ns) - self._deviation_ns[batch], 4)
        self._mean_ns[batch] = mean_ns + _part(error_ns, 8)

    def __call__(self, batch: int) -> int:
        """Return what a batch of `batch` items is expected to take; 0 while nothing is known."""
        below = above = 0
        below_ns = 0
        for size in self._sizes:
            if size > batch:
                above = size
                break
            # Non-decreasing: what a smaller batch took is the least that a larger one takes.
            below, below_ns = size, max(below_ns, self._estimate_ns(size))
        if below == batch or not self._sizes:
            return below_ns
        if not above:
            return below_ns * batch // below
        above_ns = max(below_ns, self._estimate_ns(above))
        if not below:
            return above_ns
        return below_ns + (above_ns - below_ns) * (batch - below) // (above - below)

    def _estimate_ns(self, size: int) -> int:
        return self._mean_ns[size] + 2 * self._deviation_ns[size]


@dataclass(slots=True)
class _Waiting(Generic[Item]):
    item: Item
    since_ns: int
    deadline_ns: int | None


class Batcher(Generic[Item]):
    """Collects items into batches, in the order of their arrival.

    Not thread-safe: one thread has it. Times given to one batcher never go back.

    Args:
        rule: size and patience.
        cost_ns: batch size to expected nanoseconds, non-decreasing. By default it is learned
            from `observed`, and is 0 until then.
    """

    __slots__ = ("_cost_ns", "_expired", "_first_deadline_ns", "_learned", "_queue", "rule")

    def __init__(self, rule: BatchRule, cost_ns: Callable[[int], int] | None = None) -> None:
        self.rule = rule
        self._learned = CostTable()
        self._cost_ns: Callable[[int], int] = self._learned if cost_ns is None else cost_ns
        self._queue: deque[_Waiting[Item]] = deque()
        self._expired: list[Item] = []
        # The earliest dead-line of the queue, kept so that looking costs no search.
        self._first_deadline_ns: int | None = None

    def __len__(self) -> int:
        """Items that wait, those past their dead-line and not yet handed out included."""
        return len(self._queue) + len(self._expired)

    @property
    def room(self) -> int:
        """Items that may still be added."""
        return self.rule.capacity - len(self)

    def add(self, item: Item, now_ns: int, deadline_ns: int | None = None) -> None:
        """Let an item wait for its batch.

        Args:
            item: whatever `take` shall return.
            now_ns: when it arrived.
            deadline_ns: when its batch has to be done; None if it may take any time.

        Raises:
            EngineError: `capacity` items wait already; the item is not taken.
        """
        if not self.room:
            raise EngineError(f"{len(self)} items wait already, capacity {self.rule.capacity}")
        self._queue.append(_Waiting(item, now_ns, deadline_ns))
        first_ns = self._first_deadline_ns
        if first_ns is None or (deadline_ns is not None and deadline_ns < first_ns):
            self._first_deadline_ns = deadline_ns

    def observed(self, batch: int, elapsed_ns: int) -> None:
        """Learn what a batch took; without effect if the batcher was given its costs."""
        self._learned.observe(batch, elapsed_ns)

    def next_due_ns(self) -> int | None:
        """Return when the next batch has to leave if nothing more arrives; None if none waits.

        A time that is over means now.
        """
        if not self._queue:
            return None
        oldest_ns = self._queue[0].since_ns
        if len(self._queue) >= self.rule.max_batch:
            return oldest_ns
        due_ns = oldest_ns + self.rule.max_wait_ns
        if self._first_deadline_ns is not None:
            due_ns = min(due_ns, self._first_deadline_ns - self._cost_ns(len(self._queue) + 1))
        return due_ns

    def ready(self, now_ns: int) -> bool:
        """Say whether a batch should leave now. Items past their dead-line make no batch."""
        self._set_expired_aside(now_ns)
        due_ns = self.next_due_ns()
        return due_ns is not None and now_ns >= due_ns

    def take(self, now_ns: int) -> list[Item]:
        """Return the next batch and forget it; empty unless `ready`.

        Returns:
            At most `max_batch` items, oldest first, none of them past its dead-line. Fewer than
            wait if a larger batch would make one of them late.
        """
        if not self.ready(now_ns):
            return []
        batch = [self._queue.popleft().item for _ in range(self._size(now_ns))]
        self._first_deadline_ns = self._earliest_deadline_ns()
        return batch

    def expired(self, now_ns: int) -> list[Item]:
        """Return the items whose dead-line is over and forget them: the caller counts the drops.

        Oldest first among those that were found over at the same look.
        """
        self._set_expired_aside(now_ns)
        items, self._expired = self._expired, []
        return items

    def drain(self) -> list[Item]:
        """Return everything that waits, in no batch, and forget it: for shutting down."""
        items = self._expired + [waiting.item for waiting in self._queue]
        self._queue.clear()
        self._expired, self._first_deadline_ns = [], None
        return items

    def _size(self, now_ns: int) -> int:
        """Return how many items may leave together so that all that can be in time are."""
        size = min(len(self._queue), self.rule.max_batch)
        first_ns = self._first_deadline_ns
        if first_ns is None or now_ns + self._cost_ns(size) <= first_ns:
            return size
        for position, waiting in enumerate(self._queue):
            if position >= size:
                break
            if waiting.deadline_ns is not None:
                size = self._largest(position + 1, size, waiting.deadline_ns - now_ns)
        return size

    def _largest(self, smallest: int, largest: int, slack_ns: int) -> int:
        """Return the largest size whose cost is within `slack_ns`; `largest` if there is none."""
        sizes = range(smallest, largest + 1)
        within = bisect_right(sizes, slack_ns, key=self._cost_ns)
        return sizes[within - 1] if within else largest

    def _set_expired_aside(self, now_ns: int) -> None:
        if self._first_deadline_ns is None or now_ns <= self._first_deadline_ns:
            return
        kept: deque[_Waiting[Item]] = deque()
        for waiting in self._queue:
            if waiting.deadline_ns is not None and waiting.deadline_ns < now_ns:
                self._expired.append(waiting.item)
            else:
                kept.append(waiting)
        self._queue = kept
        self._first_deadline_ns = self._earliest_deadline_ns()

    def _earliest_deadline_ns(self) -> int | None:
        return min((w.deadline_ns for w in self._queue if w.deadline_ns is not None), default=None)


def _part(difference: int, divisor: int) -> int:
    """Return `difference / divisor`, rounded away from zero."""
    return -(-difference // divisor) if difference > 0 else difference // divisor
