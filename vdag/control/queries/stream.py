"""Results as they come: server-sent events, as the HTML standard has them.

    id: 1207                     the `n_loop`, with which a reader goes on after a break
    event: result                or `gap`, `end`
    data: {"count_result": ...}

A reader is a position among the recorded results and nothing else: what it has not read waits in
the records, not in memory, and one that is too slow finds a gap where results were trimmed. It says
where to begin by `Last-Event-ID`, which browsers send by themselves, or by `after`; else it begins
with what comes. When the query is over and all is read, `end` says how, and the stream ends; asking
again after that is answered with 204, upon which browsers stop asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import msgspec
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from vdag.control.http.streaming import send_part, until_gone, waker
from vdag.control.queries.documents import STATES
from vdag.control.queries.parts import Parts, read_number
from vdag.control.records import ENDED, QueryRecord, ResultRecord
from vdag.errors import Saturated

__all__ = ["Streams"]

logger = logging.getLogger(__name__)

#: Results that are read at a time; a reader has no more of them in memory.
PAGE = 100
#: Proxies close connections that are silent for a minute; some for half of that.
HEARTBEAT_S = 15.0
#: What a reader waits before it comes back.
RETRY = b"retry: 2000\n\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class Streams:
    """The endpoint, and the readers that there are; for one event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._readers: set[_Stream] = set()

    async def stream(self, request: Request, query_id: str) -> Response:
        """Send results as they come, from `Last-Event-ID` or `after` on."""
        view = await self._parts.find(query_id)
        parameters = dict(request.query_params)
        if last := request.headers.get("last-event-id", ""):
            parameters["after"] = last
        after = read_number(parameters, "after", None, 0, 1 << 50)
        if len(self._readers) >= self._parts.max_streams:
            raise Saturated(f"{len(self._readers)} callers follow results already")
        if last and await _is_read(self._parts, view.query_id, after or 0):
            return Response(status_code=204)
        return _Stream(self._parts, view.query_id, after, self._readers)

    def close(self) -> None:
        """End all streams, as the server does."""
        for reader in self._readers:
            reader.end()


class _Stream(Response):
    """The reply to one reader."""

    def __init__(
        self,
        parts: Parts,
        query_id: str,
        after: int | None,
        readers: set[_Stream],
    ) -> None:
        super().__init__(media_type="text/event-stream")
        self._parts, self._query_id, self._readers = parts, query_id, readers
        self._after = after
        self._woken = asyncio.Event()
        self._is_ending = False

    def end(self) -> None:
        """End without an `end`: the reader will come back."""
        self._is_ending = True
        self._woken.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the query is over, the reader goes, or the server ends."""
        self._readers.add(self)
        try:
            await until_gone(receive, self._send_all(send), f"a reader of {self._query_id}")
        finally:
            self._readers.discard(self)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        with self._parts.store.following(self._query_id, waker(self._woken)):
            await send_part(send, RETRY)
            if self._after is None:
                newest = await self._read(None, 1)
                self._after = newest[-1].n_loop if newest else 0
            while await self._send_page(send) and not self._is_ending:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), HEARTBEAT_S)
                    continue
                await send_part(send, b": still here\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_page(self, send: Send) -> bool:
        """Send what there is; return whether there may be more."""
        assert self._after is not None, "it is set before the first"
        self._woken.clear()
        try:
            # Looked at before the results: none comes after it is over.
            is_over, record = await self._look()
            found = await self._read(self._after, PAGE)
        except Saturated:
            return True  # the records are behind, or away, for a moment
        if found:
            await send_part(send, _events(found, self._after))
            self._after = found[-1].n_loop
        if len(found) == PAGE:
            self._woken.set()
            return True
        if is_over:
            await send_part(send, _end(record))
        return not is_over

    async def _look(self) -> tuple[bool, QueryRecord | None]:
        """Return whether the query is over, and how it is recorded then; None if it is deleted."""
        view = self._parts.desk.query(self._query_id)
        if view is not None and view.state < ENDED:
            return False, None
        record = await self._parts.ask(lambda: self._parts.store.query(self._query_id))
        return record is None or record.is_over, record

    async def _read(self, after: int | None, limit: int) -> Sequence[ResultRecord]:
        store, name = self._parts.store, self._query_id
        return await self._parts.ask(lambda: store.results(name, after=after, limit=limit))


async def _is_read(parts: Parts, query_id: str, after: int) -> bool:
    """Say whether a query is over and has nothing after that."""
    record = await parts.ask(lambda: parts.store.query(query_id))
    if record is None or record.state < ENDED:
        return False
    return not await parts.ask(lambda: parts.store.results(query_id, after=after, limit=1))


def _events(found: Sequence[ResultRecord], after: int) -> bytes:
    parts = []
    # The first result of all has no one before it that could have been trimmed.
    if after and found[0].n_loop > after + 1:
        gap = {"after": after, "n_loop": found[0].n_loop}
        parts.append(b"event: gap\ndata: %b\n\n" % msgspec.json.encode(gap))
    parts += [
        b"id: %d\nevent: result\ndata: %b\n\n" % (result.n_loop, result.document)
        for result in found
    ]
    return b"".join(parts)


def _end(record: QueryRecord | None) -> bytes:
    found = {"state": 3, "state_name": STATES[3], "reason": "the query was deleted"}
    if record is not None:
        found = {
            "state": record.state,
            "state_name": STATES[record.state],
            "reason": record.reason,
        }
    return b"event: end\ndata: %b\n\n" % msgspec.json.encode(found)
