"""The tables of what nodes, handlers and packets did, which other programs read with SQL.

    sys_info, proc_info, packet_info   the documented ones
    gpu_info, proc_gpu_info            of all GPUs; the documented tables have the first one
    node, session, handler, placement  what the numbers in those stand for, and what ran where
    sys_rollup, proc_rollup, packet_rollup
                                       what is left of rows that are old
    horizon                            how far rows have been rolled up, by table
    lesson                             what a coordinator has learned of handlers and nodes

The documented columns have their names and types, `timestamp` is seconds since the epoch in a
double. `node_ID` of `proc_info` and `packet_info`, and `size`, are further columns that a statement
for the documented ones need not know. Names with capitals are not quoted, so that `node_ID` and
`node_id` are one column in every database: PostgreSQL folds them, the others do not look at case.

A packet is known by all of session, sequence, handler, event and time: what is reported twice is
there once, while two packets of a session that was started anew are two.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Float,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.sql import quoted_name
from sqlalchemy.types import TypeEngine

from vdag.control.records.tables import metadata

__all__ = [
    "gpu_info",
    "handler",
    "horizon",
    "lesson",
    "metadata",
    "node",
    "packet_info",
    "packet_rollup",
    "placement",
    "proc_gpu_info",
    "proc_info",
    "proc_rollup",
    "session",
    "sys_info",
    "sys_rollup",
]


def _key(name: str, kind: type[TypeEngine[Any]] = Integer) -> Column[Any]:
    """Return a column of a primary key that nobody counts, which is `c.<name in small letters>`."""
    return Column(
        quoted_name(name, False), kind, key=name.lower(), primary_key=True, autoincrement=False
    )


def _node_id() -> Column[Any]:
    return Column(quoted_name("node_ID", False), Integer, key="node_id")


def _table(name: str, *columns: Any) -> Table:
    # Rows lie in the order of their key: the second tree that SQLite makes else costs a third.
    return Table(name, metadata, *columns, sqlite_with_rowid=False)


sys_info = _table(
    "sys_info",
    _key("timestamp", Double),
    _key("node_ID"),
    Column("cpu_util", Float),
    Column("mem_total", Integer),
    Column("mem_util", Float),
    Column("gpu_util", Integer),
    Column("gpu_mem_util", Integer),
    Column("gpu_clock", Integer),
    Column("gpu_power", Integer),
)

proc_info = _table(
    "proc_info",
    _key("timestamp", Double),
    _key("session_ID"),
    _key("handler_ID"),
    Column("cpu_util", Float),
    Column("mem_util", Float),
    Column("gpu_util", Integer),
    Column("gpu_mem_util", Integer),
    _node_id(),
)

# The key begins with the session and goes on with the packet: its way is read in one place.
packet_info = _table(
    "packet_info",
    _key("timestamp", Double),
    _key("session_ID"),
    _key("handler_ID"),
    _key("sequence"),
    Column("event", String(45), primary_key=True),
    Column("size", Integer),
    _node_id(),
    PrimaryKeyConstraint("session_id", "sequence", "handler_id", "event", "timestamp"),
    Index("ix_packet_info_timestamp", "timestamp"),
)

gpu_info = _table(
    "gpu_info",
    _key("timestamp", Double),
    _key("node_ID"),
    _key("gpu_ID"),
    Column("gpu_util", Integer),
    Column("gpu_mem_util", Integer),
    Column("gpu_clock", Integer),
    Column("gpu_power", Integer),
)

proc_gpu_info = _table(
    "proc_gpu_info",
    _key("timestamp", Double),
    _key("session_ID"),
    _key("handler_ID"),
    _key("gpu_ID"),
    Column("gpu_util", Integer),
    Column("gpu_mem_util", Integer),
)

node = Table(
    "node",
    metadata,
    _key("node_ID"),
    Column("node_name", String(255), nullable=False),
    Column("node_type", String(45), nullable=False),
    Column("node_addr", String(255), nullable=False),
    Column("node_port", Integer),
)

session = Table(
    "session",
    metadata,
    _key("session_ID"),
    Column("session_name", String(255), nullable=False),
    Column("service_name", String(255), nullable=False),
    # Number of the query that it runs for, if it is one's.
    Column(quoted_name("query_ID", False), BigInteger, key="query_id"),
    Column("algorithm", String(45), nullable=False),
    Column("state", String(45), nullable=False),
    Column("reason", Text, nullable=False),
    Column("blueprint", JSON(none_as_null=True)),
    Column("created_s", Double, nullable=False),
    Column("started_s", Double),
    Column("stopped_s", Double),
)

handler = Table(
    "handler",
    metadata,
    _key("session_ID"),
    _key("handler_ID"),
    Column("handler_name", String(255), nullable=False),
    Column("handler_type", Integer),
    Column("params", JSON(none_as_null=True)),
)

placement = Table(
    "placement",
    metadata,
    _key("session_ID"),
    _key("handler_ID"),
    Column("since_s", Double, primary_key=True),
    Column("until_s", Double),
    Column(quoted_name("node_ID", False), Integer, key="node_id", nullable=False),
    Column("cause", Text, nullable=False),
)


def _rollup(name: str, *columns: Any) -> Table:
    """Return a table of parts: rows of one group and minute may be several, which readers add."""
    return _table(name, _key("timestamp", Double), *columns)


sys_rollup = _rollup(
    "sys_rollup",
    _key("node_ID"),
    Column("until_s", Double, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("cpu_util", Float),
    Column("cpu_util_max", Float),
    Column("mem_util", Float),
    Column("mem_util_max", Float),
    Column("gpu_util", Float),
    Column("gpu_util_max", Integer),
    Column("gpu_power", Float),
)

proc_rollup = _rollup(
    "proc_rollup",
    _key("session_ID"),
    _key("handler_ID"),
    Column("until_s", Double, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("cpu_util", Float),
    Column("cpu_util_max", Float),
    Column("mem_util", Float),
    Column("mem_util_max", Float),
    Column("gpu_util", Float),
    Column("gpu_util_max", Integer),
)

packet_rollup = _rollup(
    "packet_rollup",
    _key("session_ID"),
    _key("handler_ID"),
    Column("event", String(45), primary_key=True),
    Column("until_s", Double, nullable=False),
    Column("packets", Integer, nullable=False),
    Column("nbytes", BigInteger),
    # Of packets that started here and ended: how many, and their time from the one to the other.
    Column("ended", Integer, nullable=False),
    Column("busy_s", Double),
    Column("busy_max_s", Double),
)

horizon = Table(
    "horizon",
    metadata,
    Column("table_name", String(45), primary_key=True),
    Column("until_s", Double, nullable=False),
)

lesson = Table(
    "lesson",
    metadata,
    Column("what", String(16), primary_key=True),
    Column("subject", String(255), primary_key=True),
    _key("node_ID"),
    _key("other_ID"),
    Column("value", Double, nullable=False),
    Column("at_s", Double, nullable=False),
)
