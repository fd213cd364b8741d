"""How the REST side says that something went wrong: always JSON, always the same two fields."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vdag.control.http.replies import JSON, written
from vdag.errors import VdagError

__all__ = ["add_handlers", "error_body", "failure", "refusal"]

RETRY_AFTER_S = "1"


def error_body(error: str) -> bytes:
    """Return the body of every reply that says what went wrong."""
    return msgspec.json.encode({"status": 1, "error": error})


def failure(error: str, status: int) -> Response:
    """Return the reply that says so."""
    return written(error_body(error), status)


def refusal(err: VdagError | HTTPException) -> Response:
    """Return the reply to a request that is refused, or has failed, for that reason."""
    if isinstance(err, HTTPException):
        return Response(error_body(str(err.detail).lower()), err.status_code, err.headers, JSON)
    headers = {"retry-after": RETRY_AFTER_S} if err.status == 503 else None
    return Response(error_body(str(err)), err.status, headers, JSON)


def add_handlers(app: FastAPI) -> None:
    """Have an app answer what its endpoints raise."""
    app.add_exception_handler(VdagError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)


async def _on_error(request: Request, err: Exception) -> Response:
    assert isinstance(err, (VdagError, HTTPException)), "it is registered for these"
    return refusal(err)


async def _on_invalid(request: Request, err: Exception) -> Response:
    return failure(f"request is malformed: {err}", 422)
