"""`vdag tasks`: what can be put into a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vdag.engines import zoo
from vdag.tasks import find, names
from vdag.tasks.modules import load_module

__all__ = ["tasks"]


def tasks(
    load: Annotated[
        list[Path] | None,
        typer.Option("--tasks", help="A Python file that registers tasks of your own."),
    ] = None,
) -> None:
    """List the tasks, what each takes and gives, and its models."""
    for path in load or ():
        load_module(path)
    table = Table()
    for column in ("task", "takes", "gives", "models"):
        table.add_column(column, overflow="fold")
    for name in names():
        signature = find(name).signature
        optional = (f"[dim]{field}[/dim]" for field in sorted(signature.optional))
        table.add_row(
            name,
            ", ".join([*sorted(signature.inputs), *optional]),
            ", ".join(sorted(signature.outputs)),
            _models(name),
        )
    Console().print(table)


def _models(task: str) -> str:
    """Name the zoo's models of a task, by `model_id`; nothing for a task without one."""
    served = {service.task for card in zoo.cards().values() for service in card.tasks}
    if task not in served:
        return "a card of your own" if task == "yolo" else ""
    return "\n".join(
        f"{model_id}: {choice.card.name} up to {choice.max_side}"
        for model_id, choice in zoo.models_for(task).items()
    )
