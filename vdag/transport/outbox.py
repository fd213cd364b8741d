"""The sockets an exchange sends on: one per address, bounded, never waited for."""

from __future__ import annotations

from typing import Any

import zmq

from vdag.errors import TransportError

__all__ = ["Outbox"]

#: Most descriptors and notices that wait for a job that does not read; beyond, frames are dropped.
HOME_MESSAGES = 1024
#: A dead address is tried this often, and ever less, up to the second number.
RECONNECT_MS = 100
RECONNECT_MAX_MS = 5000


class Outbox:
    """PUSH sockets by address; one thread at a time.

    Args:
        context: the caller's; it is ended after the outbox is closed.
    """

    def __init__(self, context: zmq.Context[Any]) -> None:
        self._context = context
        self._sockets: dict[str, zmq.Socket[Any]] = {}

    def __contains__(self, address: object) -> bool:
        return address in self._sockets

    def open(self, address: str, messages: int = HOME_MESSAGES) -> None:
        """Connect to an address, which need not be bound yet; harmless when it is open.

        Args:
            address: an ipc address.
            messages: most messages that wait for it.

        Raises:
            TransportError: the address is none, or there are too many sockets.
        """
        if address in self._sockets:
            return
        try:
            socket = self._context.socket(zmq.PUSH)
        except zmq.ZMQError as err:
            raise TransportError(f"no socket for {address}: {err}") from err
        # Unlike `channel.open_push`, it holds messages before it is connected: who has just said
        # where to reach it shall get what follows at once.
        try:
            socket.linger = 0
            socket.sndhwm = messages
            socket.reconnect_ivl = RECONNECT_MS
            socket.reconnect_ivl_max = RECONNECT_MAX_MS
            socket.connect(address)
        except zmq.ZMQError as err:
            socket.close()
            raise TransportError(f"cannot connect to {address}: {err}") from err
        self._sockets[address] = socket

    def send(self, address: str, part: bytes) -> bool:
        """Send a message, or say that it cannot be sent now: nobody reads there, or not enough."""
        socket = self._sockets.get(address)
        if socket is None:
            return False
        try:
            socket.send(part, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def shut(self, address: str, linger_ms: int = 0) -> None:
        """Close the socket of an address; what it has not sent within `linger_ms` is lost."""
        socket = self._sockets.pop(address, None)
        if socket is not None:
            socket.close(linger=linger_ms)

    def close(self, linger_ms: int = 0) -> None:
        """Close all sockets."""
        for address in tuple(self._sockets):
            self.shut(address, linger_ms)
