"""Replies that go on until either side has had enough."""

from __future__ import annotations

import asyncio
from typing import Any

from vdag.control.http.streaming import until_gone

TIMEOUT_S = 20.0


async def gone() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def test_a_reply_ends_although_it_has_lost_a_cancellation():
    lost = []

    async def sending() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as err:
            lost.append(err)  # as `asyncio.wait_for` does before Python 3.12, now and then
        await asyncio.Event().wait()

    async def reply() -> None:
        await asyncio.wait_for(until_gone(gone, sending(), "a reader"), TIMEOUT_S)

    asyncio.run(reply())
    assert len(lost) == 1
