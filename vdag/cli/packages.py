"""`vdag packages`: what callers have uploaded to a node, and what of it is enabled."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdag.config import load_config
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from vdag.control.service.packages import Package

__all__ = ["packages"]


def packages(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Where packages are stored.  [default: that of the settings]"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file with the node's settings.")
    ] = None,
) -> None:
    """List the task packages of a node, by the names that service.packages.enabled takes."""
    from vdag.control.service.packages import PackageStore

    settings = load_config(config, os.environ).service.packages
    if folder is not None:
        settings = replace(settings, folder=folder)
    with PackageStore(settings, is_reader=True) as store:
        for package in store.packages():
            # Lines, as a table would break the name, which is to be copied.
            print(f"{package.identity}\n    {_state(package)}, {package.nbytes} bytes")
            for name, stage in sorted(package.task.stages.items()):
                takes = ", ".join([*stage.inputs, *(f"{field}?" for field in stage.optional)])
                print(f"    {name}: {takes or 'nothing'} -> {', '.join(stage.outputs)}")


def _state(package: Package) -> str:
    try:
        package.verify()
    except ConfigError:
        return "changed since it was uploaded"
    return "enabled" if package.is_enabled else "not enabled"
