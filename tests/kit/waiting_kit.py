"""How a test waits for what others do: it looks again and again, up to a dead-line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["until"]

T = TypeVar("T")


def until(found: Callable[[], T | None], timeout_s: float = 30.0, *, pause_s: float = 0.005) -> T:
    """Look until there is something, and return it."""
    deadline_s, pause = time.monotonic() + timeout_s, threading.Event()
    while not (result := found()):
        assert time.monotonic() < deadline_s, "it has not come about"
        pause.wait(pause_s)
    return result
