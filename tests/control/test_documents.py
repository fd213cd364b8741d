"""Each example of the documents gets a reply with every documented key and type."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vdag import _native as native

DOCUMENTS = Path(__file__).parents[1] / "documents"
EXAMPLES = {path.stem: json.loads(path.read_text()) for path in sorted(DOCUMENTS.glob("*.json"))}
#: Keys that stand for any number of others: addresses, and numbers of GPUs.
VARIABLE = re.compile(r"[\d.]+(:\d+)?")
#: What the documents list, with the tasks that they show each for.
ENDPOINTS = {
    "/execute_task": {"face_detection", "face_alignment", "car_detection", "helmet_detection"},
    "/execute_task_old": {"face_detection", "face_alignment"},
    "/execute_task_new": {"face_detection", "face_alignment"},
    "/concurrent_execute_task_new": {"face_detection", "face_alignment", "car_detection"},
    "/service": {"face_detection", "face_alignment"},
    "/get_execute_url": {"face_detection"},
    "/get_service_list": set(),
    "/get_system_status": set(),
    "/get_cluster_info": set(),
    "/get_resource_info": set(),
    "/add_work_process": set(),
    "/decrease_work_process": set(),
    "/limit_process_resource": set(),
    "/limit_task_resource": set(),
}


def differences(documented: Any, found: Any, place: str = "reply") -> list[str]:
    """Say where a value lacks a documented key, or has another type."""
    if isinstance(documented, dict):
        if not isinstance(found, dict):
            return [f"{place} is no object"]
        wrong = []
        for key, value in documented.items():
            if VARIABLE.fullmatch(key):
                keys = [name for name in found if VARIABLE.fullmatch(name)]
            else:
                keys = [key] if key in found else []
                wrong += [] if keys else [f"{place} has no {key}"]
            for name in keys:
                wrong += differences(value, found[name], f"{place}.{name}")
        return wrong
    if isinstance(documented, list):
        if not isinstance(found, list):
            return [f"{place} is no list"]
        rows = [item for item in documented[:1] if isinstance(item, list) and item]
        return [
            f"{place}[{index}] has {len(other)} items, not {len(row)}"
            for row in rows
            for index, other in enumerate(found)
            if isinstance(other, list) and len(other) != len(row)
        ] + [
            text
            for item in documented[:1]
            for index, other in enumerate(found)
            for text in differences(item, other, f"{place}[{index}]")
        ]
    kinds = (int, float) if isinstance(documented, (int, float)) else (type(documented),)
    return [] if type(found) in kinds else [f"{place} is {found!r}"]


@pytest.fixture(scope="module")
def street(clips: Path) -> str:
    """The documents' text of a picture with cars."""
    with av.open(str(clips / "bikes.mp4")) as container:
        frame = next(islice(container.decode(video=0), 150, None)).to_ndarray(format="bgr24")
    return native.literal.encode(native.jpeg.encode(frame, quality=95))


@pytest.fixture
def stand_in(literal: str, street: str, portrait: np.ndarray, caller):
    def replace(kind: str, request: dict[str, Any]) -> Any:
        if kind == "picture":
            return literal
        if kind == "street":
            return street
        if kind == "pictures":
            return [literal, literal]
        if kind == "pid":
            reply = caller.post("/execute_task/face_detection", {"image": literal}).json()
            return reply["proc_resource_info"]["pid"]
        assert kind == "faces"
        crop = native.jpeg.encode(np.ascontiguousarray(portrait[20:110, 45:135]))
        return [native.literal.encode(crop)] * len(request["bbox"])

    return replace


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_documented_example_gets_a_reply_with_every_documented_key_and_type(
    name, caller, stand_in
):
    example = EXAMPLES[name]
    request = example["request"]
    if request is not None:
        request |= {field: stand_in(kind, request) for field, kind in example["stands_for"].items()}
    reply = (
        caller.get(example["path"])
        if example["method"] == "GET"
        else caller.post(example["path"], request)
    )
    if reply.status == 409:
        pytest.skip(reply.json()["error"])  # a machine without control groups
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    found = reply.json()
    assert found, "callers want something that is true"
    assert differences(example["reply"], found) == []
    for field in example.get("finds", ()):
        assert found[field], f"{field} is empty: nothing of it was compared"
    for field in example["stands_for"]:
        if field == "image_list":
            assert len(found["output_ctx_list"]) == len(request["image_list"])


def test_every_documented_endpoint_has_an_example():
    shown: dict[str, set[str]] = {}
    for example in EXAMPLES.values():
        _, endpoint, *task = example["path"].split("/")
        shown.setdefault(f"/{endpoint}", set()).update(task)
    assert shown.keys() == ENDPOINTS.keys()
    assert [endpoint for endpoint, tasks in ENDPOINTS.items() if not tasks <= shown[endpoint]] == []


def test_the_comparison_finds_what_is_missing():
    documented = {
        "a": 1, "b": [{"c": "x"}], "1.2.3.4:5500": {"d": 1.5}, "e": [], "f": [[1, 2]], "g": 1,
    }  # fmt: skip
    found = {
        "b": [{}, {"c": 3}], "9.9.9.9:1": {"d": None}, "e": {}, "f": [[1, 2], [3]], "g": True,
    }  # fmt: skip
    assert differences(documented, found) == [
        "reply has no a",
        "reply.b[0] has no c",
        "reply.b[1].c is 3",
        "reply.9.9.9.9:1.d is None",
        "reply.e is no list",
        "reply.f[1] has 1 items, not 2",
        "reply.g is True",
    ]
