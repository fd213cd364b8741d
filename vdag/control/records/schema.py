"""Which revision of the tables a database has, and how it comes by another one.

Alembic's scripts in `migrations` make and change the tables; opening a database brings it to
`HEAD`. Whoever does so holds a lock of the database, so that of several who start at once one does
it and the others find it done. SQLite and PostgreSQL undo a migration that fails; what MySQL has
made of it stays, and is gone over when it is tried again.

Databases that were made before there were revisions are told by their table `schema_version`: they
are of the first one. That table goes on to hold the number, so that older versions of vdag, which
know no other place, refuse what they cannot read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, column, inspect, select, table, text, update

from vdag.control.records import event_tables, tables
from vdag.errors import ConfigError, DependencyMissing, Saturated

__all__ = ["BASE", "HEAD", "downgrade", "revision_of", "upgrade"]

#: The newest script in `migrations/versions`.
HEAD = 5
#: Of a database without tables.
BASE = 0
FOLDER = Path(__file__).parent / "migrations"
#: Of those who wait for somebody else to migrate.
LOCK_TIMEOUT_S = 30
#: Any number that nobody else locks in a database of PostgreSQL.
LOCK_NUMBER = 0x76646167
#: Alembic's table; not its usual name, for the database may be shared with others who use Alembic.
VERSION_TABLE = "vdag_revision"

#: Scripts find their connection in a global place of Alembic's.
_scripts_lock = threading.Lock()
_version = table(VERSION_TABLE, column("version_num"))


def revision_of(connection: Connection) -> int:
    """Return the revision of a database's tables, `BASE` if it has none of ours.

    Raises:
        ConfigError: it has tables of our names that vdag has not made.
    """
    names = set(inspect(connection).get_table_names())
    if VERSION_TABLE in names:
        found = connection.execute(select(_version.c.version_num)).scalar()
        return BASE if found is None else int(found)
    if tables.schema_version.name in names:
        return _unstamped(connection)
    if strangers := names & {each.name for each in event_tables.metadata.sorted_tables}:
        raise ConfigError(f"database has a table {min(strangers)} that vdag has not made")
    return BASE


def upgrade(engine: Engine, revision: int = HEAD) -> int:
    """Bring a database that has an older revision to this one; return which it had.

    Raises:
        ConfigError: it has a newer one than this version of vdag reads, or somebody else's tables.
        DependencyMissing: Alembic is not installed.
        Saturated: somebody else has locked it for too long.
    """
    with engine.connect() as connection:
        found = _known(connection)
    if found >= revision:
        return found
    with _locked(engine) as connection:
        found = _known(connection)
        if found < revision:
            _migrate(connection, found, revision)
        return found


def downgrade(engine: Engine, revision: int) -> int:
    """Bring a database to an older revision; what only newer ones have is deleted.

    Returns:
        which revision it had.

    Raises:
        ConfigError: it does not have a newer one.
        DependencyMissing: Alembic is not installed.
        Saturated: somebody else has locked it for too long.
    """
    with _locked(engine) as connection:
        found = _known(connection)
        if not BASE <= revision < found:
            raise ConfigError(f"database has schema {found}, which is not newer than {revision}")
        _migrate(connection, found, revision)
        return found


def _known(connection: Connection) -> int:
    found = revision_of(connection)
    if found > HEAD:
        raise ConfigError(
            f"database has schema {found}, newer than {HEAD}, which this version of vdag reads"
        )
    return found


def _unstamped(connection: Connection) -> int:
    """Return the revision of a database that only has our old mark."""
    found = connection.execute(select(tables.schema_version.c.version)).scalar()
    if found is None or found < 1:
        raise ConfigError(
            f"database has schema {found}, older than 1, which this version of vdag can migrate"
        )
    return int(found)


def _migrate(connection: Connection, found: int, revision: int) -> None:
    try:
        from alembic import command
        from alembic.config import Config
    except ImportError as err:
        raise DependencyMissing("alembic", "serve") from err
    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    with _scripts_lock:
        if found and VERSION_TABLE not in inspect(connection).get_table_names():
            command.stamp(config, f"{found:04d}")
        if revision > found:
            command.upgrade(config, f"{revision:04d}")
        else:
            command.downgrade(config, f"{revision:04d}" if revision else "base")
    if revision:
        connection.execute(update(tables.schema_version).values(version=revision))


@contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction, which nobody else can have at the same time."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            take = text("SELECT pg_advisory_xact_lock(:number)")
            connection.execute(take, {"number": LOCK_NUMBER})
        else:
            _lock_mysql(connection)
        try:
            yield connection
            connection.commit()
        finally:
            if engine.dialect.name in ("mysql", "mariadb"):
                # The lock is the connection's, which would live on in the pool.
                connection.invalidate()


def _lock_mysql(connection: Connection) -> None:
    # Names of locks are the server's, not the database's.
    name = f"vdag.{connection.engine.url.database}"[:64]
    take = text("SELECT GET_LOCK(:name, :timeout_s)")
    if not connection.execute(take, {"name": name, "timeout_s": LOCK_TIMEOUT_S}).scalar():
        raise Saturated(f"somebody else has been migrating the database for {LOCK_TIMEOUT_S} s")
