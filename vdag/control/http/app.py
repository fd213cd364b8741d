"""What the ASGI apps of a node have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI

from vdag._version import __version__
from vdag.control.http import openapi
from vdag.control.http.faults import add_handlers
from vdag.control.http.gate import Gate

__all__ = ["OPEN_PATHS", "new_app"]

#: Anybody may ask whether a node is well.
OPEN_PATHS = ("/healthz", "/readyz")


def new_app(
    title: str,
    *,
    token: str,
    cors: bool,
    open_paths: Iterable[str] = OPEN_PATHS,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    responses: dict[int | str, dict[str, Any]] | None = None,
) -> FastAPI:
    """Return an app without endpoints, which says errors as JSON and guards its doors.

    Args:
        title: for people.
        token: callers have to show it; empty for none.
        cors: whether pages of any origin may ask.
        open_paths: that anybody may ask for.
        lifespan: what is opened and closed with it.
        responses: documented of every endpoint.
    """
    app = FastAPI(
        title=title,
        version=__version__,
        lifespan=lifespan,
        responses=openapi.RESPONSES if responses is None else responses,
    )
    add_handlers(app)
    app.add_middleware(Gate, token=token, open_paths=open_paths, cors=cors)
    return app
