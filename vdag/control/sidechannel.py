"""The side channels: what jobs see, as pictures for browsers; :5101 on nodes, :5100 on the cloud.

Both answer with `multipart/x-mixed-replace`, which browsers show in an `<img>`: a JPEG for each
frame, as fast as the viewer takes them. The cloud asks the query's node once for all who look on,
in a form that also fits thin links, see `viewing`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast, get_args
from urllib.parse import quote

import msgspec
from fastapi import FastAPI, Request, Response

from vdag.control.http import openapi
from vdag.control.http.app import new_app
from vdag.control.http.gate import BodyRoom
from vdag.control.http.replies import JSON, reply
from vdag.control.viewing.feed import Feeds, split
from vdag.control.viewing.pace import Wanted
from vdag.control.viewing.pictures import (
    Audience,
    PicturesForBrowsers,
    PicturesForClouds,
    View,
)
from vdag.control.viewing.pieces import CONTENT_TYPE
from vdag.errors import ConfigError, Saturated

__all__ = ["Views", "create_cloud_app", "create_node_app"]

MAX_VIEWERS = 256
#: Addresses that clients have told; the oldest are forgotten.
MAX_ADDRESSES = 10_000
MAX_BODY_NBYTES = 1 << 14

#: Returns what a job sees, None for nothing.
Views = Callable[[str], View | None]


class UpdateAddress(msgspec.Struct, frozen=True):
    """`/user/update_node_addr`: whose side channel has the pictures of a job."""

    job_uid: str
    node_addr: str


def create_node_app(views: Views, *, token: str = "", cors: bool = True) -> FastAPI:
    """Return the app of :5101; `state.audience.close()` ends its replies.

    Args:
        views: finds the view of a job.
        token: callers have to show it; empty for none.
        cors: answer browsers of any origin.
    """
    app = new_app("vdag live view", token=token, cors=cors)
    app.state.audience = audience = Audience()

    async def video(request: Request, job_uid: str) -> Response:
        """Send what a job sees, until the viewer goes.

        `overlay=1` draws what was found into it. `codec`, one of auto, mjpeg and h264, is for
        clouds: the pictures come as pieces then, see `viewing.pieces`.
        """
        codec = request.query_params.get("codec", "")
        if codec and codec not in get_args(Wanted):
            raise ConfigError(f"codec is {codec[:80]!r}, expected auto, mjpeg or h264")
        view = views(job_uid)
        if view is None:
            return _not_ready()
        overlay = _is_overlaid(request)
        if not codec:
            return PicturesForBrowsers(audience, view, overlay=overlay, missing=_not_ready)
        wanted = cast("Wanted", codec)
        return PicturesForClouds(audience, view, overlay=overlay, missing=_not_ready, wanted=wanted)

    _add_video(app, video)
    return app


def create_cloud_app(
    node_of: Callable[[str], str],
    *,
    live_port: int,
    codec: Wanted = "auto",
    token: str = "",
    cors: bool = True,
) -> FastAPI:
    """Return the app of :5100; `state.audience.close()` ends its replies.

    Args:
        node_of: returns the `node_addr` of a query, empty for one that is not known.
        live_port: of the nodes' side channels.
        codec: how nodes are asked for pictures.
        token: callers have to show it; it is shown to the nodes in turn.
        cors: answer browsers of any origin.
    """
    app = new_app("vdag live view", token=token, cors=cors)
    addresses: OrderedDict[str, str] = OrderedDict()
    room = BodyRoom(max_nbytes=MAX_BODY_NBYTES, total_nbytes=MAX_BODY_NBYTES * 64)
    app.state.audience = audience = Audience()
    feeds = Feeds(codec)

    async def video(request: Request, job_uid: str) -> Response:
        """Send what a job sees, until the viewer goes; `overlay=1` draws what was found into it."""
        address = addresses.get(job_uid) or _live_address(node_of(job_uid), live_port)
        if not address:
            return _not_ready_on_cloud()
        if len(audience) >= MAX_VIEWERS:
            raise Saturated(f"{MAX_VIEWERS} viewers look on already")
        path = f"/user/video/{quote(job_uid, safe='')}"
        overlay, shown = _is_overlaid(request), request.headers.get("authorization", "")
        feed = feeds.of(address, path, overlay=overlay, authorization=shown)
        return PicturesForBrowsers(audience, feed, overlay=overlay, missing=_not_ready_on_cloud)

    async def update_node_addr(request: Request) -> Response:
        """Note whose side channel has the pictures of a job."""
        async with room.body(request) as body:
            try:
                told = msgspec.json.decode(body, type=UpdateAddress)
            except (msgspec.DecodeError, UnicodeDecodeError) as err:
                raise ConfigError(f"body is malformed: {err}") from err
        split(told.node_addr)
        addresses[told.job_uid] = told.node_addr
        addresses.move_to_end(told.job_uid)
        if len(addresses) > MAX_ADDRESSES:
            addresses.popitem(last=False)
        msg = f"update <job_uid, addr> (<{told.job_uid}, {told.node_addr}>) to cloud"
        return reply({"msg": msg, "status": 0})

    _add_video(app, video)
    app.add_api_route(
        "/user/update_node_addr",
        update_node_addr,
        methods=["POST"],
        summary="Say whose side channel has the pictures of a job",
        responses=openapi.responses(400, 408, 413),
    )
    return app


def _add_video(app: FastAPI, endpoint: Callable[..., Any]) -> None:
    app.add_api_route(
        "/user/video/{job_uid}",
        endpoint,
        methods=["GET"],
        summary="What a job sees, as pictures for an <img>",
        responses={200: {"content": {"multipart/x-mixed-replace": {}, CONTENT_TYPE: {}, JSON: {}}}},
        response_class=Response,
    )


def _live_address(node_addr: str, live_port: int) -> str:
    host = node_addr.rpartition(":")[0]
    return f"{host}:{live_port}" if host else ""


def _is_overlaid(request: Request) -> bool:
    return request.query_params.get("overlay", "0") not in ("", "0", "false")


def _not_ready() -> Response:
    return reply({"msg": "video not ready", "status": 1})


def _not_ready_on_cloud() -> Response:
    return reply({"msg": "video not ready on cloud", "status": 1})
