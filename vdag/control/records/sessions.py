"""Sessions, their handlers, and where these run: values, and what is written of them.

A *session* is a service that runs, a *handler* one of its tasks. Their numbers are those of
`proc_info` and `packet_info`. A handler's *placements* tell on which node it was when, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from vdag.control.records.event_tables import handler, node, placement, session

__all__ = [
    "Handler",
    "NewSession",
    "NodeRecord",
    "PlacementRecord",
    "SessionRecord",
    "add_session",
    "place",
    "read_handlers",
    "read_nodes",
    "read_placements",
    "read_sessions",
    "set_nodes",
    "set_state",
]

#: Longest texts that are recorded.
MAX_TEXT = 2000


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node, as others number it.

    Attributes:
        node_id: its number.
        name: for people.
        kind: `client`, `server` or another word.
        addr: where it is.
        port: that it takes orders on; None for none.
    """

    node_id: int
    name: str
    kind: str
    addr: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler of a session.

    Attributes:
        handler_id: its number within the session.
        name: of it.
        kind: number of its type; None for one that has none.
        params: that it was given.
    """

    handler_id: int
    name: str
    kind: int | None = None
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that gets its number by being written.

    Attributes:
        name: for people.
        service: what it runs.
        handlers: of it.
        query_id: number of the query that it runs for; None for none.
        algorithm: that places its handlers.
        blueprint: the document it was made from.
    """

    name: str
    service: str = ""
    handlers: Sequence[Handler] = ()
    query_id: int | None = None
    algorithm: str = ""
    blueprint: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as it is recorded; times are in seconds since the epoch, None before."""

    session_id: int
    name: str
    service: str
    query_id: int | None
    algorithm: str
    state: str
    reason: str
    blueprint: Mapping[str, Any] | None
    created_s: float
    started_s: float | None
    stopped_s: float | None


@dataclass(frozen=True, slots=True)
class PlacementRecord:
    """Where a handler was.

    Attributes:
        handler_id: of the session.
        node_id: where it was.
        since_s: from when, seconds since the epoch.
        until_s: until when; None if it still is.
        cause: why it came there.
    """

    handler_id: int
    node_id: int
    since_s: float
    until_s: float | None
    cause: str


def add_session(connection: Connection, new: NewSession, *, at_s: float) -> int:
    """Insert a session with its handlers; return its number, from 1."""
    newest = connection.execute(select(func.max(session.c.session_id))).scalar()
    number = (newest or 0) + 1
    row = insert(session).values(
        session_id=number,
        session_name=new.name,
        service_name=new.service,
        query_id=new.query_id,
        algorithm=new.algorithm,
        state="created",
        reason="",
        blueprint=None if new.blueprint is None else dict(new.blueprint),
        created_s=at_s,
    )
    connection.execute(row)
    rows = [
        {
            "session_id": number,
            "handler_id": each.handler_id,
            "handler_name": each.name,
            "handler_type": each.kind,
            "params": None if each.params is None else dict(each.params),
        }
        for each in new.handlers
    ]
    if rows:
        connection.execute(insert(handler), rows)
    return number


def set_state(
    connection: Connection, session_id: int, state: str, reason: str, *, at_s: float
) -> None:
    """Change a session's state; `running` and what ends it set its times, the first time."""
    values: dict[str, Any] = {"state": state, "reason": reason[:MAX_TEXT]}
    if state == "running":
        values["started_s"] = func.coalesce(session.c.started_s, at_s)
    elif state in ("stopped", "failed", "deleted"):
        values["stopped_s"] = func.coalesce(session.c.stopped_s, at_s)
    connection.execute(update(session).where(session.c.session_id == session_id).values(**values))


def place(
    connection: Connection, session_id: int, nodes: Mapping[int, int], cause: str, *, at_s: float
) -> None:
    """End the placements that are no more, and begin those that are new.

    Args:
        connection: in a transaction.
        session_id: of the session.
        nodes: of all its handlers that run, by their numbers; empty for none.
        cause: of the change.
        at_s: when, seconds since the epoch.
    """
    of_session = placement.c.session_id == session_id
    now = select(placement.c.handler_id, placement.c.node_id).where(
        of_session, placement.c.until_s.is_(None)
    )
    present = {row.handler_id: row.node_id for row in connection.execute(now)}
    for number in [n for n, node_id in present.items() if nodes.get(n) != node_id]:
        mine = of_session & (placement.c.handler_id == number) & placement.c.until_s.is_(None)
        connection.execute(update(placement).where(mine).values(until_s=at_s))
    rows = [
        {
            "session_id": session_id,
            "handler_id": number,
            "since_s": at_s,
            "node_id": node_id,
            "cause": cause[:MAX_TEXT],
        }
        for number, node_id in nodes.items()
        if present.get(number) != node_id
    ]
    if rows:
        connection.execute(insert(placement), rows)


def set_nodes(connection: Connection, nodes: Iterable[NodeRecord]) -> None:
    """Insert nodes, each in place of one of the same number."""
    for each in nodes:
        connection.execute(delete(node).where(node.c.node_id == each.node_id))
        row = insert(node).values(
            node_id=each.node_id,
            node_name=each.name,
            node_type=each.kind,
            node_addr=each.addr,
            node_port=each.port,
        )
        connection.execute(row)


def read_nodes(connection: Connection) -> list[NodeRecord]:
    """Return all nodes by their numbers."""
    rows = connection.execute(select(node).order_by(node.c.node_id)).all()
    return [NodeRecord(*row) for row in rows]


def read_sessions(connection: Connection, *conditions: Any, limit: int) -> list[SessionRecord]:
    """Return the newest sessions for which the conditions hold, oldest first."""
    statement: Select[Any] = select(
        session.c.session_id,
        session.c.session_name,
        session.c.service_name,
        session.c.query_id,
        session.c.algorithm,
        session.c.state,
        session.c.reason,
        session.c.blueprint,
        session.c.created_s,
        session.c.started_s,
        session.c.stopped_s,
    )
    newest = statement.where(*conditions).order_by(session.c.session_id.desc()).limit(limit)
    return [SessionRecord(*row) for row in reversed(connection.execute(newest).all())]


def read_handlers(connection: Connection, session_id: int) -> list[Handler]:
    """Return the handlers of a session by their numbers."""
    statement = select(
        handler.c.handler_id, handler.c.handler_name, handler.c.handler_type, handler.c.params
    )
    mine = statement.where(handler.c.session_id == session_id).order_by(handler.c.handler_id)
    return [Handler(*row) for row in connection.execute(mine)]


def read_placements(connection: Connection, session_id: int) -> list[PlacementRecord]:
    """Return where the handlers of a session were, oldest first."""
    statement = select(
        placement.c.handler_id,
        placement.c.node_id,
        placement.c.since_s,
        placement.c.until_s,
        placement.c.cause,
    ).where(placement.c.session_id == session_id)
    ordered = statement.order_by(placement.c.since_s, placement.c.handler_id)
    return [PlacementRecord(*row) for row in connection.execute(ordered)]
