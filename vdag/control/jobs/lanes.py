"""`lane_of`: how frames travel to a task on another node, by what its plan says of the video."""

from __future__ import annotations

from typing import Literal

from vdag.plan import VideoConf
from vdag.transport.encoders import H264, Encoder, Jpeg, Raw
from vdag.transport.peer import Lane

__all__ = ["lane_of"]

#: H.264 at this many bits per pixel looks as the documents' JPEG does to their models.
BITS_PER_PIXEL = 0.1
MIN_BITRATE = 100_000


def lane_of(conf: VideoConf, policy: Literal["block", "latest"]) -> Lane:
    """Return how frames go to a task on another node."""
    encoder: Encoder = Raw()
    if conf.encoder == "JPEG":
        encoder = Jpeg()
    elif conf.encoder == "H264":
        width, height = conf.size or (1920, 1080)
        bitrate = max(round(width * height * conf.fps * BITS_PER_PIXEL), MIN_BITRATE)
        encoder = H264(bitrate, conf.fps)
    return Lane(policy, encoder)
