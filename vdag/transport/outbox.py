"""The ways an exchange sends: a socket per address, bounded, never waited for.

A job of the same process is called instead, see `inside`.
"""

from __future__ import annotations

from typing import Any

import zmq

from vdag.errors import TransportError
from vdag.transport import inside

__all__ = ["Outbox"]

#: Most descriptors and notices that wait for a job that does not read; beyond, frames are dropped.
HOME_MESSAGES = 1024
#: A dead address is tried this often, and ever less, up to the second number.
RECONNECT_MS = 100
RECONNECT_MAX_MS = 5000


class Outbox:
    """PUSH sockets, and calls into this process, by address; one thread at a time.

    Args:
        context: the caller's; it is ended after the outbox is closed.
    """

    def __init__(self, context: zmq.Context[Any]) -> None:
        self._context = context
        self._sockets: dict[str, zmq.Socket[Any]] = {}
        self._calls: dict[str, inside.Take] = {}

    def __contains__(self, address: object) -> bool:
        return address in self._sockets or address in self._calls

    def open(self, address: str, messages: int = HOME_MESSAGES) -> None:
        """Connect to an address, which need not be bound yet; harmless when it is open.

        Args:
            address: an ipc address.
            messages: most messages that wait for it.

        Raises:
            TransportError: the address is none, or there are too many sockets.
        """
        if address in self:
            return
        if (take := inside.find(address)) is not None:
            self._calls[address] = take
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
        if (take := self._calls.get(address)) is not None:
            return take(part)
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
        self._calls.pop(address, None)
        socket = self._sockets.pop(address, None)
        if socket is not None:
            socket.close(linger=linger_ms)

    def close(self, linger_ms: int = 0) -> None:
        """Close all ways."""
        for address in (*self._sockets, *self._calls):
            self.shut(address, linger_ms)
