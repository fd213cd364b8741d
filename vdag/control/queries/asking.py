"""What users ask of a query: results, runtime, drops, and how it does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from fastapi import Request, Response

from vdag.control.accounts.sharing import read_nodes, share_circumstances
from vdag.control.desk import QueryView
from vdag.control.http.replies import reply, written
from vdag.control.queries import documents
from vdag.control.queries.parts import Parts, read_number
from vdag.control.queries.runtimes import average, portrait
from vdag.control.records.inspection import MAX_INT, Inspection
from vdag.control.tracing.sharing import share
from vdag.errors import Saturated

__all__ = ["Asking"]

#: What clients are used to, who call it ten.
NEWEST = 11
MAX_RESULTS = 1000
#: Largest time, in milliseconds since the epoch: the year 5138.
MAX_MS = 10**14
#: Plans that are explained, unless more are asked for.
DECISIONS = 20
#: Replies that are kept, to be given again when records cannot be read for a moment.
MAX_LAST, MAX_LAST_NBYTES = 256, 256 << 10

Compose = Callable[[QueryView, Any, Any], Any]


class Asking:
    """See above; the methods without an underscore are the endpoints."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._last: OrderedDict[str, bytes] = OrderedDict()
        self._conditions: OrderedDict[str, tuple[int, dict[str, Any]]] = OrderedDict()

    async def get_result(self, request: Request, query_id: str) -> Response:
        """Return results, oldest first: the newest, or those that follow; null before the first."""
        view = await self._parts.find(query_id)
        return written(await self._results(request, view, documents.results))

    async def get_agg_info(self, request: Request, query_id: str) -> Response:
        """Return what `get_result` does; once there are results, it goes on answering.

        The page that asks for it loses its chart by a reply without results.
        """
        name = self._parts.known(query_id)
        try:
            view = await self._parts.find(name)
            body = await self._results(request, view, documents.results)
        except Saturated:
            if name not in self._last:
                raise
            return written(self._last[name])
        if body != b"null" and len(body) <= MAX_LAST_NBYTES:
            self._last[name] = body
            self._last.move_to_end(name)
            if len(self._last) > MAX_LAST:
                self._last.popitem(last=False)
        return written(body)

    async def get_job_result(self, request: Request, query_id: str) -> Response:
        """Return results as the older documents have them."""
        view = await self._parts.find(query_id)
        body = await self._results(request, view, documents.older_results)
        return reply({"result": msgspec.Raw(body), "status": 0})

    async def get_runtime(self, query_id: str) -> Response:
        """Return what a job has measured last; empty before."""
        view = await self._parts.find(query_id)
        return reply(view.runtime or await self._measured(view))

    async def get_work_condition(self, query_id: str) -> Response:
        """Return means over the results since they were last asked for."""
        return reply(await self._condition(await self._parts.find(query_id)))

    async def get_portrait_info(self, query_id: str) -> Response:
        """Return how a job does against its constraint, and what its tasks use; empty before."""
        view = await self._parts.find(query_id)
        runtime: Mapping[str, Any] = view.runtime
        if "proc_resource_info" not in runtime:  # our own nodes say it with every frame only
            runtime = {**await self._measured(view), **runtime}
        plan = documents.plan_document(view.plan or {})
        (_, condition) = self._conditions.get(view.query_id, (0, {}))
        means = condition or average([runtime])
        return reply(portrait(runtime, plan, view.constraint, means))

    async def get_drops(self, query_id: str) -> Response:
        """Return how many frames were lost, by reason."""
        view = await self._parts.find(query_id)
        counts = await self._parts.ask(lambda: self._parts.store.dropped(view.query_id))
        return reply(
            {
                "status": 0,
                "query_id": view.query_id,
                "drops": counts,
                "total": sum(counts.values()),
            }
        )

    async def get_packets(self, request: Request, query_id: str) -> Response:
        """Return what became of frames: rows of whole sequences, and where to go on."""
        name = self._parts.known(query_id)
        await self._parts.find(name)
        first = read_number(request.query_params, "first", 0, 0, MAX_INT) or 0
        last = read_number(request.query_params, "last", None, 0, MAX_INT)
        step = read_number(request.query_params, "step", 1, 1, MAX_INT) or 1
        return await self._inspected(
            lambda look: share(look, name, first=first, last=last, step=step)
        )

    async def get_circumstances(self, request: Request, query_id: str) -> Response:
        """Return plans, placements, loads of nodes and lost frames of a query's session."""
        name = self._parts.known(query_id)
        await self._parts.find(name)
        since = read_number(request.query_params, "since", 0, 0, MAX_MS) or 0
        until = read_number(request.query_params, "until", MAX_MS, 0, MAX_MS) or 0
        nodes = read_nodes(request.query_params.get("nodes", ""))
        return await self._inspected(
            lambda look: share_circumstances(
                look, name, since_ms=since, until_ms=until, nodes=nodes
            )
        )

    async def explain(self, request: Request, query_id: str) -> Response:
        """Return why a query has its plans: what was known, weighed, foretold, then measured."""
        view = await self._parts.find(query_id)
        limit = read_number(request.query_params, "limit", DECISIONS, 1, MAX_RESULTS) or DECISIONS
        store, name = self._parts.store, view.query_id
        plans = await self._parts.ask(lambda: store.plans(name, limit=limit))
        return reply(documents.explained(view, plans))

    async def _inspected(self, look: Callable[[Inspection], Any]) -> Response:
        log = self._parts.store.log
        body = await self._parts.ask(lambda: msgspec.json.encode(log.inspect(look)))
        return written(body)

    async def _results(self, request: Request, view: QueryView, compose: Compose) -> bytes:
        parameters = request.query_params
        after = read_number(parameters, "after", None, 0, 1 << 50)
        usual = NEWEST if after is None else MAX_RESULTS
        limit = read_number(parameters, "limit", usual, 1, MAX_RESULTS) or usual

        def read() -> bytes:
            store, name = self._parts.store, view.query_id
            found = store.results(name, after=after, limit=limit)
            newest = found[-1:] if after is None else store.results(name, limit=1)
            return msgspec.json.encode(compose(view, found, newest[0]) if newest else None)

        return await self._parts.ask(read)

    async def _measured(self, view: QueryView) -> dict[str, Any]:
        """Return what the newest result says was measured, as after a restart."""
        found = await self._parts.ask(lambda: self._parts.store.results(view.query_id, limit=1))
        return (found[0].read().get("ext_runtime") or {}) if found else {}

    async def _condition(self, view: QueryView) -> dict[str, Any]:
        name = view.query_id
        after, before = self._conditions.pop(name, (0, {}))
        found = await self._parts.ask(
            lambda: [
                (result.n_loop, result.read())
                for result in self._parts.store.results(name, limit=MAX_RESULTS)
                if result.n_loop > after
            ]
        )
        means = average([_measurements(frame) for _, frame in found]) or before
        self._conditions[name] = (found[-1][0] if found else after, means)
        if len(self._conditions) > MAX_LAST:
            self._conditions.popitem(last=False)
        return means


def _measurements(frame: dict[str, Any]) -> dict[str, Any]:
    own = {name: frame[name] for name in ("delay", "obj_n", "obj_size") if name in frame}
    return {**own, **(frame.get("ext_runtime") or {})}
