"""`vdag tasks`: what can be put into a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vdag.engines import zoo
from vdag.tasks import find, handler_names, model_task, names, parameters
from vdag.tasks.modules import load_module

__all__ = ["tasks"]


def tasks(
    load: Annotated[
        list[Path] | None,
        typer.Option("--tasks", help="A Python file that registers tasks of your own."),
    ] = None,
) -> None:
    """List the tasks and handler types, what each takes and gives, and its models."""
    for path in load or ():
        load_module(path)
    console = Console()
    console.print(_table("task", names()))
    console.print(_table("handler type", handler_names(), has_parameters=True))


def _table(title: str, shown: Sequence[str], *, has_parameters: bool = False) -> Table:
    table = Table()
    for column in (title, "takes", "gives", "models", *(["parameters"] if has_parameters else [])):
        table.add_column(column, overflow="fold")
    for name in shown:
        signature = find(name).signature
        optional = (f"[dim]{field}[/dim]" for field in sorted(signature.optional))
        cells = [
            name,
            ", ".join([*sorted(signature.inputs), *optional]),
            ", ".join(sorted(signature.outputs)),
            _models(name),
        ]
        if has_parameters:
            declared = parameters(name).items()
            cells.append("\n".join(f"{key}={param.default!r}" for key, param in declared))
        table.add_row(*cells)
    return table


def _models(task: str) -> str:
    """Name the zoo's models of a task, by `model_id`; nothing for a task without one."""
    served = {service.task for card in zoo.cards().values() for service in card.tasks}
    if model_task(task) not in served:
        return "a card of your own" if task in ("recognise", "yolo") else ""
    return "\n".join(
        f"{model_id}: {choice.card.name} up to {choice.max_side}"
        for model_id, choice in zoo.models_for(model_task(task)).items()
    )
