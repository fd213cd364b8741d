"""`Bell`: wakes a thread that waits in a poll for sockets."""

from __future__ import annotations

import os
import threading

__all__ = ["Bell"]


class Bell:
    """An eventfd that any thread rings and one thread polls, by `fileno`."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # the number of a closed descriptor may be somebody else's

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._fd

    def ring(self) -> None:
        """Wake the thread, now or when it next polls; harmless when closed."""
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def hush(self) -> None:
        """Take back all rings up to now."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close the descriptor; nobody may be polling it any more. May be called again."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
