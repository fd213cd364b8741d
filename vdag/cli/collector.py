"""`vdag collector`: takes in what nodes report over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdag.errors import DependencyMissing
from vdag.signals import ended_by_signals

__all__ = ["SERVE_MODULES", "collector"]

#: What the extra `serve` brings.
SERVE_MODULES = frozenset({"fastapi", "sqlalchemy", "starlette", "uvicorn"})


def collector(
    conf: Annotated[Path, typer.Argument(help="Its settings, such as config/collector.conf.")],
) -> None:
    """Take in reports of nodes on :9001 and record them, until SIGTERM or Ctrl-C."""
    try:
        from vdag.control.collector import Collector, read_conf
    except ImportError as err:
        if err.name in SERVE_MODULES:
            raise DependencyMissing(str(err.name), "serve") from err
        raise
    settings = read_conf(conf)
    with ended_by_signals(), Collector(settings) as running:
        running.serve()
