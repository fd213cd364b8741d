"""`Shift`: whether delays have changed at once, by the delays of a few frames in a row; pure.

A mean over ten seconds says late that a node has lost half of its cores, and for ten seconds mixes
what was before with what is now. Five frames in a row that are all far above what came before, or
all far below, are no chance: what came before them says nothing of what is to come.
"""

from __future__ import annotations

import math

__all__ = ["RUN", "Shift"]

#: Frames in a row that say that something has changed.
RUN = 5
#: Frames before, of which there have to be so many, and of which no more count.
FEW, MOST = 8, 64
#: How far off they are: standard deviations, share of the mean, seconds.
DEVIATIONS, SHARE, LEAST_S = 3.0, 0.3, 0.01


class Shift:
    """See above. Begins anew by itself when it has seen a change."""

    __slots__ = ("_count", "_mean_s", "_run", "_var_s2")

    def __init__(self) -> None:
        self._count = 0
        self._mean_s = self._var_s2 = 0.0
        self._run: list[float] = []

    def sees(self, delay_s: float) -> bool:
        """Take the delay of the next frame; whether the latest `RUN` frames are of another kind."""
        side = self._side(delay_s)
        if self._run and (not side or side != self._side(self._run[0])):
            self._take_run()
            side = self._side(delay_s)
        if not side:
            self._take(delay_s)
            return False
        self._run.append(delay_s)
        if len(self._run) < RUN:
            return False
        self._count = 0
        self._mean_s = self._var_s2 = 0.0
        self._take_run()
        return True

    def _side(self, delay_s: float) -> int:
        """Return 1 for far above what came before, -1 for far below, 0 for neither."""
        if self._count < FEW:
            return 0
        off_s = max(DEVIATIONS * math.sqrt(self._var_s2), SHARE * self._mean_s, LEAST_S)
        return (delay_s > self._mean_s + off_s) - (delay_s < self._mean_s - off_s)

    def _take_run(self) -> None:
        for delay_s in self._run:
            self._take(delay_s)
        self._run.clear()

    def _take(self, delay_s: float) -> None:
        """Follow mean and variance, of all frames while they are few, then of the latest."""
        self._count = min(self._count + 1, MOST)
        share, off_s = 1 / self._count, delay_s - self._mean_s
        self._mean_s += share * off_s
        self._var_s2 = (1 - share) * (self._var_s2 + share * off_s * off_s)
