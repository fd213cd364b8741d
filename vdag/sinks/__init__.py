"""Where results go: annotated videos, pictures, JSON lines, functions.

    with open_sink("found.jsonl") as sink:
        for result in pipeline:
            sink.write(result)

Files are written under a temporary name and appear, whole, when their sink is closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vdag.errors import ConfigError
from vdag.results import Result
from vdag.sinks.base import Sink
from vdag.sinks.callback import CallbackSink
from vdag.sinks.frames import FrameFolderSink
from vdag.sinks.jsonlines import JsonLinesSink
from vdag.sinks.video import FORMATS, VideoSink

__all__ = [
    "CallbackSink",
    "FrameFolderSink",
    "JsonLinesSink",
    "Sink",
    "VideoSink",
    "open_sink",
]


def open_sink(target: str | os.PathLike[str] | Callable[[Result], object], **options: Any) -> Sink:
    """Open what `target` names.

    Args:
        target: `.mp4`, `.mov` or `.mkv` for a video, `.jsonl` or `.ndjson` or `-` (standard
            output) for JSON lines, a folder or a name ending in `/` for pictures, or a function.
        **options: what the sink takes: see `VideoSink`, `JsonLinesSink`, `FrameFolderSink`.

    Raises:
        ConfigError: nothing is known about that suffix.
        SinkError: it cannot be written.
        DependencyMissing: a package it needs is not installed.
    """
    if callable(target):
        return CallbackSink(target, **options)
    name = os.fspath(target)
    suffix = Path(name).suffix.lower()
    if name == "-" or suffix in (".jsonl", ".ndjson"):
        return JsonLinesSink(name, **options)
    if suffix in FORMATS:
        return VideoSink(name, **options)
    if name.endswith("/") or Path(name).expanduser().is_dir():
        return FrameFolderSink(name, **options)
    known = ", ".join([*FORMATS, ".jsonl", ".ndjson"])
    raise ConfigError(f"{name!r} is no sink: expected {known}, a folder ending in / or -")
