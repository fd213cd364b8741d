"""Videos that are made for a test, so that what is found in a frame says which it is."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

__all__ = ["STEP", "brightening"]

#: Levels between two frames.
STEP = 20


def brightening(path: Path, width: int, height: int, frames: int, *, fps: int) -> Path:
    """Write an mp4 whose frames are each of one grey, `STEP` levels above that before."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", fps, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for seq in range(frames):
            pixels = np.full((height, width, 3), STEP * seq, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "bgr24")))
        container.mux(stream.encode())
    return path
