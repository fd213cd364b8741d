"""`Writer`: the one thread that writes, many operations to a transaction.

Callers put operations into a bounded queue and go on. The thread takes all that there are, waiting
a moment for more unless somebody waits for it, and writes them in one transaction, in their order.
While one is being committed, the next piles up: the busier, the larger.

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
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from vdag.control.records.transaction import Ledger, Transaction
from vdag.errors import ChannelClosed, Saturated, VdagError

__all__ = ["Operation", "Writer"]

logger = logging.getLogger(__name__)

#: Operations of one transaction; a reader of SQLite never waits for one, another writer does.
MAX_BATCH = 2000
BACK_OFF_S = (0.05, 0.2, 1.0, 5.0)
TRANSIENT = (OperationalError, InterfaceError, NoConnection)


@dataclass(frozen=True, slots=True)
class Operation:
    """Something to write.

    Attributes:
        apply: writes it; what it returns is the result of `done`.
        weight: rows that it takes of the queue.
        done: resolved when it is committed; None if nobody waits.
        is_durable: it must outlive a loss of power, not only of this process.
    """

    apply: Callable[[Transaction], Any]
    weight: int = 1
    done: Future[Any] | None = None
    is_durable: bool = False


class Writer:
    """See above; closed by `close`.

    Args:
        engine: of the database, whose tables are there.
        ledger: what the thread knows from one transaction to the next.
        limit: rows that may wait.
        linger_s: time to wait for more, when nobody waits for what there is.
        on_commit: called by the thread with the numbers of the queries that have changed.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        *,
        limit: int,
        linger_s: float,
        on_commit: Callable[[Iterable[int]], None],
    ) -> None:
        self._engine, self._ledger, self._on_commit = engine, ledger, on_commit
        self._limit, self._linger_s = limit, linger_s
        self._changed = threading.Condition()
        self._waiting: deque[Operation] = deque()
        self._weight = self._put_count = self._done_count = 0
        self._is_hurried = self._is_closing = False
        self.fault = ""
        self.transactions = self.given_up = self.refused = 0
        self._thread = threading.Thread(target=self._run, name="vdag-records", daemon=True)
        self._thread.start()

    @property
    def rows_waiting(self) -> int:
        """Rows in the queue."""
        return self._weight

    def put(self, operation: Operation) -> None:
        """Have something written, after all that was put before.

        Raises:
            Saturated: too much waits; nothing will be written.
            ChannelClosed: the writer is closed.
        """
        with self._changed:
            if self._is_closing:
                raise ChannelClosed("records are closed")
            if self._weight + operation.weight > self._limit:
                self.refused += 1
                raise Saturated(self.fault or f"{self._weight} rows wait to be recorded")
            self._waiting.append(operation)
            self._weight += operation.weight
            self._put_count += 1
            if operation.done is not None:
                self._is_hurried = True
            if len(self._waiting) == 1 or self._is_hurried:
                self._changed.notify_all()

    def settle(self, timeout_s: float) -> None:
        """Wait until all that was put before is committed, or given up.

        Raises:
            Saturated: it takes longer than `timeout_s`.
        """
        with self._changed:
            mine = self._put_count
            if self._done_count >= mine:
                return
            self._is_hurried = True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._done_count >= mine, timeout_s):
                raise Saturated(self.fault or f"records are more than {timeout_s:g} s behind")

    def close(self, timeout_s: float) -> None:
        """Write what waits, then end; give up what could not be written in time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():  # it waits for the database, in a call that has its own limit
            logger.error("%d rows could not be recorded: %s", self._weight, self.fault)

    def _run(self) -> None:
        while batch := self._take():
            self._write(batch)
            with self._changed:
                self._done_count += len(batch)
                self._weight -= sum(operation.weight for operation in batch)
                self._changed.notify_all()

    def _take(self) -> list[Operation]:
        """Wait for operations; return none when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            self._changed.wait_for(self._is_urgent, self._linger_s)
            count = min(len(self._waiting), MAX_BATCH)
            batch = [self._waiting.popleft() for _ in range(count)]
            self._is_hurried = self._is_hurried and bool(self._waiting)
            return batch

    def _is_urgent(self) -> bool:
        return self._is_hurried or self._is_closing or len(self._waiting) >= MAX_BATCH

    def _write(self, batch: list[Operation]) -> None:
        try:
            self._commit(batch)
        except TRANSIENT as err:  # and there is no more time to wait for the database
            for operation in batch:
                self._give_up(operation, err)
        except Exception as err:  # whatever it is: the next batch is not to blame
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
            transaction = Transaction(connection, self._ledger, at_s=time.time())
            results = [operation.apply(transaction) for operation in batch]
            transaction.finish()
        return results, transaction.numbers

    def _give_up(self, operation: Operation, err: Exception) -> None:
        self.given_up += 1
        reason = _reason(err)
        if operation.done is None:
            logger.error("a record was given up: %s", reason)
            return
        known = isinstance(err, VdagError)
        operation.done.set_exception(err if known else VdagError(f"cannot be recorded: {reason}"))


def _reason(err: Exception) -> str:
    """Return what went wrong, without the statement and the values that SQLAlchemy adds."""
    origin = getattr(err, "orig", None) if isinstance(err, SQLAlchemyError) else None
    return str(origin or err).partition("\n")[0][:200] or type(err).__name__
