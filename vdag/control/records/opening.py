"""Opening a database: a file of SQLite, made if it is not there, or a server by its URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from vdag.control.records import schema
from vdag.errors import ConfigError, DependencyMissing

if TYPE_CHECKING:
    from vdag.config.conf import DatabaseConf

__all__ = ["database_url", "open_database", "open_engine"]

#: SQLite's, for a lock that somebody else holds.
LOCK_TIMEOUT_S = 5.0
#: Connections of readers, beside the writer's.
READERS = 8
CONNECT_TIMEOUT_S = 5
#: For an answer of a server: one that has hung must not hold the writer for ever.
ANSWER_TIMEOUT_S = 60
#: Drivers of URLs that name none, and the extra that brings them.
DRIVERS = {"mysql": "pymysql", "mariadb": "pymysql", "postgresql": "psycopg"}
EXTRAS = {"mysql": "mysql", "mariadb": "mysql", "postgresql": "postgresql"}


def database_url(conf: DatabaseConf) -> str:
    """Return the path or URL of the database that a `[database]` section describes."""
    if conf.url:
        return conf.url
    url = URL.create(conf.kind, conf.user, conf.passwd, conf.addr, conf.port, conf.schema)
    return url.render_as_string(hide_password=False)


def open_database(place: str | Path) -> Engine:
    """Return an engine for a database that has our tables.

    Args:
        place: path of an SQLite file, whose folder is there, or a URL of SQLAlchemy.

    Raises:
        ConfigError: there is no such database, or it has tables of a newer version.
        DependencyMissing: the driver that the URL names is not installed.
        Saturated: somebody else has been changing its tables for too long.
    """
    engine = open_engine(place)
    try:
        schema.upgrade(engine)
    except SQLAlchemyError as err:
        engine.dispose()
        reason = str(getattr(err, "orig", None) or err).partition("\n")[0]
        raise ConfigError(f"database {_shown(engine.url)} cannot be opened: {reason}") from err
    except ConfigError as err:
        engine.dispose()
        raise ConfigError(f"database {_shown(engine.url)}: {err}") from err
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_engine(place: str | Path) -> Engine:
    """Return an engine for a database, whatever is in it; errors as of `open_database`."""
    url = _url(place)
    try:
        engine = create_engine(
            url,
            pool_size=READERS + 1,
            max_overflow=0,
            pool_timeout=2,
            # A server closes what has been silent, and all when it is started anew.
            pool_pre_ping=url.get_backend_name() != "sqlite",
            connect_args=_limits(url),
        )
    except NoSuchModuleError as err:
        raise ConfigError(f"database {_shown(url)} is of a kind that is not known") from err
    except ImportError as err:
        extra = EXTRAS.get(url.get_backend_name(), "serve")
        raise DependencyMissing(err.name or url.drivername, extra) from err
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
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
    elif url.drivername in DRIVERS:
        url = url.set(drivername=f"{url.drivername}+{DRIVERS[url.drivername]}")
    return url


def _limits(url: URL) -> dict[str, Any]:
    """Return what a driver is told of how long it may wait."""
    limits: dict[str, Any] = {}
    if url.drivername.endswith("+pymysql"):
        limits = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": ANSWER_TIMEOUT_S,
            "write_timeout": ANSWER_TIMEOUT_S,
        }
    elif url.drivername.endswith("+psycopg"):
        limits = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "tcp_user_timeout": ANSWER_TIMEOUT_S * 1000,
            "options": f"-c statement_timeout={ANSWER_TIMEOUT_S}s",
        }
    return {name: value for name, value in limits.items() if name not in url.query}


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
