"""Each example of the documents gets a reply with every documented key and type."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vdag import _native as native

DOCUMENTS = Path(__file__).parents[1] / "documents"
EXAMPLES = {path.stem: json.loads(path.read_text()) for path in sorted(DOCUMENTS.glob("*.json"))}
#: Keys that stand for any number of others: addresses, and numbers of GPUs.
VARIABLE = re.compile(r"[\d.]+(:\d+)?")


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
        return [
            text
            for item in documented[:1]
            for index, other in enumerate(found)
            for text in differences(item, other, f"{place}[{index}]")
        ]
    kinds = (int, float) if isinstance(documented, (int, float)) else type(documented)
    return [] if isinstance(found, kinds) else [f"{place} is {found!r}"]


@pytest.fixture
def stand_in(literal: str, portrait: np.ndarray, caller):
    def replace(kind: str, request: dict[str, Any]) -> Any:
        if kind == "picture":
            return literal
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
    for field in example["stands_for"]:
        if field == "image_list":
            assert len(found["output_ctx_list"]) == len(request["image_list"])


def test_the_comparison_finds_what_is_missing():
    documented = {"a": 1, "b": [{"c": "x"}], "1.2.3.4:5500": {"d": 1.5}, "e": []}
    found = {"b": [{}, {"c": 3}], "9.9.9.9:1": {"d": None}, "e": {}}
    assert differences(documented, found) == [
        "reply has no a",
        "reply.b[0] has no c",
        "reply.b[1].c is 3",
        "reply.9.9.9.9:1.d is None",
        "reply.e is no list",
    ]
