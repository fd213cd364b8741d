"""What stands before every endpoint: who may come in, from which page, and with how much.

`Gate` is an ASGI middleware: it answers browsers' questions about origins, refuses callers without
the token, and says errors nobody else has caught. `BodyRoom` bounds the memory that bodies take.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vdag.control.replies import error_body
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
        headers = Headers(scope=scope)
        extra = self._origin(headers) if self._cors else []
        has_begun = False

        async def answer(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        if self._cors and _is_preflight(scope, headers):
            await _reply(answer, 200, b"", _preflight(headers))
        elif not self._may_enter(scope, headers):
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

    def _may_enter(self, scope: Scope, headers: Headers) -> bool:
        if not self._token or scope["path"] in self._open_paths:
            return True
        return hmac.compare_digest(headers.get("authorization", "").encode(), self._token)

    def _origin(self, headers: Headers) -> list[Header]:
        origin = headers.get("origin")
        if origin is None:
            return [(b"access-control-allow-origin", b"*")]
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"vary", b"Origin"),
        ]


class BodyRoom:
    """The memory for bodies of requests; for one event loop.

    Args:
        max_nbytes: of one body.
        total_nbytes: of all that are held at a time.
    """

    def __init__(self, *, max_nbytes: int, total_nbytes: int) -> None:
        self._max_nbytes, self._left_nbytes = max_nbytes, total_nbytes

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Receive a request's body; its room is given back at the end of the block.

        Raises:
            PayloadTooLarge: it is larger than any may be.
            Saturated: there is no room for it now.
            HTTPException: it did not come in time, or its length is no number.
        """
        taken_nbytes = 0

        def take(nbytes: int) -> None:
            nonlocal taken_nbytes
            if taken_nbytes + nbytes > self._max_nbytes:
                raise PayloadTooLarge(
                    f"body of {taken_nbytes + nbytes} bytes or more exceeds {self._max_nbytes}"
                )
            if nbytes > self._left_nbytes:
                raise Saturated("too many large requests are under way")
            self._left_nbytes -= nbytes
            taken_nbytes += nbytes

        try:
            announced = request.headers.get("content-length", "0")
            if not announced.isdecimal():
                raise HTTPException(400, "content-length is no number")
            take(int(announced))
            try:
                body = await asyncio.wait_for(_receive(request, taken_nbytes, take), BODY_TIMEOUT_S)
            except asyncio.TimeoutError as err:
                raise HTTPException(408, f"no whole body within {BODY_TIMEOUT_S:g} s") from err
            except ClientDisconnect as err:
                raise HTTPException(400, "the caller has left amid the body") from err
            yield body
        finally:
            self._left_nbytes += taken_nbytes


async def _receive(request: Request, room_nbytes: int, take: Callable[[int], None]) -> bytes:
    """Return the body; `take` is called for what comes beyond `room_nbytes`."""
    chunks: list[bytes] = []
    nbytes = 0
    async for chunk in request.stream():
        nbytes += len(chunk)
        if nbytes > room_nbytes:
            take(nbytes - room_nbytes)
            room_nbytes = nbytes
        if chunk:  # the last one never has anything, and would cost a copy of all others
            chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


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
