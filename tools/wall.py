"""Make a wall of many copies of a clip, each at another time: a scene of any size and crowd.

    python tools/wall.py CLIP OUT.mp4 [--columns 5] [--rows 3] [--scale 2] [--grow]

Every copy plays the clip back and forth, beginning elsewhere, at its own pixels times `scale`, on a
grey ground of 1920 x 1080. With `--grow` the copies come one after another, so that the number of
objects rises over the clip: what a task takes per object can be told from that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import cv2
import numpy as np

SIZE = (1920, 1080)
GREY = 114


def read(path: Path, scale: float) -> tuple[list[np.ndarray], object]:
    """Return a clip's frames at a scale, and its rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(stream)]
        rate = stream.average_rate
    return [cv2.resize(f, None, fx=scale, fy=scale) for f in frames], rate


def picture(
    frames: list[np.ndarray], number: int, total: int, grid: tuple[int, int], grow: bool
) -> np.ndarray:
    """Return one frame of the wall."""
    columns, rows = grid
    ground = np.full((SIZE[1], SIZE[0], 3), GREY, np.uint8)
    height, width = frames[0].shape[:2]
    count = columns * rows
    shown = count if not grow else min(1 + number * count // total, count)
    round_trip = 2 * len(frames) - 2
    for index in range(shown):
        row, column = divmod(index, columns)
        left = column * SIZE[0] // columns + max(SIZE[0] // columns - width, 0) // 2
        top = row * SIZE[1] // rows + max(SIZE[1] // rows - height, 0) // 2
        at = (number + index * len(frames) // count * 2) % round_trip
        frame = frames[at if at < len(frames) else round_trip - at]
        part = ground[top : top + height, left : left + width]
        part[:] = frame[: part.shape[0], : part.shape[1]]
    return ground


def main() -> None:
    """Make the wall."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--grow", action="store_true")
    given = parser.parse_args()
    frames, rate = read(given.clip, given.scale)
    with av.open(str(given.out), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"crf": "12", "preset": "fast"}
        for number in range(given.frames):
            shown = picture(frames, number, given.frames, (given.columns, given.rows), given.grow)
            for packet in stream.encode(av.VideoFrame.from_ndarray(shown, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


if __name__ == "__main__":
    main()
