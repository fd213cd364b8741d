"""The commands `vdag` and `vdag-node`."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from vdag import __version__
from vdag.cli.collector import collector
from vdag.cli.coordinator import coordinator
from vdag.cli.database import database
from vdag.cli.doctor import doctor
from vdag.cli.engines import engines
from vdag.cli.explain import explain
from vdag.cli.keys import keys
from vdag.cli.node import node_main
from vdag.cli.packages import packages
from vdag.cli.profile import profile
from vdag.cli.queries import plan, queries, results, stop, submit
from vdag.cli.record import record
from vdag.cli.report import report
from vdag.cli.run import INTERRUPTED, run
from vdag.cli.sessions import sessions
from vdag.cli.simulate import simulate
from vdag.cli.tasks import tasks
from vdag.cli.top import top
from vdag.cli.trace import trace
from vdag.cli.view import view
from vdag.errors import VdagError

__all__ = ["main", "node_main"]

app = typer.Typer(
    help="Video analytics as a graph of tasks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(tasks)
app.command()(packages)
app.command()(doctor)
app.command()(collector)
app.command()(coordinator)
app.command()(trace)
app.command()(report)
for command in (submit, queries, results, plan, explain, stop, top, view):
    app.command()(command)
app.command()(simulate)
app.command()(record)
app.add_typer(keys, name="keys")
app.add_typer(engines, name="engine")
app.add_typer(database, name="database")
app.add_typer(profile, name="profile")
app.add_typer(sessions, name="session")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Video analytics as a graph of tasks."""
    del version
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )


def main() -> None:
    """Run `vdag`; an error of ours is one line on stderr and exit status 2."""
    try:
        app()
    except VdagError as err:
        print(f"vdag: {err}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
