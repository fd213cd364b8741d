"""`FrameResult`: what a node has found in one frame, in one shape whoever made it.

Nodes of all makes post a *frame object* per processed frame. The newest have `count_result`,
`frame_id`, `n_loop`, `delay`, `ext_plan` and `ext_runtime`; others leave the last two out, add the
whole output of the last task, write the counts beside `n_loop`, or post a mere number. What is kept
has all of these keys, and no pictures: records hold what was found, not what was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from vdag.errors import ConfigError, PayloadTooLarge

__all__ = ["MAX_DOCUMENT_NBYTES", "FrameResult", "read_frame"]

#: Of the JSON of one frame; one with 500 boxes has a tenth of it.
MAX_DOCUMENT_NBYTES = 256 << 10
#: Largest `n_loop`: 2000 years of 100 frames a second.
MAX_N_LOOP = 1 << 43
#: JSON's whole numbers have no end, a database's have; what is no number compares with nothing.
LARGEST = 1e300
#: Fields that hold pictures, as text of many times their size.
PICTURES = frozenset({"adjacent_frames", "clip", "faces", "frame", "image", "image_list"})
#: What stays of a frame object that is too large; the first is written then.
CORE = ("is_shortened", "count_result", "frame_id", "n_loop", "delay", "ext_plan", "ext_runtime")
#: Numbers beside the counts of older frame objects.
FIGURES = frozenset({"delay", "delay_amortized", "frame_id", "n_loop", "obj_n", "proc_delay"})


@dataclass(frozen=True, slots=True)
class FrameResult:
    """What was found in one frame.

    Attributes:
        n_loop: number among the frames that the job has processed, from 1; None if the node does
            not count.
        frame_id: position in the video, from 0; None if the node does not say.
        document: JSON of the frame object.
        plan: the `ext_plan` in it; None if the node does not say.
        runtime: the `ext_runtime` in it; empty likewise.
    """

    n_loop: int | None
    frame_id: float | None
    document: bytes
    plan: Mapping[str, Any] | None = None
    runtime: Mapping[str, Any] | None = None


def read_frame(item: Any, *, plan: Mapping[str, Any] | None = None) -> FrameResult:
    """Read a frame object of any make.

    Args:
        item: the object, or the number that the oldest nodes post, or None.
        plan: stands in for an `ext_plan` that is missing.

    Raises:
        ConfigError: it is none of these, or a field is not what it should be.
        PayloadTooLarge: what has to be kept of it exceeds `MAX_DOCUMENT_NBYTES`.
    """
    if not isinstance(item, Mapping):
        item = {"count_result": _count(item)}
    frame = {name: value for name, value in item.items() if name not in PICTURES}
    if not isinstance(frame.get("count_result"), Mapping):
        frame["count_result"] = _counted(frame)
    n_loop, frame_id = _n_loop(frame.get("n_loop")), _number(frame, "frame_id")
    frame["n_loop"], frame["frame_id"] = n_loop, frame_id
    frame["delay"] = _number(frame, "delay")
    own_plan = _object(frame, "ext_plan")
    frame["ext_plan"] = own_plan or plan or {"video_conf": None, "flow_mapping": None}
    runtime = _object(frame, "ext_runtime")
    frame["ext_runtime"] = runtime
    return FrameResult(n_loop, frame_id, _encode(frame), own_plan or plan, runtime or None)


def _count(item: Any) -> dict[str, Any]:
    if item is None:
        return {}
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise ConfigError(f"a result is a {type(item).__name__}, expected an object or a number")
    return {"total": item}


def _counted(frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts for a frame object without any: pages draw a line per count."""
    for name in ("bbox", "result", "head_pose"):
        if isinstance(frame.get(name), list):
            return {"total": len(frame[name])}
    return {
        name: value
        for name, value in frame.items()
        if name not in FIGURES and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _n_loop(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_N_LOOP:
        raise ConfigError(f"n_loop is {str(value)[:80]!r}, expected 0 to {MAX_N_LOOP}")
    return value


def _number(frame: Mapping[str, Any], name: str) -> float | None:
    value = frame.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST:
        raise ConfigError(f"{name} is {str(value)[:80]!r}, expected a number")
    return value


def _object(frame: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = frame.get(name)
    if not value:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is a {type(value).__name__}, expected an object")
    return dict(value)


def _encode(frame: dict[str, Any]) -> bytes:
    document = msgspec.json.encode(frame)
    if len(document) <= MAX_DOCUMENT_NBYTES:
        return document
    frame["is_shortened"] = True
    document = msgspec.json.encode({name: frame[name] for name in CORE})
    if len(document) > MAX_DOCUMENT_NBYTES:
        raise PayloadTooLarge(f"result of {len(document)} bytes exceeds {MAX_DOCUMENT_NBYTES}")
    return document
