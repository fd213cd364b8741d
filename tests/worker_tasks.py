"""Tasks for worker processes, which run this file; what they see is the first sample of a picture.

`OPEN` in the environment names a FIFO: a gate that is shut until somebody opens it for writing.
"""

from __future__ import annotations

import os
import signal

import vdag

OPEN = "VDAG_TEST_GATE"
#: The picture that things happen at.
FATEFUL = 3


@vdag.task(outputs=["number"])
def number(image):
    return {"number": int(image[0, 0, 0])}


@vdag.task(outputs=["total"])
def add_one(number):
    return {"total": number + 1}


@vdag.task(outputs=["pid"])
def whereabouts(image):
    return {"pid": os.getpid()}


@vdag.task(outputs=["number"])
def fragile(image):
    if image[0, 0, 0] == FATEFUL:
        raise ZeroDivisionError("three")
    return number(image)


@vdag.task(outputs=["number"])
def deadly(image):
    if image[0, 0, 0] == FATEFUL:
        os.kill(os.getpid(), signal.SIGKILL)
    return number(image)


@vdag.task(outputs=["number"])
def scribble(image):
    image[:] = 0
    return number(image)


@vdag.task(outputs=["number"])
def gated(image):
    """Wait at the first picture, until the gate is opened."""
    if image[0, 0, 0] == 0:
        with open(os.environ[OPEN], "rb") as gate:
            gate.read()
    return number(image)
