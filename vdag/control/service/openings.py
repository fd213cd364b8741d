"""`Openings`: tasks that the controller has this node do, beside those of its own settings.

Such a task needs no settings: its name has all that has to be known of it. The thread
`vdag-openings` starts and ends the workers, several tasks at a time, and tells what came of each
order: nothing once its workers serve, else the reason why they do not, and then there are none. A
task of the node's own settings is left to these; to open it is to find that it is there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdag.errors import ConfigError, InvalidTransition, VdagError
from vdag.tasks import TaskOptions, find
from vdag.threads import wait_ended

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.control.service.staff import Staff
    from vdag.transport.exchange import Exchange
    from vdag.workers import WorkerPool

__all__ = ["Openings", "Tell"]

logger = logging.getLogger(__name__)

#: Is told a task, the number of the order, why it is not done, nothing once it is, and the seconds
#: that it took when it was tried, 0 for it was not.
Tell = Callable[[str, int, str, float], None]

#: For workers to load their task.
START_TIMEOUT_S = 60.0
#: For workers to finish what they hold.
END_TIMEOUT_S = 15.0
#: Between two looks at workers that start or end.
INTERVAL_S = 0.02
JOIN_TIMEOUT_S = 20.0
#: Tasks that are open, or about to be.
MAX_OPEN = 256


@dataclass(slots=True)
class _Order:
    """The latest order about a task, None of it yet carried out while it is due."""

    workers: int
    number: int
    tell: Tell
    trial: tuple[int, int] | None = None

    def refuse(self, task: str, reason: str) -> None:
        """Say why it is not carried out."""
        self.tell(task, self.number, reason, 0.0)

    def confirm(self, task: str, trial_s: float | None = None) -> None:
        """Say that it is carried out."""
        self.tell(task, self.number, "", trial_s or 0.0)


@dataclass(slots=True)
class _Change:
    """A task whose workers start or, if there are to be none, end."""

    order: _Order
    until_s: float


class Openings:
    """See above; any thread may call it. Closed by `close` or a `with` block, before the pool.

    Args:
        exchange: of the node.
        pool: its workers.
        staff: of the node; hears which tasks there are.
    """

    def __init__(self, exchange: Exchange, pool: WorkerPool, staff: Staff) -> None:
        self._exchange, self._pool, self._staff = exchange, pool, staff
        self._changed = threading.Condition()
        self._ordered: dict[str, _Order] = {}
        self._due: dict[str, _Order] = {}
        self._changes: dict[str, _Change] = {}  # the thread's
        self._ours: dict[str, int] = {}  # likewise: open tasks, with their workers
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="vdag-openings", daemon=True)
        self._thread.start()

    def order(
        self,
        task: str,
        workers: int,
        number: int,
        tell: Tell,
        trial: tuple[int, int] | None = None,
    ) -> None:
        """Have a task done, or no more; in place of what was ordered of it before.

        Args:
            task: its name.
            workers: processes, none for not any more.
            number: of the order.
            tell: is told by another thread what came of it.
            trial: width and height of a picture that its workers try it on; None for none.

        Raises:
            ConfigError: too many tasks are open.
        """
        with self._changed:
            if workers and task not in self._ordered and len(self._ordered) >= MAX_OPEN:
                raise ConfigError(f"{MAX_OPEN} tasks are open, which is the limit")
            order = _Order(workers, number, tell, trial)
            if workers:
                self._ordered[task] = order
            else:
                self._ordered.pop(task, None)
            self._due[task] = order
            self._changed.notify_all()

    def ordered(self) -> Mapping[str, int]:
        """Return the tasks that shall be open, with the number of their workers."""
        with self._changed:
            return {task: order.workers for task, order in self._ordered.items()}

    def close(self) -> None:
        """End the thread; the workers are the pool's."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # From here on everything runs on the thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                wait_s = INTERVAL_S if self._changes else None
                self._changed.wait_for(lambda: self._due or self._is_closing, wait_s)
                if self._is_closing:
                    return
                due, self._due = self._due, {}
            for task, order in due.items():
                self._attempt(task, order, self._begin)
            for task, change in tuple(self._changes.items()):
                look = self._look_at_start if change.order.workers else self._look_at_end
                self._attempt(task, change.order, look)

    def _attempt(self, task: str, order: _Order, step: Callable[[str, _Order], None]) -> None:
        """Take a step; what it raises is the answer to the order."""
        try:
            step(task, order)
        except VdagError as err:
            self._give_up(task, order, str(err))
        except Exception as err:  # a fault of ours; the other tasks go on
            logger.exception("%s could not be opened or closed", task)
            self._give_up(task, order, f"{type(err).__name__}: {err}")

    def _begin(self, task: str, order: _Order) -> None:
        if task not in self._ours and task in self._staff.tasks:
            order.confirm(task)
            return
        self._changes.pop(task, None)
        before = self._ours.get(task, 0)
        if order.workers > before:
            self._start(task, order.workers - before, order.trial)
        elif order.workers < before:
            if not order.workers:
                self._staff.disown(task)  # before its workers go: nobody shall count on them
            self._pool.remove(task, before - order.workers)
        if task in self._ours:
            self._ours[task] = order.workers
        wait_s = START_TIMEOUT_S if order.workers else END_TIMEOUT_S
        if order.workers or before:
            self._changes[task] = _Change(order, time.monotonic() + wait_s)
        else:
            order.confirm(task)

    def _start(self, task: str, count: int, trial: tuple[int, int] | None) -> None:
        find(task)  # before anything is opened for it
        if task not in self._ours:
            try:
                self._exchange.open_task(task, policy="fifo")
            except InvalidTransition:
                logger.debug("%s is open: its workers have not all ended yet", task)
            self._ours[task] = 0
        self._pool.add(task, TaskOptions(), count=count, trial=trial)

    def _look_at_start(self, task: str, order: _Order) -> None:
        change, found = self._changes[task], self._pool.counts().get(task)
        if found is not None and found.error and not found.serving:
            raise ConfigError(f"{task} cannot be loaded: {found.error}")
        if found is not None and found.serving >= order.workers:
            del self._changes[task]
            self._staff.adopt(task, TaskOptions())
            logger.info("%s is open with %d workers", task, order.workers)
            order.confirm(task, found.trial_s)
        elif time.monotonic() >= change.until_s:
            raise ConfigError(f"workers of {task} do not serve within {START_TIMEOUT_S:g} s")

    def _look_at_end(self, task: str, order: _Order) -> None:
        change = self._changes[task]
        if task in self._pool.counts() and time.monotonic() < change.until_s:
            return
        del self._changes[task]
        self._shut(task)
        logger.info("%s is closed", task)
        order.confirm(task)

    def _give_up(self, task: str, order: _Order, reason: str) -> None:
        """Have a task not done after all, and say why."""
        logger.warning("%s is not open: %s", task, reason)
        self._changes.pop(task, None)
        with self._changed:
            if self._ordered.get(task) is order:
                del self._ordered[task]
        try:
            self._pool.remove(task)
            self._shut(task)
        except VdagError as err:
            logger.warning("%s could not be closed: %s", task, err)
        order.refuse(task, reason)

    def _shut(self, task: str) -> None:
        if self._ours.pop(task, None) is None:
            return
        self._staff.disown(task)
        self._exchange.close_task(task)
