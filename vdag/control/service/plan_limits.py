"""`PlanLimits`: what plans want the workers of this node's tasks limited to.

A controller orders one limit per task, for all its plans together. Jobs whose plans came to this
node over REST claim theirs themselves. The largest of them binds, beside the operator's own, and a
plan that has a task done here without a limit lifts the others: what it was promised is not taken
away by somebody else's.

Limits bind soon after they are asked for: the thread `vdag-limits` waits for the staff, which may
be busy with a worker that starts, so that nobody else has to.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from vdag.errors import VdagError
from vdag.plan import ResourceLimit
from vdag.threads import wait_ended

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PlanLimits", "Tell"]

logger = logging.getLogger(__name__)

#: Is told a task and why it cannot be limited; nothing once it can be.
Tell = Callable[[str, str], None]

#: Who holds the controller's claim; no job is called so.
CONTROLLER = ""
JOIN_TIMEOUT_S = 10.0


class PlanLimits:
    """See above; any thread may call it. Closed by `close` or a `with` block.

    Args:
        bind: limits the workers of a task, None for not at all; may wait.
    """

    def __init__(self, bind: Callable[[str, ResourceLimit | None], None]) -> None:
        self._bind = bind
        self._changed = threading.Condition()
        self._claims: dict[str, dict[str, ResourceLimit | None]] = {}  # by task, by holder
        self._due: dict[str, None] = {}  # tasks, in the order in which they have changed
        self._refused: dict[str, str] = {}
        self._tell: Tell | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="vdag-limits", daemon=True)
        self._thread.start()

    def order(self, task: str, limit: ResourceLimit | None, tell: Tell) -> None:
        """Limit a task as the controller says.

        Args:
            task: its name.
            limit: of all the controller's plans together, None for not any more.
            tell: is told, by another thread, what became of it if that is news.
        """
        with self._changed:
            self._tell = tell
            self._put(task, CONTROLLER, limit, is_kept=limit is not None)

    def ordered(self) -> Mapping[str, ResourceLimit]:
        """Return what the controller has ordered so far, whether it could be done or not."""
        with self._changed:
            return {
                task: limit
                for task, claims in self._claims.items()
                if (limit := claims.get(CONTROLLER)) is not None
            }

    def claim(self, job_uid: str, limits: Mapping[str, ResourceLimit | None]) -> None:
        """Limit the tasks that a job has done here, in place of what it claimed before.

        Args:
            job_uid: its id.
            limits: task to its limit, None where its plan has none.
        """
        with self._changed:
            held = [task for task, claims in self._claims.items() if job_uid in claims]
            for task in held:
                if task not in limits:
                    self._put(task, job_uid, None, is_kept=False)
            for task, limit in limits.items():
                self._put(task, job_uid, limit, is_kept=True)

    def leave(self, job_uid: str) -> None:
        """Forget what a job has claimed."""
        self.claim(job_uid, MappingProxyType({}))

    def close(self) -> None:
        """End the thread; what binds stays, until the staff's limits are closed."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _put(self, task: str, holder: str, limit: ResourceLimit | None, *, is_kept: bool) -> None:
        """Note a claim or its end; under the lock."""
        claims = self._claims.setdefault(task, {})
        claims.pop(holder, None)
        if is_kept:
            claims[holder] = limit
        elif not claims:
            del self._claims[task]
        self._due[task] = None
        self._changed.notify_all()

    # From here on everything runs on the thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._is_closing)
                if self._is_closing:
                    return
                task = next(iter(self._due))
                del self._due[task]
                claims = self._claims.get(task, {})
                limit = ResourceLimit.largest(claims.values())
            try:
                self._bind(task, limit)
                self._note(task, "")
            except VdagError as err:
                self._note(task, str(err))
            except Exception as err:  # a fault of ours; the other tasks are still limited
                logger.exception("%s could not be limited", task)
                self._note(task, f"{type(err).__name__}: {err}")

    def _note(self, task: str, reason: str) -> None:
        """Say why a task cannot be limited, once as long as it does not change."""
        if reason == self._refused.get(task, ""):
            return
        if reason:
            self._refused[task] = reason
            logger.warning("plans limit %s, which cannot be done: %s", task, reason)
        else:
            del self._refused[task]
        with self._changed:
            tell = self._tell
        if tell is not None:
            tell(task, reason)
