"""`InOrder`: pictures in the order of their numbers, whatever order they come in."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from vdag.frame import UInt8Image

__all__ = ["LATE", "InOrder"]

#: A picture so many places behind the latest is late; one further behind begins another session.
LATE = 256


class InOrder:
    """Hands pictures on; of one that lacks, those behind it wait until `room` of them do.

    Args:
        show: is given each picture, C-contiguous, with its number.
        room: pictures that may wait; 0 for handing on at once whatever is not late.
    """

    def __init__(self, show: Callable[[UInt8Image, int], None], room: int) -> None:
        self._show, self._room = show, room
        self._latest = -1
        self._waiting: list[tuple[int, UInt8Image]] = []

    @property
    def next(self) -> int:
        """The number behind all that have come."""
        return max([self._latest, *(seq for seq, _ in self._waiting)]) + 1

    def put(self, pixels: UInt8Image, seq: int) -> bool:
        """Take a picture, which is copied if it may have to wait; return whether it is in time.

        Number 0, and one that is far behind, begin another session.
        """
        if self._latest >= 0 and (seq == 0 or seq + LATE <= self._latest):
            self.flush()
            self._latest = -1
        if seq <= self._latest or any(seq == other for other, _ in self._waiting):
            return False
        kept = np.array(pixels, order="C") if self._room else np.ascontiguousarray(pixels)
        heapq.heappush(self._waiting, (seq, kept))
        while self._waiting and (
            self._waiting[0][0] == self._latest + 1 or len(self._waiting) > self._room
        ):
            self._hand_on()
        return True

    def flush(self) -> None:
        """Hand on all that waits."""
        while self._waiting:
            self._hand_on()

    def _hand_on(self) -> None:
        self._latest, pixels = heapq.heappop(self._waiting)
        self._show(pixels, self._latest)
