"""Tasks that say of a picture what every picture has, and nothing that depends on who asks."""

from __future__ import annotations

import os

import vdag

GRID = 4


def blocks(image):
    height, width = (size - size % GRID for size in image.shape[:2])
    pixels = image[:height, :width].astype("float64")
    return pixels.reshape(GRID, height // GRID, GRID, width // GRID, 3)


@vdag.task(outputs=["levels"])
def levels(image):
    return {"levels": blocks(image).mean((1, 3)).ravel()}


@vdag.task(outputs=["spreads"])
def spreads(image, levels):
    return {"spreads": blocks(image).std((1, 3)).ravel() + 0 * levels}


@vdag.task(outputs=["steps"])
def steps(image, spreads):
    values = image.astype("float64")
    return {"steps": abs(values[:, 1:] - values[:, :-1]).mean((0, 1)) + 0 * spreads[:3]}


@vdag.task(outputs=["found", "size"])
def summary(image, levels, spreads, steps):
    height, width = image.shape[:2]
    own = {"mean": image.mean(), "low": image.min(), "high": image.max()}
    found = {"levels": levels, "spreads": spreads, "steps": steps, **own}
    return {"found": found, "size": [width, height]}


@vdag.task(outputs=["seen"])
def first(image):
    return {"seen": [image.shape[1], image.shape[0], os.getpid()]}


@vdag.task(outputs=["trail"])
def lone(image, seen):
    return {"trail": [list(seen), [image.shape[1], image.shape[0], os.getpid()]]}


@vdag.task(outputs=["trail"])
def second(image, seen):
    return {"trail": [list(seen), [image.shape[1], image.shape[0], os.getpid()]]}
