"""What all endpoints of the query manager have: the desk, the records, and how they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException

from vdag.control.desk import Desk, QueryView
from vdag.control.http.gate import BodyRoom
from vdag.control.queries import schemas
from vdag.control.records import Store, read_query_id, write_query_id
from vdag.errors import ConfigError, Saturated

__all__ = ["Parts", "read_number"]

#: For what the controller does when it is asked; it may have to wait for the records.
DESK_TIMEOUT_S = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the query manager works with; all are the caller's, who closes them after the app.

    Attributes:
        desk: of the controller.
        store: its records, which are only read here.
        room: for bodies.
        token: callers have to show it; empty for none.
        cors: whether pages of any origin may ask.
        max_streams: callers that follow results at a time.
        live_port: of the node's live pictures, as old clients are told.
    """

    desk: Desk
    store: Store
    room: BodyRoom = field(
        default_factory=lambda: BodyRoom(max_nbytes=32 << 20, total_nbytes=256 << 20)
    )
    token: str = ""
    cors: bool = True
    max_streams: int = 256
    live_port: int = 5101

    async def read(self, request: Request, kind: type[_T], *, has_pictures: bool = False) -> _T:
        """Read a request's body, see `schemas.read_body`; its `Raw` fields keep it alive."""
        async with self.room.body(request) as body:
            return schemas.read_body(body, kind, has_pictures=has_pictures)

    async def ask(self, call: Callable[[], _T]) -> _T:
        """Read records in a thread."""
        return await asyncio.to_thread(call)

    async def done(self, future: Future[_T]) -> _T:
        """Wait for what the controller does; it does so also if nobody waits any more.

        Raises:
            Saturated: it takes too long.
            VdagError: it cannot be done.
        """
        waiter = asyncio.wrap_future(future)
        await asyncio.wait({waiter}, timeout=DESK_TIMEOUT_S)
        if not waiter.done():
            raise Saturated(f"the controller has not answered within {DESK_TIMEOUT_S:g} s")
        return waiter.result()

    async def find(self, name: str) -> QueryView:
        """Return how a query is: as the controller has it, else as it is recorded.

        Raises:
            HTTPException: there is none of that name.
        """
        view = self.desk.query(self.known(name))
        if view is not None:
            return view
        record = await self.ask(lambda: self.store.query(name))
        if record is None:
            raise self.unknown(name)
        return QueryView.of_record(record)

    def known(self, name: str) -> str:
        """Return the id in a name that clients of any version may use.

        Raises:
            HTTPException: it is none's.
        """
        number = read_query_id(name)
        if not number:
            raise self.unknown(name)
        return write_query_id(number)

    def unknown(self, name: str) -> HTTPException:
        """Return the error that says so."""
        number = read_query_id(name)
        text = f"query {number} is not known" if number else f"{name[:80]!r} is no query's id"
        return HTTPException(404, text)


def read_number(
    parameters: Mapping[str, str], name: str, default: int | None, low: int, high: int
) -> int | None:
    """Return a parameter of a URL that is a whole number.

    Raises:
        ConfigError: it is none, or out of its range.
    """
    text = parameters.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 16 and low <= int(text) <= high):
        raise ConfigError(f"{name} is {text[:80]!r}, expected {low} to {high}")
    return int(text)
