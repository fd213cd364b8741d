"""`vdag report`: what became of a session, as one page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from vdag.cli.cloud import Cloud, Token
from vdag.cli.database import Records, inspected
from vdag.cli.trace import Manager, What, shared_session
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from vdag.control.accounts import Account

__all__ = ["report"]


def report(
    what: What,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page, which is one file of HTML.")
    ] = Path("report.html"),
    database: Records = "",
    cloud: Manager = "",
    token_file: Token = None,
) -> None:
    """Write a page of delays, lost frames, plans, placements and loads of a query or a session."""
    account = _told(what, Cloud(cloud, token_file)) if cloud else _read(what, database)
    from vdag.control.accounts import render

    try:
        output.write_text(render(account), encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"cannot write {output}: {err.strerror}") from err
    print(f"{output}: {account.summary.frames} frames")


def _read(what: str, database: str) -> Account:
    with inspected(database) as inspection:
        from vdag.control.accounts import gather

        return gather(inspection, inspection.subject(what))


def _told(what: str, manager: Cloud) -> Account:
    shared = shared_session(manager, what)
    from vdag.control.accounts import gather_from
    from vdag.control.accounts.sharing import ask_circumstances

    ask = partial(manager.get, f"/query/get_circumstances/{quote(what, safe='')}")
    return gather_from(shared, shared.subject, partial(ask_circumstances, ask))
