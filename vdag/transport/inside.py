"""Addresses inside this process: who speaks to them calls a function instead of using a socket.

An exchange and the jobs of its own process are each other's busiest correspondents. Over a socket a
message passes two of ZeroMQ's threads, which costs more than what is done about it; here it is
handed over by a call. Addresses are those of the sockets, so that routes mean the same either way.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from vdag.errors import TransportError

__all__ = ["Take", "find", "forget", "register"]

#: Takes a message of one part, or says that it cannot: never waits for anybody and never raises.
Take = Callable[[bytes], bool]

_lock = threading.Lock()
_takers: dict[str, Take] = {}
# A forked child has no thread of its parent's that would look at a message.
os.register_at_fork(after_in_child=_takers.clear)


def register(address: str, take: Take) -> None:
    """Have `take` called, by any thread, with what is sent to `address` from this process.

    Raises:
        TransportError: somebody has the address already.
    """
    with _lock:
        if address in _takers:
            raise TransportError(f"address {address} is taken in this process")
        _takers[address] = take


def forget(address: str) -> None:
    """Give an address up; harmless when it is nobody's. Calls under way may still come in."""
    with _lock:
        _takers.pop(address, None)


def find(address: str) -> Take | None:
    """Return what takes messages for an address; None if nobody in this process does."""
    return _takers.get(address)
