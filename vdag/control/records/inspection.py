"""`Inspection`: records looked at from outside, by who does not write them.

A `Store` is of one process, and brings a database to its revision; this only reads, whoever writes
meanwhile. Rows come as a stream, so that a session of any length can be gone through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from vdag.control.records import schema, sessions
from vdag.control.records.event_tables import packet_info, session, sys_info
from vdag.control.records.reading import read_plan, read_queries
from vdag.control.records.reports import NodeSample, Packet
from vdag.control.records.sessions import Handler, NodeRecord, PlacementRecord, SessionRecord
from vdag.control.records.tables import dropped, query
from vdag.control.records.values import PlanRecord, QueryRecord, read_query_id, write_query_id
from vdag.errors import ConfigError

__all__ = ["MAX_INT", "Extent", "Inspection", "Subject"]

#: Rows that are fetched at a time.
FETCH = 10_000
#: Largest number of a session, and of a sequence.
MAX_INT = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at.

    Attributes:
        session_id: number of the session.
        session: as it is recorded; None if only its packets are.
        query: that it runs for; None for none.
    """

    session_id: int
    session: SessionRecord | None = None
    query: QueryRecord | None = None

    @property
    def title(self) -> str:
        """What it is called."""
        if self.session is not None and self.session.query_id is not None:
            return write_query_id(self.session.query_id)
        name = self.session.name if self.session is not None else ""
        return f"session {self.session_id}" + (f" {name}" if name else "")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is recorded of a session's packets.

    Attributes:
        rows: of all of them.
        first: smallest sequence.
        last: largest sequence.
        newest: sequence of the newest row: smaller than `last` where a session began anew.
        since_s: time of the oldest row, seconds since the epoch.
        until_s: of the newest one.
    """

    rows: int
    first: int
    last: int
    newest: int
    since_s: float
    until_s: float


class Inspection:
    """See above; methods raise the errors of SQLAlchemy.

    Args:
        connection: to a database with tables of ours.

    Raises:
        ConfigError: the tables are of another revision than this version of vdag reads.
    """

    def __init__(self, connection: Connection) -> None:
        revision = schema.revision_of(connection)
        if revision != schema.HEAD:
            raise ConfigError(
                f"database has schema {revision}, this version of vdag reads {schema.HEAD}"
            )
        self._connection = connection

    def subject(self, name: str) -> Subject:
        """Return what a name stands for: a query's id, a session's number, or a session's name.

        Of several sessions of one query or name it is the newest.

        Raises:
            ConfigError: it stands for nothing.
        """
        number = read_query_id(name)
        if number:
            return self._of_query(name, number)
        if name.isascii() and name.isdecimal() and len(name) <= 10 and int(name) <= MAX_INT:
            return self._of_session(int(name))
        found = sessions.read_sessions(self._connection, session.c.session_name == name, limit=1)
        if not found:
            raise ConfigError(f"no query and no session is {name[:80]!r}")
        return self._with_query(found[0])

    def handlers(self, session_id: int) -> list[Handler]:
        """Return the handlers of a session by their numbers."""
        return sessions.read_handlers(self._connection, session_id)

    def nodes(self) -> list[NodeRecord]:
        """Return all nodes by their numbers."""
        return sessions.read_nodes(self._connection)

    def placements(self, session_id: int) -> list[PlacementRecord]:
        """Return where the handlers of a session were, oldest first."""
        return sessions.read_placements(self._connection, session_id)

    def plans(self, number: int, *, limit: int) -> list[PlanRecord]:
        """Return the newest plans of a query by its number, oldest first."""
        return read_plan(self._connection, number, limit=limit)

    def dropped(self, number: int) -> dict[str, int]:
        """Return how many frames of a query were lost, by reason."""
        statement = (
            select(dropped.c.reason, func.sum(dropped.c.count))
            .where(dropped.c.query_id == number)
            .group_by(dropped.c.reason)
            .order_by(dropped.c.reason)
        )
        return {reason: int(count) for reason, count in self._connection.execute(statement)}

    def extent(self, session_id: int) -> Extent | None:
        """Return how much is recorded of a session's packets; None for nothing."""
        columns = packet_info.c
        mine = columns.session_id == session_id
        statement = select(
            func.count(),
            func.min(columns.sequence),
            func.max(columns.sequence),
            func.min(columns.timestamp),
            func.max(columns.timestamp),
        ).where(mine)
        rows, first, last, since_s, until_s = self._connection.execute(statement).one()
        if not rows:
            return None
        latest = select(func.max(columns.sequence)).where(mine, columns.timestamp == until_s)
        newest = self._connection.execute(latest).scalar_one()
        return Extent(rows, first, last, newest, since_s, until_s)

    def packets(
        self, session_id: int, *, first: int = 0, last: int | None = None, step: int = 1
    ) -> Iterator[Packet]:
        """Yield the rows of packets of a session, by their sequence and in no other order.

        Args:
            session_id: of the session.
            first: sequence of the first packet.
            last: likewise, of the last one; None for no end.
            step: from one sequence to the next.
        """
        columns = packet_info.c
        statement = select(packet_info).where(
            columns.session_id == session_id, columns.sequence >= first
        )
        if last is not None:
            statement = statement.where(columns.sequence <= last)
        if step > 1:
            statement = statement.where((columns.sequence - first) % step == 0)
        for part in self._stream(statement.order_by(columns.sequence)):
            yield from map(Packet._make, part)

    def samples(self, since_s: float, until_s: float) -> Iterator[NodeSample]:
        """Yield the samples of nodes between two times, in no order."""
        between = sys_info.c.timestamp.between(since_s, until_s)
        for part in self._stream(select(sys_info).where(between)):
            yield from map(NodeSample._make, part)

    def _stream(self, statement: Select[Any]) -> Iterator[Sequence[Row[Any]]]:
        options = {"stream_results": True, "yield_per": FETCH}
        with self._connection.execute(statement, execution_options=options) as found:
            yield from found.partitions()

    def _of_query(self, name: str, number: int) -> Subject:
        queries = read_queries(self._connection, query.c.id == number, limit=1)
        found = sessions.read_sessions(self._connection, session.c.query_id == number, limit=1)
        if not found:
            raise ConfigError(f"{name} has no session" if queries else f"there is no query {name}")
        return Subject(found[0].session_id, found[0], queries[0] if queries else None)

    def _of_session(self, session_id: int) -> Subject:
        mine = session.c.session_id == session_id
        found = sessions.read_sessions(self._connection, mine, limit=1)
        if found:
            return self._with_query(found[0])
        # Of nodes that know no coordinator, there are packets alone.
        any_packet = select(packet_info.c.sequence).where(packet_info.c.session_id == session_id)
        if self._connection.execute(any_packet.limit(1)).first() is None:
            raise ConfigError(f"there is no session {session_id}")
        return Subject(session_id)

    def _with_query(self, found: SessionRecord) -> Subject:
        queries: list[QueryRecord] = []
        if found.query_id is not None:
            queries = read_queries(self._connection, query.c.id == found.query_id, limit=1)
        return Subject(found.session_id, found, queries[0] if queries else None)
