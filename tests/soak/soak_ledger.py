"""What became of every frame, in a file that outlives whoever writes it.

The frames of all streams are numbered together: `seq % STREAMS` is the stream of a frame, so that
pixels of another frame are known by their number alone. A producer notes a frame before it sends
it, and takes that back if it could not; the consumer notes what came of it. Each word has one
writer. What a killed process has written stays, for the file is mapped and shared.
"""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vdag.transport.books import REASONS

STREAMS = 3
#: Frames that there is place for; the file is sparse.
FRAMES = 1 << 23
#: Shapes of the pictures, in turn; the last two share the larger size of slot.
SHAPES = ((60, 80, 3), (240, 320, 3), (180, 320, 3))
#: What came of a frame: nothing so far, its results, or a notice with the reason of this number.
UNKNOWN, DELIVERED = 0, 1
OUTCOMES = ("unknown", "delivered", *REASONS)
#: In front of every picture: its number, and the checksum of the rest.
FRONT = np.dtype([("number", "<u8"), ("crc", "<u4")])

_WORDS = np.dtype(
    [
        ("epoch", "i8"),  # of the exchange's owner, by the test
        ("open", "i8"),  # the epoch for which the consumer has joined, by the test
        ("pause", "i8"),  # producers are to rest while it is odd, by the test
        ("resting", "i8", STREAMS),  # the `pause` that each producer obeys
        ("next", "i8", STREAMS),  # by the producer
        ("epochs", "i8", STREAMS),  # the owner that each producer sends to
        ("results", "i8"),  # messages about frames, by the consumer, as what follows
        ("twice", "i8"),  # frames that came home, or were dropped, for a second time
        ("wrong", "i8"),  # messages that are not what they should be
        ("fence", "i8"),  # number of the latest fence
        ("latest_ns", "i8", STREAMS),  # when the latest frame that came home was sent
    ]
)
_NOISE = np.random.default_rng(7).integers(0, 256, 240 * 320 * 3 + 4096, np.uint8)


class Ledger:
    """The file; `words` are its counters."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            with path.open("wb") as file:
                file.truncate(4096 + FRAMES * 17)
        self.words: Any = np.memmap(path, _WORDS, "r+", shape=(1,))[0]
        self.sent_ns = np.memmap(path, np.int64, "r+", 4096, (FRAMES,))
        self.done_ns = np.memmap(path, np.int64, "r+", 4096 + FRAMES * 8, (FRAMES,))
        self.outcome = np.memmap(path, np.uint8, "r+", 4096 + FRAMES * 16, (FRAMES,))

    def note(self, seq: int, outcome: str) -> None:
        """What came of a frame, by the consumer."""
        now_ns = time.monotonic_ns()
        self.words["twice"] += self.outcome[seq] != UNKNOWN
        self.outcome[seq] = OUTCOMES.index(outcome)
        self.done_ns[seq] = now_ns
        if outcome == "delivered":
            stream = seq % STREAMS
            latest_ns = self.words["latest_ns"]
            latest_ns[stream] = max(latest_ns[stream], self.sent_ns[seq])
        self.words["results"] += 1

    def sent(self, since_ns: int = 0) -> np.ndarray:
        """Return the numbers of the frames that were sent after some time."""
        end = (int(self.words["next"].max()) + 1) * STREAMS
        return np.flatnonzero(self.sent_ns[:end] > since_ns)


def shape_of(seq: int) -> tuple[int, int, int]:
    """Return the shape of a frame; every stream has all of them."""
    return SHAPES[seq // STREAMS % len(SHAPES)]


def body_of(seq: int) -> np.ndarray:
    """Return the samples of a frame behind its `FRONT`."""
    start = seq * 13 % 4096
    return _NOISE[start : start + int(np.prod(shape_of(seq))) - FRONT.itemsize]


def crc_of(seq: int) -> int:
    """Return the checksum of a frame."""
    return zlib.crc32(body_of(seq), seq & 0xFFFFFFFF)


def paint(pixels: np.ndarray, seq: int) -> None:
    """Write a frame into its memory, uint8, flat."""
    pixels[FRONT.itemsize :] = body_of(seq)
    front = pixels[: FRONT.itemsize].view(FRONT)[0]
    front["number"], front["crc"] = seq, crc_of(seq)
