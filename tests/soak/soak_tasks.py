"""Tasks that prove what they see: every sample, before and after they have worked on it."""

from __future__ import annotations

import os
import threading
import zlib
from pathlib import Path

import vdag

#: In the environment: a file that says what was torn or stale, if anything ever was.
EVIDENCE = "VDAG_SOAK_EVIDENCE"
#: In the environment: how long the first worker of `pace` takes, and how long all others do, in
#: seconds, and a file that the first one makes.
PACE = "VDAG_SOAK_PACE"


@vdag.task(outputs=["crc"])
def verify(image, seq):
    """Compare the picture with the number and the checksum in front of it, twice."""
    _prove(image, seq)
    image.mean(axis=(0, 1))
    return {"crc": _prove(image, seq)}


@vdag.task(outputs=["same"])
def verify_again(image, seq, crc):
    return {"same": _prove(image, seq) == crc}


class Pace:
    """Takes its time over every frame; one worker takes another time than the others."""

    signature = vdag.Signature(frozenset({"seq"}), frozenset({"pid"}))
    max_batch = 1

    def __init__(self, options):
        first_s, other_s, mark = os.environ[PACE].split(maxsplit=2)
        try:
            Path(mark).touch(exist_ok=False)
            self._work_s = float(first_s)
        except FileExistsError:
            self._work_s = float(other_s)

    def process(self, batch):
        threading.Event().wait(self._work_s)
        return [{"pid": os.getpid()} for _ in batch]

    def close(self):
        pass


vdag.register("pace", Pace)


def _prove(image, seq):
    """Return the checksum of a picture; leave evidence if it is not the one it should be."""
    samples = image.reshape(-1)
    number = int.from_bytes(samples[:8].tobytes(), "little")
    stored = int.from_bytes(samples[8:12].tobytes(), "little")
    crc = zlib.crc32(samples[12:], seq & 0xFFFFFFFF)
    if (number, stored) != (seq, crc):
        text = f"frame {seq}: number {number}, checksum {stored:08x}, found {crc:08x}"
        with open(os.environ[EVIDENCE], "a") as file:
            print(text, file=file)
        raise ValueError(text)
    return crc
