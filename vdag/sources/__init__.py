"""Where frames come from: files, cameras, streams, folders, arrays, made-up video.

    with open_source("rtsp://camera/1", fps=10, resolution="480p") as source:
        for frame in source:
            ...

`base` has the protocols, `address` finds the reader of a video, `generator` and `clip` are the
documents' data generators over any reader, and the other modules are one kind of video each.
Decoders are imported when a video is opened, not with this package.
"""

from __future__ import annotations

from typing import Any

from vdag.sources.address import Video
from vdag.sources.base import Reconnect, Source, SourceStats
from vdag.sources.clip import Clip, ClipGenerator
from vdag.sources.generator import Allocate, Keep, SingleFrameGenerator

__all__ = [
    "Allocate",
    "Clip",
    "ClipGenerator",
    "Keep",
    "Reconnect",
    "SingleFrameGenerator",
    "Source",
    "SourceStats",
    "Video",
    "open_source",
]


def open_source(video: Video, **options: Any) -> SingleFrameGenerator:
    """Open a video by its address; see `SingleFrameGenerator`, which takes the options.

    Raises:
        ConfigError: an option has no meaning.
        SourceError: the video cannot be opened.
        DependencyMissing: a package it needs is not installed.
    """
    return SingleFrameGenerator(video, **options)
