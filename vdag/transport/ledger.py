"""The books of the exchange: every frame is in exactly one column, at every moment.

submitted = completed + dropped[reason] + waiting + outstanding
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vdag.transport.queues import Reason, Stream

__all__ = ["Account", "Counts", "FlowStats", "Ledger", "TaskStats"]

#: Streams that are counted on their own per task; the idle ones before them are counted together.
MAX_STREAMS = 1024


@dataclass(frozen=True, slots=True)
class Counts:
    """Where the frames of a stream, or of a whole task, have gone.

    Attributes:
        submitted: frames that came, refused ones included.
        completed: frames a worker has finished.
        waiting: frames in the queue, those that came back from a lost worker included.
        outstanding: frames handed to a worker and not yet finished.
        retried: frames that came back from a lost worker and were queued again; not a column of
            the sum.
        dropped: frames dropped, by reason; reasons that never occurred are missing.
    """

    submitted: int = 0
    completed: int = 0
    waiting: int = 0
    outstanding: int = 0
    retried: int = 0
    dropped: Mapping[Reason, int] = field(default_factory=dict)

    @property
    def balance(self) -> int:
        """Frames that are in no column: 0, or the books are wrong."""
        known = self.completed + sum(self.dropped.values()) + self.waiting + self.outstanding
        return self.submitted - known


@dataclass(frozen=True, slots=True)
class TaskStats:
    """One task's queue, workers and books.

    Attributes:
        policy: `block`, `fifo`, `latest` or `deadline`.
        limit: most frames that wait.
        waiting_nbytes: memory the waiting frames hold.
        workers: workers that serve the task, retired ones with frames included.
        credit: frames that workers would take now.
        counts: all streams together.
        streams: the latest streams, at most `MAX_STREAMS` unless more have frames here.
    """

    policy: str
    limit: int
    waiting_nbytes: int
    workers: int
    credit: int
    counts: Counts
    streams: Mapping[Stream, Counts]


@dataclass(frozen=True, slots=True)
class FlowStats:
    """Everything an exchange knows about its frames.

    Attributes:
        tasks: by name, tasks that were closed included.
        stray: frames for tasks that were never open here; they are in no task's books.
    """

    tasks: Mapping[str, TaskStats]
    stray: int


class Account:
    """The running counts of one stream at one task; `Counts` is its frozen form."""

    __slots__ = ("completed", "dropped", "outstanding", "retried", "submitted", "waiting")

    def __init__(self) -> None:
        self.submitted = self.completed = self.waiting = self.outstanding = self.retried = 0
        self.dropped: Counter[Reason] = Counter()

    @property
    def is_idle(self) -> bool:
        """Whether the stream has no frame here."""
        return not (self.waiting or self.outstanding)

    def counts(self) -> Counts:
        """Return the counts of now."""
        return _total([self])

    def add(self, other: Account) -> None:
        """Take over the counts of an idle stream."""
        self.submitted += other.submitted
        self.completed += other.completed
        self.retried += other.retried
        self.dropped.update(other.dropped)


class Ledger:
    """The accounts of one task, one per stream.

    Streams come and go, and their names come from the network: once there are `MAX_STREAMS`, the
    oldest account that is idle is closed and counted with the departed.
    """

    __slots__ = ("_accounts", "_departed")

    def __init__(self) -> None:
        self._accounts: OrderedDict[Stream, Account] = OrderedDict()
        self._departed = Account()

    def account(self, stream: Stream) -> Account:
        """Return the stream's account, opened if need be."""
        account = self._accounts.get(stream)
        if account is None:
            if len(self._accounts) >= MAX_STREAMS:
                self._retire()
            account = self._accounts[stream] = Account()
        return account

    def total(self) -> Counts:
        """Return the counts of all streams together, the departed included."""
        return _total([self._departed, *self._accounts.values()])

    def streams(self) -> dict[Stream, Counts]:
        """Return the counts per stream."""
        return {stream: account.counts() for stream, account in self._accounts.items()}

    def _retire(self) -> None:
        """Close the oldest idle account.

        Busy ones it meets go to the end, so that the cost per new stream stays small.
        """
        for _ in range(len(self._accounts)):
            stream, account = self._accounts.popitem(last=False)
            if account.is_idle:
                self._departed.add(account)
                return
            self._accounts[stream] = account


def _total(accounts: Iterable[Account]) -> Counts:
    accounts = list(accounts)
    dropped: Counter[Reason] = Counter()
    for account in accounts:
        dropped.update(account.dropped)
    return Counts(
        submitted=sum(account.submitted for account in accounts),
        completed=sum(account.completed for account in accounts),
        waiting=sum(account.waiting for account in accounts),
        outstanding=sum(account.outstanding for account in accounts),
        retried=sum(account.retried for account in accounts),
        dropped=dict(dropped),
    )
