"""`Backlog`: changes that must be recorded, in their order, and for which there was no room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from vdag.errors import Saturated

__all__ = ["Backlog"]

#: Changes that wait; beyond, the oldest are lost.
LIMIT = 100_000


class Backlog:
    """See above; for one thread.

    Attributes:
        lost: changes that could not be recorded.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self.lost = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, write: Callable[[], object]) -> None:
        """Record a change after those before it: now, if there is room."""
        self._waiting.append(write)
        if len(self._waiting) > LIMIT:
            self._waiting.popleft()
            self.lost += 1
        self.flush()

    def flush(self) -> None:
        """Record what has waited, as far as there is room now."""
        while self._waiting:
            try:
                self._waiting[0]()
            except Saturated:
                return
            self._waiting.popleft()
