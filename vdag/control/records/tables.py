"""The tables of queries; `event_tables` has those of nodes, handlers and packets.

    schema_version   one row: the revision of the tables, for those who know no other
    query            what users asked for, and how it stands
    plan             every plan of a query, with why it was made
    result           the frame objects of a query
    dropped          frames of a query that were lost, by reason
    foreigner        nodes that speak only the documented REST, which never say twice who they are

Results are numbered twice. `run` and `seq` are the node's: the start of the job that found it, and
its count since then; they tell a result that is sent again. `n_loop` is ours: it only grows, also
when a job starts anew and counts from 1 again, so that a reader can go on where it was.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql, sqlite

__all__ = ["dropped", "foreigner", "metadata", "plan", "query", "result", "schema_version"]

#: SQLite counts only in its own INTEGER, MySQL's TEXT ends at 64 KiB.
Number = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
Document = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

query = Table(
    "query",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("node_addr", String(255), nullable=False),
    Column("video_id", Integer, nullable=False),
    Column("dag", JSON, nullable=False),
    Column("constraint_document", JSON, nullable=False),
    Column("policy", String(255), nullable=False),
    Column("form", String(16), nullable=False),
    Column("fixed_plan", JSON(none_as_null=True)),
    Column("state", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("suspended", Boolean, nullable=False),
    Column("fault", Text, nullable=False),
    Column("created_s", Float(53), nullable=False),
    Column("ended_s", Float(53)),
    # An id that was given out is never given out again, not even after the newest was deleted.
    sqlite_autoincrement=True,
)

plan = Table(
    "plan",
    metadata,
    Column("query_id", Number, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("documents", JSON, nullable=False),
    Column("cause", Text, nullable=False),
    Column("at_s", Float(53), nullable=False),
    Column("decision", JSON(none_as_null=True)),
)

result = Table(
    "result",
    metadata,
    Column("query_id", Number, primary_key=True, autoincrement=False),
    Column("n_loop", Number, primary_key=True, autoincrement=False),
    Column("run", String(64), nullable=False),
    Column("seq", Number, nullable=False),
    Column("frame_id", Float(53)),
    Column("document", Document, nullable=False),
    Column("at_s", Float(53), nullable=False),
    UniqueConstraint("query_id", "run", "seq"),
)

dropped = Table(
    "dropped",
    metadata,
    Column("query_id", Number, primary_key=True, autoincrement=False),
    Column("run", String(64), primary_key=True),
    Column("reason", String(64), primary_key=True),
    Column("count", Number, nullable=False),
)

foreigner = Table(
    "foreigner",
    metadata,
    Column("node_addr", String(255), primary_key=True),
    Column("dialect", String(16), nullable=False),
    Column("videos", JSON, nullable=False),
    Column("given", JSON, nullable=False),
)
