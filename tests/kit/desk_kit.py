"""A desk over a real store that schedules nothing, and a query manager that serves it over HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import uvicorn

from vdag.control.desk import Jobs, KnownNode, KnownVideo, NodeJoining, QueryRequest, QueryView
from vdag.control.queries import Parts, create_app
from vdag.control.records import ENDED, FrameResult, NewQuery, Store
from vdag.errors import Saturated

WAIT_S = 20.0


def ready(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class FakeDesk:
    """Does what the controller's desk does, but for planning: plans are put in by tests."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.known: dict[str, KnownNode] = {}
        self.live: dict[str, QueryView] = {}
        self.given: set[str] = set()
        self.requests: list[QueryRequest] = []
        self.bandwidth: dict[str, Mapping[str, float]] = {}
        self.is_full = self.is_stuck = False
        self._lock = threading.Lock()
        for record in store.queries(is_over=False):
            self.live[record.query_id] = QueryView.of_record(record)

    def query(self, query_id: str) -> QueryView | None:
        return self.live.get(query_id)

    def queries(self) -> Sequence[QueryView]:
        return tuple(self.live.values())

    def nodes(self) -> Sequence[KnownNode]:
        return tuple(self.known.values())

    def report(
        self,
        query_id: str,
        frames: Sequence[FrameResult],
        *,
        plan: Mapping[str, Any] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> None:
        if self.is_full:
            raise Saturated("the controller has too much to do")
        self.store.add_results(query_id, frames)
        if runtime is not None and query_id in self.live:
            self._change(query_id, runtime=runtime, state=2)

    def report_runtime(self, query_id: str, runtime: Mapping[str, Any]) -> None:
        if query_id in self.live:
            self._change(query_id, runtime={**self.live[query_id].runtime, **runtime})

    def submit(self, request: QueryRequest) -> Future[str]:
        if self.is_stuck:
            return Future()
        self.requests.append(request)
        asked = NewQuery(
            request.node_addr,
            request.video_id,
            request.graph.to_dag(),
            request.constraint.document,
            request.policy,
            request.form,
        )
        written = self.store.add_query(asked)
        answer: Future[str] = Future()

        def take(done: Future[str]) -> None:
            query_id = done.result()
            self.live[query_id] = QueryView(
                query_id,
                request.node_addr,
                request.video_id,
                request.graph,
                request.constraint.document,
                request.policy,
                request.form,
            )
            answer.set_result(query_id)

        written.add_done_callback(take)
        return answer

    def stop(self, query_id: str) -> Future[bool]:
        return ready(self.end(query_id, ENDED, "stopped by the user"))

    def delete(self, query_id: str) -> Future[bool]:
        self.live.pop(query_id, None)
        return self.store.forget(query_id)

    def change_constraint(self, query_id: str, constraint: Any) -> Future[bool]:
        if query_id not in self.live:
            return ready(False)
        self.store.set_constraint(query_id, constraint.document)
        self._change(query_id, constraint=constraint.document)
        return ready(True)

    def prefer_plan(self, query_id: str, documents: Mapping[str, Any]) -> Future[bool]:
        if query_id not in self.live:
            return ready(False)
        self.plan(query_id, documents)
        return ready(True)

    def join(self, joining: NodeJoining) -> Future[str]:
        host = f"[{joining.ip}]" if ":" in joining.ip else joining.ip
        node_addr = f"{host}:{joining.port}"
        with self._lock:
            known = self.known.get(node_addr, KnownNode(node_addr, dialect=joining.dialect))
            videos = {**known.videos, joining.video_id: KnownVideo(joining.video_type)}
            self.known[node_addr] = replace(known, videos=videos)
        return ready(node_addr)

    def jobs_for(self, node_addr: str, bandwidth: Mapping[str, float]) -> Future[Jobs]:
        self.bandwidth[node_addr] = bandwidth
        mine = [view for view in self.live.values() if view.node_addr == node_addr]
        new = [view for view in mine if view.query_id not in self.given]
        self.given |= {view.query_id for view in new}
        return ready(Jobs(new, [view for view in mine if view.plan is not None]))

    # What tests do in place of the scheduler.

    def plan(self, query_id: str, documents: Mapping[str, Any], cause: str = "submitted") -> None:
        before = self.live[query_id].plan
        number = before["number"] + 1 if before is not None else 1
        self.store.add_plan(query_id, number, documents, cause)
        self._change(query_id, plan={**documents, "number": number}, state=1)

    def end(self, query_id: str, state: int, reason: str) -> bool:
        self.store.set_state(query_id, state, reason)
        return self.live.pop(query_id, None) is not None

    def _change(self, query_id: str, **changes: Any) -> None:
        with self._lock:
            self.live[query_id] = replace(self.live[query_id], **changes)


class Serving:
    """A query manager on a free port, in a thread; closed by `close`."""

    def __init__(self, parts: Parts) -> None:
        self.app = create_app(parts)
        # asyncio turns Nagle's algorithm off only where the protocol is named.
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        settings = uvicorn.Config(
            self.app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=5
        )
        self._server = uvicorn.Server(settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="vdag-test-query")
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Call a function in the event loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        if self._loop is not None:
            self.call(self.app.state.close_streams)
        self._server.should_exit = True
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])
