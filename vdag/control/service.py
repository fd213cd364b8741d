"""The compute service of :5500, as an ASGI app: paths, errors, and what is documented of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vdag._version import __version__
from vdag.control import openapi
from vdag.control.endpoints import Endpoints, Parts
from vdag.control.gate import Gate
from vdag.control.replies import error_body
from vdag.errors import VdagError

__all__ = ["OPEN_PATHS", "Parts", "create_app"]

JSON = "application/json"
#: Anybody may ask whether the service is well.
OPEN_PATHS = ("/healthz", "/readyz")
RETRY_AFTER_S = "1"


def create_app(parts: Parts) -> FastAPI:
    """Return the app.

    Raises:
        GraphError: a task of the configuration is not known.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts.execution.open()
        yield
        await parts.execution.close()

    app = FastAPI(
        title="vdag compute service",
        version=__version__,
        lifespan=lifespan,
        responses=openapi.RESPONSES,
    )
    service = Endpoints(parts)
    _add_executing(app, service)
    _add_changing(app, service)
    _add_asking(app, service)
    app.add_exception_handler(VdagError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_middleware(
        Gate, token=parts.config.token, open_paths=OPEN_PATHS, cors=parts.config.cors
    )
    return app


def _add_executing(app: FastAPI, service: Endpoints) -> None:
    refusals = openapi.responses(400, 408, 413, 415, 422, 500, 503)
    for path, endpoint, summary, example in (
        ("/execute_task/{task}", service.execute, "Run a task", ""),
        ("/execute_task_new/{task}", service.execute, "Run a task on encoded pictures", ""),
        ("/service/{task}", service.execute, "Run a task, by its older name", ""),
        ("/execute_task_old/{task}", service.execute_old, "Run a task on lists", "pixel lists"),
        (
            "/concurrent_execute_task_new/{task}",
            service.execute_list,
            "Run a task on each picture of a list",
            "image_list",
        ),
    ):
        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            summary=summary,
            responses=refusals,
            openapi_extra=openapi.executing(example),
        )


def _add_changing(app: FastAPI, service: Endpoints) -> None:
    text, number, numbers = (
        {"type": "string"},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 0}},
    )
    limits = {
        "task_name": text,
        "cpu_util_limit": number,
        "mem_util_limit": number,
        "mem_limit": number,
        "cpu_set_cpus": numbers,
        "cpu_set_mems": numbers,
    }
    example = {"task_name": "face_detection", "cpu_util_limit": 0.45}
    context = {"weights": "yolov5s.pt", "device": "cpu"}
    for path, endpoint, summary, extra in (
        (
            "/add_work_process",
            service.add_worker,
            "Start one more worker of a task",
            openapi.changing(
                {"task_name": text, "model_ctx": {"type": "object"}},
                {"task_name": "car_detection", "model_ctx": context},
            ),
        ),
        (
            "/decrease_work_process",
            service.decrease_worker,
            "Stop one worker of a task, after its work",
            openapi.changing({"task_name": text}, {"task_name": "car_detection"}),
        ),
        (
            "/limit_task_resource",
            service.limit_task,
            "Limit all workers of a task together",
            openapi.changing(limits, example),
        ),
        (
            "/limit_process_resource",
            service.limit_process,
            "Limit one worker",
            openapi.changing({"pid": {"type": "integer"}, **limits}, {"pid": 10832, **example}),
        ),
    ):
        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            summary=summary,
            responses=openapi.responses(400, 408, 409, 413, 422, 500, 503),
            openapi_extra=extra,
        )


def _add_asking(app: FastAPI, service: Endpoints) -> None:
    for path, endpoint, summary in (
        ("/get_service_list", service.list_services, "Names of the tasks"),
        ("/get_system_status", service.system_status, "Nodes by role, their state"),
        ("/get_cluster_info", service.cluster_info, "Nodes by address, their state"),
        ("/get_resource_info", service.resource_info, "Nodes by role, shares and processes"),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], summary=summary)
    app.add_api_route(
        "/get_execute_url/{task}",
        service.execute_urls,
        methods=["GET"],
        summary="Where a task can be had",
        responses=openapi.responses(404),
    )
    for path, endpoint, summary in (
        ("/healthz", service.health, "Whether the node works"),
        ("/readyz", service.readiness, "Whether every task has a worker"),
    ):
        app.add_api_route(
            path, endpoint, methods=["GET"], summary=summary, responses=openapi.responses(503)
        )
    app.add_api_route("/metrics", service.metrics, methods=["GET"], summary="For Prometheus")


async def _on_error(request: Request, err: Exception) -> Response:
    assert isinstance(err, VdagError), "it is registered for these"
    headers = {"retry-after": RETRY_AFTER_S} if err.status == 503 else None
    return Response(error_body(str(err)), err.status, headers, JSON)


async def _on_http_error(request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException), "it is registered for these"
    return Response(error_body(str(err.detail).lower()), err.status_code, err.headers, JSON)


async def _on_invalid(request: Request, err: Exception) -> Response:
    return Response(error_body(f"request is malformed: {err}"), 422, media_type=JSON)
