"""What all sockets between processes and nodes have: checked addresses, keys, and no long silence.

`channel` makes the PUSH and the PULL of frames of them, `rpc` the REQ and the ROUTER of questions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import zmq

from vdag.errors import ConfigError, TransportError
from vdag.transport.address import Address

__all__ = [
    "HEARTBEAT_MS",
    "MAX_DEPTH",
    "SILENCE_MS",
    "ZAP_DOMAIN",
    "Curve",
    "attach",
    "check_to_bind",
    "check_to_connect",
    "new_socket",
    "reason",
]

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


def check_to_bind(address: str, depth: int, curve: Curve | None) -> Address:
    """Return what an address means, if a socket may be there.

    Args:
        address: where; its port may be 0.
        depth: messages that the socket is to hold.
        curve: its keys, None for none.

    Raises:
        ConfigError: the address or the depth has no meaning, there are keys for what takes none, or
            none for what is beyond loopback.
    """
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


def check_to_connect(address: str, depth: int, curve: Curve | None) -> Address:
    """Return what the address of another socket means, if there is a way to it.

    Raises:
        ConfigError: as of `check_to_bind`, the address has no port, or the keys lack the other's.
    """
    target = check_to_bind(address, depth, curve)
    if curve is not None and curve.server is None:
        raise ConfigError(f"connecting to {address} needs the public key of that node")
    if target.scheme == "tcp" and target.port == 0:
        raise ConfigError(f"address {address!r} has no port to connect to")
    return target


def new_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, target: Address, curve: Curve | None
) -> zmq.Socket[bytes]:
    """Return a socket that is not attached yet; the caller closes it, from the thread that uses it.

    It does not linger, and over tcp it notices a lost connection and makes a new one, without end.
    """
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


def attach(socket: zmq.Socket[bytes], address: str, *, bind: bool) -> zmq.Socket[bytes]:
    """Bind or connect a socket, and return it.

    Raises:
        TransportError: the address cannot be had; the socket is closed then.
    """
    try:
        if bind:
            socket.bind(address)
        else:
            socket.connect(address)
    except zmq.ZMQError as err:
        socket.close()
        verb = "bound" if bind else "connected to"
        raise TransportError(f"{address} cannot be {verb}: {reason(err)}") from err
    except BaseException:
        socket.close()
        raise
    return socket


def reason(err: zmq.ZMQError) -> str:
    """Return why ZeroMQ refused, in lower case; its own text repeats the address."""
    return zmq.strerror(err.errno or 0).lower()


def _lock(socket: zmq.Socket[bytes], curve: Curve) -> None:
    socket.setsockopt_string(zmq.CURVE_PUBLICKEY, curve.public)
    socket.setsockopt_string(zmq.CURVE_SECRETKEY, curve.secret)
    if curve.server is not None:
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, curve.server)
        return
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a gate, nobody gets in
