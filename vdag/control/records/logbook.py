"""`Logbook`: the part of the records that says what nodes, sessions and packets did.

Whoever has rows hands them over as a `Report`: a collector that was posted one, a controller that
was sent one over the plan channel, a coordinator that watches its own sessions. A report is
recorded whole or not at all, and once however often it comes; its rows wait in a queue of their
own, which is bounded, and are written by the records' one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, case, select

from vdag.control.records import sessions
from vdag.control.records.event_tables import packet_info
from vdag.control.records.inspection import Inspection
from vdag.control.records.lessons import Lesson, read_lessons, set_lessons
from vdag.control.records.reports import EVENTS, Packet, Report
from vdag.control.records.sessions import (
    Handler,
    NewSession,
    NodeRecord,
    PlacementRecord,
    SessionRecord,
)
from vdag.control.records.transaction import Ledger, Stored, Transaction
from vdag.control.records.writer import Lane, Operation, Writer

__all__ = ["LogStats", "Logbook"]

_T = TypeVar("_T")
#: Events of one moment at one handler come in the order in which they can only have been.
_IN_ORDER = case({event: at for at, event in enumerate(EVENTS)}, value=packet_info.c.event)


class Reading(Protocol):
    """Reads the database when all that a lane had has been written."""

    def __call__(self, read: Callable[[Connection], _T], *, lane: Lane) -> _T:
        """Return what `read` returns."""
        ...


@dataclass(frozen=True, slots=True)
class LogStats:
    """What became of rows of reports since the store was opened.

    Attributes:
        rows: that were written.
        duplicates: that were there before.
        late: that came when their time had been rolled up.
        rolled_up: that were old.
        waiting: that are not written yet.
        refused: reports for which there was no room.
    """

    rows: int
    duplicates: int
    late: int
    rolled_up: int
    waiting: int
    refused: int


class Logbook:
    """See above; part of a `Store`, which closes it.

    Methods that write raise `Saturated` if too much waits, and `ChannelClosed` when the store is
    closed; methods that read raise `Saturated` if the records are behind or cannot be read.

    Args:
        writer: of the records.
        ledger: of that writer's thread.
        read: reads them.
    """

    def __init__(self, writer: Writer, ledger: Ledger, read: Reading) -> None:
        self._writer, self._ledger, self._read = writer, ledger, read

    def record(self, report: Report) -> None:
        """Record the rows of a report that are new, soon."""
        if len(report):
            self._put(lambda tx: tx.add_report(report), len(report))

    def record_awaited(self, report: Report) -> Future[Stored]:
        """Record the rows of a report that are new; the result comes when they are committed."""
        done: Future[Stored] = Future()
        done.set_running_or_notify_cancel()  # who stops waiting for it does not undo it
        self._put(lambda tx: tx.add_report(report), len(report), done)
        return done

    def set_nodes(self, nodes: Sequence[NodeRecord]) -> None:
        """Record what nodes there are, each in place of one of the same number."""
        self._put(lambda tx: sessions.set_nodes(tx.connection, nodes), len(nodes))

    def add_session(self, new: NewSession) -> Future[int]:
        """Record a session; the result is its number, when it is committed."""
        done: Future[int] = Future()
        done.set_running_or_notify_cancel()
        self._put(lambda tx: sessions.add_session(tx.connection, new, at_s=tx.at_s), 1, done)
        return done

    def set_session_state(self, session_id: int, state: str, reason: str = "") -> None:
        """Record how a session stands: `running`, `stopped`, `failed`, `deleted` or another."""
        self._put(
            lambda tx: sessions.set_state(tx.connection, session_id, state, reason, at_s=tx.at_s)
        )

    def place(self, session_id: int, nodes: Mapping[int, int], cause: str = "") -> None:
        """Record on which nodes the handlers of a session are from now on, and why.

        Args:
            session_id: of the session.
            nodes: of all its handlers that run, by the handlers' numbers; empty when it has ended.
            cause: of the change.
        """
        kept = dict(nodes)
        self._put(
            lambda tx: sessions.place(tx.connection, session_id, kept, cause, at_s=tx.at_s),
            max(1, len(kept)),
        )

    def set_lessons(self, lessons: Sequence[Lesson]) -> None:
        """Record averages, each in place of that of the same topic."""
        kept = tuple(lessons)
        self._put(
            lambda tx: set_lessons(tx.connection, kept, at_s=tx.at_s),
            max(1, len(kept)),
        )

    def lessons(self, *, limit: int = 10_000) -> list[Lesson]:
        """Return the newest averages, oldest first."""
        return self._read(lambda at: read_lessons(at, limit=limit), lane=Lane.EVENTS)

    def nodes(self) -> list[NodeRecord]:
        """Return all nodes by their numbers."""
        return self._read(sessions.read_nodes, lane=Lane.EVENTS)

    def sessions(self, *, limit: int = 1000) -> list[SessionRecord]:
        """Return the newest sessions, oldest first."""
        return self._read(lambda at: sessions.read_sessions(at, limit=limit), lane=Lane.EVENTS)

    def handlers(self, session_id: int) -> list[Handler]:
        """Return the handlers of a session by their numbers."""
        return self._read(lambda at: sessions.read_handlers(at, session_id), lane=Lane.EVENTS)

    def placements(self, session_id: int) -> list[PlacementRecord]:
        """Return where the handlers of a session were, oldest first."""
        return self._read(lambda at: sessions.read_placements(at, session_id), lane=Lane.EVENTS)

    def packets(
        self, session_id: int, *, first: int = 0, last: int | None = None, limit: int = 100_000
    ) -> list[Packet]:
        """Return what became of packets of a session, by their sequence and then by time.

        Args:
            session_id: of the session.
            first: sequence of the first packet.
            last: likewise, of the last one; None for no end.
            limit: of how many rows at most.
        """
        conditions = [packet_info.c.session_id == session_id, packet_info.c.sequence >= first]
        if last is not None:
            conditions.append(packet_info.c.sequence <= last)
        statement = (
            select(packet_info)
            .where(*conditions)
            .order_by(
                packet_info.c.sequence,
                packet_info.c.timestamp,
                packet_info.c.handler_id,
                _IN_ORDER,
            )
            .limit(limit)
        )
        rows = self._read(lambda at: at.execute(statement).all(), lane=Lane.EVENTS)
        return [Packet(*row) for row in rows]

    def inspect(self, look: Callable[[Inspection], _T]) -> _T:
        """Return what a look at all that was recorded finds."""
        return self._read(lambda at: look(Inspection(at)), lane=Lane.EVENTS)

    def stats(self) -> LogStats:
        """Return what became of reports."""
        stored, writer = self._ledger.stored, self._writer
        return LogStats(
            stored.rows,
            stored.duplicates,
            stored.late,
            self._ledger.ageing.rolled_up,
            writer.rows_waiting(Lane.EVENTS),
            writer.refused(Lane.EVENTS),
        )

    def _put(
        self,
        apply: Callable[[Transaction], Any],
        weight: int = 1,
        done: Future[Any] | None = None,
    ) -> None:
        self._writer.put(Operation(apply, weight, done, lane=Lane.EVENTS))
