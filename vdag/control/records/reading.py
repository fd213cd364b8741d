"""What is read of the tables, as values."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, and_, func, select

from vdag.control.records.tables import plan, query, result
from vdag.control.records.values import (
    NewQuery,
    PlanRecord,
    QueryRecord,
    ResultRecord,
    write_query_id,
)

__all__ = ["read_plan", "read_queries", "read_results"]

_COLUMNS = (plan.c.number, plan.c.documents, plan.c.cause, plan.c.at_s, plan.c.decision)


def read_queries(connection: Connection, *conditions: Any, limit: int) -> list[QueryRecord]:
    """Return the newest queries for which the conditions hold, oldest first, with their plans."""
    newest = (
        select(plan.c.query_id, func.max(plan.c.number).label("number"))
        .group_by(plan.c.query_id)
        .subquery()
    )
    present = and_(plan.c.query_id == newest.c.query_id, plan.c.number == newest.c.number)
    joined = query.outerjoin(newest, newest.c.query_id == query.c.id).outerjoin(plan, present)
    statement = (
        select(query, *_COLUMNS)
        .select_from(joined)
        .where(*conditions)
        .order_by(query.c.id.desc())
        .limit(limit)
    )
    return [_query(row) for row in reversed(connection.execute(statement).all())]


def read_plan(connection: Connection, number: int, *, limit: int) -> list[PlanRecord]:
    """Return the newest plans of a query, oldest first."""
    statement = (
        select(*_COLUMNS)
        .where(plan.c.query_id == number)
        .order_by(plan.c.number.desc())
        .limit(limit)
    )
    return [_plan(row) for row in reversed(connection.execute(statement).all())]


def read_results(
    connection: Connection, number: int, *, after: int | None, limit: int
) -> list[ResultRecord]:
    """Return results of a query, oldest first: the newest, or those that follow `after`."""
    statement = select(result.c.n_loop, result.c.seq, result.c.document).where(
        result.c.query_id == number
    )
    if after is not None:
        statement = statement.where(result.c.n_loop > after).order_by(result.c.n_loop)
    else:
        statement = statement.order_by(result.c.n_loop.desc())
    rows = connection.execute(statement.limit(limit)).all()
    found = [ResultRecord(row.n_loop, _document(row)) for row in rows]
    return found if after is not None else found[::-1]


def _document(row: Any) -> bytes:
    """Return the document with our count in place of the node's, if these differ."""
    document: bytes = row.document.encode()
    # A node that does not count has null there, and its `seq` is ours.
    if row.n_loop == row.seq and b'"n_loop":null' not in document:
        return document
    frame = msgspec.json.decode(document)
    frame["n_loop"] = row.n_loop
    return msgspec.json.encode(frame)


def _plan(row: Any) -> PlanRecord:
    return PlanRecord(row.number, row.documents, row.cause, row.at_s, row.decision or {})


def _query(row: Any) -> QueryRecord:
    asked = NewQuery(
        row.node_addr,
        row.video_id,
        row.dag,
        row.constraint_document,
        row.policy,
        row.form,
        row.fixed_plan,
    )
    present = None
    if row.number is not None:
        present = _plan(row)
    return QueryRecord(
        write_query_id(row.id),
        asked,
        row.state,
        row.reason,
        row.suspended,
        row.fault,
        row.created_s,
        row.ended_s,
        present,
    )
