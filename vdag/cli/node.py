"""`vdag-node`: the daemon."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from vdag import __version__
from vdag.cli.extras import needs_serve
from vdag.config import load_config
from vdag.errors import ConfigError, VdagError

__all__ = ["node_main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def node(
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            help="What the node does: cloud, edge, service, all, collector. May be repeated.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file with the settings.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address its service listens on; beyond loopback with a token."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the service.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Holds the token that callers of its service have to show.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting, such as node.name=gate-3."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the settings, print them, and end.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Run a node until SIGTERM or Ctrl-C: tasks on :5500, jobs on :5001, queries on :5000."""
    if version:
        print(__version__)
        return
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    # It quotes whatever a caller has sent, at every request that is malformed.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    flags = dict(_assignment(text) for text in settings or [])
    if roles:
        flags["node.roles"] = str(roles)
    for name, value in (("host", host), ("port", port), ("token_file", token_file)):
        if value is not None:
            flags[f"service.{name}"] = str(value)
    found = load_config(config, os.environ, flags)
    if check:
        print(found)
        return
    with needs_serve():
        from vdag.node import run
    run(found)


def _assignment(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set {text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def node_main() -> None:
    """Run `vdag-node`; an error of ours is one line on stderr and exit status 2."""
    try:
        app()
    except VdagError as err:
        print(f"vdag-node: {err}", file=sys.stderr)
        sys.exit(2)
