"""What nodes post: results, and what they have measured.

A node posts once per processed frame and does not read the reply, but for whether there is one: it
is given as soon as the report is in the controller's queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from msgspec import Raw

from vdag.control.http.replies import reply
from vdag.control.queries.parts import Parts
from vdag.control.queries.runtimes import runtime_of_report
from vdag.control.queries.schemas import (
    Schedule,
    SyncResult,
    SyncRuntime,
    read_fields,
    read_object,
    read_value,
)
from vdag.control.records import FrameResult, read_frame
from vdag.errors import ConfigError

__all__ = ["Reporting"]

#: Of one report; our own nodes report by the plan channel, others one frame at a time.
MAX_FRAMES = 1000

Document = dict[str, Any]


class Reporting:
    """See above; the methods without an underscore are the endpoints."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def sync_result(self, request: Request) -> Response:
        """Take in the result of a frame. The reply's `status` is 500: that is how it is known."""
        await self._sync_result(request)
        return reply({"status": 500})

    async def sync_job_result(self, request: Request) -> Response:
        """Take in the result of a frame, as the older documents say it."""
        await self._sync_result(request)
        return reply({"status": 200})

    async def sync_runtime(self, request: Request) -> Response:
        """Take in what was measured of a frame; pictures in it are not kept."""
        order = await self._parts.read(request, SyncRuntime, has_pictures=True)
        view = await self._parts.find(order.job_uid)
        runtime = runtime_of_report(read_object(order.job_runtime, "job_runtime"))
        if runtime:
            self._parts.desk.report_runtime(view.query_id, runtime)
        return reply({"status": 500})

    async def ask_plan(self, request: Request) -> Response:
        """Take in a node's wish to be planned for; its plan comes by `update_plan`."""
        order = await self._parts.read(request, Schedule)
        view = await self._parts.find(order.name)
        if order.last_plan_result:
            self._parts.desk.report_runtime(
                view.query_id, {"plan_result": dict(order.last_plan_result)}
            )
        return reply({"status": 0, "msg": "accepted (put to unsched_job_q)"})

    async def _sync_result(self, request: Request) -> None:
        order = await self._parts.read(request, SyncResult, has_pictures=True)
        view = await self._parts.find(order.job_uid)
        fields = read_fields(order.job_result, "job_result")
        plan, runtime = _latest(fields)
        frames = _frames(fields.get("appended_result"), plan)
        if frames:
            last = frames[-1]
            self._parts.desk.report(
                view.query_id, frames, plan=last.plan or plan, runtime=last.runtime or runtime
            )
        elif plan or runtime:
            self._parts.desk.report(view.query_id, (), plan=plan, runtime=runtime)


def _latest(fields: Mapping[str, Raw]) -> tuple[Document | None, Document | None]:
    """Return the plan and the runtime that a node says beside the frame."""
    latest: Document = {}
    if "latest_result" in fields:
        latest = read_object(fields["latest_result"], "latest_result")
    plan = latest.get("plan")
    if plan is None and "plan" in fields:  # where the first version has it
        plan = read_value(fields["plan"], "plan")
    runtime = latest.get("runtime")
    plan_result = latest.get("plan_result")
    for name, value in (("plan", plan), ("runtime", runtime), ("plan_result", plan_result)):
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{name} is a {type(value).__name__}, expected an object")
    if plan_result:
        runtime = {**(runtime or {}), "plan_result": plan_result}
    return plan or None, runtime or None


def _frames(text: Raw | None, plan: Document | None) -> list[FrameResult]:
    """Return the frames that a node appends: one, of whatever shape, or a list of them."""
    if text is None:
        return []
    value = read_value(text, "appended_result")
    if not isinstance(value, list):
        return [read_frame(value, plan=plan)]
    if len(value) > MAX_FRAMES:
        raise ConfigError(f"appended_result has {len(value)} frames, more than {MAX_FRAMES}")
    return [read_frame(item, plan=plan) for item in value]
