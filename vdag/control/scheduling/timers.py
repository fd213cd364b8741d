"""`Timers`: what falls due when, by name; nothing in it knows the time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

__all__ = ["Timers"]

#: Kind and key, such as ("period", "GLOBAL_ID_7").
Name = tuple[str, str]


class Timers:
    """One alarm per name; setting it again moves it. O(log n) each.

    A moved or cancelled alarm stays in the heap until its old time has come, and is passed over
    then: so the heap holds at most one entry per alarm set within the longest delay.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, Name]] = []
        self._due: dict[Name, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, name: Name) -> bool:
        return name in self._due

    def set(self, kind: str, key: str, due_ns: int) -> None:
        """Have `(kind, key)` fall due at `due_ns`, and no longer at any other time."""
        self._due[kind, key] = due_ns
        heapq.heappush(self._heap, (due_ns, (kind, key)))

    def hasten(self, kind: str, key: str, due_ns: int) -> None:
        """Have `(kind, key)` fall due at `due_ns` if it is set, and to a later time."""
        if self._due.get((kind, key), due_ns) > due_ns:
            self.set(kind, key, due_ns)

    def cancel(self, *names: Name) -> None:
        """Have these not fall due; none need be set."""
        for name in names:
            self._due.pop(name, None)

    def next_due_ns(self) -> int | None:
        """Return when the next one falls due, None for never."""
        while self._heap and not self._is_current():
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_ns: int) -> Iterator[Name]:
        """Yield what has fallen due, in that order; alarms may be set meanwhile."""
        while (due_ns := self.next_due_ns()) is not None and due_ns <= now_ns:
            _, name = heapq.heappop(self._heap)
            del self._due[name]
            yield name

    def _is_current(self) -> bool:
        due_ns, name = self._heap[0]
        return self._due.get(name) == due_ns
