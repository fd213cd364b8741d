"""Bounded PUSH and PULL sockets: a PULL binds and a PUSH connects, to an `address`.

Nothing here waits: sockets hold a few messages, and a full one says so. A tcp connection whose
other side falls silent is noticed and made anew, without end; what was inside it is lost, and it is
`edge` that notices and counts it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from vdag.errors import TransportError
from vdag.transport.folder import private_folder
from vdag.transport.sockets import (
    HEARTBEAT_MS,
    SILENCE_MS,
    Curve,
    attach,
    check_to_bind,
    check_to_connect,
    new_socket,
    reason,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from vdag.frame import Lease

__all__ = [
    "MAX_MESSAGE_NBYTES",
    "Outgoing",
    "bound_address",
    "open_pull",
    "open_push",
    "try_send",
    "try_send_leased",
]

#: Largest part that a tcp socket takes in; the connection that announces a longer one is closed.
MAX_MESSAGE_NBYTES = 64 << 20


def open_push(
    address: str,
    *,
    context: zmq.Context[zmq.Socket[bytes]],
    depth: int,
    curve: Curve | None = None,
    sndbuf_nbytes: int | None = None,
) -> zmq.Socket[bytes]:
    """Connect a PUSH; the caller closes it, from the thread that uses it.

    It holds nothing while there is no connection: `try_send` then says False.

    Args:
        address: of a PULL, which need not exist yet.
        context: to make the socket in.
        depth: most messages that it holds.
        curve: keys for tcp, with those of the other end.
        sndbuf_nbytes: what the kernel holds of them, None to let it choose.

    Raises:
        ConfigError: the address or an option has no meaning, or tcp leaves the host without keys.
    """
    target = check_to_connect(address, depth, curve)
    socket = new_socket(context, zmq.PUSH, target, curve)
    socket.setsockopt(zmq.SNDHWM, depth)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    if sndbuf_nbytes is not None:
        socket.setsockopt(zmq.SNDBUF, sndbuf_nbytes)
    if target.scheme == "tcp":
        # Only this end asks for signs of life: the answers come in between frames. The other end
        # would have to wait for the end of a frame, for seconds on a thin link. But it does not
        # write, so that keep-alives, which TCP answers itself, tell it the same.
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
        # A link cut in the middle of a frame lets no question out either.
        socket.setsockopt(zmq.TCP_MAXRT, SILENCE_MS)
    return attach(socket, address, bind=False)


def open_pull(
    address: str,
    *,
    context: zmq.Context[zmq.Socket[bytes]],
    depth: int,
    curve: Curve | None = None,
    max_message_nbytes: int = MAX_MESSAGE_NBYTES,
) -> zmq.Socket[bytes]:
    """Bind a PULL; the caller closes it, from the thread that uses it.

    The folder of an ipc address is made, for the user alone, if it does not exist.

    Args:
        address: where; `bound_address` tells the port when it is 0.
        context: to make the socket in.
        depth: most messages that it holds of each peer.
        curve: keys for tcp. A `keys.Gate` has to run in the context, otherwise nobody gets in.
        max_message_nbytes: longest part that tcp takes in: no memory is taken for a longer one.

    Raises:
        ConfigError: the address or an option has no meaning, or tcp is not on loopback and there
            are no keys.
        TransportError: the address cannot be bound.
    """
    target = check_to_bind(address, depth, curve)
    if target.scheme == "ipc":
        private_folder(Path(target.place).parent)
    socket = new_socket(context, zmq.PULL, target, curve)
    socket.setsockopt(zmq.RCVHWM, depth)
    if target.scheme == "tcp":
        socket.setsockopt(zmq.MAXMSGSIZE, max_message_nbytes)
    return attach(socket, address, bind=True)


def bound_address(socket: zmq.Socket[bytes]) -> str:
    """Return the address that a PULL is bound to, with the port it was given."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()


def try_send(socket: zmq.Socket[bytes], parts: Sequence[Buffer]) -> bool:
    """Send one message if the socket takes it now; its parts are copied.

    Returns:
        False if the socket is full or not connected; nothing is sent then.

    Raises:
        TransportError: the socket is closed, or broken in another way.
    """
    return _send(socket, parts, track=False) is not None


def try_send_leased(
    socket: zmq.Socket[bytes], parts: Sequence[Buffer], lease: Lease | None, outgoing: Outgoing
) -> bool:
    """Send one message whose last part is read by ZeroMQ's own thread, without a copy.

    Args:
        socket: a PUSH.
        parts: the last one must not change until `outgoing` has released the lease; the others are
            copied. pyzmq tracks the last part of a message only.
        lease: on the memory of the last part. It stays the caller's when False is returned.
        outgoing: keeps the lease.

    Returns:
        False if the socket is full or not connected, or `outgoing` is full; nothing is sent then.
    """
    if outgoing.is_full:
        return False
    tracker = _send(socket, parts, track=True)
    if tracker is None:
        return False
    outgoing.add(tracker, lease)
    return True


class Outgoing:
    """Leases on memory that ZeroMQ may still be reading; for one thread.

    Args:
        limit: most leases kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[tuple[zmq.MessageTracker, Lease | None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no more leases are taken."""
        return len(self._waiting) >= self._limit

    def add(self, tracker: zmq.MessageTracker, lease: Lease | None) -> None:
        """Keep a lease until the tracker is done, which it may be already."""
        if tracker.done:
            if lease is not None:
                lease.release()
        else:
            self._waiting.append((tracker, lease))

    def settle(self) -> None:
        """Release the leases whose memory is not needed any more."""
        for _ in range(len(self._waiting)):
            self.add(*self._waiting.popleft())

    def close(self, timeout_s: float) -> int:
        """Wait for all of them, after the socket was closed.

        Returns:
            How many ZeroMQ still holds after the time-out. They are not released, ever: memory that
            somebody reads must not be written.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._waiting and (left_s := deadline_s - time.monotonic()) > 0:
            try:
                self._waiting[0][0].wait(left_s)
            except zmq.NotDone:
                break
            self.settle()
        return len(self._waiting)


#: What sending a small message yields, which pyzmq copies whatever it is told.
_DONE = zmq.MessageTracker()


def _send(
    socket: zmq.Socket[bytes], parts: Sequence[Buffer], *, track: bool
) -> zmq.MessageTracker | None:
    try:
        for part in parts[:-1]:
            socket.send(part, zmq.SNDMORE | zmq.NOBLOCK)
        tracker = socket.send(parts[-1], zmq.NOBLOCK, copy=not track, track=track)
    except zmq.Again:
        return None
    except zmq.ZMQError as err:
        raise TransportError(f"message cannot be sent: {reason(err)}") from err
    return _DONE if tracker is None else tracker
