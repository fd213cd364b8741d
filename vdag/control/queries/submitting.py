"""Queries in, stopped and deleted, and what is wanted of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from vdag.control.desk import Form, KnownNode, QueryRequest
from vdag.control.http.replies import reply
from vdag.control.queries.documents import history, listed, planned
from vdag.control.queries.parts import Parts, read_number
from vdag.control.queries.schemas import Constrain, Name, Prefer, Submit, SubmitJob
from vdag.control.records import ENDED, read_query_id
from vdag.errors import ConfigError, GraphError
from vdag.graph import GENERATORS, Graph
from vdag.plan import Constraint, Plan

__all__ = ["Submitting"]

SUBMITTED = "submitted to (cloud) manager from api: /query/submit_query"
SUBMITTED_JOB = "submitted to manager from api: node/submit_job"
#: What the older documents' queries are held to if they do not say.
OLDER_CONSTRAINT = {"delay": 0.8, "accuracy": 0.8}
#: That the older documents' clients look for.
OLDER_FLAGS = {"constraint": 1, "node_submit": 1, "sidechan": 1}
MAX_LISTED = 1000


class Submitting:
    """See above; the methods without an underscore are the endpoints."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def submit_query(self, request: Request) -> Response:
        """Take in a query; an unknown node or video is said in a reply of status 200."""
        order = await self._parts.read(request, Submit)
        if order.pipeline is None and order.dag is None:
            raise ConfigError("field pipeline is missing")
        if refusal := self._refusal(order):
            return reply({"status": 1, "error": refusal})
        query_id = await self._submit(order, order.user_constraint or {})
        place = f"{order.node_addr.rpartition(':')[0]}:{self._parts.live_port}"
        told = {"msg": f"update <job_uid, addr> (<{query_id}, {place}>) to cloud"}
        return reply(
            {
                "status": 0,
                "msg": SUBMITTED,
                "query_id": query_id,
                "job_uid": query_id,
                "r_sidechan": json.dumps(told, separators=(",", ":")) + "\n",
            }
        )

    async def submit_job(self, request: Request) -> Response:
        """Take in a query of the older documents; one whose id is known is not taken in again."""
        order = await self._parts.read(request, SubmitJob)
        given = order.unique_job_id or order.job_uid
        if read_query_id(given):
            try:
                view = await self._parts.find(given)
            except HTTPException:
                pass  # somebody else has drawn it, or made it up: ours is another
            else:
                return reply(_submitted_job(view.query_id))
        if order.dag is None and order.pipeline is None:
            raise ConfigError("field dag is missing")
        if refusal := self._refusal(order):
            return reply({"status": 1, "error": refusal})
        generator = (order.dag or {}).get("generator", order.generator)
        if generator is not None and generator not in GENERATORS:
            return reply({"status": 1, "msg": "unsupport generator name", **OLDER_FLAGS})
        usual = OLDER_CONSTRAINT if "generator" in (order.dag or {}) else {}
        wanted = usual if order.user_constraint is None else order.user_constraint
        return reply(_submitted_job(await self._submit(order, wanted)))

    async def list_queries(self, request: Request) -> Response:
        """Return queries, oldest first: the newest, or those before another."""
        parameters = request.query_params
        limit = read_number(parameters, "limit", 100, 1, MAX_LISTED)
        before, wanted = parameters.get("before", ""), parameters.get("state", "all")
        if wanted not in ("all", "live", "over"):
            raise ConfigError(f"state is {wanted[:80]!r}, expected all, live or over")
        if before and not read_query_id(before):
            raise ConfigError(f"before is {before[:80]!r}, expected a query's id")
        is_over = {"live": False, "over": True}.get(wanted)
        found = await self._parts.ask(
            lambda: self._parts.store.queries(is_over=is_over, before=before, limit=limit or 0)
        )
        return reply({"status": 0, "queries": [listed(record) for record in found]})

    async def stop_query(self, request: Request) -> Response:
        """End a query and its job; its results stay. One that is over stays as it is."""
        order = await self._parts.read(request, Name)
        view = await self._parts.find(order.name)
        is_changed = view.state < ENDED and await self._parts.done(
            self._parts.desk.stop(view.query_id)
        )
        text = "query stopped" if is_changed else "query was over"
        return reply({"status": 0, "msg": text, "query_id": view.query_id})

    async def delete_query(self, query_id: str) -> Response:
        """End a query and forget it with its results."""
        query_id = self._parts.known(query_id)
        if not await self._parts.done(self._parts.desk.delete(query_id)):
            raise self._parts.unknown(query_id)
        return reply({"status": 0, "msg": "query deleted", "query_id": query_id})

    async def update_constraint(self, request: Request) -> Response:
        """Put a constraint in place of a query's."""
        order = await self._parts.read(request, Constrain)
        view = await self._parts.find(order.name)
        constraint = Constraint.from_document(order.user_constraint)
        future = self._parts.desk.change_constraint(view.query_id, constraint)
        await self._change(view.query_id, future)
        return reply(
            {
                "status": 0,
                "msg": "node updated constraint (manager.update_job_user_constraint)",
                "query_id": view.query_id,
            }
        )

    async def prefer_plan(self, request: Request) -> Response:
        """Follow a plan from outside from now on, until the policy has another."""
        await self._prefer(request)
        # The key is misspelt in the documents, and read so.
        return reply({"status": 0, "statys": 0, "msg": "prev plan has been updated"})

    async def update_plan(self, request: Request) -> Response:
        """Follow a plan from outside, as the older documents say it."""
        await self._prefer(request)
        return reply({"status": 0, "msg": "node updated plan (manager.update_job_plan)"})

    async def get_plan(self, request: Request, query_id: str) -> Response:
        """Return the present plan of a query; `history` adds the ones before."""
        view = await self._parts.find(query_id)
        count = read_number(request.query_params, "history", 0, 0, MAX_LISTED)
        found = planned(view)
        if count:
            store = self._parts.store
            plans = await self._parts.ask(lambda: store.plans(view.query_id, limit=count))
            found["history"] = history(plans)
        return reply(found)

    async def _prefer(self, request: Request) -> None:
        order = await self._parts.read(request, Prefer)
        view = await self._parts.find(order.name)
        documents = {
            "video_conf": order.video_conf,
            "flow_mapping": order.flow_mapping,
            "resource_limit": order.resource_limit or {},
        }
        future = self._parts.desk.prefer_plan(view.query_id, documents)
        await self._change(view.query_id, future)

    async def _change(self, query_id: str, future: Future[bool]) -> None:
        if not await self._parts.done(future):
            raise HTTPException(409, f"query {read_query_id(query_id)} is over")

    async def _submit(self, order: Submit, wanted: Mapping[str, Any]) -> str:
        graph, form = _graph(order)
        asked = QueryRequest(
            order.node_addr,
            order.video_id,
            graph,
            Constraint.from_document(wanted),
            order.policy,
            None if order.plan is None else Plan.read(graph.tasks, order.plan, number=1),
            form,
        )
        return await self._parts.done(self._parts.desk.submit(asked))

    def _refusal(self, order: Submit) -> str:
        """Say what a query asks for that is not there; to clients that is no error of HTTP."""
        node = self._node(order.node_addr)
        if node is None:
            return f"cannot found {order.node_addr}"
        if order.video_id not in node.videos:
            known = ", ".join(map(str, sorted(node.videos))) or "none"
            return f"{order.node_addr} has no video {order.video_id}, only {known}"
        return ""

    def _node(self, node_addr: str) -> KnownNode | None:
        nodes = self._parts.desk.nodes()
        return next((node for node in nodes if node.node_addr == node_addr), None)


def _graph(order: Submit) -> tuple[Graph, Form]:
    """Return the tasks of a query, and how they were written.

    Raises:
        GraphError: they make no graph.
    """
    if order.dag is None:
        tasks = order.pipeline or []
        if not tasks:
            raise GraphError("pipeline has no tasks")
        return Graph.from_dag(tasks, generator=order.generator), "pipeline"
    form: Form = "dag" if "generator" in order.dag else "flow"
    return Graph.from_dag(order.dag, generator=order.generator), form


def _submitted_job(query_id: str) -> dict[str, Any]:
    names = {"job_uid": query_id, "query_id": query_id}
    return {"status": 0, "msg": SUBMITTED_JOB, **names, **OLDER_FLAGS}
