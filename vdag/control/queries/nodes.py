"""Nodes of other makes, which join and ask for work, and what is told of all nodes."""

from __future__ import annotations

import math

from fastapi import Request, Response

from vdag.control.desk import NodeJoining
from vdag.control.http.replies import reply
from vdag.control.queries import documents
from vdag.control.queries.parts import Parts
from vdag.control.queries.schemas import Join, Pull
from vdag.errors import ConfigError

__all__ = ["Nodes"]


class Nodes:
    """See above; the methods without an underscore are the endpoints."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def join(self, request: Request) -> Response:
        """Register one video of a node, under the address it names or else calls from."""
        order = await self._parts.read(request, Join)
        port = int(order.node_port)
        if not 1 <= port <= 65535:
            raise ConfigError(f"node_port is {port}, expected 1 to 65535")
        peer = request.client.host if request.client is not None else "127.0.0.1"
        joining = NodeJoining(
            order.node_ip or peer,
            port,
            order.video_id,
            order.video_type,
            "push" if order.node_ip is None else "pull",
        )
        node_addr = await self._parts.done(self._parts.desk.join(joining))
        return reply(
            {"status": 0, "msg": "joined one video to query_manager", "node_addr": node_addr}
        )

    async def get_video_info(self) -> Response:
        """Return the videos of all nodes that are there, by the nodes' addresses."""
        return reply(documents.video_info(self._parts.desk.nodes()))

    async def get_all_status(self) -> Response:
        """Return the videos and the jobs of all nodes that are there."""
        return reply(documents.all_status(self._parts.desk.nodes()))

    async def get_jobs(self, request: Request) -> Response:
        """Return the work of a node that asks for it: each new query once, and all plans."""
        order = await self._parts.read(request, Pull)
        bandwidth = {
            unit: value
            for unit, value in (order.bandwidth or {}).items()
            if value is not None and math.isfinite(value) and value >= 0
        }
        jobs = await self._parts.done(self._parts.desk.jobs_for(order.node_addr, bandwidth))
        return reply(
            {
                "jobs_info": {view.query_id: documents.job_info(view) for view in jobs.new},
                "jobs_plan": {view.query_id: documents.job_plan(view) for view in jobs.planned},
            }
        )
