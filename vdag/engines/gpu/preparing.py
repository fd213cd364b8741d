"""`Preparer`: a thread beside an engine, for what no batch shall wait for."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

__all__ = ["CLOSE_TIMEOUT_S", "MAX_WAITING", "Preparer", "settle"]

_log = logging.getLogger(__name__)

#: Pieces of work that may wait.
MAX_WAITING = 64
#: A piece of work is waited for that long at the end; on a busy machine it takes some seconds.
CLOSE_TIMEOUT_S = 60.0

_preparers: weakref.WeakSet[Preparer] = weakref.WeakSet()
_lock = threading.Lock()


@atexit.register
def _end() -> None:
    """Let no thread be within a library when the process ends, whoever has closed no engine."""
    with _lock:
        preparers = list(_preparers)
    for each in preparers:
        each.close()


class Preparer:
    """Does pieces of work one after the other, in a thread that is there while there are any.

    Args:
        name: of the engine, for the thread and the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._is_open = True
        with _lock:
            _preparers.add(self)

    def ask(self, work: Callable[[], None]) -> bool:
        """Have it done some time.

        Args:
            work: what it raises is logged.

        Returns:
            Whether it will be: not if too much waits already, or after `close`.
        """
        with self._changed:
            if not self._is_open or len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(work)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"prepare {self._name}", daemon=True
                )
                self._thread.start()
        return True

    def settle(self, timeout_s: float) -> bool:
        """Wait until there is nothing to do; say whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout=timeout_s)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Drop what waits, and wait for what is at work; say whether that ended in time."""
        with self._changed:
            self._is_open = False
            self._waiting.clear()
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        if thread.is_alive():
            _log.warning("%s: what is prepared did not end within %g s", self._name, timeout_s)
        return not thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                work = self._waiting.popleft()
            try:
                work()
            except Exception:
                _log.exception("%s: not prepared", self._name)
            del work  # and what it holds


def settle(timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
    """Wait until no engine of this process prepares anything, before something is measured.

    Returns:
        Whether that came in time.
    """
    deadline_s = time.monotonic() + timeout_s
    with _lock:
        preparers = list(_preparers)
    return all(each.settle(max(deadline_s - time.monotonic(), 0.0)) for each in preparers)
