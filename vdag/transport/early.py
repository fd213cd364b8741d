"""`EarlyFrames`: frames that have overtaken the introduction of their job.

A job's introduction and its frames come over different connections, and a frame that goes on from
one node to the next over a third: nothing orders them. A frame of a job that is not known yet waits
here for a moment. If nobody introduces the job, the frame goes its way all the same, and is dropped
where it always was.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["EarlyFrames"]

#: They hold slots of shared memory, which others need too.
MAX_EARLY = 32


class _Early(NamedTuple):
    job: str
    part: bytes
    came_s: float


class EarlyFrames:
    """See above; for one thread at a time.

    Args:
        patience_s: how long a frame waits.
    """

    def __init__(self, patience_s: float = 1.0) -> None:
        self._patience_s = patience_s
        self._waiting: deque[_Early] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, job: str, part: bytes, now_s: float) -> bool:
        """Let a frame wait; False if there is no room."""
        if len(self._waiting) >= MAX_EARLY:
            return False
        self._waiting.append(_Early(job, part, now_s))
        return True

    def take(self, job: str) -> list[bytes]:
        """Take out the frames of a job, in the order in which they came."""
        found = [each.part for each in self._waiting if each.job == job]
        if found:
            self._waiting = deque(each for each in self._waiting if each.job != job)
        return found

    def take_old(self, now_s: float) -> list[bytes]:
        """Take out the frames that have waited long enough, likewise."""
        found = []
        while self._waiting and now_s - self._waiting[0].came_s >= self._patience_s:
            found.append(self._waiting.popleft().part)
        return found

    def take_all(self) -> list[bytes]:
        """Take out all frames, likewise."""
        found = [each.part for each in self._waiting]
        self._waiting.clear()
        return found
