"""What `/docs` shows of the endpoints that read their bodies themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "RESPONSES",
    "asking_for",
    "changing",
    "executing",
    "name_of",
    "responses",
    "uploading",
]

_LITERAL = "b'\\xff\\xd8\\xff\\xe0\\x00\\x10JFIF...\\xff\\xd9'"
_NUMBER = {"type": "number"}
_BOXES = {"type": "array", "items": {"type": "array", "items": _NUMBER}}
_PICTURE = {
    "description": "A bytes literal of a JPEG or PNG, base64 of it, or nested lists of 0 to 255.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "array"}}],
}
_PICTURES = {"type": "array", "items": _PICTURE}
_ERROR = {
    "type": "object",
    "required": ["status", "error"],
    "properties": {"status": {"type": "integer"}, "error": {"type": "string"}},
}
_FIELDS = {
    "type": "object",
    "properties": {
        "image": _PICTURE,
        "image_list": _PICTURES,
        "clip": _PICTURES,
        "faces": _PICTURES,
        "bbox": _BOXES,
        "prob": {"type": "array", "items": _NUMBER},
        "task_conf": {"type": "object"},
    },
}
_INFO = {
    "type": "object",
    "properties": {
        "cpu_util_limit": _NUMBER,
        "cpu_util_use": _NUMBER,
        "mem_util_limit": _NUMBER,
        "mem_util_use": _NUMBER,
        "compute_latency": _NUMBER,
        "pid": {"type": "integer"},
        "all_latency": _NUMBER,
        "device_ip": {"type": "string"},
        "node_ip": {"type": "string"},
        "node_role": {"type": "string"},
        "model_id": {"type": "integer"},
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "bbox": _BOXES,
        "prob": {"type": "array", "items": _NUMBER},
        "faces": {"type": "array", "items": {"type": "string"}},
        "head_pose": {"type": "array", "items": {"type": "array"}},
        "result": _BOXES,
        "bbox_list": _BOXES,
        "count_result": {"type": "object"},
        "clip_result": {"type": "array", "items": {"type": "object"}},
        "output_ctx_list": {"type": "array", "items": {"type": "object"}},
        "proc_resource_info": _INFO,
        "task_conf": {"type": "object"},
    },
}
_EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "face_detection": {"image": _LITERAL},
    "face_alignment": {"faces": [_LITERAL], "bbox": [[1, 2, 30, 40]], "prob": [0.9]},
    "face_alignment, whole picture": {
        "image": _LITERAL,
        "bbox": [[1, 2, 30, 40]],
        "prob": [0.9],
    },
    "car_detection": {"image": _LITERAL},
    "helmet_detection": {"image_list": [[[1, 1, 1], [1, 1, 1]], [[2, 2, 2], [2, 2, 2]]]},
    "pixel lists": {"image": [[1, 1, 1], [1, 1, 1]]},
}
_TASK = {"name": "task", "in": "path", "required": True}
_QUERY = [
    {
        "name": "pictures",
        "in": "query",
        "description": "How pictures of the reply are written.",
        "schema": {"type": "string", "enum": ["literal", "base64", "none"]},
    },
    {
        "name": "deadline_s",
        "in": "query",
        "description": "Seconds to wait for the answer; no more than the service allows.",
        "schema": {"type": "number", "minimum": 0.001},
    },
    {
        "name": "model_id",
        "in": "query",
        "description": "Which of the task's models: 0 large, 1 medium, 2 small.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 99},
    },
]
_MEANINGS = {
    400: "A field is missing or is not what it should be.",
    401: "The token is missing.",
    404: "There is no such thing.",
    405: "The method is not one of this path.",
    408: "The body did not come in time.",
    409: "The machine does not allow what was asked for.",
    413: "The request is too large.",
    415: "The type of the body is none that is read.",
    422: "A picture cannot be decoded.",
    500: "The task failed on this input.",
    503: "The service has too much to do, or does not serve now; try again after Retry-After.",
}


def _json(schema: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **more}}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of error replies, by status."""
    return {
        status: {"description": _MEANINGS[status], "content": _json(_ERROR)} for status in statuses
    }


#: Of every endpoint.
RESPONSES = responses(401)


def executing(tasks: Sequence[str], example: str = "") -> dict[str, Any]:
    """Return what an endpoint that runs a task adds to its operation.

    Args:
        tasks: that the node has.
        example: name of the only example that fits; empty for all.
    """
    examples = {
        name: {"value": value}
        for name, value in _EXAMPLES.items()
        if not example or name == example
    }
    if example == "image_list":
        examples = {example: {"value": {"image_list": [_LITERAL, _LITERAL]}}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "parameters": [{**_TASK, "schema": name_of(tasks)}, *_QUERY],
        "requestBody": {
            "required": True,
            "content": {
                **_json(_FIELDS, examples=examples),
                "application/msgpack": binary,
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": {"type": "string", "format": "binary"}},
                    }
                },
                "image/jpeg": binary,
                "image/png": binary,
            },
        },
        "responses": {
            "200": {
                "description": "What the task found, or an unregistered task's error.",
                "content": {**_json({"anyOf": [_ANSWER, _ERROR]}), "application/msgpack": binary},
            }
        },
    }


def name_of(tasks: Sequence[str]) -> dict[str, Any]:
    """Return the schema of the name of a task."""
    return {"type": "string", "enum": list(tasks)}


def asking_for(tasks: Sequence[str]) -> dict[str, Any]:
    """Return what an endpoint that asks about a task, of whichever node, adds to its operation."""
    return {"parameters": [{**_TASK, "schema": {"type": "string"}, "example": tasks[0]}]}


def changing(
    properties: Mapping[str, Any], example: Mapping[str, Any], *required: str
) -> dict[str, Any]:
    """Return what an endpoint that changes something adds to its operation.

    Args:
        properties: schema of each field.
        example: the documents' own.
        required: the fields that have to be there.
    """
    schema = {"type": "object", "required": list(required), "properties": dict(properties)}
    return {
        "requestBody": {"required": True, "content": _json(schema, example=dict(example))},
        "responses": {"200": {"description": "Done.", "content": _json({"type": "object"})}},
    }


def uploading() -> dict[str, Any]:
    """Return what the endpoint that stores packages adds to its operation."""
    stored = {
        "type": "object",
        "required": ["status", "msg", "package", "stages", "nbytes", "enabled"],
        "properties": {
            "status": {"type": "integer"},
            "msg": {"type": "string"},
            "package": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]*@[0-9a-f]{64}$"},
            "stages": {"type": "array", "items": {"type": "string"}},
            "nbytes": {"type": "integer"},
            "enabled": {"type": "boolean"},
        },
    }
    file = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": ["task_json"],
        "properties": {"task_json": {**file, "description": "What the package holds, as JSON."}},
        "additionalProperties": {**file, "description": "A zip for each stage, by its name."},
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {"200": {"description": "Stored.", "content": _json(stored)}},
    }
