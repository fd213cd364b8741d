"""What the endpoints of :5500 do; `service` says at which paths.

Each reads a request, asks one of the parts, and writes a reply. Pixels go to the exchange
(`execution`), questions about processes to the `staff`, about nodes to the `cluster`. Whatever may
wait for the kernel or a process runs in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from vdag.config import ServiceConfig
from vdag.control import cluster, replies, schemas
from vdag.control.cluster import Cluster
from vdag.control.execution import Execution
from vdag.control.exposition import Metrics
from vdag.control.gate import BodyRoom
from vdag.control.images import Bounds
from vdag.control.limits import Limit
from vdag.control.replies import Place, error_body
from vdag.control.schemas import MSGPACK, Order, RequestReader
from vdag.control.staff import Staff
from vdag.errors import ConfigError, VdagError
from vdag.tasks import find

__all__ = ["Endpoints", "Parts"]

JSON = "application/json"
#: Larger bodies are read in a thread, but for those that are a picture as a file.
INLINE_NBYTES = 16_384
#: As documented, with status 200.
UNREGISTERED = msgspec.json.encode({"error": "unregistered services", "status": 1})


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service works with; all are the caller's, who closes them after the app has ended.

    Attributes:
        config: its settings.
        execution: opened and closed with the app.
        staff: of the node.
        cluster: who knows the nodes.
        place: what callers are told about where they are.
    """

    config: ServiceConfig
    execution: Execution
    staff: Staff
    cluster: Cluster
    place: Place


class Endpoints:
    """See above; the methods without an underscore are the endpoints."""

    def __init__(self, parts: Parts) -> None:
        config = parts.config
        self._config, self._parts = config, parts
        self._execution, self._staff = parts.execution, parts.staff
        self._room = BodyRoom(
            max_nbytes=config.max_body_nbytes, total_nbytes=config.max_bodies_nbytes
        )
        bounds = Bounds(config.max_pixels, config.max_pictures, config.max_body_nbytes)
        self._readers = {
            task: RequestReader(task, find(task).signature, bounds) for task in parts.staff.tasks
        }
        self._metrics = Metrics(parts.staff, parts.execution)

    async def execute(self, request: Request) -> Response:
        """Run a task once; `image_list` runs it on each, for a task that takes no clips."""
        return await self._execute(request)

    async def execute_old(self, request: Request) -> Response:
        """Run a task once; the reply has no pictures unless `pictures` asks for them."""
        return await self._execute(request, pictures="none")

    async def execute_list(self, request: Request) -> Response:
        """Run a task on each picture of `image_list`, and answer in its order."""
        return await self._execute(request, is_list=True)

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

    async def list_services(self) -> Response:
        """Return the names of the tasks that can be executed."""
        return _reply(list(self._staff.tasks))

    async def execute_urls(self, request: Request, task: str) -> Response:
        """Return the URLs of all nodes that offer a task."""
        found = cluster.execute_urls(self._parts.cluster.nodes(), task)
        return _reply(found) if found else Response(UNREGISTERED, 404, media_type=JSON)

    async def system_status(self) -> Response:
        """Return the state of all nodes, by role and address."""
        return _reply(cluster.system_status(self._parts.cluster.nodes()))

    async def cluster_info(self) -> Response:
        """Return the state of all nodes, by address."""
        return _reply(cluster.cluster_info(self._parts.cluster.nodes()))

    async def resource_info(self) -> Response:
        """Return what the tasks of all nodes may use, by role and address."""
        return _reply(cluster.resource_info(self._parts.cluster.nodes()))

    async def health(self) -> Response:
        """Say whether the exchange of the node works."""
        if self._staff.fault:
            return Response(error_body(self._staff.fault), 503, media_type=JSON)
        return _reply({"status": 0})

    async def readiness(self) -> Response:
        """Say whether every task has a worker that serves."""
        counts = self._staff.counts()
        waiting = [
            task for task in self._staff.tasks if task not in counts or not counts[task].serving
        ]
        if waiting or self._staff.fault:
            text = self._staff.fault or f"no worker serves {', '.join(waiting)}"
            return Response(error_body(text), 503, media_type=JSON)
        return _reply({"status": 0})

    async def metrics(self) -> Response:
        """Return the figures of the node in Prometheus' text format."""
        text = await asyncio.to_thread(self._metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _execute(
        self, request: Request, *, is_list: bool = False, pictures: str = ""
    ) -> Response:
        start_ns = time.monotonic_ns()
        reader = self._readers.get(request.path_params["task"])
        if reader is None:
            return Response(UNREGISTERED, media_type=JSON)
        status = 500
        try:
            response = await self._answer(request, reader, start_ns, is_list, pictures)
            status = response.status_code
        except (VdagError, HTTPException) as err:
            status = err.status if isinstance(err, VdagError) else err.status_code
            raise
        finally:
            self._metrics.observe(reader.task, status, (time.monotonic_ns() - start_ns) / 1e9)
        return response

    async def _answer(
        self, request: Request, reader: RequestReader, start_ns: int, is_list: bool, pictures: str
    ) -> Response:
        content_type = _content_type(request)
        is_binary = _wants_msgpack(request, content_type)
        form = replies.picture_form(
            request.query_params.get("pictures", pictures), is_binary=is_binary
        )
        timeout_s = self._timeout_s(request.query_params)
        async with self._room.body(request) as body:
            order = await self._read(reader, body, content_type, is_list)
            answers = await self._execution.run_all(order.works, timeout_s)

        def write() -> bytes:
            states = [self._staff.process(reader.task, answer.pid) for answer in answers]
            found = replies.compose(
                order,
                answers,
                states,
                all_latency_s=(time.monotonic_ns() - start_ns) / 1e9,
                place=self._parts.place,
                form=form,
            )
            encode = msgspec.msgpack.encode if is_binary else msgspec.json.encode
            return encode(found)

        slow = replies.has_pictures(answers, form)
        content = await self._execution.aside(write) if slow else write()
        return Response(content, media_type=MSGPACK if is_binary else JSON)

    async def _read(
        self, reader: RequestReader, body: bytes, content_type: str, is_list: bool
    ) -> Order:
        if len(body) <= INLINE_NBYTES or content_type.startswith("image/"):
            return reader.read(body, content_type, is_list=is_list)
        return await self._execution.aside(lambda: reader.read(body, content_type, is_list=is_list))

    def _timeout_s(self, query: Mapping[str, str]) -> float:
        text = query.get("deadline_s")
        if text is None:
            return self._config.deadline_s
        try:
            wanted = float(text)
        except ValueError:
            wanted = 0.0
        if not 0.001 <= wanted <= self._config.deadline_s:
            raise ConfigError(
                f"deadline_s is {text[:80]!r}, expected 0.001 to {self._config.deadline_s:g}"
            )
        return wanted

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
        return _reply({**body, **more})


def _limit(order: schemas.LimitTask) -> Limit:
    memory = order.mem_util_limit if order.mem_util_limit is not None else order.mem_limit
    cpus, mems = order.cpu_set_cpus, order.cpu_set_mems
    return Limit(
        order.cpu_util_limit,
        memory,
        None if cpus is None else tuple(cpus),
        None if mems is None else tuple(mems),
    )


def _content_type(request: Request) -> str:
    found = request.headers.get("content-type", "")
    kind = found.partition(";")[0].strip().lower()
    if schemas.ALIASES.get(kind, kind) not in schemas.MEDIA_TYPES:
        raise HTTPException(
            415, f"content-type {kind[:80]} is none of {', '.join(schemas.MEDIA_TYPES)}"
        )
    return found


def _wants_msgpack(request: Request, content_type: str) -> bool:
    accepted = request.headers.get("accept", "*/*")
    if MSGPACK in accepted:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    return schemas.ALIASES.get(kind, kind) == MSGPACK and "*/*" in accepted


def _reply(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type=JSON)
