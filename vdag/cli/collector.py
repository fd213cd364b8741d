"""`vdag collector`: takes in what nodes report over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdag.cli.extras import needs_serve
from vdag.signals import ended_by_signals

__all__ = ["collector"]


def collector(
    conf: Annotated[Path, typer.Argument(help="Its settings, such as config/collector.conf.")],
) -> None:
    """Take in reports of nodes on :9001 and record them, until SIGTERM or Ctrl-C."""
    with needs_serve():
        from vdag.control.collector import Collector, read_conf
    settings = read_conf(conf)
    with ended_by_signals(), Collector(settings) as running:
        running.serve()
