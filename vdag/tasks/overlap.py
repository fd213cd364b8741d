"""What tasks on a GPU may do beside `process`: go on beside other work, read shared memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vdag.engines.begun import Begun
from vdag.results import Outputs
from vdag.tasks.base import Inputs, Task

__all__ = ["begin", "lock_pages"]


def begin(task: Task, batch: Sequence[Inputs]) -> Begun[list[Outputs]]:
    """Begin what `process` does; a task that cannot do it beside other work does it at once.

    Two batches may have begun before the result of the first is taken. The frames stay as they are
    until theirs is.

    Args:
        task: the thread's own, as for `process`.
        batch: likewise.

    Raises:
        Exception: as `process` raises; what fails later, the result raises.
    """
    start: Callable[[Sequence[Inputs]], Begun[list[Outputs]]] | None = getattr(task, "begin", None)
    if start is None or not _goes_with_process(type(task)):
        return Begun.finished(task.process(batch))
    return start(batch)


def lock_pages(task: Task, address: int, nbytes: int) -> bool:
    """Tell a task where the pixels of its frames will lie, so that a GPU reads them by itself.

    Args:
        task: just loaded.
        address: of the first byte of whole pages, which stay where they are until it is closed.
        nbytes: their length.

    Returns:
        Whether it has locked them; most tasks have no use for it, and any works without.
    """
    lock: Callable[[int, int], bool] | None = getattr(task, "lock_pages", None)
    return lock is not None and lock(address, nbytes)


def _goes_with_process(cls: type[Any]) -> bool:
    """Whether `begin` is of the class that `process` is of, or of one derived from that.

    Whoever derives a class and writes `process` anew wants that to be called.
    """
    for base in cls.__mro__:
        if "begin" in vars(base):
            return True
        if "process" in vars(base):
            return False
    return False
