"""Tasks for jobs: what they say of a picture survives its being coded."""

from __future__ import annotations

import vdag


@vdag.task(outputs=["mean"])
def brightness(image):
    if image.shape[0] == 63:
        raise ValueError("63 lines")
    return {"mean": float(image.mean())}


@vdag.task(outputs=["level"])
def darkness(image, mean):
    assert abs(float(image.mean()) - mean) < 4
    return {"level": 255 - mean}
