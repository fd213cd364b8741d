"""`python -m vdag.engines.tensorrt.build_process`: builds one engine, and says how far it is.

Its standard input is one line of JSON, a `Settings`. On its standard output it prints lines of
JSON, each a `Report`, the last with `done` or an `error`; all else goes to standard error. It dies
with the process that started it, and holds a lock while it builds, so that of several workers that
want the same engine one builds it.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from vdag.engines.tensorrt import flavour
from vdag.engines.tensorrt.builder import BuildOrder, build
from vdag.engines.tensorrt.cache import EngineCache
from vdag.errors import VdagError
from vdag.kinship import die_with

__all__ = ["Report", "Settings", "main"]

#: Reports are not worth more than this.
BETWEEN_REPORTS_S = 0.1


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the process is told.

    Attributes:
        parent: its pid.
        folder: of the cache.
        order: what to build.
        budget_nbytes: of the cache.
    """

    parent: int
    folder: str
    order: BuildOrder
    budget_nbytes: int


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the process says.

    Attributes:
        progress: part of the whole, 0 to 1.
        phase: what is being done.
        done: the engine is in the cache.
        error: why it is not and never will be.
    """

    progress: float = 0.0
    phase: str = ""
    done: bool = False
    error: str = ""


def main() -> int:
    """Build; return 0 if the engine is in the cache then."""
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    faulthandler.enable()
    os.nice(10)  # frames come first
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings, dec_hook=_read_path)
    if not die_with(settings.parent):
        return 4
    last_s = 0.0

    def progress(part: float, phase: str) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= BETWEEN_REPORTS_S:
            last_s = now_s
            said.write(msgspec.json.encode(Report(round(part, 3), phase)) + b"\n")

    try:
        _build(settings, progress)
        report = Report(1.0, done=True)
    except VdagError as err:
        report = Report(error=str(err) or type(err).__name__)
    said.write(msgspec.json.encode(report) + b"\n")
    return 0 if report.done else 1


def _build(settings: Settings, progress: Any) -> None:
    cache = EngineCache(Path(settings.folder), budget_nbytes=settings.budget_nbytes)
    order = settings.order
    progress(0.0, "waiting for another build")
    with cache.building(order):
        if cache.load(order) is None:
            found = flavour.find([order.library[0]])
            cache.store(order, build(order, found, progress))


def _read_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"settings have no {kind.__name__}")


if __name__ == "__main__":
    sys.exit(main())
