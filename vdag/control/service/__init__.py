"""The compute service of :5500, as an ASGI app: paths, errors, and what is documented of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from vdag.control.http import openapi
from vdag.control.http.app import new_app
from vdag.control.service.endpoints import Endpoints, Parts
from vdag.control.service.executing import Express

__all__ = ["Parts", "create_app"]


def create_app(parts: Parts) -> ASGIApp:
    """Return the app.

    Raises:
        GraphError: a task of the configuration is not known.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts.execution.open()
        yield
        await parts.execution.close()

    config = parts.config
    app = new_app("vdag compute service", token=config.token, cors=config.cors, lifespan=lifespan)
    service = Endpoints(parts)
    _add_executing(app, service, parts.staff.tasks)
    _add_changing(app, service, parts.staff.tasks)
    _add_uploading(app, service)
    _add_asking(app, service, parts.staff.tasks)
    return Express(app, service.executing, token=config.token, cors=config.cors)


def _add_executing(app: FastAPI, service: Endpoints, tasks: Sequence[str]) -> None:
    refusals = openapi.responses(400, 404, 408, 413, 415, 422, 500, 503)
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
            openapi_extra=openapi.executing(tasks, example),
        )


def _add_changing(app: FastAPI, service: Endpoints, tasks: Sequence[str]) -> None:
    name, number, numbers = (
        openapi.name_of(tasks),
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 0}},
    )
    limits = {
        "task_name": name,
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
                {"task_name": name, "model_ctx": {"type": "object"}},
                {"task_name": "car_detection", "model_ctx": context},
                "task_name",
            ),
        ),
        (
            "/decrease_work_process",
            service.decrease_worker,
            "Stop one worker of a task, after its work",
            openapi.changing({"task_name": name}, {"task_name": "car_detection"}, "task_name"),
        ),
        (
            "/limit_task_resource",
            service.limit_task,
            "Limit all workers of a task together",
            openapi.changing(limits, example, "task_name"),
        ),
        (
            "/limit_process_resource",
            service.limit_process,
            "Limit one worker",
            openapi.changing(
                {"pid": {"type": "integer"}, **limits},
                {"pid": 10832, **example},
                "pid",
                "task_name",
            ),
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


def _add_uploading(app: FastAPI, service: Endpoints) -> None:
    app.add_api_route(
        "/upload-json-and-codefiles-api",
        service.upload_package,
        methods=["POST"],
        summary="Store a package of tasks",
        responses=openapi.responses(400, 408, 409, 413, 415, 422, 500, 503),
        openapi_extra=openapi.uploading(),
    )


def _add_asking(app: FastAPI, service: Endpoints, tasks: Sequence[str]) -> None:
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
        openapi_extra=openapi.asking_for(tasks),
    )
    for path, endpoint, summary in (
        ("/healthz", service.health, "Whether the node works"),
        ("/readyz", service.readiness, "Whether every task has a worker"),
    ):
        app.add_api_route(
            path, endpoint, methods=["GET"], summary=summary, responses=openapi.responses(503)
        )
    app.add_api_route(
        "/metrics",
        service.metrics,
        methods=["GET"],
        summary="For Prometheus",
        response_class=PlainTextResponse,
    )
