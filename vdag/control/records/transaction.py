"""`Transaction`: what is written together; `Ledger`: what is known from one to the next.

Rows of results are gathered over all operations of a transaction and inserted at once. Results that
exceed the retention are trimmed now and then, in the transaction that brings more. Rows of reports
are inserted by the report, for whoever sent it is told what became of it; see `ageing` for the old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Executable, delete, select

from vdag.control.records import event_tables
from vdag.control.records.ageing import Ageing, Retention
from vdag.control.records.frames import FrameResult
from vdag.control.records.insertion import insert_new
from vdag.control.records.names import Names
from vdag.control.records.numbering import Numbering, Row
from vdag.control.records.reports import Report
from vdag.control.records.tables import dropped, plan, query, result

__all__ = ["Ledger", "Retention", "Stored", "Transaction"]

#: Results that stay whatever their age, so that a page that shows a query never loses them.
SPARED = 11
#: Plans of a query that are kept, newest first, and how many more there may be meanwhile.
PLANS_KEPT, PLANS_MORE = 1000, 100
#: Between looks for results that are too old.
AGE_INTERVAL_S = 600.0
#: Where the parts of a report go.
REPORT_TABLES = (
    event_tables.packet_info,
    event_tables.sys_info,
    event_tables.gpu_info,
    event_tables.proc_info,
    event_tables.proc_gpu_info,
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of the rows of a report.

    Attributes:
        rows: that are new.
        duplicates: that were there before.
        late: that are of a time which has been rolled up.
    """

    rows: int = 0
    duplicates: int = 0
    late: int = 0

    def __add__(self, other: Stored) -> Stored:
        return Stored(
            self.rows + other.rows, self.duplicates + other.duplicates, self.late + other.late
        )


class Ledger:
    """See above; of the writer's thread.

    Args:
        retention: what is kept.

    Attributes:
        numbering: of results.
        names: of nodes and sessions.
        written: rows of results that were inserted.
        trim_at_s: when results that are too old are looked for next.
        ageing: of rows of nodes, handlers and packets.
        stored: what became of all reports.
    """

    def __init__(self, retention: Retention) -> None:
        self.retention = retention
        self.numbering = Numbering()
        self.names = Names()
        self.written = 0
        self.trim_at_s = 0.0
        self.ageing = Ageing(retention)
        self.stored = Stored()
        self._untrimmed: dict[int, int] = {}

    def undo(self) -> None:
        """Forget what a transaction has said that did not come about."""
        self.numbering.forget_all()
        self.names.forget_all()

    def forget(self, number: int) -> None:
        """Forget a query."""
        self.numbering.forget(number)
        self._untrimmed.pop(number, None)

    def due(self, number: int, count: int) -> bool:
        """Count rows of a query; say whether it is time to trim them."""
        # A query whose rows were never counted here may have any number of them.
        untrimmed = self._untrimmed.get(number, self.retention.results) + count
        is_due = untrimmed > self.retention.results // 10
        self._untrimmed[number] = 0 if is_due else untrimmed
        return is_due


class Transaction:
    """See above; for one thread, ended by `finish`.

    Args:
        connection: in a transaction, which the caller commits.
        ledger: of the thread.
        at_s: now, seconds since the epoch.

    Attributes:
        connection: for what is written at once.
        at_s: now.
        numbers: of the queries that it has changed.
    """

    def __init__(self, connection: Connection, ledger: Ledger, *, at_s: float) -> None:
        self.connection, self._ledger = connection, ledger
        self.at_s = at_s
        self.numbers: set[int] = set()
        self._rows: list[Row] = []
        self._stored, self._rolled_up = Stored(), 0
        ledger.ageing.begin()

    def execute(self, statement: Executable, number: int = 0) -> Any:
        """Execute a statement that changes the query of that number; return its result."""
        if number:
            self.numbers.add(number)
        return self.connection.execute(statement)

    def add_results(self, number: int, run: str, frames: Sequence[FrameResult]) -> int:
        """Add the frames that are new; return how many these are."""
        rows = self._ledger.numbering.rows(self._look, number, run, frames, at_s=self.at_s)
        if rows:
            self._rows += rows
            self.numbers.add(number)
        return len(rows)

    def add_report(self, report: Report) -> Stored:
        """Add the rows of a report that are new."""
        stored = Stored()
        for table, rows in zip(REPORT_TABLES, report.parts, strict=True):
            if not rows:
                continue
            horizon_s = self._ledger.ageing.horizon_s(self.connection, table)
            timely = [row for row in rows if row[0] >= horizon_s] if horizon_s else rows
            new = insert_new(self.connection, table, timely)
            stored += Stored(new, len(timely) - new, len(rows) - len(timely))
        self._stored += stored
        return stored

    def forget(self, number: int) -> bool:
        """Delete a query and all that belongs to it; return whether it was there."""
        self._insert()
        self._ledger.forget(number)
        for table in (result, plan, dropped):
            self.execute(delete(table).where(table.c.query_id == number), number)
        found = self.execute(delete(query).where(query.c.id == number))
        return bool(found.rowcount)

    def trim_plans(self, number: int, newest: int) -> None:
        """Delete the plans of a query that are too many, now that it has one of that number."""
        if newest % PLANS_MORE:
            return
        old = plan.c.number <= newest - PLANS_KEPT
        self.execute(delete(plan).where(plan.c.query_id == number, old))

    def trim_aged(self) -> None:
        """Delete the results of all queries that are too old."""
        self._insert()
        before_s = self.at_s - self._ledger.retention.age_s
        for number in self.execute(
            select(query.c.id).where(query.c.created_s < before_s)
        ).scalars():
            self._trim(number, SPARED, result.c.at_s < before_s)

    def finish(self) -> None:
        """Execute what has been put off, and now and then what nobody asks for."""
        self._insert()
        if self.at_s >= self._ledger.trim_at_s:
            self._ledger.trim_at_s = self.at_s + AGE_INTERVAL_S
            self.trim_aged()
        if self._stored != Stored():
            self._rolled_up = self._ledger.ageing.step(self.connection, at_s=self.at_s)

    def note_commit(self) -> None:
        """Count what has come about."""
        self._ledger.stored += self._stored
        self._ledger.ageing.rolled_up += self._rolled_up

    def _look(self) -> Connection:
        self._insert()
        return self.connection

    def _insert(self) -> None:
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        self.connection.execute(result.insert(), rows)
        self._ledger.written += len(rows)
        counts: dict[int, int] = {}
        for row in rows:
            counts[row["query_id"]] = counts.get(row["query_id"], 0) + 1
        for number, count in counts.items():
            if self._ledger.due(number, count):
                self._trim(number, self._ledger.retention.results)

    def _trim(self, number: int, kept: int, *conditions: Any) -> None:
        """Delete the results beyond the newest `kept` for which the conditions hold."""
        of_query = result.c.query_id == number
        # MySQL does not delete by a query of the same table: look first.
        oldest = self.connection.execute(
            select(result.c.n_loop)
            .where(of_query)
            .order_by(result.c.n_loop.desc())
            .offset(kept)
            .limit(1)
        ).scalar()
        if oldest is not None:
            beyond = result.c.n_loop <= oldest
            self.connection.execute(delete(result).where(of_query, beyond, *conditions))
