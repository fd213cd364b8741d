"""Tasks for services of handlers, in worker processes: the shade of a picture is its number."""

from __future__ import annotations

import vdag
from vdag.tasks.params import Param

#: Numbers of pictures that come on their way to `spoil`, and go no further.
LOST = frozenset({3, 4, 9})


@vdag.task(outputs=["jpeg"])
def spoil(jpeg, seq):
    """Break the JPEG of some frames, so that nobody can read it."""
    return {"jpeg": jpeg[::-1].copy() if seq in LOST else jpeg}


@vdag.task(outputs=["boxes"])
def shade_box(image):
    """A box whose place is the number of the picture that it was found in."""
    place = round(float(image.mean()) / 10)
    return {"boxes": [{"label": "n", "prob": 1.0, "x": place, "y": place, "w": 6, "h": 6}]}


@vdag.task(outputs=["seen"])
def shade_of(image):
    """What a picture says, wherever on its way."""
    return {"seen": [int(value) for value in image[0, 0]], "shape": list(image.shape)}


@vdag.task(outputs=["joined"], params={"factor": Param(1, 1, 9)})
def joined(image, factor):
    """The number of a picture, and that of the box that is drawn into it."""
    yellow = image[..., 1].astype(int) - image[..., 0] > 100
    return {"joined": [factor * int(image[-1, -1, 0]) // 10, factor * int(yellow.any(0).argmax())]}


@vdag.task(outputs=["label", "prob"])
def who(image):
    """A recogniser of a user's."""
    return {"label": "carl", "prob": float(image.mean()) / 255}
