"""`Caller`: one kept connection to an HTTP server, on which nothing waits without an end.

Programs of the first system keep one connection per job, answer JSON whatever happened or a page of
HTML when they have raised, and may be gone at any moment. A request has one dead-line for all of
it, so that a server which sends a byte a second holds nobody up, and a reply has a limit.

A kept connection may have been closed by the other side while nothing was said; only a request
shows. So a request that fails on a connection that was used before is made once more on a new one.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from vdag.errors import ChannelClosed, ConfigError, FrameFormatError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Caller", "Reply", "check_place"]

#: Of a host in the same building; one that drops packets is not waited for any longer.
CONNECT_TIMEOUT_S = 2.0
JSON = "application/json"
#: TCP_QUICKACK of tcp(7).
QUICKACK = 12
#: A name, an IPv4 address or an IPv6 address in brackets, then the port: nothing that could end
#: the line it is written into.
_PLACE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server has answered.

    Attributes:
        status: of HTTP.
        body: all of it.
    """

    status: int
    body: bytes

    @property
    def is_good(self) -> bool:
        """Whether the server says that it did what it was asked to."""
        return self.status == 200

    def object(self) -> dict[str, Any]:
        """Return the JSON object in the body.

        Raises:
            FrameFormatError: there is none.
        """
        try:
            found: dict[str, Any] = _OBJECTS.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
            raise FrameFormatError(f"reply is no JSON object: {err}") from err
        return found

    def __str__(self) -> str:
        return f"{self.status} {self.body[:200].decode('utf-8', 'replace')!r}"


class Caller:
    """See above; for one thread, but for `abort`. Closed by `close`.

    Args:
        place: `host:port` of the server.
        timeout_s: for a request with its reply.
        max_nbytes: of a reply's body.

    Raises:
        ConfigError: `place` is none.
    """

    def __init__(self, place: str, *, timeout_s: float = 5.0, max_nbytes: int = 1 << 20) -> None:
        self.place = place
        host, port = check_place(place)
        self._connection = _Connection(host, port)
        self._timeout_s, self._max_nbytes = timeout_s, max_nbytes
        self._is_used = False

    def get(self, path: str) -> Reply:
        """Ask for a path; see `post` for errors."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: bytes, *, timeout_s: float | None = None) -> Reply:
        """Post JSON.

        Args:
            path: of the server, beginning with a slash.
            body: the JSON.
            timeout_s: for this request; None for the usual.

        Raises:
            ChannelClosed: the server does not answer, or not in time; `abort` was called.
            FrameFormatError: it answers something that is not HTTP, or more than the limit.
        """
        return self._ask("POST", path, body, timeout_s)

    def abort(self) -> None:
        """Have the request that is under way fail, and any other; by any thread."""
        self._connection.abort()

    def close(self) -> None:
        """End the connection; the next request makes a new one."""
        self._is_used = False
        self._connection.close()

    def _ask(
        self, method: str, path: str, body: bytes | None, timeout_s: float | None = None
    ) -> Reply:
        deadline_s = time.monotonic() + (timeout_s or self._timeout_s)
        while True:
            was_used = self._is_used
            try:
                return self._try(method, path, body, deadline_s)
            except (OSError, http.client.HTTPException) as err:
                self.close()
                is_late = isinstance(err, TimeoutError) or time.monotonic() >= deadline_s
                if was_used and not is_late and not self._connection.is_aborted:
                    continue  # it had been closed; now it is not a used one any more
                raise _failure(self.place, path, err) from err
            except FrameFormatError:
                self.close()
                raise

    def _try(self, method: str, path: str, body: bytes | None, deadline_s: float) -> Reply:
        connection = self._connection
        connection.deadline_s = deadline_s
        headers: Mapping[str, str] = {} if body is None else {"content-type": JSON}
        connection.request(method, path, body, headers)
        self._is_used = True
        with connection.getresponse() as response:
            found = response.read(self._max_nbytes + 1)
            if len(found) > self._max_nbytes:
                raise FrameFormatError(f"reply of {path} exceeds {self._max_nbytes} bytes")
            if response.length:  # `http.client` takes a reply that ends early for a short one
                raise http.client.IncompleteRead(found, response.length)
            if response.will_close:
                self.close()
            return Reply(response.status, found)


class _Connection(http.client.HTTPConnection):
    """A connection whose every wait ends at a dead-line."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.deadline_s = 0.0
        self.is_aborted = False
        # What `http.client` reads replies from is made of the socket, by this.
        self.response_class = self._response  # type: ignore[assignment]

    def connect(self) -> None:
        """Connect, and have what is sent leave at once."""
        left_s = min(self._left_s(), CONNECT_TIMEOUT_S)
        self.sock = socket.create_connection((self.host, self.port), left_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.is_aborted:  # perhaps just before there was a socket to shut down
            raise ConnectionAbortedError("the caller is closed")

    def send(self, data: Any) -> None:
        """Send all of it in time."""
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self._left_s())
        self.sock.sendall(data)

    def abort(self) -> None:
        """Wake who waits for this connection, which is of no use any more."""
        self.is_aborted = True
        if (found := self.sock) is not None:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)

    def _response(self, sock: socket.socket, *args: Any, **more: Any) -> http.client.HTTPResponse:
        line: Any = _Line(sock, self)
        return http.client.HTTPResponse(line, *args, **more)

    def _left_s(self) -> float:
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s

    def prepare(self, sock: socket.socket) -> None:
        """Have the next read from a socket end at the dead-line."""
        sock.settimeout(self._left_s())
        # Servers of this kind send head and body apart, and the body only when the head has been
        # acknowledged, which the kernel puts off for 40 ms unless it is told not to, each time.
        sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)


class _Line(io.RawIOBase):
    """The reading side of a socket, as a file that keeps to the dead-line."""

    def __init__(self, sock: socket.socket, connection: _Connection) -> None:
        self._sock, self._connection = sock, connection
        # `http.client` closes the socket when it is the last reply; this keeps it until it is read.
        self._raw = sock.makefile("rb", buffering=0)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a buffer around it: what `http.client` wants of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int | None:
        self._connection.prepare(self._sock)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def check_place(place: str) -> tuple[str, int]:
    """Return the host and the port in `host:port`; the host without the brackets of IPv6.

    Raises:
        ConfigError: it is not that.
    """
    found = _PLACE.fullmatch(place)
    if found is None or not 0 < int(found[2]) < 65536:
        raise ConfigError(f"{place[:300]!r} is not HOST:PORT")
    return found[1].strip("[]"), int(found[2])


def _failure(place: str, path: str, err: Exception) -> ChannelClosed | FrameFormatError:
    if isinstance(err, TimeoutError):
        return ChannelClosed(f"{place} does not answer {path} in time")
    if isinstance(err, OSError):
        # RemoteDisconnected is one, too, with a text of its own.
        return ChannelClosed(f"{place} does not answer {path}: {err.strerror or err}")
    if isinstance(err, http.client.IncompleteRead):
        return ChannelClosed(f"{place} ends amid its reply to {path}")
    return FrameFormatError(f"{place} answers {path} with what is not HTTP: {type(err).__name__}")


_OBJECTS: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
