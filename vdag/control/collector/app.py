"""The report protocol, as an ASGI app.

The answer is always of status 200, as documented, and always has a `result`; with `"Failed"` it has
a `reason`, on which callers rely. Those callers wait half a second for it. When it comes, whatever
it says, they forget what they have sent; when it does not, they send it again with what is new.

So the answer comes when the report is committed, for then it may be forgotten. A report for which
there is no room now, or while one of the same node is still being written, gets no answer for as
long as such a caller waits: it comes again, and what is there already is passed over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vdag.control.collector.senders import Senders
from vdag.control.exposition import add_metrics, record_figures, report_figures
from vdag.control.http.app import OPEN_PATHS, new_app
from vdag.control.http.gate import BodyRoom
from vdag.control.records import Logbook, Stored, read_owner, read_report
from vdag.errors import ChannelClosed, NotFound, Saturated, VdagError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["Counts", "create_app"]

logger = logging.getLogger(__name__)

#: A sender that could not report for minutes brings 300,000 rows at once.
MAX_BODY_NBYTES = 32 << 20
MAX_BODIES_NBYTES = 128 << 20
#: Longer than a sender waits for an answer.
HOLD_S = 1.0
#: Of those who wait longer than senders do.
COMMIT_TIMEOUT_S = 30.0
#: A clock that is further ahead than that is wrong.
MAX_AHEAD_S = 86400.0
#: Reports that are held or being written.
MAX_UNDER_WAY = 256

SUCCEEDED = b'{"result":"Succeeded"}'
JSON = "application/json"


@dataclass(slots=True)
class Counts:
    """What became of reports.

    Attributes:
        succeeded: that were committed.
        refused: that are malformed, or of nobody who is known.
        put_off: for which there was no room then.
    """

    succeeded: int = 0
    refused: int = 0
    put_off: int = 0


def create_app(log: Logbook, senders: Senders) -> FastAPI:
    """Return the app.

    Args:
        log: where reports are recorded; the caller closes it.
        senders: who may report.
    """
    app = new_app("vdag collector", token="", cors=False, responses={})
    app.router.redirect_slashes = False
    intake = _Intake(log, senders)
    for path in OPEN_PATHS:
        app.add_api_route(path, intake.health, methods=["GET"], summary="Whether it works")
    add_metrics(app, intake.figures)
    app.add_api_route(
        "/{path:path}", intake.take, methods=["POST"], summary="Report", response_class=Response
    )
    return app


class _Intake:
    """The endpoints."""

    def __init__(self, log: Logbook, senders: Senders) -> None:
        self._log, self._senders = log, senders
        self._room = BodyRoom(max_nbytes=MAX_BODY_NBYTES, total_nbytes=MAX_BODIES_NBYTES)
        self._writing: set[int] = set()
        self._held = 0
        self._counts = Counts()

    async def health(self) -> JSONResponse:
        """Answer that it works, with what it has done."""
        stats, counts = self._log.stats(), self._counts
        rows = {name: getattr(stats, name) for name in stats.__slots__}
        reports = {name: getattr(counts, name) for name in counts.__slots__}
        return JSONResponse({"status": 0, "rows": rows, "reports": reports})

    def figures(self) -> Iterator[Metric]:
        """Yield the same for Prometheus."""
        counts = self._counts
        yield from report_figures((name, getattr(counts, name)) for name in counts.__slots__)
        yield from record_figures(self._log.stats())

    async def take(self, request: Request) -> Response:
        """Record a report, and answer when it is committed."""
        try:
            await self._take(request)
        except (Saturated, ChannelClosed) as err:
            return await self._hold(str(err))
        except (VdagError, HTTPException) as err:
            self._counts.refused += 1
            text = str(err.detail) if isinstance(err, HTTPException) else str(err)
            logger.info("report of %s refused: %s", _host(request), text)
            return _failed(text)
        except Exception as err:  # a caller that gets no reason does not report any more
            logger.exception("report of %s failed", _host(request))
            return _failed(f"internal error: {type(err).__name__}")
        self._counts.succeeded += 1
        return Response(SUCCEEDED, media_type=JSON)

    async def _take(self, request: Request) -> None:
        host = _host(request)
        if not self._senders.knows(host):  # its body is not read at all
            raise NotFound(f"no node has the address {host}")
        async with self._room.body(request) as body:
            node_id = self._senders.find(host, read_owner(body)).node_id
            if node_id in self._writing or len(self._writing) >= MAX_UNDER_WAY:
                raise Saturated(f"a report of node {node_id} is still being written")
            report = read_report(body, node_id, latest_s=time.time() + MAX_AHEAD_S)
        done = self._log.record_awaited(report)
        self._writing.add(node_id)
        await self._wait(done, node_id)

    async def _wait(self, done: Future[Stored], node_id: int) -> None:
        waiting = asyncio.wrap_future(done)
        waiting.add_done_callback(lambda _: self._writing.discard(node_id))
        try:
            # Who leaves does not undo it: the next report of the node waits until it is written.
            await asyncio.wait_for(asyncio.shield(waiting), COMMIT_TIMEOUT_S)
        except asyncio.TimeoutError as err:
            waiting.add_done_callback(_retrieve)
            raise Saturated(f"report is not committed within {COMMIT_TIMEOUT_S:g} s") from err

    async def _hold(self, reason: str) -> Response:
        self._counts.put_off += 1
        if self._held < MAX_UNDER_WAY:
            self._held += 1
            try:
                await asyncio.sleep(HOLD_S)
            finally:
                self._held -= 1
        return _failed(reason)


def _retrieve(waiting: asyncio.Future[Any]) -> None:
    """Look at an outcome that nobody waits for any more."""
    if not waiting.cancelled():
        waiting.exception()


def _failed(reason: str) -> Response:
    return Response(msgspec.json.encode({"result": "Failed", "reason": reason}), media_type=JSON)


def _host(request: Request) -> str:
    return request.client.host if request.client is not None else ""
