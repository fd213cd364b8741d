"""Replies of JSON; `faults` has those that say what went wrong."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

__all__ = ["JSON", "reply", "written"]

JSON = "application/json"


def reply(content: Any) -> Response:
    """Return a reply with a document."""
    return written(msgspec.json.encode(content))


def written(body: bytes, status: int = 200) -> Response:
    """Return a reply with a document that has been written already."""
    return Response(body, status, media_type=JSON)
