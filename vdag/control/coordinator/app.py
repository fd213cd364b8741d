"""The coordinator's REST side: sessions, and what they can be made of.

- `POST /session`: create one;
- `GET /session`, `GET /session/{id}`: all there are, how one stands;
- `POST /session/{id}/start`, `POST /session/{id}/stop`, `DELETE /session/{id}`;
- `GET /session/{id}/placement`: where its handlers are, what that comes to, and why;
- `GET /node`, `GET /service`, `GET /algorithm`: what the files say, and who has joined.

What changes a session is answered when that is done, or has been waited for.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from msgspec import Meta
from starlette.exceptions import HTTPException

from vdag.control.coordination.documents import ALGORITHM_NAMES
from vdag.control.coordination.values import Node, Service
from vdag.control.coordinator.office import Office
from vdag.control.coordinator.sessions import Sessions
from vdag.control.coordinator.steps import Wish
from vdag.control.coordinator.values import SessionRequest, SessionView, written
from vdag.control.http import openapi
from vdag.control.http.app import new_app
from vdag.control.http.faults import error_body
from vdag.control.http.gate import BodyRoom
from vdag.control.queries.schemas import read_body
from vdag.errors import InvalidTransition, NotFound, Saturated

__all__ = ["Parts", "create_app"]

JSON = "application/json"
#: For the coordinator's thread to take note of something.
DESK_TIMEOUT_S = 10.0
#: A caller waits so long for what he wants of a session, unless he says.
WAIT_S, MAX_WAIT_S = 10.0, 120.0
MAX_ID = (1 << 31) - 1

_T = TypeVar("_T")
_Id = Annotated[int, Meta(ge=0, le=MAX_ID)]
_Word = Annotated[str, Meta(max_length=255)]


class NewSession(msgspec.Struct, frozen=True):
    """Body of `POST /session`.

    Attributes:
        service: its number or its name.
        name: for people.
        algorithm: in place of the service's.
        placement: handlers to the nodes that they have to be on.
        start: run it as soon as its nodes are ready.
    """

    service: _Id | _Word
    name: _Word = ""
    algorithm: _Word = ""
    placement: dict[_Id, _Id] = {}
    start: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """What the app works with; all are the caller's, who closes them after it.

    Attributes:
        sessions: the coordinator's.
        office: of it; only what never changes, and `roster`, is looked at.
        token: callers have to show it; empty for none.
        room: for bodies.
    """

    sessions: Sessions
    office: Office
    token: str = ""
    room: BodyRoom = field(
        default_factory=lambda: BodyRoom(max_nbytes=1 << 20, total_nbytes=16 << 20)
    )


def create_app(parts: Parts) -> FastAPI:
    """Return the app."""
    app = new_app("vdag coordinator", token=parts.token, cors=False)
    app.add_exception_handler(InvalidTransition, _on_conflict)
    at = _Endpoints(parts)
    wait = {"parameters": [_wait_parameter()]}
    body = {"parameters": [_wait_parameter()], "requestBody": _body()}
    for method, path, endpoint, summary, extra in (
        ("POST", "/session", at.create, "Create a session", body),
        ("GET", "/session", at.list_sessions, "Sessions there are", {}),
        ("GET", "/session/{session_id}", at.show, "How a session stands", {}),
        ("POST", "/session/{session_id}/start", at.start, "Start a session", wait),
        ("POST", "/session/{session_id}/stop", at.stop, "Stop a session", wait),
        ("DELETE", "/session/{session_id}", at.delete, "Stop and forget a session", wait),
        ("GET", "/session/{session_id}/placement", at.placement, "Where it is, and why", {}),
        ("GET", "/node", at.list_nodes, "Nodes of the files", {}),
        ("GET", "/service", at.list_services, "Services of the files", {}),
        ("GET", "/algorithm", at.list_algorithms, "Algorithms that place", {}),
        ("GET", "/healthz", at.health, "Whether it works", {}),
        ("GET", "/readyz", at.health, "Whether it works", {}),
    ):
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            summary=summary,
            responses=openapi.responses(400, 404, 409, 422, 503),
            openapi_extra=extra,
            response_class=JSONResponse,
        )
    return app


class _Endpoints:
    """See `create_app`."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._sessions, self._office = parts, parts.sessions, parts.office

    async def create(self, request: Request) -> Response:
        """Create a session; wait until its nodes are ready or, with `start`, it runs."""
        _read_wait(request)  # before anything is done
        async with self._parts.room.body(request) as content:
            order = read_body(content, NewSession)
        wanted = SessionRequest(
            self._service(order.service).service_id,
            order.name,
            order.algorithm,
            order.placement,
            order.start,
        )
        session_id = await self._done(self._sessions.create(wanted))
        return await self._settled(request, session_id, self._sessions.settled(session_id))

    async def list_sessions(self) -> Response:
        """Return all sessions that are not deleted, oldest first."""
        return _reply({"sessions": [view.to_document() for view in self._sessions.all()]})

    async def show(self, session_id: int) -> Response:
        """Return how a session stands."""
        return _reply(self._view(session_id).to_document())

    async def start(self, request: Request, session_id: int) -> Response:
        """Start a session."""
        return await self._wish(request, session_id, "start")

    async def stop(self, request: Request, session_id: int) -> Response:
        """Stop a session; it cannot be started again."""
        return await self._wish(request, session_id, "stop")

    async def delete(self, request: Request, session_id: int) -> Response:
        """Have a session's nodes forget it; what was recorded of it stays."""
        return await self._wish(request, session_id, "delete")

    async def placement(self, session_id: int) -> Response:
        """Return where a session's handlers are, what that comes to, and what else there was."""
        view = self._view(session_id)
        return _reply({"session_id": session_id, **view.placement})

    async def list_nodes(self) -> Response:
        """Return the nodes of the files, with how they are known on the plan channel."""
        roster = await asyncio.to_thread(self._office.roster)
        found = []
        for node in self._office.nodes:
            known = roster.known(node.node_id)
            found.append(
                {
                    **_node(node),
                    "node_channel_addr": "" if known is None else known.node_addr,
                    "is_there": roster.is_there(node.node_id),
                }
            )
        return _reply({"nodes": found})

    async def list_services(self) -> Response:
        """Return the services of the files, in the form that has no template."""
        return _reply({"services": [written(each) for each in self._office.services.values()]})

    async def list_algorithms(self) -> Response:
        """Return the names of the algorithms; `policy:NAME` is a policy of the scheduler."""
        return _reply({"algorithms": list(ALGORITHM_NAMES)})

    async def health(self) -> Response:
        """Say whether sessions can be had."""
        if fault := self._sessions.fault:
            return Response(error_body(fault), 503, media_type=JSON)
        return _reply({"status": 0})

    def _service(self, name: int | str) -> Service:
        for service in self._office.services.values():
            if name in (service.service_id, service.name):
                return service
        raise NotFound(f"service {name!r:.100} is of no service file")

    def _view(self, session_id: int) -> SessionView:
        view = self._sessions.get(session_id)
        if view is None:
            raise NotFound(f"session {session_id} is not known")
        return view

    async def _wish(self, request: Request, session_id: int, wish: Wish) -> Response:
        _read_wait(request)  # before anything is done
        ordered, settled = self._sessions.wish(session_id, wish)
        await self._done(ordered)
        return await self._settled(request, session_id, settled)

    async def _settled(
        self, request: Request, session_id: int, settled: Future[SessionView]
    ) -> Response:
        """Return how a session stands when nothing is under way, or it has been waited for."""
        waiter = asyncio.wrap_future(settled)
        await asyncio.wait({waiter}, timeout=_read_wait(request))
        view = waiter.result() if waiter.done() else self._view(session_id)
        return _reply(view.to_document())

    async def _done(self, future: Future[_T]) -> _T:
        """Wait for what the coordinator's thread does; it does so also if nobody waits."""
        waiter = asyncio.wrap_future(future)
        await asyncio.wait({waiter}, timeout=DESK_TIMEOUT_S)
        if not waiter.done():
            raise Saturated(f"the coordinator has not answered within {DESK_TIMEOUT_S:g} s")
        return waiter.result()


def _node(node: Node) -> dict[str, Any]:
    return {
        "node_id": node.node_id,
        "node_name": node.name,
        "node_type": node.kind,
        "node_addr": node.addr,
        "node_port": node.port,
        "handlers": None if node.handlers is None else sorted(node.handlers),
        "speaks": node.speaks,
    }


async def _on_conflict(request: Request, err: Exception) -> Response:
    return Response(error_body(str(err)), 409, media_type=JSON)


def _reply(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type=JSON)


def _read_wait(request: Request) -> float:
    text = request.query_params.get("wait_s")
    try:
        wait_s = WAIT_S if text is None else float(text)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise HTTPException(400, f"wait_s is {text!r:.80}, expected 0 to {MAX_WAIT_S:g}")
    return wait_s


def _wait_parameter() -> dict[str, Any]:
    return {
        "name": "wait_s",
        "in": "query",
        "description": "Seconds to wait until nothing of it is under way.",
        "schema": {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": WAIT_S},
    }


def _body() -> dict[str, Any]:
    (_,), found = msgspec.json.schema_components([NewSession], ref_template="{name}")
    example = {"service": 0, "name": "gate", "algorithm": "min_delay", "start": True}
    content = {"schema": found["NewSession"], "example": example}
    return {"required": True, "content": {JSON: content}}
