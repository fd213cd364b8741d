"""`Arrivals`: what has come home and waits to be looked at, and who is woken to look.

Several threads of a job may have to act on what comes home, and waking one costs more than all that
is then done. So only one is woken, and only if somebody gains by it:

    the caller    who waits for a result
    the source    whose frame waits for room, if the caller does not wait
    the keeper    the job's own thread, if neither waits: for what must not lie, such as grants

A frame that comes home while its caller is busy is left lying, with the time it came.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from vdag.transport import messages

__all__ = ["Arrivals", "Latch"]


class Latch:
    """Wakes the one thread that waits; when set before that, the next wait returns at once.

    A `threading.Event` that resets itself, at a fifth of the cost.

    Attributes:
        is_awaited: that thread is about to wait. It says so before it looks for the last time
            whether it has to, and takes it back when it goes on.
    """

    __slots__ = ("_lock", "is_awaited")

    def __init__(self) -> None:
        self.is_awaited = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake the thread, now or when it next waits."""
        try:
            self._lock.release()
        except RuntimeError:  # it is set already
            return

    def wait(self, timeout_s: float) -> None:
        """Wait until it is set, or until the time is up, and reset it."""
        self._lock.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX))


class Arrivals:
    """See above. Anybody calls `put`; everything else is done under the job's lock.

    Args:
        limit: most messages that lie here.

    Attributes:
        caller: who iterates.
        source: the thread that reads the source.
        keeper: the thread of the job.
        is_watched: somebody is acting on them, and will look again after taking this back, so that
            nobody need be woken.
    """

    def __init__(self, limit: int) -> None:
        self.caller, self.source, self.keeper = Latch(), Latch(), Latch()
        self.is_watched = False
        self._limit = limit
        self._lying: deque[tuple[int, Sequence[bytes]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._lying)

    def put(self, part: bytes) -> bool:
        """Take a message of one part, and wake whom it is for; False if too many lie here."""
        if len(self._lying) >= self._limit:
            return False
        self.lay_down([part])
        if self.is_watched:
            return True
        if self.caller.is_awaited:
            self.caller.set()
        elif self.source.is_awaited:
            self.source.set()
        elif messages.is_control(part):
            self.keeper.set()
        return True

    def lay_down(self, parts: Sequence[bytes]) -> None:
        """Take a message without waking anybody."""
        self._lying.append((time.monotonic_ns(), parts))

    def take(self) -> tuple[int, Sequence[bytes]]:
        """Return the message that came first and when, `time.monotonic_ns()`; there must be one."""
        return self._lying.popleft()
