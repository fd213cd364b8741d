"""What stands before every endpoint: who may come in, from which page, and with how much.

`Gate` is an ASGI middleware: it answers browsers' questions about origins, refuses callers without
the token, and says errors nobody else has caught. `BodyRoom` bounds the memory that bodies take.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import sys
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vdag.control.http.faults import error_body
from vdag.errors import PayloadTooLarge, Saturated

__all__ = ["BodyRoom", "Gate"]

logger = logging.getLogger(__name__)

#: For the whole of a body: a caller that sends one byte a minute must not hold memory for ever.
BODY_TIMEOUT_S = 30.0
METHODS = b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
PREFLIGHT_MAX_AGE_S = b"600"

Header = tuple[bytes, bytes]


class Gate:
    """See above.

    Args:
        app: what is behind.
        token: callers have to show it; empty for none.
        open_paths: that anybody may ask for.
        cors: whether pages of any origin may ask.
    """

    def __init__(
        self, app: ASGIApp, *, token: str = "", open_paths: Iterable[str] = (), cors: bool = True
    ) -> None:
        self._app, self._cors = app, cors
        self._token = f"Bearer {token}".encode() if token else b""
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it in."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin, token, is_preflight = _look_at(scope)
        extra = self._allow(origin) if self._cors else []
        has_begun = False

        async def answer(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        if self._cors and is_preflight:
            await _reply(answer, 200, b"", _preflight(Headers(scope=scope)))
        elif not self._may_enter(scope["path"], token):
            await _reply(
                answer,
                401,
                error_body("this service wants a token: Authorization: Bearer <token>"),
                [(b"www-authenticate", b"Bearer")],
            )
        else:
            try:
                await self._app(scope, receive, answer)
            except Exception as err:
                logger.exception("%s %s failed", scope["method"], scope["path"])
                if has_begun:
                    raise
                await _reply(answer, 500, error_body(f"internal error: {type(err).__name__}"))

    def _may_enter(self, path: str, token: bytes) -> bool:
        if not self._token or path in self._open_paths:
            return True
        return hmac.compare_digest(token, self._token)

    def _allow(self, origin: bytes | None) -> list[Header]:
        if origin is None:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]


class BodyRoom:
    """The memory for bodies of requests; for one event loop.

    Args:
        max_nbytes: of one body.
        total_nbytes: of all that are held at a time.
    """

    def __init__(self, *, max_nbytes: int, total_nbytes: int) -> None:
        self._max_nbytes, self._left_nbytes = max_nbytes, total_nbytes

    def body(self, request: Request) -> _Holding:
        """Do as `hold` for a request."""
        return self.hold(request.headers.get("content-length", "0"), request.receive)

    def hold(self, length: str, receive: Receive) -> _Holding:
        """Receive a body at the begin of an `async with` block, and give its room back at the end.

        Args:
            length: what the request announces, "0" if nothing.
            receive: of the request, as ASGI has it.

        Raises:
            PayloadTooLarge: it is larger than any may be.
            Saturated: there is no room for it now.
            HTTPException: it did not come in time, or its length is no number.
        """
        return _Holding(self, length, receive)

    def take(self, nbytes: int, taken_nbytes: int) -> None:
        """Take room for a body that has so much already."""
        if taken_nbytes + nbytes > self._max_nbytes:
            raise PayloadTooLarge(
                f"body of {taken_nbytes + nbytes} bytes or more exceeds {self._max_nbytes}"
            )
        if nbytes > self._left_nbytes:
            raise Saturated(
                f"{nbytes} bytes of a body exceed the {self._left_nbytes} that others leave"
            )
        self._left_nbytes -= nbytes

    def give_back(self, nbytes: int) -> None:
        """Give room back."""
        self._left_nbytes += nbytes


class _Holding:
    """A body and the room it takes, for the time of an `async with` block."""

    __slots__ = ("_announced", "_nbytes", "_receive", "_room")

    def __init__(self, room: BodyRoom, announced: str, receive: Receive) -> None:
        self._room, self._announced, self._receive = room, announced, receive
        self._nbytes = 0

    async def __aenter__(self) -> bytes:
        try:
            if not self._announced.isdecimal():
                raise HTTPException(400, "content-length is no number")
            self._take(int(self._announced))
            with _Alarm(BODY_TIMEOUT_S):
                return await self._receive_all()
        except asyncio.TimeoutError as err:
            self._give_back()
            raise HTTPException(408, f"no whole body within {BODY_TIMEOUT_S:g} s") from err
        except BaseException:
            self._give_back()
            raise

    async def __aexit__(self, *exc: object) -> None:
        self._give_back()

    async def _receive_all(self) -> bytes:
        chunks: list[bytes] = []
        nbytes = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise HTTPException(400, "the caller has left amid the body")
            chunk: bytes = message.get("body", b"")
            nbytes += len(chunk)
            if nbytes > self._nbytes:
                self._take(nbytes - self._nbytes)
            if chunk:  # the last one never has anything, and would cost a copy of all others
                chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _take(self, nbytes: int) -> None:
        self._room.take(nbytes, self._nbytes)
        self._nbytes += nbytes

    def _give_back(self) -> None:
        self._room.give_back(self._nbytes)
        self._nbytes = 0


class _Alarm:
    """Raises `asyncio.TimeoutError` in a block that takes too long.

    `asyncio.wait_for` would make a task of it, which costs more than most bodies.
    """

    __slots__ = ("_has_rung", "_task", "_timeout_s", "_timer")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s, self._has_rung = timeout_s, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._ring)

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._timer.cancel()
        if self._has_rung and kind is asyncio.CancelledError:
            if sys.version_info >= (3, 11):
                self._task.uncancel()
            raise asyncio.TimeoutError

    def _ring(self) -> None:
        self._has_rung = True
        self._task.cancel()


def _look_at(scope: Scope) -> tuple[bytes | None, bytes, bool]:
    """Return the origin and the token of a request, and whether it only asks for leave."""
    origin, token, asks = None, b"", False
    for name, value in scope["headers"]:
        if name == b"origin":
            origin = value
        elif name == b"authorization":
            token = value
        elif name == b"access-control-request-method":
            asks = True
    return origin, token, asks and scope["method"] == "OPTIONS"


def _preflight(headers: Headers) -> list[Header]:
    wanted = headers.get("access-control-request-headers", "")
    return [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-max-age", PREFLIGHT_MAX_AGE_S),
        *([(b"access-control-allow-headers", wanted.encode("latin-1"))] if wanted else []),
    ]


async def _reply(send: Send, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
    length = str(len(body)).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", length),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
