"""What a description cannot say: pictures and zips that are real, and some that are nearly."""

from __future__ import annotations

import json
import zlib
from typing import Any

import schemathesis
from package_kit import task_json, zip_of
from request_kit import requests

UPLOAD = "/upload-json-and-codefiles-api"
EXECUTE = ("/execute_task", "/service", "/concurrent")
#: Fields of requests that are JSON.
FIELDS = [json.loads(body) for kind, body in requests() if kind == 0]
ZIP = zip_of({"density.py": "x = 1\n", "weights.bin": bytes(range(256))})


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Put a real body in place of every other one; which depends on the body alone."""
    number = zlib.crc32(repr(body).encode("utf-8", "replace"))
    if number % 2 or not isinstance(body, dict):
        return body
    number //= 2
    if context.operation.path == UPLOAD:
        return {"task_json": task_json(f"p{number % 7}"), "density": _damaged(number, ZIP)}
    if context.operation.path.startswith(EXECUTE) and not _has_files(body):
        return FIELDS[number % len(FIELDS)]
    return body


def _has_files(body: dict[str, Any]) -> bool:
    return any(not isinstance(value, (str, int, float, list, dict)) for value in body.values())


def _damaged(number: int, data: bytes) -> bytes:
    place = number % (2 * len(data))
    return data[:place] + bytes([number // 1024 % 256]) + data[place + 1 :]
