"""`Agenda`: what will happen when, on a clock that only moves from one event to the next."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

__all__ = ["Agenda"]

Action = Callable[..., None]


class Agenda:
    """A virtual clock and the events that are still to come.

    Events of the same moment happen in the order in which they were put down, so a run depends on
    nothing but what the actions do.

    Attributes:
        now_ns: the time.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self._heap: list[tuple[int, int, Action, tuple[Any, ...]]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, due_ns: int, action: Action, *arguments: Any) -> None:
        """Have `action(*arguments)` called at `due_ns`; at once, if that is over."""
        heapq.heappush(self._heap, (max(due_ns, self.now_ns), next(self._order), action, arguments))

    def after(self, delay_ns: int, action: Action, *arguments: Any) -> None:
        """Have it called `delay_ns` from now."""
        self.at(self.now_ns + delay_ns, action, *arguments)

    def run(self, end_ns: int) -> None:
        """Let everything happen that is due by `end_ns`, and stop there."""
        heap = self._heap
        while heap and heap[0][0] <= end_ns:
            self.now_ns, _, action, arguments = heapq.heappop(heap)
            action(*arguments)
        self.now_ns = max(self.now_ns, end_ns)
