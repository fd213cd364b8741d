"""The tables, and what opening a database does with those that are there.

    schema_version   one row: which version of this module has made the tables
    query            what users asked for, and how it stands
    plan             every plan of a query, with why it was made
    result           the frame objects of a query
    dropped          frames of a query that were lost, by reason

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
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    inspect,
    select,
)
from sqlalchemy.dialects import mysql, sqlite

from vdag.errors import ConfigError

__all__ = ["VERSION", "create", "dropped", "metadata", "plan", "query", "result"]

#: Goes up with every change of a table.
VERSION = 1

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


def create(connection: Connection) -> None:
    """Make the tables in an empty database; see that those of another are of this version.

    Raises:
        ConfigError: the database has tables of another version, or somebody else's of these names.
    """
    names = set(inspect(connection).get_table_names())
    if schema_version.name not in names:
        if strangers := names & set(metadata.tables):
            raise ConfigError(f"database has a table {min(strangers)} that vdag has not made")
        metadata.create_all(connection)
        connection.execute(schema_version.insert().values(version=VERSION))
        return
    found = connection.execute(select(schema_version.c.version)).scalar()
    if found != VERSION:
        age = "newer" if found is not None and found > VERSION else "older"
        raise ConfigError(
            f"database has schema {found}, {age} than {VERSION}, which this version of vdag reads"
        )
