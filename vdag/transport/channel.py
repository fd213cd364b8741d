"""Bounded PUSH and PULL sockets: a PULL binds and a PUSH connects, to an `address`.

Nothing here waits: sockets hold a few messages, and a full one says so. A tcp connection whose
other side falls silent is noticed and made anew, without end; what was inside it is lost, and it is
`edge` that notices and counts it.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from vdag.errors import ConfigError, TransportError
from vdag.transport.address import Address

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from vdag.frame import Lease

__all__ = [
    "MAX_DEPTH",
    "MAX_MESSAGE_NBYTES",
    "Curve",
    "Outgoing",
    "bound_address",
    "open_pull",
    "open_push",
    "private_folder",
    "try_send",
    "try_send_leased",
]

#: Largest part that a tcp socket takes in; the connection that announces a longer one is closed.
MAX_MESSAGE_NBYTES = 64 << 20
#: Messages that a socket may hold: frames that wait belong into a queue with a policy.
MAX_DEPTH = 65536

ZAP_DOMAIN = b"vdag"

#: A peer is asked for a sign of life this often, and lost when none comes.
HEARTBEAT_MS = 1_000
SILENCE_MS = 3_000
RECONNECT_MS, MAX_RECONNECT_MS = 100, 500
CONNECT_TIMEOUT_MS = 2_000
HANDSHAKE_TIMEOUT_MS = 5_000


@dataclass(frozen=True, slots=True)
class Curve:
    """The keys of one end of an encrypted tcp connection, each 40 characters of Z85.

    Attributes:
        public: of this node.
        secret: of this node.
        server: public key of the node that is connected to; None for the end that binds, which
            asks the `keys.Gate` of its context about every peer.
    """

    public: str
    secret: str = field(repr=False)
    server: str | None = None


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
    target = _check(address, depth, curve)
    if curve is not None and curve.server is None:
        raise ConfigError(f"connecting to {address} needs the public key of that node")
    if target.scheme == "tcp" and target.port == 0:
        raise ConfigError(f"address {address!r} has no port to connect to")
    socket = _socket(context, zmq.PUSH, target, curve)
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
    return _attach(socket, address, bind=False)


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
    target = _check(address, depth, curve)
    if target.scheme == "ipc":
        private_folder(Path(target.place).parent)
    socket = _socket(context, zmq.PULL, target, curve)
    socket.setsockopt(zmq.RCVHWM, depth)
    if target.scheme == "tcp":
        socket.setsockopt(zmq.MAXMSGSIZE, max_message_nbytes)
    return _attach(socket, address, bind=True)


def bound_address(socket: zmq.Socket[bytes]) -> str:
    """Return the address that a PULL is bound to, with the port it was given."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, or check that it is one.

    Raises:
        ConfigError: it belongs to somebody else, others may enter, or it is no folder.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f"folder {folder} cannot be made: {_reason(err)}") from err
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{folder} is not a folder")
    if found.st_uid != os.geteuid():
        raise ConfigError(f"folder {folder} belongs to user {found.st_uid}, not {os.geteuid()}")
    if found.st_mode & 0o077:
        raise ConfigError(f"folder {folder} has mode {stat.S_IMODE(found.st_mode):04o}, not 0700")
    return folder


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
        raise TransportError(f"message cannot be sent: {_reason(err)}") from err
    return _DONE if tracker is None else tracker


def _check(address: str, depth: int, curve: Curve | None) -> Address:
    target = Address.parse(address)
    if not 1 <= depth <= MAX_DEPTH:
        raise ConfigError(f"depth of {depth} is not between 1 and {MAX_DEPTH}")
    if curve is not None and target.scheme != "tcp":
        raise ConfigError(f"address {address!r} takes no keys: they are for tcp")
    if curve is None and not target.is_loopback:
        raise ConfigError(
            f"address {address!r} is beyond loopback and there are no keys: "
            "make some with `vdag keys new`, or use 127.0.0.1"
        )
    return target


def _socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, target: Address, curve: Curve | None
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    if target.scheme != "tcp":
        return socket
    for option, value in (
        (zmq.IPV6, int(":" in target.place)),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS),
        (zmq.RECONNECT_IVL, RECONNECT_MS),
        (zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS),
        (zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, 5),
        (zmq.TCP_KEEPALIVE_INTVL, 1),
        (zmq.TCP_KEEPALIVE_CNT, 3),
    ):
        socket.setsockopt(option, value)
    if curve is not None:
        _lock(socket, curve)
    return socket


def _lock(socket: zmq.Socket[bytes], curve: Curve) -> None:
    socket.setsockopt_string(zmq.CURVE_PUBLICKEY, curve.public)
    socket.setsockopt_string(zmq.CURVE_SECRETKEY, curve.secret)
    if curve.server is not None:
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, curve.server)
        return
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a gate, nobody gets in


def _attach(socket: zmq.Socket[bytes], address: str, *, bind: bool) -> zmq.Socket[bytes]:
    try:
        if bind:
            socket.bind(address)
        else:
            socket.connect(address)
    except zmq.ZMQError as err:
        socket.close()
        verb = "bound" if bind else "connected to"
        raise TransportError(f"{address} cannot be {verb}: {_reason(err)}") from err
    except BaseException:
        socket.close()
        raise
    return socket


def _reason(err: OSError | zmq.ZMQError) -> str:
    return zmq.strerror(err.errno or 0).lower()
