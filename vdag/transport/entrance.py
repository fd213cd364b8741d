"""`Entrance`: the way into an exchange for threads that must not wait, its own among them."""

from __future__ import annotations

import threading
from typing import Any

import zmq

__all__ = ["Entrance"]

#: Messages that wait for the exchange; beyond, they are refused.
MAX_MESSAGES = 4096


class Entrance:
    """See above; any thread may send, also the exchange's own. Never waits.

    Args:
        address: of the exchange.
    """

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._lock = threading.Lock()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.sndhwm = MAX_MESSAGES
        self._socket.linger = 0
        self._socket.connect(address)

    def send(self, part: bytes) -> bool:
        """Send a message; False if so many wait already, or it is closed."""
        with self._lock:
            if self._socket.closed:
                return False
            try:
                self._socket.send(part, zmq.DONTWAIT)
            except zmq.Again:
                return False
            return True

    def close(self) -> None:
        """Send no more; may be called again."""
        with self._lock:
            self._socket.close()
            self._context.term()
