"""`vdag report`: what became of a session, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdag.cli.database import Records, inspected
from vdag.cli.trace import What
from vdag.errors import ConfigError

__all__ = ["report"]


def report(
    what: What,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page, which is one file of HTML.")
    ] = Path("report.html"),
    database: Records = "",
) -> None:
    """Write a page of delays, lost frames, plans, placements and loads of a query or a session."""
    from vdag.control.accounts import gather, render

    with inspected(database) as inspection:
        account = gather(inspection, inspection.subject(what))
    try:
        output.write_text(render(account), encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"cannot write {output}: {err.strerror}") from err
    print(f"{output}: {account.summary.frames} frames")
