"""What a node says of its videos."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from vdag.config import VideoConfig
from vdag.control import wire
from vdag.errors import VdagError
from vdag.sources import SingleFrameGenerator

__all__ = ["describe"]

logger = logging.getLogger(__name__)

#: What is not a file is not opened before it is needed: a camera may be busy, a server far away.
LIVE = ("rtsp://", "rtmp://", "http://", "https://", "srt://", "v4l2://", "/dev/")


def describe(videos: Mapping[str, VideoConfig]) -> dict[int, wire.Video]:
    """Return what a controller is told of videos; files are opened for their size and rate.

    A file that cannot be read is described without them; its jobs will say what is wrong with it.
    """
    return {int(key): _describe(int(key), video) for key, video in videos.items()}


def _describe(key: int, video: VideoConfig) -> wire.Video:
    width = height = 0
    fps = video.fps
    if not video.path.startswith(LIVE):
        try:
            with SingleFrameGenerator(video.path, cam_fps=video.fps or None) as source:
                width, height, fps = source.width, source.height, source.fps
        except VdagError as err:
            logger.warning("edge.videos.%d: %s", key, err)
    return wire.Video(video.type, width, height, min(max(fps, 0.0), 1000.0))
