"""Opening a database: a file of SQLite, made if it is not there, or a server by its URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from vdag.control.records import tables
from vdag.errors import ConfigError, DependencyMissing

__all__ = ["open_database"]

#: SQLite's, for a lock that somebody else holds.
LOCK_TIMEOUT_S = 5.0
#: Connections of readers, beside the writer's.
READERS = 8


def open_database(place: str | Path) -> Engine:
    """Return an engine for a database that has our tables.

    Args:
        place: path of an SQLite file, whose folder is there, or a URL of SQLAlchemy.

    Raises:
        ConfigError: there is no such database, or it has tables of another version.
        DependencyMissing: the driver that the URL names is not installed.
    """
    url = _url(place)
    try:
        engine = create_engine(url, pool_size=READERS + 1, max_overflow=0, pool_timeout=2)
    except NoSuchModuleError as err:
        raise ConfigError(f"database {_shown(url)} is of a kind that is not known") from err
    except ImportError as err:
        raise DependencyMissing(err.name or url.drivername, "serve") from err
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    try:
        with engine.begin() as connection:
            tables.create(connection)
    except SQLAlchemyError as err:
        engine.dispose()
        reason = str(getattr(err, "orig", None) or err).partition("\n")[0]
        raise ConfigError(f"database {_shown(url)} cannot be opened: {reason}") from err
    except ConfigError as err:
        engine.dispose()
        raise ConfigError(f"database {_shown(url)}: {err}") from err
    return engine


def _url(place: str | Path) -> URL:
    if isinstance(place, Path) or "://" not in place:
        path = Path(place)
        _make_private(path)
        return URL.create("sqlite", database=str(path), query={"timeout": str(LOCK_TIMEOUT_S)})
    try:
        url = make_url(place)
    except (ArgumentError, ValueError) as err:
        raise ConfigError("database is no URL of SQLAlchemy") from err
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError("database in memory keeps nothing: name a file")
        _make_private(Path(url.database))
    return url


def _make_private(path: Path) -> None:
    """Make a file that only its owner may read, unless it is there: it says what cameras saw."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as err:
        raise ConfigError(f"database {path} cannot be opened: {err.strerror}") from err


def _shown(url: URL) -> str:
    return url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string()


def _prepare_sqlite(connection: Any, record: Any) -> None:
    """Let readers read while the writer writes; a loss of power may cost the last moment."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA journal_size_limit=67108864")
    cursor.close()
