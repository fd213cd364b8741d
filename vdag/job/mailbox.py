"""How a job and its exchange reach each other: by two sockets, or by calls inside a process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import zmq

from vdag.errors import ConfigError, TransportError
from vdag.job.arrivals import Arrivals
from vdag.transport import inside, messages
from vdag.transport.address import Address
from vdag.transport.bell import Bell

__all__ = ["Hatch", "Mailbox", "home_address", "open_way"]

#: Messages that may wait in a socket, in each direction.
HIGH_WATER = 4096
#: Longest wait inside the poller, however long the caller wants to.
MAX_WAIT_S = 60.0
#: How long what was said last may take to leave this process.
LINGER_MS = 200


def home_address(exchange: str, job: str) -> str:
    """Return where a job's frames come home to: beside the exchange, in its private folder.

    Raises:
        ConfigError: the exchange is not on this host, or the path is too long for a socket.
    """
    address = Address.parse(exchange)
    if address.scheme != "ipc":
        raise ConfigError(f"exchange {exchange} is not of this node, expected ipc://")
    return str(Address.parse(f"ipc://{Path(address.place).parent}/job-{job}"))


def open_way(exchange: str, home: str, arrivals: Arrivals) -> Mailbox | Hatch:
    """Open the way between a job and its exchange, the short one if that is of this process.

    Args:
        exchange: its address.
        home: address for what comes home.
        arrivals: where a `Hatch` puts that; from a `Mailbox` it has to be received.

    Raises:
        TransportError: a socket cannot be had.
    """
    take = inside.find(exchange)
    return Mailbox(exchange, home) if take is None else Hatch(take, home, arrivals)


class Hatch:
    """The way to an exchange of this process; used like a `Mailbox`.

    Args:
        take: takes what is sent.
        home: address of what comes home.
        arrivals: where that is put, by whichever thread brings it.

    Raises:
        TransportError: a job of this process lives there.
    """

    def __init__(self, take: inside.Take, home: str, arrivals: Arrivals) -> None:
        self._take, self._home, self._arrivals = take, home, arrivals
        inside.register(home, arrivals.put)

    def send(self, part: bytes | memoryview) -> bool:
        """Send a message of one part; False if the exchange does not take it."""
        return self._take(bytes(part))

    def receive(self, timeout_s: float) -> list[list[bytes]]:
        """Wait until the keeper of the arrivals is needed; what comes home is there already."""
        self._arrivals.keeper.wait(min(max(timeout_s, 0.0), MAX_WAIT_S))
        return []

    def ring(self) -> None:
        """Wake `receive`."""
        self._arrivals.keeper.set()

    def close(self) -> None:
        """Take nothing more."""
        inside.forget(self._home)


class Mailbox:
    """The sockets of one job.

    One thread at a time sends, under a lock of the caller; one other thread receives.

    Args:
        exchange: address to send to; it need not be bound yet.
        home: ipc address to receive at.

    Raises:
        TransportError: a socket cannot be had.
    """

    def __init__(self, exchange: str, home: str) -> None:
        self._path = Path(Address.parse(home).place)
        self._context: zmq.Context[Any] = zmq.Context()
        self._bell = Bell()
        try:
            self._out = self._context.socket(zmq.PUSH)
            self._out.sndhwm = HIGH_WATER
            self._in = self._context.socket(zmq.PULL)
            self._in.rcvhwm = HIGH_WATER
            self._in.maxmsgsize = messages.MAX_NBYTES
            self._in.bind(home)
            self._out.connect(exchange)
        except zmq.ZMQError as err:
            self.close()
            raise TransportError(f"no way from {exchange} to {home}: {err}") from err
        self._poller = zmq.Poller()
        self._poller.register(self._in, zmq.POLLIN)
        self._poller.register(self._bell.fileno(), zmq.POLLIN)

    def send(self, part: bytes | memoryview) -> bool:
        """Send a message of one part; False if the exchange has not read so many before it."""
        try:
            self._out.send(part, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def receive(self, timeout_s: float) -> list[list[bytes]]:
        """Wait for messages and return all that are there, each with its parts.

        None at all when the time is up, at the latest after `MAX_WAIT_S`, or `ring` was called.
        """
        self._poller.poll(math.ceil(min(max(timeout_s, 0.0), MAX_WAIT_S) * 1e3))
        received: list[list[bytes]] = []
        # Bounded, or a flood of messages would keep the caller from looking at its clock.
        while len(received) < HIGH_WATER:
            try:
                received.append(self._in.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                break
        return received

    def ring(self) -> None:
        """Wake `receive`, now and whenever it is called from now on."""
        self._bell.ring()

    def close(self) -> None:
        """Close both sockets, once nobody sends or receives; the home's file goes."""
        self._context.destroy(linger=LINGER_MS)
        self._path.unlink(missing_ok=True)
        self._bell.close()
