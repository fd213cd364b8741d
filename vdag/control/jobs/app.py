"""The job manager of :5001, as an ASGI app: what clouds of the documented REST ask of a node.

A cloud of the plan channel does not need it: its orders come over the channel. Both end up as the
same calls of the `JobManager`. The paths under `/node` are those of the first documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from vdag.config import VideoConfig
from vdag.control.http import openapi
from vdag.control.http.app import new_app
from vdag.control.http.gate import BodyRoom
from vdag.control.http.replies import reply
from vdag.control.jobs import JobManager
from vdag.control.rest.intake import Intake, Resolve
from vdag.control.scheduling.events import JobInfo, QueryState
from vdag.errors import ConfigError
from vdag.graph import Graph
from vdag.plan import Constraint

__all__ = ["Parts", "Resolve", "create_app"]

MAX_BODY_NBYTES = 1 << 20
TOTAL_NBYTES = 16 << 20
#: A pseudo-task of the first documents: it drew results, which viewers now ask for.
RENDER = "Render"


@dataclass(frozen=True, slots=True)
class Parts:
    """What the app works with; all are the caller's, who closes them after the app has ended.

    Attributes:
        jobs: of the node.
        resolve: finds the nodes of plans.
        videos: of the node, by their ids.
        node_addr: of the node.
        token: callers have to show it; empty for none.
        cors: answer browsers of any origin.
    """

    jobs: JobManager
    resolve: Resolve
    videos: Mapping[int, VideoConfig]
    node_addr: str
    token: str = ""
    cors: bool = True


class SubmitJob(msgspec.Struct, frozen=True):
    """`/job/submit_job`, and in the older form `/node/submit_job`."""

    video_id: int
    job_uid: str = ""
    unique_job_id: str = ""
    pipeline: list[str] | None = None
    dag: dict[str, Any] | None = None
    generator: str | None = None
    user_constraint: dict[str, Any] | None = None


class UpdatePlan(msgspec.Struct, frozen=True):
    """`/job/update_plan`."""

    job_uid: str
    video_conf: dict[str, Any] | None = None
    flow_mapping: dict[str, Any] | None = None
    resource_limit: dict[str, Any] | None = None


class UpdateConstraint(msgspec.Struct, frozen=True):
    """`/node/submit_job_user_constraint`."""

    job_uid: str
    user_constraint: dict[str, Any]


class StopJob(msgspec.Struct, frozen=True):
    """`/job/stop_job`."""

    job_uid: str
    reason: str = "stopped over REST"


def create_app(parts: Parts) -> FastAPI:
    """Return the app."""
    app = new_app("vdag job manager", token=parts.token, cors=parts.cors)
    endpoints = _Endpoints(parts)
    refusals = openapi.responses(400, 408, 413, 422, 500, 503)
    for path, endpoint, summary in (
        ("/job/submit_job", endpoints.submit_job, "Take a job in"),
        ("/job/update_plan", endpoints.update_plan, "Give a job a plan"),
        ("/job/stop_job", endpoints.stop_job, "End a job"),
        ("/node/submit_job", endpoints.submit_older_job, "Take a job in, in the older form"),
        ("/node/update_plan", endpoints.update_plan, "Give a job a plan, by its older name"),
        ("/node/submit_job_user_constraint", endpoints.update_constraint, "Change a constraint"),
    ):
        app.add_api_route(path, endpoint, methods=["POST"], summary=summary, responses=refusals)
    asking: tuple[tuple[str, Callable[..., Any], str], ...] = (
        ("/job/get_runtime/{job_uid}", endpoints.runtime, "Run-time context since the last call"),
        ("/job/list", endpoints.list_jobs, "The jobs of the node"),
        ("/node/get_all_status", endpoints.all_status, "The videos of the node"),
        ("/healthz", endpoints.health, "Whether the node works"),
        ("/readyz", endpoints.health, "Whether the node takes jobs"),
    )
    for path, asked, summary in asking:
        app.add_api_route(
            path, asked, methods=["GET"], summary=summary, responses=openapi.responses(404)
        )
    return app


class _Endpoints:
    def __init__(self, parts: Parts) -> None:
        self._parts, self._jobs = parts, parts.jobs
        self._intake = Intake(parts.jobs, parts.resolve)
        self._room = BodyRoom(max_nbytes=MAX_BODY_NBYTES, total_nbytes=TOTAL_NBYTES)

    async def submit_job(self, request: Request) -> Response:
        """Take a job in; its plan comes later."""
        return await self._submit(request, "job/submit_job")

    async def submit_older_job(self, request: Request) -> Response:
        """Take a job in that is written as a graph."""
        return await self._submit(request, "node/submit_job")

    async def update_plan(self, request: Request) -> Response:
        """Give a job a plan; the first one starts it."""
        body = await self._read(request, UpdatePlan)
        await asyncio.to_thread(
            self._intake.plan,
            body.job_uid,
            body.video_conf,
            body.flow_mapping,
            body.resource_limit,
        )
        return reply({"msg": "node updated plan (manager.update_job_plan)", "status": 0})

    async def update_constraint(self, request: Request) -> Response:
        """Change what a job's user wants; plans are made elsewhere."""
        body = await self._read(request, UpdateConstraint)
        self._jobs.change_constraint(body.job_uid, Constraint.from_document(body.user_constraint))
        msg = "node updated constraint (manager.update_job_user_constraint)"
        return reply({"msg": msg, "status": 0})

    async def stop_job(self, request: Request) -> Response:
        """End a job; harmless if there is none."""
        body = await self._read(request, StopJob)
        await asyncio.to_thread(self._jobs.stop, body.job_uid, body.reason)
        return reply({"job_uid": body.job_uid, "msg": "job stopped", "status": 0})

    async def runtime(self, job_uid: str) -> Response:
        """Return the run-time context of a job since the last call."""
        return reply(self._jobs.runtime_of(job_uid))

    async def list_jobs(self) -> Response:
        """Return how every job is."""
        return reply([_job(info) for info in self._jobs.infos()])

    async def all_status(self) -> Response:
        """Return the videos of the node, as the first documents' nodes did."""
        videos = {str(key): {"type": video.type} for key, video in self._parts.videos.items()}
        uids = [info.job_uid for info in self._jobs.infos()]
        node = {"video": videos, "job_uid_list": uids}
        return reply({"data": {self._parts.node_addr: node}, "status": 0})

    async def health(self) -> Response:
        """Say that the node answers."""
        return reply({"status": 0})

    async def _submit(self, request: Request, api: str) -> Response:
        body = await self._read(request, SubmitJob)
        uid, graph = body.job_uid or body.unique_job_id, _graph(body)
        await asyncio.to_thread(
            self._intake.submit, uid, body.video_id, graph, body.user_constraint
        )
        msg = f"submitted to manager from api: {api}"
        return reply({"job_uid": uid, "msg": msg, "status": 0})

    async def _read(self, request: Request, kind: Any) -> Any:
        async with self._room.body(request) as body:
            try:
                return msgspec.json.decode(body, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError) as err:
                raise ConfigError(f"body is malformed: {err}") from err


def _graph(body: SubmitJob) -> Graph:
    """Return the tasks of a job in either form, without what only drew."""
    if body.pipeline is not None:
        return Graph.from_dag(body.pipeline)
    if body.dag is None:
        raise ConfigError("pipeline is missing, and so is dag")
    flow, inputs = body.dag.get("flow"), body.dag.get("input", {})
    dag = dict(body.dag)
    if isinstance(flow, list):
        dag["flow"] = [task for task in flow if task != RENDER]
    if isinstance(inputs, dict):
        dag["input"] = {task: fields for task, fields in inputs.items() if task != RENDER}
    return Graph.from_dag(dag, generator=body.generator)


def _job(info: JobInfo) -> dict[str, Any]:
    return {
        "job_uid": info.job_uid,
        "plan": info.plan_number,
        "state": int(info.state),
        "state_name": QueryState(info.state).name.lower(),
        "reason": info.reason,
        "drops": dict(info.drops),
    }
