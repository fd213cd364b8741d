"""`wait_ended`: how whoever has started threads parts with them."""

from __future__ import annotations

import logging
import threading
import time

__all__ = ["wait_ended"]

logger = logging.getLogger(__name__)


def wait_ended(*threads: threading.Thread, timeout_s: float) -> bool:
    """Wait for threads that have been told to end; the log names those that do not.

    Args:
        *threads: one that was never started has ended.
        timeout_s: for all of them together.

    Returns:
        Whether all have ended; what they work with may be taken down only then.
    """
    deadline_s = time.monotonic() + timeout_s
    for thread in threads:
        if thread.is_alive():
            thread.join(max(deadline_s - time.monotonic(), 0.0))
    stuck = [thread.name for thread in threads if thread.is_alive()]
    if stuck:
        logger.error("not ended within %g s: %s", timeout_s, ", ".join(stuck))
    return not stuck
