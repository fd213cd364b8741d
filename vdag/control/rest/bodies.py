"""Bodies of `/execute_task`: what a task is sent of a frame, and what its reply says.

A request has the task's inputs under their documented names: pictures as the text of a bytes
literal around a JPEG, everything else as JSON. A reply has the task's outputs, and beside them what
the service says of its process; they become what a worker of our own would have found: arrays
where `vdag.results` has arrays. Whatever does not fit is an error of the task.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vdag import _native as native
from vdag.control.service.images import Bounds, Picture, from_text
from vdag.errors import FrameFormatError, GraphError, ImageError
from vdag.results import PICTURES, Outputs, to_json
from vdag.tasks.base import find

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vdag.graph import Graph
    from vdag.transport.context import Context

__all__ = ["MAX_REPLY_NBYTES", "Found", "read_reply", "taken_from", "write_request"]

#: What the documents' clients are used to.
JPEG_QUALITY = 95
#: A reply repeats the faces of a frame, each as JSON text of 3.5 times its JPEG.
MAX_REPLY_NBYTES = 32 << 20
#: Of the pictures in a reply; they are regions of the frame.
BOUNDS = Bounds(max_pictures=256)
#: Of a reply, said about the process and not about the frame.
REMARKS = frozenset(
    {"execute_flag", "msg", "proc_resource_info", "proc_resource_info_list", "status", "task_conf"}
)
#: Field to the length of its rows, 0 for numbers: the arrays of `vdag.results`.
ROWS: Mapping[str, int] = {"bbox": 4, "prob": 0, "head_pose": 3, "result": 6}
#: More than an int64 holds has no form between our nodes.
MAX_INTEGER = (1 << 63) - 1
MAX_PID = 1 << 22


@dataclass(frozen=True, slots=True)
class Found:
    """What a service has found in a frame.

    Attributes:
        outputs: of the task; its arrays are the caller's.
        compute_ns: what the service says that its work took, 0 if it does not say.
        pid: of its process; likewise.
    """

    outputs: Outputs
    compute_ns: int = 0
    pid: int = 0


def write_request(graph: Graph, task: str, generated: Mapping[str, Any], context: Context) -> bytes:
    """Return the body that asks for a task.

    Args:
        graph: of the job, with its edges written out.
        task: of it.
        generated: what the generator has produced: `image`, uint8 `(H, W, 3)` BGR, and `seq`.
        context: what earlier tasks have found.

    Raises:
        GraphError: the frame lacks an input of the task.
        ImageError: a picture cannot be encoded.
    """
    body: dict[str, Any] = {}
    optional = find(task).signature.optional
    for edge in graph.edges.get(task, ()):
        fields = generated if edge.producer == graph.generator else context.get(edge.producer, {})
        if edge.field in fields:
            value = fields[edge.field]
            body[edge.name] = _written(value) if edge.field in PICTURES else to_json(value)
        elif edge.name not in optional:  # services of other makes find less than ours
            raise GraphError(f"input {edge.name} of {task}: the frame has no {edge}")
    return msgspec.json.encode(body)


def taken_from(graph: Graph, task: str) -> frozenset[str]:
    """Return the fields of a task's outputs that later tasks take."""
    return frozenset(
        edge.field for edges in graph.edges.values() for edge in edges if edge.producer == task
    )


def read_reply(body: bytes, taken: Collection[str]) -> Found:
    """Read what a service has answered.

    Args:
        body: a JSON object.
        taken: fields that later tasks take; other pictures are passed over unread.

    Raises:
        FrameFormatError: it is no such object, says that the task has failed, or has a field that
            is not what the documents say.
        ImageError: a picture cannot be decoded.
    """
    fields = _fields(body)
    if "error" in fields or not fields.keys() - REMARKS:
        text = _value(fields, "error") or _value(fields, "msg") or "nothing"
        raise FrameFormatError(f"the service answers: {str(text)[:500]}")
    outputs: Outputs = {}
    for name in fields.keys() - REMARKS:
        if name in PICTURES:
            if name in taken:
                outputs[name] = _pictures(_value(fields, name), name)
        else:
            outputs[name] = _output(name, _value(fields, name))
    if isinstance(outputs.get("result"), dict):  # of the first version: numbers by kind
        counts = outputs.pop("result")
        outputs.setdefault("count_result", counts)
    info = _value(fields, "proc_resource_info")
    return Found(outputs, *_remarks(info if isinstance(info, dict) else {}))


def _written(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    return native.literal.encode(native.jpeg.encode(_pixels(value), quality=JPEG_QUALITY))


def _pixels(value: Any) -> NDArray[np.uint8]:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        raise ImageError(f"picture is a {type(value).__name__}, not pixels of 8 bits")
    return np.ascontiguousarray(value)


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _FIELDS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise FrameFormatError(f"reply is no JSON object: {err}") from err


def _value(fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    if name not in fields:
        return None
    try:
        return msgspec.json.decode(fields[name])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise FrameFormatError(f"reply.{name:.80} is no JSON: {err}") from err


def _output(name: str, value: Any) -> Any:
    """Return a field as a worker of ours would have found it."""
    if name == "count_result" or (name == "result" and isinstance(value, dict)):
        return _counts(name, value)
    if name in ROWS:
        return _array(name, value, ROWS[name])
    _check_numbers(name, value)
    return value


def _array(name: str, value: Any, width: int) -> NDArray[np.float32]:
    if not isinstance(value, list):
        raise FrameFormatError(f"reply.{name} is a {type(value).__name__}, expected a list")
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError) as err:
        raise FrameFormatError(f"reply.{name} is no list of numbers") from err
    if not len(value):
        found = found.reshape((0, width) if width else (0,))
    if found.shape[1:] != ((width,) if width else ()):
        expected = f"rows of {width}" if width else "numbers"
        raise FrameFormatError(f"reply.{name} has shape {found.shape}, expected {expected}")
    if not np.isfinite(found).all() or np.abs(found).max(initial=0.0) > 1e30:
        raise FrameFormatError(f"reply.{name} has a number that is none")
    return found.astype(np.float32)


def _counts(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FrameFormatError(f"reply.{name} is a {type(value).__name__}, expected an object")
    for key, count in value.items():
        if isinstance(count, bool) or not isinstance(count, (int, float)):
            raise FrameFormatError(f"reply.{name}.{key:.80} is no number")
    _check_numbers(name, value)
    return value


def _check_numbers(name: str, value: Any) -> None:
    """Make sure that a value can travel between our nodes, whose integers have 64 bits."""
    if isinstance(value, dict):
        for item in value.values():
            _check_numbers(name, item)
    elif isinstance(value, list):
        for item in value:
            _check_numbers(name, item)
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise FrameFormatError(f"reply.{name:.80} has an integer of more than 64 bits")


def _pictures(value: Any, name: str) -> Any:
    if isinstance(value, list):
        if len(value) > BOUNDS.max_pictures:
            raise ImageError(f"reply.{name} has {len(value)} pictures, limit {BOUNDS.max_pictures}")
        return [_pictures(item, name) for item in value if not isinstance(item, list)]
    if not isinstance(value, str):
        raise ImageError(f"reply.{name} is a {type(value).__name__}, expected a picture")
    return _decoded(from_text(value, BOUNDS))


def _decoded(picture: Picture) -> NDArray[np.uint8]:
    found = np.empty((picture.height, picture.width, 3), np.uint8)
    picture.write(found)
    return found


def _remarks(info: Mapping[str, Any]) -> tuple[int, int]:
    """Return the work's nanoseconds and its process, as far as a service says them."""
    latency, pid = info.get("compute_latency", info.get("latency")), info.get("pid")
    is_number = isinstance(latency, (int, float)) and not isinstance(latency, bool)
    compute_ns = 0
    if is_number and math.isfinite(latency) and 0 <= latency <= 3600:
        compute_ns = round(latency * 1e9)
    is_pid = isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid <= MAX_PID
    return compute_ns, pid if is_pid and pid is not None else 0


_FIELDS: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
