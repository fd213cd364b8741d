"""Replies that are pictures: for browsers, and for clouds, which show them to their own viewers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from vdag.control.http.streaming import send_part, until_gone, waker
from vdag.control.viewing.pace import Pace, Wanted
from vdag.control.viewing.pieces import CONTENT_TYPE, Kind, Piece, write

__all__ = ["Audience", "PicturesForBrowsers", "PicturesForClouds", "View"]

BOUNDARY = "frame"
#: A view that has nothing to show for so long is gone.
SILENCE_S = 30.0
#: A cloud is told this often that there is nothing, so that it notices when a link is cut.
ALIVE_S = 2.0
#: Longest wait for the first picture of a job that has only begun.
FIRST_TIMEOUT_S = 5.0
#: For the end of a reply, when the server ends: the way to the viewer may have been cut.
END_TIMEOUT_S = 1.0


class View(Protocol):
    """What a job sees; see `jobs.live.LiveView` and, at a cloud, `feed.Feed`."""

    @property
    def is_over(self) -> bool:
        """Whether no picture will come any more."""

    def watch(self, wake: Callable[[], None], *, overlay: bool = False) -> Any:
        """Look on; `wake` is called by any thread. `take` of what is returned has the newest."""

    def leave(self, watcher: Any) -> None:
        """Look on no more."""


class Audience:
    """Those who look on at an app; of the event loop."""

    def __init__(self) -> None:
        self._replies: set[_Pictures] = set()

    def __len__(self) -> int:
        return len(self._replies)

    def add(self, reply: _Pictures) -> None:
        """Count a viewer."""
        self._replies.add(reply)

    def discard(self, reply: _Pictures) -> None:
        """Count him no more."""
        self._replies.discard(reply)

    def close(self) -> None:
        """End all their replies, as the server does."""
        for reply in self._replies:
            reply.end()


class _Pictures(Response):
    """The pictures of a view, one after another, in a body that ends with them.

    Args:
        audience: of the app.
        view: whose.
        overlay: what was found is to be drawn into them.
        missing: returns the reply if there is none.
    """

    content_type = ""

    def __init__(
        self,
        audience: Audience,
        view: View,
        *,
        overlay: bool,
        missing: Callable[[], Response],
    ) -> None:
        super().__init__()
        self._audience, self._view = audience, view
        self._overlay, self._missing = overlay, missing
        self._woken, self._ending = asyncio.Event(), asyncio.Event()
        self._has_started = False

    def end(self) -> None:
        """End before the pictures do."""
        self._ending.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send pictures until the viewer goes, or none will come any more."""
        watcher = self._view.watch(waker(self._woken), overlay=self._overlay)
        self._audience.add(self)
        try:
            sending = self._send(watcher, send)
            await until_gone(lambda: self._receive(receive), sending, "a viewer")
        finally:
            self._audience.discard(self)
            self._view.leave(watcher)
        if not self._has_started:
            await self._missing()(scope, receive, send)
            return
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            end = {"type": "http.response.body", "body": b"", "more_body": False}
            await asyncio.wait_for(send(end), END_TIMEOUT_S)

    async def _receive(self, receive: Receive) -> Message:
        """Return what the server says of the viewer; that he has gone, if the reply is to end."""
        said = asyncio.ensure_future(receive())
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((said, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            if not (is_said := said.done()):
                said.cancel()
        return said.result() if is_said else {"type": "http.disconnect"}

    async def _send(self, watcher: Any, send: Send) -> None:
        """Send what there is; begin no reply if there is nothing."""
        first = await self._next(watcher, FIRST_TIMEOUT_S)
        if first is None:
            return
        headers = [(b"content-type", self.content_type.encode()), (b"cache-control", b"no-store")]
        self._has_started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send_all(watcher, first, send)

    async def _send_all(self, watcher: Any, first: Piece, send: Send) -> None:
        raise NotImplementedError

    async def _next(self, watcher: Any, timeout_s: float) -> Piece | None:
        """Wait for a picture; None if none comes."""
        piece: Piece | None = watcher.take()
        while piece is None and not self._view.is_over:
            self._woken.clear()
            if (piece := watcher.take()) is None:
                try:
                    await asyncio.wait_for(self._woken.wait(), timeout_s)
                except asyncio.TimeoutError:
                    return None
                piece = watcher.take()
        return piece


class PicturesForBrowsers(_Pictures):
    """A JPEG for each frame, as fast as the viewer takes them."""

    content_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"

    async def _send_all(self, watcher: Any, first: Piece, send: Send) -> None:
        piece: Piece | None = first
        while piece is not None:
            part = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n%b\r\n\r\n" % piece.data
            await send_part(send, part)
            piece = await self._next(watcher, SILENCE_S)


class PicturesForClouds(_Pictures):
    """Pieces, of JPEG or H.264 as the way to the cloud allows.

    Args:
        audience: of the app.
        view: a `LiveView`.
        overlay: what was found is to be drawn into them.
        missing: returns the reply if there is none.
        wanted: what the cloud asks for.
    """

    content_type = CONTENT_TYPE

    def __init__(
        self,
        audience: Audience,
        view: View,
        *,
        overlay: bool,
        missing: Callable[[], Response],
        wanted: Wanted,
    ) -> None:
        super().__init__(audience, view, overlay=overlay, missing=missing)
        self._wanted = wanted

    async def _send_all(self, watcher: Any, first: Piece, send: Send) -> None:
        pace, coding = Pace(self._wanted, time.monotonic_ns()), None
        piece: Piece | None = first
        while piece is not None or not self._view.is_over:
            piece = piece or Piece(Kind.NOTHING)
            begin_ns = time.monotonic_ns()
            await send_part(send, write(piece))
            now_ns = time.monotonic_ns()
            if piece.kind is not Kind.NOTHING:
                nbytes, offered = len(piece.data), watcher.offered
                pace.sent(now_ns, now_ns - begin_ns, nbytes=nbytes, offered=offered)
            if pace.coding != coding:
                coding = pace.coding
                watcher.code_as(coding)
            piece = await self._next(watcher, ALIVE_S)
