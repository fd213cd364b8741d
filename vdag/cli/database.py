"""`vdag database`: the revision of a database's tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdag.config.conf import Conf
from vdag.errors import ConfigError, DependencyMissing

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from vdag.control.records.inspection import Inspection

__all__ = ["database", "inspected", "opened"]

database = typer.Typer(
    help="Bring a database's tables to another revision. Opening it does so by itself.",
    no_args_is_help=True,
)

#: Of the commands that look at what is recorded.
Records = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="VDAG_DATABASE",
        help="A .conf file with a database section, a file of SQLite, or a URL of SQLAlchemy; "
        "without it, that of a cloud here.",
        show_default=False,
    ),
]

Place = Annotated[
    str,
    typer.Argument(
        metavar="DATABASE",
        envvar="VDAG_DATABASE",
        help="A .conf file with a section [database], a file of SQLite, or a URL of SQLAlchemy.",
    ),
]


@database.command()
def version(place: Place) -> None:
    """Print which revision the tables are of, and which the newest is; 0 is no tables."""
    with opened(place) as engine:
        from vdag.control.records import schema

        with engine.connect() as connection:
            print(f"{schema.revision_of(connection)} of {schema.HEAD}")


@database.command()
def upgrade(
    place: Place,
    revision: Annotated[int | None, typer.Option(help="Go no further than this one.")] = None,
) -> None:
    """Bring the tables to the newest revision."""
    with opened(place) as engine:
        from vdag.control.records import schema

        wanted = schema.HEAD if revision is None else revision
        if not schema.BASE < wanted <= schema.HEAD:
            raise ConfigError(f"revision {wanted} is not 1 to {schema.HEAD}")
        before = schema.upgrade(engine, wanted)
        print(f"{before} to {max(before, wanted)}")


@database.command()
def downgrade(
    place: Place,
    revision: Annotated[
        int, typer.Option(help="Of before; 0 drops all tables.", prompt="Revision")
    ],
) -> None:
    """Bring the tables to an older revision; what only newer ones have is deleted."""
    with opened(place) as engine:
        from vdag.control.records import schema

        print(f"{schema.downgrade(engine, revision)} to {revision}")


@contextmanager
def opened(database: str) -> Iterator[Engine]:
    """Yield an engine for a database that is there; an error of it is one of ours.

    Args:
        database: a `.conf` file, a file of SQLite or a URL.
    """
    try:
        from sqlalchemy.exc import SQLAlchemyError

        from vdag.control.records.opening import database_url, open_engine
    except ImportError as err:
        raise DependencyMissing(str(err.name), "serve") from err
    place = database
    if database.endswith(".conf"):
        place = database_url(Conf(Path(database)).database())
    if "://" not in place and not Path(place).is_file():
        raise ConfigError(f"database {place} is no file")
    engine = open_engine(place)
    try:
        yield engine
    except SQLAlchemyError as err:
        reason = str(getattr(err, "orig", None) or err).partition("\n")[0]
        raise ConfigError(f"database cannot be read: {reason[:300]}") from err
    finally:
        engine.dispose()


@contextmanager
def inspected(database: str) -> Iterator[Inspection]:
    """Yield a look at the records of a database that is there; errors as of `opened`.

    Args:
        database: as there; empty for that of a cloud here.
    """
    with opened(database or _own()) as engine, engine.connect() as connection:
        from vdag.control.records.inspection import Inspection

        yield Inspection(connection)


def _own() -> str:
    """Return where a cloud that is started here without any settings has its records."""
    from vdag.config import load_config
    from vdag.control.affiliation import state_folder

    config = load_config(None, os.environ)
    return config.cloud.database or str(state_folder(config) / "records.db")
