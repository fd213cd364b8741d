"""`Names`: the numbers of what the plan channel has names for: nodes, and sessions of queries.

Tables speak of numbers, nodes of their addresses and of queries. The numbers are looked up, or
given, in the transaction that writes the rows, so that nobody waits for them.

A node that the records have under its address keeps that number: a collector's or coordinator's
files say which. Others are numbered from `FIRST_NUMBER` on, out of the way of those files.

The session of a query is the newest that has its number and is not deleted. Its handlers are the
source, which has number 0, the tasks in the order of the graph, and the sink; those of a session
that somebody else has made are as its maker says, see `adopt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from vdag.control.records.event_tables import handler, node, packet_info, placement, session
from vdag.control.records.sessions import NewSession, add_session
from vdag.control.records.values import write_query_id

__all__ = ["FIRST_NUMBER", "Cast", "Names", "NodePlace"]

#: Of nodes that are in no file.
FIRST_NUMBER = 1 << 16
#: Of nodes, and of queries, that are kept in memory.
MAX_KNOWN = 1 << 16
MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class NodePlace:
    """What names a node.

    Attributes:
        addr: where it is.
        port: with it, tells it from others there.
        name: of its configuration; empty for not known.
        kind: `cloud`, `edge`, `host`; likewise.
    """

    addr: str
    port: int
    name: str = field(default="", compare=False)
    kind: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Cast:
    """The handlers of a query's session.

    Attributes:
        session_id: of the session.
        source: number of what captures.
        tasks: numbers of the tasks, by name.
        sink: number of what gets the results; None for nothing.
        is_own: the session was made for the query, and ends with it.
    """

    session_id: int
    source: int
    tasks: Mapping[str, int]
    sink: int | None
    is_own: bool = False


class Names:
    """See above; for one thread, within its transactions.

    A transaction that is undone must be followed by `forget_all`.
    """

    def __init__(self) -> None:
        self._nodes: dict[NodePlace, int] = {}
        self._casts: dict[int, Cast] = {}
        self._adopted: dict[int, Cast] = {}

    def forget_all(self) -> None:
        """Forget what was looked up: it may not be in the database."""
        self._nodes.clear()
        self._casts.clear()

    def forget(self, number: int) -> None:
        """Forget the session of a query, by the query's number."""
        self._casts.pop(number, None)
        self._adopted.pop(number, None)

    def node(self, connection: Connection, place: NodePlace) -> int:
        """Return the number of a node, which gets one if it has none."""
        number = self._nodes.get(place)
        if number is None:
            if len(self._nodes) >= MAX_KNOWN:
                self._nodes.clear()
            number = self._nodes[place] = _number_of(connection, place)
        return number

    def cast(self, connection: Connection, number: int) -> Cast | None:
        """Return the handlers of a query's session, by the query's number; None if it has none."""
        cast = self._adopted.get(number) or self._casts.get(number)
        if cast is None:
            cast = _read_cast(connection, number)
            if cast is not None:
                if len(self._casts) >= MAX_KNOWN:
                    self._casts.clear()
                self._casts[number] = cast
        return cast

    def open(self, connection: Connection, new: NewSession, *, at_s: float) -> None:
        """Insert the session of a query, unless it has one."""
        assert new.query_id is not None, "it is a query's"
        if self.cast(connection, new.query_id) is None:
            add_session(connection, new, at_s=at_s)

    def adopt(self, connection: Connection, number: int, cast: Cast) -> None:
        """Make a session that is there the one of a query, in place of the query's own."""
        own = (session.c.query_id == number) & (session.c.session_id != cast.session_id)
        found = list(connection.execute(select(session.c.session_id).where(own)).scalars())
        # Its number is given again: the next one must not have what was recorded meanwhile.
        for table in (packet_info, placement, handler, session):
            connection.execute(delete(table).where(table.c.session_id.in_(found)))
        mine = session.c.session_id == cast.session_id
        connection.execute(update(session).where(mine).values(query_id=number))
        self._casts.pop(number, None)
        self._adopted[number] = cast


def _number_of(connection: Connection, place: NodePlace) -> int:
    is_same = node.c.node_port == place.port
    if place.name:
        is_same = or_(is_same, node.c.node_name == place.name)
    known = select(func.min(node.c.node_id)).where(node.c.node_addr == place.addr, is_same)
    number = connection.execute(known).scalar()
    if number is not None:
        return int(number)
    newest = connection.execute(select(func.max(node.c.node_id))).scalar()
    given = max(FIRST_NUMBER, (newest or 0) + 1)
    row = insert(node).values(
        node_id=given,
        node_name=place.name[:MAX_NAME],
        node_type=place.kind,
        node_addr=place.addr[:MAX_NAME],
        node_port=place.port,
    )
    connection.execute(row)
    return given


def _read_cast(connection: Connection, number: int) -> Cast | None:
    newest = (
        select(session.c.session_id, session.c.session_name)
        .where(session.c.query_id == number, session.c.state != "deleted")
        .order_by(session.c.session_id.desc())
        .limit(1)
    )
    found = connection.execute(newest).first()
    if found is None:
        return None
    named = (
        select(handler.c.handler_id, handler.c.handler_name)
        .where(handler.c.session_id == found.session_id)
        .order_by(handler.c.handler_id)
    )
    rows = connection.execute(named).all()
    if len(rows) < 2:
        return None  # nobody would be its source and its sink
    tasks = {row.handler_name: row.handler_id for row in rows[1:-1]}
    is_own = found.session_name == write_query_id(number)
    return Cast(found.session_id, rows[0].handler_id, tasks, rows[-1].handler_id, is_own)
