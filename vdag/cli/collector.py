"""`vdag collector`: takes in what nodes report over HTTP."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from vdag.errors import DependencyMissing

__all__ = ["collector"]

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
    with _signals(), contextlib.suppress(KeyboardInterrupt), Collector(settings) as running:
        running.serve()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into a KeyboardInterrupt; the next must not stop the end."""
    is_first = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
