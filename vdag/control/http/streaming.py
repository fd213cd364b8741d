"""Replies that go on until either side has had enough."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import Receive, Send

__all__ = ["send_part", "until_gone", "waker"]

logger = logging.getLogger(__name__)

#: A reader that takes nothing for so long is gone.
SEND_TIMEOUT_S = 30.0
#: Before Python 3.12 `asyncio.wait_for` may lose a cancellation: it is repeated this often.
CANCEL_INTERVAL_S = 0.5


def waker(event: asyncio.Event) -> Callable[[], None]:
    """Return what sets an event of the running loop, by any thread, also after the loop's end."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(event.set)

    return wake


async def send_part(send: Send, body: bytes) -> None:
    """Send a part of a reply.

    Raises:
        asyncio.TimeoutError: the reader does not take it: he is gone.
    """
    message = {"type": "http.response.body", "body": body, "more_body": True}
    await asyncio.wait_for(send(message), SEND_TIMEOUT_S)


async def until_gone(receive: Receive, sending: Coroutine[Any, Any, None], reader: str) -> None:
    """Send until it is done or the reader goes; what fails because he went is no error.

    Args:
        receive: of the request.
        sending: sends the reply.
        reader: what he is, for the log.
    """
    task = asyncio.ensure_future(sending)
    leaving = asyncio.ensure_future(_wait_gone(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        while pending := {each for each in (task, leaving) if not each.done()}:
            for each in pending:
                each.cancel()
            await asyncio.wait(pending, timeout=CANCEL_INTERVAL_S)
    if not task.cancelled() and (err := task.exception()) is not None:
        if not isinstance(err, (asyncio.TimeoutError, OSError)):
            raise err
        logger.info("%s has gone: %s", reader, type(err).__name__)


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
