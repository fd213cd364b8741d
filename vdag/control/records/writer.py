"""`Writer`: the one thread that writes, many operations to a transaction.

Callers put operations into bounded queues and go on. The thread takes all that there are, waiting
a moment for more unless somebody waits for it, and writes them in one transaction, in their order.
While one is being committed, the next piles up: the busier, the larger.

There are two queues, since events of packets come in other amounts than queries and their results:
however many of the one wait, there is room for the other, which is not behind them.

What fails because the database is away, locked or full is tried again, for ever and ever slower;
meanwhile the queue fills, and callers are refused. What fails by itself is tried again alone, and
then given up: it must not hold up what is behind it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from vdag.control.records.transaction import Ledger, Transaction
from vdag.errors import ChannelClosed, Saturated, VdagError

__all__ = ["Lane", "Operation", "Writer"]

logger = logging.getLogger(__name__)

#: Operations of one transaction; a reader of SQLite never waits for one, another writer does.
MAX_BATCH = 2000
#: Rows of one transaction, of which one operation may bring more.
MAX_ROWS = 20_000
BACK_OFF_S = (0.05, 0.2, 1.0, 5.0)
TRANSIENT = (OperationalError, InterfaceError, NoConnection)
#: Of MySQL, which has one class for what passes and for what never will: full, too many callers,
#: shutting down, deadlock, somebody else's lock, read-only. From 2000 on it is the connection.
MYSQL_TRANSIENT = frozenset({1021, 1040, 1041, 1053, 1105, 1114, 1203, 1205, 1213, 1290, 1836})
MYSQL_CONNECTION = 2000
#: Of SQLite, for a statement that has no meaning.
SQLITE_ERROR = 1


class Lane(IntEnum):
    """The queues."""

    RECORDS = 0
    EVENTS = 1


@dataclass(frozen=True, slots=True)
class Operation:
    """Something to write.

    Attributes:
        apply: writes it; what it returns is the result of `done`.
        weight: rows that it takes of the queue.
        done: resolved when it is committed; None if nobody waits.
        is_durable: it must outlive a loss of power, not only of this process.
        lane: the queue.
    """

    apply: Callable[[Transaction], Any]
    weight: int = 1
    done: Future[Any] | None = None
    is_durable: bool = False
    lane: Lane = Lane.RECORDS


@dataclass(slots=True)
class _Queue:
    """What waits in a lane; weights are in rows, counts in operations since the start."""

    limit: int
    waiting: deque[Operation] = field(default_factory=deque)
    weight: int = 0
    put_count: int = 0
    done_count: int = 0
    refused: int = 0

    def take(self) -> Iterator[Operation]:
        """Yield operations for a transaction, which leave the queue."""
        count = rows = 0
        while self.waiting and count < MAX_BATCH and rows < MAX_ROWS:
            operation = self.waiting.popleft()
            count, rows = count + 1, rows + operation.weight
            yield operation


class Writer:
    """See above; closed by `close`.

    Args:
        engine: of the database, whose tables are there.
        ledger: what the thread knows from one transaction to the next.
        limits: rows that may wait, by lane.
        linger_s: time to wait for more, when nobody waits for what there is.
        on_commit: called by the thread with the numbers of the queries that have changed.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        *,
        limits: tuple[int, int],
        linger_s: float,
        on_commit: Callable[[Iterable[int]], None],
    ) -> None:
        self._engine, self._ledger, self._on_commit = engine, ledger, on_commit
        self._linger_s = linger_s
        self._changed = threading.Condition()
        self._queues = tuple(_Queue(limit) for limit in limits)
        self._is_hurried = self._is_closing = False
        self.fault = ""
        self.transactions = self.given_up = 0
        self._thread = threading.Thread(target=self._run, name="vdag-records", daemon=True)
        self._thread.start()

    def rows_waiting(self, lane: Lane = Lane.RECORDS) -> int:
        """Return how many rows wait."""
        return self._queues[lane].weight

    def refused(self, lane: Lane = Lane.RECORDS) -> int:
        """Return how many operations there was no room for."""
        return self._queues[lane].refused

    def put(self, operation: Operation) -> None:
        """Have something written, after all that was put into its lane before.

        Raises:
            Saturated: too much waits; nothing will be written.
            ChannelClosed: the writer is closed.
        """
        queue = self._queues[operation.lane]
        with self._changed:
            if self._is_closing:
                raise ChannelClosed("records are closed")
            if queue.weight + operation.weight > queue.limit:
                queue.refused += 1
                raise Saturated(self.fault or f"{queue.weight} rows wait to be recorded")
            queue.waiting.append(operation)
            queue.weight += operation.weight
            queue.put_count += 1
            if operation.done is not None:
                self._is_hurried = True
            if len(queue.waiting) == 1 or self._is_hurried:
                self._changed.notify_all()

    def settle(self, timeout_s: float, lane: Lane = Lane.RECORDS) -> None:
        """Wait until all that was put into a lane before is committed, or given up.

        Raises:
            Saturated: it takes longer than `timeout_s`.
        """
        queue = self._queues[lane]
        with self._changed:
            mine = queue.put_count
            if queue.done_count >= mine:
                return
            self._is_hurried = True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: queue.done_count >= mine, timeout_s):
                raise Saturated(self.fault or f"records are more than {timeout_s:g} s behind")

    def close(self, timeout_s: float) -> None:
        """Write what waits, then end; give up what could not be written in time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():  # it waits for the database, in a call that has its own limit
            weight = sum(queue.weight for queue in self._queues)
            logger.error("%d rows could not be recorded: %s", weight, self.fault)

    def _run(self) -> None:
        while batch := self._take():
            self._write(batch)
            with self._changed:
                for operation in batch:
                    queue = self._queues[operation.lane]
                    queue.done_count += 1
                    queue.weight -= operation.weight
                self._changed.notify_all()

    def _take(self) -> list[Operation]:
        """Wait for operations; return none when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._are_waiting or self._is_closing)
            self._changed.wait_for(self._is_urgent, self._linger_s)
            batch = [operation for queue in self._queues for operation in queue.take()]
            self._is_hurried = self._is_hurried and self._are_waiting
            return batch

    @property
    def _are_waiting(self) -> bool:
        return any(queue.waiting for queue in self._queues)

    def _is_urgent(self) -> bool:
        if self._is_hurried or self._is_closing:
            return True
        return any(
            len(queue.waiting) >= MAX_BATCH or queue.weight >= MAX_ROWS for queue in self._queues
        )

    def _write(self, batch: list[Operation]) -> None:
        try:
            self._commit(batch)
        except Exception as err:  # whatever it is: the next batch is not to blame
            if _is_transient(err):  # and there is no more time to wait for the database
                for operation in batch:
                    self._give_up(operation, err)
                return
            if len(batch) == 1:
                self._give_up(batch[0], err)
                return
            for operation in batch:
                self._write([operation])

    def _commit(self, batch: list[Operation]) -> None:
        """Write operations in one transaction, as often as it takes until the database is back."""
        for attempt in itertools.count():
            try:
                results, numbers = self._attempt(batch)
                break
            except TRANSIENT as err:
                self._ledger.undo()
                if not _is_transient(err):
                    raise
                self.fault = f"records cannot be written: {_reason(err)}"
                logger.warning("%s", self.fault)
                with self._changed:
                    back_off_s = BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]
                    if self._changed.wait_for(lambda: self._is_closing, back_off_s):
                        raise
            except BaseException:
                self._ledger.undo()
                raise
        self.fault = ""
        self.transactions += 1
        for operation, result in zip(batch, results, strict=True):
            if operation.done is not None:
                operation.done.set_result(result)
        self._on_commit(numbers)

    def _attempt(self, batch: list[Operation]) -> tuple[list[Any], set[int]]:
        is_durable = any(operation.is_durable for operation in batch)
        with self._engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                level = "FULL" if is_durable else "NORMAL"
                connection.exec_driver_sql(f"PRAGMA synchronous={level}")
                # Who reads first and then writes is refused when others have written meanwhile.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            transaction = Transaction(connection, self._ledger, at_s=time.time())
            results = [operation.apply(transaction) for operation in batch]
            transaction.finish()
        transaction.note_commit()
        return results, transaction.numbers

    def _give_up(self, operation: Operation, err: Exception) -> None:
        self.given_up += 1
        reason = _reason(err)
        if operation.done is None:
            logger.error("a record was given up: %s", reason)
            return
        if _is_transient(err):  # the same may go well another time
            operation.done.set_exception(Saturated(f"records cannot be written: {reason}"))
            return
        known = isinstance(err, VdagError)
        operation.done.set_exception(err if known else VdagError(f"cannot be recorded: {reason}"))


def _is_transient(err: Exception) -> bool:
    """Say whether the same may go well when the database is back."""
    if not isinstance(err, TRANSIENT):
        return False
    if not isinstance(err, OperationalError) or err.connection_invalidated:
        return True
    if getattr(err.orig, "sqlite_errorcode", None) == SQLITE_ERROR:
        return False
    # Only MySQL's drivers put a number first.
    number = next(iter(getattr(err.orig, "args", ())), None)
    if not isinstance(number, int):
        return True
    return number in MYSQL_TRANSIENT or number >= MYSQL_CONNECTION


def _reason(err: Exception) -> str:
    """Return what went wrong, without the statement and the values that SQLAlchemy adds."""
    origin = getattr(err, "orig", None) if isinstance(err, SQLAlchemyError) else None
    if origin is not None and len(origin.args) == 2 and isinstance(origin.args[0], int):
        origin = origin.args[1]  # MySQL's text after its number
    return str(origin or err).partition("\n")[0][:200] or type(err).__name__
