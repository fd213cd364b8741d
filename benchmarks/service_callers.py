"""Callers of a service over HTTP/1.1, whose connections stay open if the service lets them.

One thread plays all of them, with requests that are made up beforehand and a parser in C, so that
what is measured on a machine of few cores is the service and not its callers. Each caller sends
its next request when it has the whole reply to its last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

TIMEOUT_S = 60.0
#: Services hang up on who has said nothing for seconds; this is to take notice of it.
SETTLE_S = 0.002
JSON, JPEG = "application/json", "image/jpeg"


@dataclass(frozen=True)
class Load:
    """What callers have seen.

    Attributes:
        latencies_s: of each request, from its first byte to the last of its reply.
        seconds: that all of them took.
        last: the body of one reply.
    """

    latencies_s: list[float]
    seconds: float
    last: bytes

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies_s) / self.seconds


def post(path: str, body: bytes, kind: str) -> bytes:
    """Return a request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Callers:
    """So many callers of one service; a context manager.

    Args:
        port: of the service, on this machine.
        count: of callers.
    """

    def __init__(self, port: int, count: int = 1) -> None:
        self._loop = uvloop.new_event_loop()
        self._callers = [_Caller(self._loop, port) for _ in range(count)]

    def call(self, request: bytes) -> bytes:
        """Have one caller ask once; return the body of the reply."""
        return self.drive([request], count=1, callers=1).last

    def drive(self, requests: Sequence[bytes], *, count: int, callers: int = 0) -> Load:
        """Ask `count` times in all, each caller as soon as it can; the requests take turns."""
        chosen = self._callers[:callers] if callers else self._callers
        return self._loop.run_until_complete(_drive(chosen, requests, count))

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *exc: object) -> None:
        for caller in self._callers:
            caller.hang_up()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


async def _drive(callers: Sequence[_Caller], requests: Sequence[bytes], count: int) -> Load:
    await asyncio.sleep(SETTLE_S)
    run = _Run(requests, count)
    start_s = time.perf_counter()
    for caller in callers:
        caller.go_on(run)
    await asyncio.wait_for(run.done, TIMEOUT_S)
    return Load(run.latencies_s, time.perf_counter() - start_s, run.last)


class _Run:
    """Requests that are still to be sent, and replies that are still to come."""

    def __init__(self, requests: Sequence[bytes], count: int) -> None:
        self._requests, self._count = requests, count
        self._sent = 0
        self.latencies_s: list[float] = []
        self.last = b""
        self.done = asyncio.get_running_loop().create_future()

    def next(self) -> bytes | None:
        """Return the next request, None if all are sent."""
        if self._sent == self._count:
            return None
        self._sent += 1
        return self._requests[self._sent % len(self._requests)]

    def note(self, latency_s: float, status: int, body: bytes) -> None:
        """Take a reply."""
        self.latencies_s.append(latency_s)
        if status != 200:
            self.fail(AssertionError(f"status {status}: {body!r}"))
        elif len(self.latencies_s) == self._count and not self.done.done():
            self.last = body
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """End it."""
        if not self.done.done():
            self.done.set_exception(error)


class _Caller:
    """One caller, on a connection that it opens when it has none, as Flask closes each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self._loop, self._port = loop, port
        self._connection: _Connection | None = None

    def go_on(self, run: _Run) -> None:
        """Ask, as long as there are requests."""
        request = run.next()
        if request is None:
            return
        since_s = time.perf_counter()
        if self._connection is not None and self._connection.is_open:
            self._connection.ask(self, run, request, since_s)
        else:
            self.connect(run, request, since_s)

    def connect(self, run: _Run, request: bytes, since_s: float) -> None:
        """Open a connection, and ask."""
        self._task = self._loop.create_task(self._connect(run, request, since_s))

    def hang_up(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    async def _connect(self, run: _Run, request: bytes, since_s: float) -> None:
        try:
            _, self._connection = await self._loop.create_connection(
                lambda: _Connection(self._loop), "127.0.0.1", self._port
            )
        except OSError as err:
            run.fail(err)
        else:
            self._connection.ask(self, run, request, since_s)


class _Connection(asyncio.Protocol):
    """The connection of a caller."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._run: _Run | None = None
        self.is_open = False
        self._replies = 0

    def ask(self, caller: _Caller, run: _Run, request: bytes, since_s: float) -> None:
        """Send a request."""
        self._caller, self._run, self._since_s, self._request = caller, run, since_s, request
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._transport.write(request)

    def close(self) -> None:
        """Close it."""
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        run, self._run = self._run, None
        if run is not None and self._replies:
            # As any client does: the service has hung up on a caller that was idle, just then.
            self._caller.connect(run, self._request, self._since_s)
        elif run is not None:
            run.fail(exc or ConnectionError("hung up instead of a reply"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        run, self._run = self._run, None
        assert run is not None
        self._replies += 1
        if not self._parser.should_keep_alive():
            self.close()
        latency_s = time.perf_counter() - self._since_s
        run.note(latency_s, self._parser.get_status_code(), b"".join(self._body))
        # The parser is in its own callback: it is exchanged once it has returned.
        self._loop.call_soon(self._caller.go_on, run)
