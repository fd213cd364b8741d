"""`insert_new`: rows into a table, but for those that are there, by a database's fastest way.

    SQLite       one prepared statement for all rows
    PostgreSQL   COPY into a table of the connection's own, and from there in one statement
    MySQL        statements of many rows each, which its driver makes

Statements are made of the names of tables in this package alone; values go beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.exc import OperationalError

__all__ = ["insert_new"]

Rows = Sequence[tuple[Any, ...]]


def insert_new(connection: Connection, table: Table, rows: Rows) -> int:
    """Insert rows whose keys are not in the table yet; return how many these are.

    Args:
        connection: in a transaction, which the caller commits.
        table: one of ours.
        rows: with a value for each column, in their order.
    """
    if not rows:
        return 0
    dialect = connection.dialect
    if dialect.name == "postgresql" and dialect.driver == "psycopg":
        return _copy(connection, table, rows)
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    if dialect.name in ("mysql", "mariadb"):
        # It would also pass over values that do not fit, but rows are typed.
        statement = _statement(table, mark, verb="INSERT IGNORE")
    else:
        statement = _statement(table, mark, rest=" ON CONFLICT DO NOTHING")
    return connection.exec_driver_sql(statement, list(rows)).rowcount


def _copy(connection: Connection, table: Table, rows: Rows) -> int:
    names, mine = _names(table), f"new_{table.name}"
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {mine} (LIKE {table.name}) ON COMMIT DELETE ROWS"
    )
    copying = f"COPY {mine} ({names}) FROM STDIN"
    driver: Any = connection.connection.driver_connection
    errors = connection.dialect.loaded_dbapi
    try:
        with driver.cursor() as cursor, cursor.copy(copying) as copy:
            for row in rows:
                copy.write_row(row)
    except (errors.OperationalError, errors.InterfaceError) as err:
        # SQLAlchemy has not seen it: who writes knows by its class that the server is away.
        raise OperationalError(copying, None, err) from err
    found = connection.exec_driver_sql(
        f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {mine} ON CONFLICT DO NOTHING"
    )
    # The next report of the same transaction brings rows of its own.
    connection.exec_driver_sql(f"TRUNCATE {mine}")
    return found.rowcount


@cache
def _statement(table: Table, mark: str, *, verb: str = "INSERT", rest: str = "") -> str:
    marks = ", ".join([mark] * len(table.columns))
    return f"{verb} INTO {table.name} ({_names(table)}) VALUES ({marks}){rest}"


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.columns)
