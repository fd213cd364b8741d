"""`vdag coordinator`: sessions of services on nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdag.cli.extras import needs_serve
from vdag.signals import ended_by_signals

__all__ = ["coordinator"]


def coordinator(
    conf: Annotated[Path, typer.Argument(help="Its settings, such as config/coordinator.conf.")],
) -> None:
    """Place services on nodes and run them as sessions, until SIGTERM or Ctrl-C."""
    with needs_serve():
        from vdag.control.coordinator import Coordinator, read_conf
    settings = read_conf(conf)
    with ended_by_signals(), Coordinator(settings) as running:
        running.serve()
