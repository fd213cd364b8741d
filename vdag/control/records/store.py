"""`Store`: the records of a cloud, in SQLite or in a database server.

Writing methods return at once, or raise `Saturated`; one thread does what they say, see `writer`.
Reading methods may be called by any number of threads and see all that was written before by any
thread: they wait until it is committed, for `READ_TIMEOUT_S` at most.

Readers that follow the results of a query are woken when there are more; what there is, they read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from vdag.control.records.ageing import Retention
from vdag.control.records.foreigners import ForeignNodes
from vdag.control.records.frames import FrameResult
from vdag.control.records.journal import Journal
from vdag.control.records.logbook import Logbook
from vdag.control.records.opening import open_database
from vdag.control.records.reading import read_plan, read_queries, read_results
from vdag.control.records.tables import dropped, plan, query
from vdag.control.records.transaction import Ledger, Transaction
from vdag.control.records.values import (
    ENDED,
    NewQuery,
    PlanRecord,
    QueryRecord,
    ResultRecord,
    read_query_id,
    write_query_id,
)
from vdag.control.records.writer import Lane, Operation, Writer
from vdag.errors import Saturated

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Retention", "Store", "StoreStats"]

READ_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 10.0
#: Longest texts that are recorded.
MAX_REASON = 2000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How much a store has done since it was opened.

    Attributes:
        rows_waiting: rows that are not written yet.
        results: rows of results that were written.
        duplicates: results that were left out, as they were there.
        transactions: that were committed.
        refused: writes for which there was no room.
        given_up: writes that could not be done.
        fault: what the database says; empty if all is well.
    """

    rows_waiting: int
    results: int
    duplicates: int
    transactions: int
    refused: int
    given_up: int
    fault: str


class Store:
    """See above; closed by `close` or a `with` block.

    Args:
        place: path of an SQLite file, whose folder is there, or a URL of SQLAlchemy.
        retention: which results are kept.
        limit: rows that may wait to be written.
        events_limit: rows of reports that may wait beside those.
        linger_s: time to gather rows for a transaction, while nobody waits for them.

    Attributes:
        log: what nodes, sessions and packets did.
        journal: the same, as our own nodes say it.
        foreigners: nodes that speak only the documented REST.

    Raises:
        ConfigError: there is no such database, or it has tables of a newer version.
        DependencyMissing: the driver that the URL names is not installed.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        retention: Retention = Retention(),  # noqa: B008 - frozen
        limit: int = 20_000,
        events_limit: int = 500_000,
        linger_s: float = 0.02,
    ) -> None:
        self._engine = open_database(place)
        self._ledger = Ledger(retention)
        self._followers: dict[int, set[Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._writer = Writer(
            self._engine,
            self._ledger,
            limits=(limit, events_limit),
            linger_s=linger_s,
            on_commit=self._wake,
        )
        self.log = Logbook(self._writer, self._ledger, self._read)
        self.journal = Journal(self._writer, self._ledger)
        self.foreigners = ForeignNodes(self._put, self._read)

    def add_query(self, asked: NewQuery) -> Future[str]:
        """Record a query; the result is its id, once it outlives even a loss of power.

        Raises:
            Saturated: too much waits to be written, as of all methods that write.
        """

        def apply(transaction: Transaction) -> str:
            row = insert(query).values(
                node_addr=asked.node_addr,
                video_id=asked.video_id,
                dag=dict(asked.dag),
                constraint_document=dict(asked.constraint),
                policy=asked.policy,
                form=asked.form,
                fixed_plan=None if asked.plan is None else dict(asked.plan),
                state=0,
                reason="",
                suspended=False,
                fault="",
                created_s=transaction.at_s,
            )
            (number,) = transaction.execute(row).inserted_primary_key
            transaction.numbers.add(number)
            return write_query_id(number)

        return self._put_awaited(apply, is_durable=True)

    def set_state(
        self, query_id: str, state: int, reason: str = "", *, suspended: bool = False
    ) -> None:
        """Record how a query stands; the time of its end is that of the first final state."""

        def apply(transaction: Transaction) -> None:
            ended_s = func.coalesce(query.c.ended_s, transaction.at_s) if state >= ENDED else None
            self._change(
                transaction,
                query_id,
                state=state,
                reason=reason[:MAX_REASON],
                suspended=suspended,
                ended_s=ended_s,
            )

        self._put(apply)

    def set_constraint(self, query_id: str, constraint: Mapping[str, Any]) -> None:
        """Record another constraint of a query."""
        document = dict(constraint)
        self._put(lambda tx: self._change(tx, query_id, constraint_document=document))

    def set_fault(self, query_id: str, fault: str) -> None:
        """Record what went wrong without ending a query; empty when it is over."""
        self._put(lambda tx: self._change(tx, query_id, fault=fault[:MAX_REASON]))

    def add_plan(
        self, query_id: str, number: int, documents: Mapping[str, Any], cause: str = ""
    ) -> None:
        """Record a plan of a query; one of that number that is there is replaced."""
        key = read_query_id(query_id)

        def apply(transaction: Transaction) -> None:
            same = (plan.c.query_id == key) & (plan.c.number == number)
            transaction.execute(delete(plan).where(same))
            row = insert(plan).values(
                query_id=key,
                number=number,
                documents=dict(documents),
                cause=cause[:MAX_REASON],
                at_s=transaction.at_s,
            )
            transaction.execute(row, key)
            transaction.trim_plans(key, number)

        self._put(apply)

    def set_decision(self, query_id: str, number: int, decision: Mapping[str, Any]) -> None:
        """Record why a query was given a plan, in place of what was recorded before."""
        key = read_query_id(query_id)
        document = dict(decision)

        def apply(transaction: Transaction) -> None:
            same = (plan.c.query_id == key) & (plan.c.number == number)
            transaction.execute(update(plan).where(same).values(decision=document))

        self._put(apply)

    def add_results(self, query_id: str, frames: Sequence[FrameResult], *, run: str = "") -> None:
        """Record results of a query; those that are there, or were, are left out.

        Args:
            query_id: of the query.
            frames: oldest first.
            run: which start of the job they are of, so that results that are sent again are
                known; empty for a node that does not say, and sends nothing again.
        """
        key = read_query_id(query_id)
        if key and frames:
            self._put(lambda tx: tx.add_results(key, run, frames), weight=len(frames))

    def set_dropped(self, query_id: str, counts: Mapping[str, int], *, run: str = "") -> None:
        """Record how many frames a run of a job has lost since its start, by reason."""
        key = read_query_id(query_id)

        def apply(transaction: Transaction) -> None:
            of_run = (dropped.c.query_id == key) & (dropped.c.run == run)
            for reason, count in counts.items():
                same = of_run & (dropped.c.reason == reason[:64])
                transaction.execute(delete(dropped).where(same))
                row = insert(dropped).values(query_id=key, run=run, reason=reason[:64], count=count)
                transaction.execute(row, key)

        self._put(apply)

    def forget(self, query_id: str) -> Future[bool]:
        """Delete a query and all that belongs to it; the result is whether it was there."""
        key = read_query_id(query_id)
        return self._put_awaited(lambda tx: tx.forget(key))

    def committed(self) -> Future[None]:
        """Return a future that is resolved when all that was written before is committed."""
        return self._put_awaited(lambda tx: None)

    def query(self, query_id: str) -> QueryRecord | None:
        """Return a query; None if there is none.

        Raises:
            Saturated: the records are behind, or cannot be read; as of all methods that read.
        """
        key = read_query_id(query_id)
        found = self._read(lambda at: read_queries(at, query.c.id == key, limit=1))
        return found[0] if found else None

    def queries(
        self, *, is_over: bool | None = None, before: str = "", limit: int = 100_000
    ) -> list[QueryRecord]:
        """Return the newest queries, oldest first.

        Args:
            is_over: only those that have ended or failed, or only the others; None for all.
            before: only those older than that one; empty for all.
            limit: of how many at most.
        """
        conditions = []
        if is_over is not None:
            conditions.append(query.c.state >= ENDED if is_over else query.c.state < ENDED)
        if before:
            conditions.append(query.c.id < read_query_id(before))
        return self._read(lambda at: read_queries(at, *conditions, limit=limit))

    def plans(self, query_id: str, *, limit: int = 100) -> list[PlanRecord]:
        """Return the newest plans of a query, oldest first."""
        key = read_query_id(query_id)
        return self._read(lambda at: read_plan(at, key, limit=limit))

    def results(
        self,
        query_id: str,
        *,
        after: int | None = None,
        limit: int = 11,
        is_settled: bool = False,
    ) -> list[ResultRecord]:
        """Return results of a query, oldest first.

        Args:
            query_id: of the query.
            after: return those that follow this `n_loop`, the first ones; None for the newest.
            limit: of how many at most.
            is_settled: what is committed is enough, as for who was woken by a commit.
        """
        key = read_query_id(query_id)
        return self._read(
            lambda at: read_results(at, key, after=after, limit=limit), is_settled=is_settled
        )

    def dropped(self, query_id: str) -> dict[str, int]:
        """Return how many frames of a query were lost, by reason."""
        key = read_query_id(query_id)
        statement = (
            select(dropped.c.reason, func.sum(dropped.c.count))
            .where(dropped.c.query_id == key)
            .group_by(dropped.c.reason)
            .order_by(dropped.c.reason)
        )
        rows = self._read(lambda at: at.execute(statement).all())
        return {reason: int(count) for reason, count in rows}

    @contextmanager
    def following(self, query_id: str, wake: Callable[[], None]) -> Iterator[None]:
        """Have `wake` called after each commit that changed a query, by the writer's thread.

        It must return at once and not raise.
        """
        key = read_query_id(query_id)
        with self._lock:
            self._followers.setdefault(key, set()).add(wake)
        try:
            yield
        finally:
            with self._lock:
                mine = self._followers[key]
                mine.discard(wake)
                if not mine:
                    del self._followers[key]

    def stats(self) -> StoreStats:
        """Return how much was done."""
        writer, ledger = self._writer, self._ledger
        return StoreStats(
            writer.rows_waiting(),
            ledger.written,
            ledger.numbering.duplicates,
            writer.transactions,
            writer.refused(),
            writer.given_up,
            writer.fault,
        )

    def close(self) -> None:
        """Write what waits, and close the database."""
        self._writer.close(CLOSE_TIMEOUT_S)
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _change(self, transaction: Transaction, query_id: str, **values: Any) -> None:
        key = read_query_id(query_id)
        transaction.execute(update(query).where(query.c.id == key).values(**values), key)

    def _put(self, apply: Callable[[Transaction], Any], *, weight: int = 1) -> None:
        self._writer.put(Operation(apply, weight))

    def _put_awaited(
        self, apply: Callable[[Transaction], _T], *, is_durable: bool = False
    ) -> Future[_T]:
        done: Future[_T] = Future()
        done.set_running_or_notify_cancel()  # who stops waiting for it does not undo it
        self._writer.put(Operation(apply, done=done, is_durable=is_durable))
        return done

    def _read(
        self,
        read: Callable[[Connection], _T],
        *,
        lane: Lane = Lane.RECORDS,
        is_settled: bool = False,
    ) -> _T:
        if not is_settled:
            self._writer.settle(READ_TIMEOUT_S, lane)
        try:
            with self._engine.connect() as connection:
                return read(connection)
        except SQLAlchemyError as err:
            reason = str(getattr(err, "orig", None) or err).partition("\n")[0]
            raise Saturated(f"records cannot be read: {reason[:200]}") from err

    def _wake(self, numbers: Iterable[int]) -> None:
        with self._lock:
            wakes = [wake for number in numbers for wake in self._followers.get(number, ())]
        for wake in wakes:
            wake()
