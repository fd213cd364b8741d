"""`Places`: how many frames a job may send before its exchange has to wait with them; pure."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Places"]


class Places:
    """The places that an exchange has granted, at each task that frames go to first.

    Under `block` an exchange drops no frame that was promised a place, so a job asks before it
    sends. It wants at least as many places as it may have frames in flight; it asks for them anew
    when half of them are used, which saves messages and leaves enough to go on with. Places at a
    task that frames no longer go to are kept until they do again.

    Args:
        tasks: of this node's exchange, where frames go to first, one per branch at most.
        wanted: places to have, at least 1.
    """

    def __init__(self, tasks: Iterable[str], wanted: int) -> None:
        self._wanted = wanted
        self._granted: dict[str, int] = {}
        self._missing: dict[str, int] = {}
        self.go_to(tasks)

    def go_to(self, tasks: Iterable[str]) -> None:
        """Change where frames go to first, from the next one on."""
        self._tasks = tuple(tasks)
        for task in self._tasks:
            if task not in self._granted:
                self._granted[task], self._missing[task] = 0, self._wanted

    def are_granted(self) -> bool:
        """Whether a frame has a place at every one of its tasks."""
        return all(self._granted[task] > 0 for task in self._tasks)

    def grant(self, task: str, count: int) -> bool:
        """Add places; False if no frame goes to that task first."""
        if task not in self._granted:
            return False
        self._granted[task] += count
        return True

    def use(self) -> None:
        """Take one place at every task, for a frame that leaves."""
        for task in self._tasks:
            self._granted[task] -= 1
            self._missing[task] += 1

    def ask(self) -> dict[str, int]:
        """Return the tasks to ask for places at now, and how many."""
        wanted = {task: n for task in self._tasks if 2 * (n := self._missing[task]) >= self._wanted}
        self._missing.update(dict.fromkeys(wanted, 0))
        return wanted
