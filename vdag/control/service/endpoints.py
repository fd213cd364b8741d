"""What the endpoints of :5500 do; `service` says at which paths.

Each reads a request, asks one of the parts, and writes a reply. Pixels go to the exchange
(`execution`), questions about processes to the `staff`, about nodes to the `cluster`. Whatever may
wait for the kernel or a process runs in a thread.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from vdag.config import ServiceConfig
from vdag.control import cluster
from vdag.control.cluster import Cluster
from vdag.control.exposition import Figures
from vdag.control.http.faults import failure
from vdag.control.http.gate import BodyRoom
from vdag.control.http.replies import reply, written
from vdag.control.limits import Limit
from vdag.control.service import schemas
from vdag.control.service.executing import UNREGISTERED, WAYS, Executing, Way, media_type
from vdag.control.service.execution import Execution
from vdag.control.service.exposition import Metrics
from vdag.control.service.forms import read_form
from vdag.control.service.packages import MAX_PARTS, Package, PackageStore
from vdag.control.service.replies import Place
from vdag.control.service.staff import Staff
from vdag.errors import PackagesUnavailable

__all__ = ["Endpoints", "Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service works with; all are the caller's, who closes them after the app has ended.

    Attributes:
        config: its settings.
        execution: opened and closed with the app.
        staff: of the node.
        cluster: who knows the nodes.
        place: what callers are told about where they are.
        packages: that are uploaded; None if none are taken.
        figures: for `/metrics`, of what the node does beside the service.
    """

    config: ServiceConfig
    execution: Execution
    staff: Staff
    cluster: Cluster
    place: Place
    packages: PackageStore | None = None
    figures: Figures = tuple


class Endpoints:
    """See above; the methods without an underscore are the endpoints.

    Attributes:
        executing: what answers the endpoints that execute tasks.
    """

    def __init__(self, parts: Parts) -> None:
        config = parts.config
        self._parts, self._staff = parts, parts.staff
        self._room = BodyRoom(
            max_nbytes=config.max_body_nbytes, total_nbytes=config.max_bodies_nbytes
        )
        self._metrics = Metrics(parts.staff, parts.execution, parts.figures)
        self.executing = Executing(
            config,
            execution=parts.execution,
            staff=parts.staff,
            room=self._room,
            place=parts.place,
            metrics=self._metrics,
        )

    async def execute(self, request: Request) -> Response:
        """Run a task once; `image_list` runs it on each, for a task that takes no clips."""
        return await self._execute(request, WAYS["execute_task"])

    async def execute_old(self, request: Request) -> Response:
        """Run a task once; the reply has no pictures unless `pictures` asks for them."""
        return await self._execute(request, WAYS["execute_task_old"])

    async def execute_list(self, request: Request) -> Response:
        """Run a task on each picture of `image_list`, and answer in its order."""
        return await self._execute(request, WAYS["concurrent_execute_task_new"])

    async def add_worker(self, request: Request) -> Response:
        """Start one more worker and wait until it serves; `model_ctx` may choose its model."""
        async with self._room.body(request) as body:
            order = schemas.read_json(body, schemas.AddWorker)
        options = await asyncio.to_thread(self._staff.add, order.task_name, order.model_ctx)
        used = {"model_id": options.model_id, "device": options.device, "engine": options.engine}
        return self._changed(order.task_name, model_ctx=used)

    async def decrease_worker(self, request: Request) -> Response:
        """Let one worker finish what it holds and end; the last one stays."""
        async with self._room.body(request) as body:
            order = schemas.read_json(body, schemas.DecreaseWorker)
        await asyncio.to_thread(self._staff.decrease, order.task_name)
        return self._changed(order.task_name)

    async def limit_task(self, request: Request) -> Response:
        """Limit the workers of a task together to a share of all cores and of the memory."""
        async with self._room.body(request) as body:
            order = schemas.read_json(body, schemas.LimitTask)
        await asyncio.to_thread(self._staff.limit_task, order.task_name, _limit(order))
        return self._changed(order.task_name)

    async def limit_process(self, request: Request) -> Response:
        """Limit one worker, within the limit of its task."""
        async with self._room.body(request) as body:
            order = schemas.read_json(body, schemas.LimitProcess)
        await asyncio.to_thread(
            self._staff.limit_process, order.task_name, order.pid, _limit(order)
        )
        return self._changed(order.task_name, pid=order.pid)

    async def upload_package(self, request: Request) -> Response:
        """Store a package: `task_json`, and a zip for each stage. Nothing of it is executed."""
        store = self._parts.packages
        if store is None:
            raise PackagesUnavailable(
                "this node takes no packages: service.packages.folder is not set"
            )
        content_type = request.headers.get("content-type", "")
        media_type(content_type, (schemas.FORM,))
        async with self._room.body(request) as body:

            def install() -> Package:
                return store.install(read_form(body, content_type, max_parts=MAX_PARTS))

            package = await asyncio.to_thread(install)
        text = "enabled" if package.is_enabled else "stored; an operator has to enable it"
        found = {
            "status": 0,
            "msg": text,
            "package": package.identity,
            "stages": sorted(package.task.stages),
            "nbytes": package.nbytes,
            "enabled": package.is_enabled,
        }
        return reply(found)

    async def list_services(self) -> Response:
        """Return the names of the tasks that can be executed."""
        return reply(list(self._staff.tasks))

    async def execute_urls(self, request: Request) -> Response:
        """Return the URLs of all nodes that offer a task."""
        task = request.path_params["task"]
        found = cluster.execute_urls(self._parts.cluster.nodes(), task)
        return reply(found) if found else written(UNREGISTERED, 404)

    async def system_status(self) -> Response:
        """Return the state of all nodes, by role and address."""
        return reply(cluster.system_status(self._parts.cluster.nodes()))

    async def cluster_info(self) -> Response:
        """Return the state of all nodes, by address."""
        return reply(cluster.cluster_info(self._parts.cluster.nodes()))

    async def resource_info(self) -> Response:
        """Return what the tasks of all nodes may use, by role and address."""
        return reply(cluster.resource_info(self._parts.cluster.nodes()))

    async def health(self) -> Response:
        """Say whether the exchange of the node works."""
        if self._staff.fault:
            return failure(self._staff.fault, 503)
        return reply({"status": 0})

    async def readiness(self) -> Response:
        """Say whether every task has a worker that serves."""
        counts = self._staff.counts()
        waiting = [
            task for task in self._staff.tasks if task not in counts or not counts[task].serving
        ]
        if waiting or self._staff.fault:
            text = self._staff.fault or f"no worker serves {', '.join(waiting)}"
            return failure(text, 503)
        return reply({"status": 0})

    async def metrics(self) -> Response:
        """Return the figures of the node in Prometheus' text format."""
        text = await asyncio.to_thread(self._metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _execute(self, request: Request, way: Way) -> Response:
        task = request.path_params["task"]
        reply = await self.executing.answer(request.scope, request.receive, task, way)
        return Response(reply.body, reply.status, media_type=reply.kind)

    def _changed(self, task: str, **more: Any) -> Response:
        """Say how a task is staffed and limited from now on; never empty, as callers rely on."""
        cpu, memory = self._staff.limit_of(task)
        counts = self._staff.counts().get(task)
        body = {
            "status": 0,
            "msg": "done",
            "task_name": task,
            "n_process": counts.wanted if counts is not None else 0,
            "pids": list(self._staff.pids(task)),
            "cpu_util_limit": cpu,
            "mem_util_limit": memory,
        }
        return reply({**body, **more})


def _limit(order: schemas.LimitTask) -> Limit:
    memory = order.mem_util_limit if order.mem_util_limit is not None else order.mem_limit
    cpus, mems = order.cpu_set_cpus, order.cpu_set_mems
    return Limit(
        order.cpu_util_limit,
        memory,
        None if cpus is None else tuple(cpus),
        None if mems is None else tuple(mems),
    )
