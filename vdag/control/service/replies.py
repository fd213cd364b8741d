"""Replies of :5500: what tasks have found, in the words of the documents.

A reply has the fields of every version of the documents at once: the task's own, then
`proc_resource_info`, `proc_resource_info_list` and `execute_flag` of another version, `task_conf`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from vdag import _native as native
from vdag.control.service.execution import Answer
from vdag.control.service.schemas import Order, Work
from vdag.control.service.staff import ProcessState
from vdag.errors import ConfigError
from vdag.results import PICTURES, Outputs, to_json

__all__ = ["PictureForm", "Place", "compose", "has_pictures", "picture_form"]

#: How pictures are written: as the documents' text, base64, their bytes, or left out.
PictureForm = Literal["literal", "base64", "binary", "none"]
#: What OpenCV takes when it is not told, which the documents' clients are used to.
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task was executed, as callers are told.

    Attributes:
        address: of the node.
        role: of the node.
    """

    address: str
    role: str


def picture_form(wanted: str, *, is_binary: bool) -> PictureForm:
    """Return how pictures are to be written.

    Args:
        wanted: what the caller asks for, empty for the usual.
        is_binary: the reply can hold bytes.

    Raises:
        ConfigError: there is no such form, or the reply cannot hold it.
    """
    if not wanted:
        return "binary" if is_binary else "literal"
    if wanted not in get_args(PictureForm) or (wanted == "binary" and not is_binary):
        raise ConfigError(f"pictures is {wanted[:80]!r}, expected literal, base64 or none")
    form: PictureForm = wanted  # type: ignore[assignment]
    return form


def has_pictures(answers: Sequence[Answer], form: PictureForm) -> bool:
    """Say whether writing these answers takes a moment, as pictures have to be encoded."""
    return form != "none" and any(
        len(answer.outputs[name]) for answer in answers for name in PICTURES & answer.outputs.keys()
    )


def compose(
    order: Order,
    answers: Sequence[Answer],
    states: Sequence[ProcessState],
    *,
    all_latency_s: float,
    place: Place,
    form: PictureForm,
) -> dict[str, Any]:
    """Return the body of a reply.

    Args:
        order: what was asked for.
        answers: one for each of its works.
        states: of the process of each answer.
        all_latency_s: from the request's arrival until now.
        place: where it was done.
        form: of pictures.
    """
    infos = [
        {**_resource_info(answer, state, all_latency_s, place), **_model(work)}
        for work, answer, state in zip(order.works, answers, states, strict=True)
    ]
    contexts = [_outputs(answer.outputs, form) for answer in answers]
    body: dict[str, Any]
    if order.is_list:
        body = {"output_ctx_list": contexts}
    else:
        (body,) = contexts
    slowest = max(infos, key=lambda info: info["compute_latency"], default=None)
    body["proc_resource_info"] = slowest or _nothing(place, all_latency_s)
    body["proc_resource_info_list"] = [
        {**info, "latency": info["compute_latency"]} for info in infos
    ]
    body["execute_flag"] = True
    body["task_conf"] = _conf(order)
    return body


def _resource_info(
    answer: Answer, state: ProcessState, all_latency_s: float, place: Place
) -> dict[str, Any]:
    return {
        "cpu_util_limit": state.cpu_util_limit,
        "cpu_util_use": state.cpu_util_use,
        "mem_util_limit": state.mem_util_limit,
        "mem_util_use": state.mem_util_use,
        "compute_latency": (answer.end_ns - answer.start_ns) / 1e9,
        "pid": state.pid,
        "all_latency": all_latency_s,
        "device_ip": place.address,
        "node_ip": place.address,
        "node_role": place.role,
    }


def _model(work: Work) -> dict[str, int]:
    """Return which model a piece of work asked for; without, each worker's own has done it."""
    return {} if work.model is None else {"model_id": work.model}


def _nothing(place: Place, all_latency_s: float) -> dict[str, Any]:
    """Return the figures of a reply that nobody had to work for."""
    return _resource_info(Answer({}, 0, 0, 0), ProcessState(0), all_latency_s, place)


def _conf(order: Order) -> dict[str, Any]:
    """Return the caller's `task_conf`, with what is known of what was looked at."""
    work = order.works[0] if order.works else Work("")
    width, height = (work.pictures[0].width, work.pictures[0].height) if work.pictures else (0, 0)
    return {"fps": 0, "resolution": {"w": width, "h": height}, **order.conf}


def _outputs(outputs: Outputs, form: PictureForm) -> dict[str, Any]:
    found = {}
    for name, value in outputs.items():
        if name not in PICTURES:
            found[name] = to_json(value)
        elif form != "none":
            is_list = isinstance(value, (list, tuple))
            found[name] = (
                [_picture(item, form) for item in value] if is_list else _picture(value, form)
            )
    return found


def _picture(pixels: Any, form: PictureForm) -> Any:
    array = np.ascontiguousarray(pixels)
    is_jpeg = array.ndim == 1  # of the handler that encodes
    jpeg = array.tobytes() if is_jpeg else native.jpeg.encode(array, quality=JPEG_QUALITY)
    if form == "binary":
        return jpeg
    if form == "base64":
        return base64.b64encode(jpeg).decode("ascii")
    return native.literal.encode(jpeg)
