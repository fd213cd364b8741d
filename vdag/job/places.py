"""`Places`: how many frames a job may send before its exchange has to wait with them; pure."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Places"]


class Places:
    """The places that an exchange has granted, at each task that frames go to first.

    Under `block` an exchange drops no frame that was promised a place, so a job asks before it
    sends. It always wants as many places as it may have frames in flight; it asks for them anew
    when half of them are used, which halves the messages and leaves enough to go on with.

    Args:
        tasks: where frames go to first, one per branch.
        wanted: places to have, at least 1.
    """

    def __init__(self, tasks: Iterable[str], wanted: int) -> None:
        self._granted = dict.fromkeys(tasks, 0)
        self._wanted = self._missing = wanted

    @property
    def tasks(self) -> tuple[str, ...]:
        """Where frames go to first."""
        return tuple(self._granted)

    def are_granted(self) -> bool:
        """Whether a frame has a place at every one of its tasks."""
        return min(self._granted.values()) > 0

    def grant(self, task: str, count: int) -> bool:
        """Add places; False if no frame goes to that task first."""
        if task not in self._granted:
            return False
        self._granted[task] += count
        return True

    def use(self) -> None:
        """Take one place at every task, for a frame that leaves."""
        for task in self._granted:
            self._granted[task] -= 1
        self._missing += 1

    def ask(self) -> int:
        """Return how many places to ask for now, at every task; 0 for none."""
        if 2 * self._missing < self._wanted:
            return 0
        missing, self._missing = self._missing, 0
        return missing
