"""`Inbox`: what other threads want of a thread that must not wait, and how they hear of it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from vdag.errors import ChannelClosed, Saturated, VdagError
from vdag.transport.bell import Bell

__all__ = ["Inbox"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
#: What is done on the thread; it is told the time, in ns.
Work = Callable[[int], Any]


class Inbox:
    """See above. Any thread puts work in, one does it; closed by `close`.

    Args:
        owner: whose it is, for the texts of errors.
        limit: of what waits; follow-ups of what is under way are not counted.

    Attributes:
        bell: rings when there is work; for the thread to poll.
        faults: work that failed in a way nobody thought of; see the log.
    """

    def __init__(self, owner: str, limit: int) -> None:
        self.bell = Bell()
        self.faults = 0
        self._owner, self._limit = owner, limit
        self._lock = threading.Lock()
        self._work: deque[tuple[Work, Future[Any] | None]] = deque()
        self._open: set[Future[Any]] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._work)

    def tell(self, work: Work) -> None:
        """Have something done soon; nobody hears what came of it.

        Raises:
            Saturated: too much waits.
            ChannelClosed: the thread has ended.
        """
        self._put(work, None, is_refusable=True)

    def call(
        self, work: Callable[[int], _T | Future[_T]], then: Callable[[_T, int], Any] | None = None
    ) -> Future[_T]:
        """Have something done, and hear what came of it.

        Args:
            work: what; if it returns a future, that has to be resolved first, by any thread.
            then: is called with the result, on the thread again, before the caller hears of it.

        Returns:
            A future that cannot be cancelled. It fails with what `work` or `then` raise, if that is
            a `VdagError`; with `Saturated` if too much waits, `ChannelClosed` if the thread ends.
        """
        found: Future[_T] = Future()
        found.set_running_or_notify_cancel()

        def end(result: _T, now_ns: int) -> None:
            if then is not None:
                then(result, now_ns)
            self._resolve(found, result)

        def begin(now_ns: int) -> None:
            outcome = work(now_ns)
            if not isinstance(outcome, Future):
                end(outcome, now_ns)
                return
            outcome.add_done_callback(
                lambda done: self._put(lambda later_ns: end(done.result(), later_ns), found)
            )

        with self._lock:
            self._open.add(found)
        try:
            self._put(begin, found, is_refusable=True)
        except VdagError as err:
            self._refuse(found, err)
        return found

    def run(self, now_ns: int) -> None:
        """Do what has been put in by now; nothing of it raises."""
        for _ in range(len(self._work)):
            work, found = self._work.popleft()
            try:
                work(now_ns)
            except VdagError as err:
                if found is None:
                    logger.warning("%s: %s", self._owner, err)
                self._refuse(found, err)
            except Exception:  # whoever has put it in is to blame, and hears of it
                self.faults += 1
                logger.exception("%s: work has failed", self._owner)
                self._refuse(found, VdagError(f"{self._owner} has failed at this"))

    def close(self) -> None:
        """Do nothing more; who waits for something hears so. May be called again."""
        with self._lock:
            self._is_closed = True
            waiting = list(self._open)
        for found in waiting:
            self._refuse(found, ChannelClosed(f"{self._owner} is closed"))
        self._work.clear()
        self.bell.close()

    def _put(self, work: Work, found: Future[Any] | None, *, is_refusable: bool = False) -> None:
        with self._lock:
            if self._is_closed:
                if is_refusable:
                    raise ChannelClosed(f"{self._owner} is closed")
                return
            if is_refusable and len(self._work) >= self._limit:
                raise Saturated(f"{len(self._work)} requests wait for {self._owner}")
            self._work.append((work, found))
        self.bell.ring()

    def _resolve(self, found: Future[_T], result: _T) -> None:
        with self._lock:
            is_open = found in self._open
            self._open.discard(found)
        if is_open:
            found.set_result(result)

    def _refuse(self, found: Future[Any] | None, err: VdagError) -> None:
        if found is None:
            return
        with self._lock:
            is_open = found in self._open
            self._open.discard(found)
        if is_open:
            found.set_exception(err)
