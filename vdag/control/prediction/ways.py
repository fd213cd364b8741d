"""Ways: how long frames take from node to node, and home.

Between tasks on one node a frame takes a hand-over of its descriptor. To another node it is
encoded, sent and decoded; what it takes on the link is its bytes over the bandwidth, and some more
the fuller the link is. Home goes what was found, without the pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vdag.control.profile.costs import pixels_of

__all__ = ["FULL", "HOP_S", "MAX_LINK", "WAY_S", "codec_s", "finite", "link_time", "shares"]

#: From one task to the next, or home, on one node: two messages and a wake-up.
HOP_S = 0.001
#: To another node, beside codec and link: two exchanges, two wake-ups, a local network.
WAY_S = 0.003
#: Seconds per pixel to encode and to decode it again, one core: JPEG as measured in
#: benchmarks/bench_jpeg.py, H.264 with the settings of `vdag.transport.h264`, raw a copy.
CODEC_S = {"JPEG": 7e-9, "H264": 15e-9, "raw": 0.5e-9}
#: Share of workers, cores and links that plans fill: beyond it waits grow without bound.
FULL = 0.8
#: Beyond this share of a link the formula has no meaning.
MAX_LINK = 0.98
#: How unevenly frames come to a link: cameras pace them.
PACED = 0.1
#: Standard deviation of the time on the link over its mean, where the link is not full.
JITTER = 0.15

Number = TypeVar("Number", float, "NDArray[np.float64]")


@lru_cache(maxsize=256)
def codec_s(resolution: str, encoder: str) -> float:
    """Return the seconds to encode and decode a frame."""
    return pixels_of(resolution) * CODEC_S.get(encoder, max(CODEC_S.values()))


def link_time(bytes_s: Number, own: Number, others: Number) -> tuple[Number, Number]:
    """Return mean and variance of the time that a frame is on a link.

    Args:
        bytes_s: its bytes over the bandwidth.
        own: share of the link that this query's frames take.
        others: likewise those of others; together at most `MAX_LINK`. Theirs come as they like.
    """
    wait_s = bytes_s * 0.5 * (PACED * own + others) / (1 - own - others)
    jitter_s = JITTER * bytes_s
    return bytes_s + wait_s, jitter_s * jitter_s + wait_s * wait_s


def shares(own: float, others: float) -> tuple[float, float]:
    """Return what queries take of a link, bounded: beyond, the formula has no meaning."""
    own = min(own, MAX_LINK)
    return own, max(min(others, FULL - own), 0.0)


def finite(value: float) -> float:
    """Return a number, or one that stands for infinity where it has to be written down."""
    return value if math.isfinite(value) else 1e9
