"""The side channels: what jobs see, as pictures for browsers; :5101 on nodes, :5100 on the cloud.

A node answers with `multipart/x-mixed-replace`, which browsers show in an `<img>`: a JPEG for each
frame, as fast as the viewer takes them. The cloud passes on what the query's node answers, byte by
byte: a viewer who takes less holds up nobody but his own connection to the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol
from urllib.parse import quote

import h11
import msgspec
from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from vdag.control.http import openapi
from vdag.control.http.app import new_app
from vdag.control.http.gate import BodyRoom
from vdag.control.http.streaming import send_part, until_gone
from vdag.errors import ConfigError, Saturated

__all__ = ["View", "Views", "create_cloud_app", "create_node_app"]

logger = logging.getLogger(__name__)

JSON = "application/json"
BOUNDARY = "frame"
#: A view, or a node, that has nothing to show for so long is gone.
SILENCE_S = 30.0
CONNECT_TIMEOUT_S = 3.0
#: Longest wait for the first picture of a job that has only begun.
FIRST_TIMEOUT_S = 5.0
CHUNK_NBYTES = 1 << 16
MAX_RELAYS = 256
#: Addresses that clients have told; the oldest are forgotten.
MAX_ADDRESSES = 10_000
MAX_BODY_NBYTES = 1 << 14


class Picture(Protocol):
    """Somebody's place at a view; see `live.Watcher`."""

    def take(self) -> bytes | None:
        """Return the newest picture as JPEG, None if there is none since the last call."""


class View(Protocol):
    """What a job sees; see `live.LiveView`."""

    @property
    def is_over(self) -> bool:
        """Whether no picture will come any more."""

    def watch(self, wake: Callable[[], None], *, overlay: bool = False) -> Any:
        """Look on; `wake` is called by any thread."""

    def leave(self, watcher: Any) -> None:
        """Look on no more."""


#: Returns what a job sees, None for nothing.
Views = Callable[[str], View | None]


class UpdateAddress(msgspec.Struct, frozen=True):
    """`/user/update_node_addr`: whose side channel has the pictures of a job."""

    job_uid: str
    node_addr: str


def create_node_app(views: Views, *, token: str = "", cors: bool = True) -> FastAPI:
    """Return the app of :5101.

    Args:
        views: finds the view of a job.
        token: callers have to show it; empty for none.
        cors: answer browsers of any origin.
    """
    app = new_app("vdag live view", token=token, cors=cors)

    async def video(request: Request, job_uid: str) -> Response:
        """Send what a job sees, until the viewer goes; `overlay=1` draws what was found into it."""
        view = views(job_uid)
        if view is None:
            return _reply({"msg": "video not ready", "status": 1})
        overlay = request.query_params.get("overlay", "0") not in ("", "0", "false")
        return _Pictures(view, overlay=overlay)

    _add_video(app, video)
    return app


def create_cloud_app(
    node_of: Callable[[str], str], *, live_port: int, token: str = "", cors: bool = True
) -> FastAPI:
    """Return the app of :5100.

    Args:
        node_of: returns the `node_addr` of a query, empty for one that is not known.
        live_port: of the nodes' side channels.
        token: callers have to show it; it is shown to the nodes in turn.
        cors: answer browsers of any origin.
    """
    app = new_app("vdag live view", token=token, cors=cors)
    addresses: OrderedDict[str, str] = OrderedDict()
    room = BodyRoom(max_nbytes=MAX_BODY_NBYTES, total_nbytes=MAX_BODY_NBYTES * 64)
    relays: set[_Relay] = set()

    async def video(request: Request, job_uid: str) -> Response:
        """Pass on what a job's node shows; parameters too."""
        address = addresses.get(job_uid) or _live_address(node_of(job_uid), live_port)
        if not address:
            return _not_ready()
        if len(relays) >= MAX_RELAYS:
            raise Saturated(f"{MAX_RELAYS} viewers look on already")
        target = f"/user/video/{quote(job_uid, safe='')}"
        if request.url.query:
            target += f"?{request.url.query}"
        return _Relay(relays, address, target, request.headers.get("authorization", ""))

    async def update_node_addr(request: Request) -> Response:
        """Note whose side channel has the pictures of a job."""
        async with room.body(request) as body:
            try:
                told = msgspec.json.decode(body, type=UpdateAddress)
            except (msgspec.DecodeError, UnicodeDecodeError) as err:
                raise ConfigError(f"body is malformed: {err}") from err
        _split(told.node_addr)
        addresses[told.job_uid] = told.node_addr
        addresses.move_to_end(told.job_uid)
        if len(addresses) > MAX_ADDRESSES:
            addresses.popitem(last=False)
        msg = f"update <job_uid, addr> (<{told.job_uid}, {told.node_addr}>) to cloud"
        return _reply({"msg": msg, "status": 0})

    _add_video(app, video)
    app.add_api_route(
        "/user/update_node_addr",
        update_node_addr,
        methods=["POST"],
        summary="Say whose side channel has the pictures of a job",
        responses=openapi.responses(400, 408, 413),
    )
    return app


class _Pictures(Response):
    """The pictures of a view, each as a part of one endless body."""

    def __init__(self, view: View, *, overlay: bool) -> None:
        super().__init__()
        self._view, self._overlay = view, overlay
        self._woken = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send pictures until the viewer goes, or none will come any more."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._woken.set)

        watcher = self._view.watch(wake, overlay=self._overlay)
        try:
            first = await self._next(watcher, FIRST_TIMEOUT_S)
            if first is None:
                await _reply({"msg": "video not ready", "status": 1})(scope, receive, send)
                return
            await until_gone(receive, self._send_all(watcher, first, send), "a viewer")
        finally:
            self._view.leave(watcher)

    async def _send_all(self, watcher: Picture, first: bytes, send: Send) -> None:
        content_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}".encode()
        headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        picture: bytes | None = first
        while picture is not None:
            part = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n%b\r\n\r\n" % picture
            await send_part(send, part)
            picture = await self._next(watcher, SILENCE_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, watcher: Picture, timeout_s: float) -> bytes | None:
        """Wait for a picture; None if none comes."""
        picture = watcher.take()
        while picture is None and not self._view.is_over:
            self._woken.clear()
            if (picture := watcher.take()) is None:
                try:
                    await asyncio.wait_for(self._woken.wait(), timeout_s)
                except asyncio.TimeoutError:
                    return None
                picture = watcher.take()
        return picture


class _Relay(Response):
    """What another side channel answers, as it comes."""

    def __init__(self, relays: set[_Relay], address: str, target: str, authorization: str) -> None:
        super().__init__()
        self._relays, self._address, self._target = relays, address, target
        self._authorization = authorization

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on until either side goes."""
        self._relays.add(self)
        writer: asyncio.StreamWriter | None = None
        try:
            host, port = _split(self._address)
            opening = asyncio.open_connection(host, port)
            reader, opened = await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)
            writer = opened
            connection = h11.Connection(h11.CLIENT)
            opened.write(self._request(connection))
            events = _events(connection, reader)
            head = await anext(events)
            assert isinstance(head, h11.Response), "it comes first"
        except (OSError, asyncio.TimeoutError, h11.RemoteProtocolError, ConfigError) as err:
            logger.info("side channel %s: %s", self._address, err)
            await _not_ready()(scope, receive, send)
        else:
            await until_gone(receive, _pass_on(head, events, send), "a viewer")
        finally:
            self._relays.discard(self)
            if writer is not None:
                writer.close()

    def _request(self, connection: h11.Connection) -> bytes:
        headers = [("host", self._address), ("accept", "*/*")]
        if self._authorization:
            headers.append(("authorization", self._authorization))
        request = h11.Request(method="GET", target=self._target, headers=headers)
        events = (request, h11.EndOfMessage())
        return b"".join(connection.send(event) or b"" for event in events)


async def _events(
    connection: h11.Connection, reader: asyncio.StreamReader
) -> AsyncIterator[h11.Event]:
    """Yield what comes, from the head of the reply to its end."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await asyncio.wait_for(reader.read(CHUNK_NBYTES), SILENCE_S)
            connection.receive_data(data)
        elif isinstance(event, (h11.Response, h11.Data)):
            yield event
        elif not isinstance(event, h11.InformationalResponse):
            return


async def _pass_on(head: h11.Response, events: AsyncIterator[h11.Event], send: Send) -> None:
    kept = (b"content-type", b"cache-control")
    headers = [(name, value) for name, value in head.headers if name in kept]
    await send({"type": "http.response.start", "status": head.status_code, "headers": headers})
    try:
        async for event in events:
            assert isinstance(event, h11.Data), "the head is through"
            await send_part(send, bytes(event.data))
    except (OSError, asyncio.TimeoutError, h11.RemoteProtocolError) as err:
        logger.info("a side channel has ended: %s", err)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _add_video(app: FastAPI, endpoint: Callable[..., Any]) -> None:
    app.add_api_route(
        "/user/video/{job_uid}",
        endpoint,
        methods=["GET"],
        summary="What a job sees, as pictures for an <img>",
        responses={200: {"content": {"multipart/x-mixed-replace": {}, JSON: {}}}},
        response_class=Response,
    )


def _live_address(node_addr: str, live_port: int) -> str:
    host = node_addr.rpartition(":")[0]
    return f"{host}:{live_port}" if host else ""


def _split(address: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises:
        ConfigError: it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"node_addr is {address[:80]!r}, expected HOST:PORT")
    return host.strip("[]"), int(port)


def _not_ready() -> Response:
    return _reply({"msg": "video not ready on cloud", "status": 1})


def _reply(document: Any) -> Response:
    return Response(msgspec.json.encode(document), media_type=JSON)
