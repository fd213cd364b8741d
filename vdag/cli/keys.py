"""`vdag keys`: the keys of this node, and the nodes it trusts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vdag.transport.keys import KeyFolder, default_folder

__all__ = ["keys"]

keys = typer.Typer(
    help="The keys of this node, and the nodes it trusts: needed to send frames to other hosts.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the node; letters, digits, . _ -")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        help="Where the keys are.  [default: VDAG_KEYS, or vdag/keys in ~/.config]",
        show_default=False,
    ),
]


def _open(folder: Path | None) -> KeyFolder:
    return KeyFolder(folder or default_folder())


@keys.command()
def new(
    name: Name,
    replace: Annotated[bool, typer.Option("--replace", help="Give up the keys there are.")] = False,
    folder: Folder = None,
) -> None:
    """Make the keys of this node, and print the public one for the others to trust."""
    print(_open(folder).new(name, replace=replace).public)


@keys.command()
def show(folder: Folder = None) -> None:
    """Print the public key of this node."""
    print(_open(folder).own().public)


@keys.command("list")
def list_keys(folder: Folder = None) -> None:
    """List this node and the nodes it trusts, with their public keys."""
    found = _open(folder)
    pair = found.own()
    table = Table()
    for column in ("node", "public key", ""):
        table.add_column(column, overflow="fold")
    # As they are: to rich, a key may hold markup and the name of an emoji.
    table.add_row(pair.name, Text(pair.public), "this node", style="bold")
    for name, public in found.trusted().items():
        table.add_row(name, Text(public), "trusted")
    Console().print(table)


@keys.command()
def trust(
    name: Name,
    public: Annotated[
        str, typer.Argument(metavar="PUBLIC", help="What `vdag keys show` prints there.")
    ],
    folder: Folder = None,
) -> None:
    """Let another node send frames here, and send frames to it."""
    _open(folder).trust(name, public)


@keys.command()
def distrust(name: Name, folder: Folder = None) -> None:
    """Let another node connect no more."""
    _open(folder).distrust(name)
