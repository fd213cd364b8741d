"""The servers that answer where a node listens, all in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vdag.config import is_loopback
from vdag.control.http.listening import new_server

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

__all__ = ["Door", "Servers", "address_of"]

#: Replies that are being written when the node stops may take so long.
GRACE_S = 10
BACKLOG = 2048
#: Clients that ask every few seconds, and there are such that every 5, find their connection open.
KEEP_ALIVE_S = 75
#: How often it is looked whether all servers have started.
START_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class Door:
    """An app, and where it listens.

    Attributes:
        app: that answers.
        socket: bound; closed by whoever bound it.
        close: called in the event loop when the server is to end, before it waits for replies.
    """

    app: ASGIApp
    socket: socket.socket
    close: Callable[[], None] = field(default=lambda: None)


class Servers:
    """The servers of a node.

    Args:
        doors: of the node.
    """

    def __init__(self, doors: Sequence[Door]) -> None:
        self._doors = tuple(doors)
        self._servers = [_server(door) for door in self._doors]
        self._all_started = threading.Event()

    @property
    def have_started(self) -> bool:
        """Whether all of them answer."""
        return all(server.started for server in self._servers)

    async def serve(self) -> None:
        """Answer until `stop` is called or, in the main thread, a signal comes."""
        started = asyncio.ensure_future(self._note_start())
        tasks = [
            asyncio.ensure_future(server.serve(sockets=[door.socket]))
            for server, door in zip(self._servers, self._doors, strict=True)
        ]
        ending = asyncio.ensure_future(self._end_together())
        try:
            await asyncio.gather(*tasks)
        finally:
            self.stop()
            for task in (started, ending):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def wait_started(self, timeout_s: float) -> bool:
        """Wait until all of them answer; return whether they do within `timeout_s`."""
        return self._all_started.wait(timeout_s)

    def stop(self) -> None:
        """End `serve`, from any thread."""
        for server in self._servers:
            server.should_exit = True

    async def _note_start(self) -> None:
        while not self.have_started:
            await asyncio.sleep(START_INTERVAL_S)
        self._all_started.set()

    async def _end_together(self) -> None:
        """End the others when one has been told to: signals reach only one of them."""
        while not any(server.should_exit for server in self._servers):
            await asyncio.sleep(START_INTERVAL_S)
        for door in self._doors:
            door.close()
        self.stop()


def _server(door: Door) -> uvicorn.Server:
    return new_server(
        door.app,
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


def address_of(host: str) -> str:
    """Return under which address others reach a service that listens on `host`."""
    if is_loopback(host):
        return "127.0.0.1" if host == "localhost" else host
    if host not in ("0.0.0.0", "::"):
        return host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Nothing is sent: connecting a datagram socket asks the routing table for our own address.
    beyond = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((beyond, 9))
            address: str = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    return address
