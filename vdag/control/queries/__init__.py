"""The query manager of :5000, as an ASGI app: paths, errors, and what is documented of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from vdag.control.http import openapi
from vdag.control.http.app import new_app
from vdag.control.http.faults import failure
from vdag.control.http.replies import reply
from vdag.control.queries import schemas
from vdag.control.queries.asking import Asking
from vdag.control.queries.description import described, parameter
from vdag.control.queries.nodes import Nodes
from vdag.control.queries.parts import Parts
from vdag.control.queries.reporting import Reporting
from vdag.control.queries.stream import Streams
from vdag.control.queries.submitting import Submitting

__all__ = ["Parts", "create_app"]

_LIMIT = parameter("limit", "At most so many.", type="integer", minimum=1, maximum=1000)
_AFTER = parameter("after", "Those that follow this n_loop.", type="integer", minimum=0)
_FIRST = parameter("first", "From this sequence on.", type="integer", minimum=0)
_LAST = parameter("last", "Up to this sequence.", type="integer", minimum=0)
_STEP = parameter("step", "Every so manieth of them.", type="integer", minimum=1)
_SINCE = parameter("since", "Milliseconds since the epoch.", type="integer", minimum=0)
_UNTIL = parameter("until", "Likewise, later.", type="integer", minimum=1)
_NODES = parameter("nodes", "Numbers of further nodes, with commas between.", type="string")
_HISTORY = parameter("history", "Plans to add.", type="integer", minimum=0, maximum=1000)
_STATE = parameter("state", "Which.", type="string", enum=["all", "live", "over"])
_BEFORE = parameter("before", "Older than this query.", type="string")


class _Route(NamedTuple):
    method: str
    path: str
    endpoint: Callable[..., Any]
    summary: str
    body: type | None = None
    parameters: tuple[Mapping[str, Any], ...] = ()


def create_app(parts: Parts) -> FastAPI:
    """Return the app.

    Streams of results end when `app.state.close_streams()` is called in its event loop, which a
    server should do before it waits for its connections to end.
    """
    streams = Streams(parts)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        streams.close()

    app = new_app("vdag query manager", token=parts.token, cors=parts.cors, lifespan=lifespan)
    app.state.close_streams = streams.close
    # Pages ask for the query of an empty name, and take nothing but 404 for an answer.
    app.router.redirect_slashes = False
    for route in (*_queries(parts), *_reports(parts), *_answers(parts), *_nodes(parts)):
        _add(app, route)
    app.add_api_route(
        "/query/stream/{query_id}",
        streams.stream,
        methods=["GET"],
        summary="Results as they come, as server-sent events",
        responses={
            204: {"description": "It is over, and all of it was read."},
            200: {"content": {"text/event-stream": {}}},
            **openapi.responses(400, 404, 503),
        },
        openapi_extra={"parameters": [_AFTER]},
        response_class=Response,
    )
    _add_health(app, parts)
    return app


def _queries(parts: Parts) -> tuple[_Route, ...]:
    at = Submitting(parts)
    submit, constrain = schemas.Submit, schemas.Constrain
    return (
        _Route("POST", "/query/submit_query", at.submit_query, "Submit a query", submit),
        _Route("GET", "/query/list", at.list_queries, "Queries there are", None,
               (_STATE, _LIMIT, _BEFORE)),
        _Route("POST", "/query/stop", at.stop_query, "End a query", schemas.Name),
        _Route("DELETE", "/query/{query_id}", at.delete_query, "End and forget a query"),
        _Route("POST", "/query/update_constraint", at.update_constraint,
               "Change what is wanted of a query", constrain),
        _Route("POST", "/user/submit_job_user_constraint", at.update_constraint,
               "Change what is wanted of a query, by its older name", constrain),
        _Route("GET", "/query/get_plan/{query_id}", at.get_plan, "The present plan", None,
               (_HISTORY,)),
        _Route("POST", "/query/update_prev_plan", at.prefer_plan, "Follow a plan from outside",
               schemas.Prefer),
        _Route("POST", "/node/update_plan", at.update_plan,
               "Follow a plan from outside, by its older name", schemas.Prefer),
        _Route("POST", "/user/submit_job", at.submit_job, "Submit a query, as of old",
               schemas.SubmitJob),
        _Route("POST", "/node/submit_job", at.submit_job, "Submit a query that has a name",
               schemas.SubmitJob),
    )  # fmt: skip


def _reports(parts: Parts) -> tuple[_Route, ...]:
    at = Reporting(parts)
    return (
        _Route("POST", "/query/sync_result", at.sync_result, "Report a result",
               schemas.SyncResult),
        _Route("POST", "/query/sync_runtime", at.sync_runtime, "Report what was measured",
               schemas.SyncRuntime),
        _Route("POST", "/node/sync_job_result", at.sync_job_result, "Report a result, as of old",
               schemas.SyncResult),
        _Route("POST", "/node/get_plan", at.ask_plan, "Ask to be planned for, as of old",
               schemas.Schedule),
    )  # fmt: skip


def _answers(parts: Parts) -> tuple[_Route, ...]:
    at = Asking(parts)
    which = (_AFTER, _LIMIT)
    return (
        _Route("GET", "/query/get_result/{query_id}", at.get_result, "Results", None, which),
        _Route("GET", "/query/get_agg_info/{query_id}", at.get_agg_info,
               "Results, as pages show them", None, which),
        _Route("GET", "/query/get_runtime/{query_id}", at.get_runtime, "What was measured last"),
        _Route("GET", "/query/get_work_condition/{query_id}", at.get_work_condition,
               "Means of what was measured since last asked"),
        _Route("GET", "/query/get_portrait_info/{query_id}", at.get_portrait_info,
               "How a query does against its constraint"),
        _Route("GET", "/query/get_drops/{query_id}", at.get_drops, "Frames lost, by reason"),
        _Route("GET", "/query/get_packets/{query_id}", at.get_packets, "What became of frames",
               None, (_FIRST, _LAST, _STEP)),
        _Route("GET", "/query/get_circumstances/{query_id}", at.get_circumstances,
               "Plans, placements, loads and losses", None, (_SINCE, _UNTIL, _NODES)),
        _Route("GET", "/query/explain/{query_id}", at.explain, "Why a query has its plans", None,
               (_LIMIT,)),
        _Route("GET", "/user/sync_job_result/{query_id}", at.get_job_result, "Results, as of old",
               None, which),
    )  # fmt: skip


def _nodes(parts: Parts) -> tuple[_Route, ...]:
    at = Nodes(parts)
    return (
        _Route("GET", "/node/get_video_info", at.get_video_info, "Videos of the nodes"),
        _Route("POST", "/node/join", at.join, "Register a video of a node", schemas.Join),
        _Route("POST", "/node/update_status", at.join, "Register a video, by its older name",
               schemas.Join),
        _Route("GET", "/node/get_all_status", at.get_all_status, "Videos and jobs of the nodes"),
        _Route("GET", "/user/get_all_status", at.get_all_status,
               "Videos and jobs of the nodes, by its older name"),
        _Route("POST", "/query/get_jobs_info_and_jobs_plan", at.get_jobs, "Work of a node",
               schemas.Pull),
    )  # fmt: skip


def _add(app: FastAPI, route: _Route) -> None:
    refusals = [404, 500, 503]
    if route.body is not None:
        refusals += [400, 408, 409, 413, 422]
    elif route.parameters:
        refusals += [400]
    app.add_api_route(
        route.path,
        route.endpoint,
        methods=[route.method],
        summary=route.summary,
        responses=openapi.responses(*refusals),
        openapi_extra=described(route.path, route.body, *route.parameters),
        response_class=JSONResponse,
    )


def _add_health(app: FastAPI, parts: Parts) -> None:
    async def health() -> Response:
        """Say whether queries can be recorded."""
        if fault := parts.store.stats().fault:
            return failure(fault, 503)
        return reply({"status": 0})

    for path in ("/healthz", "/readyz"):
        app.add_api_route(
            path,
            health,
            methods=["GET"],
            summary="Whether queries can be recorded",
            responses=openapi.responses(503),
            response_class=JSONResponse,
        )
