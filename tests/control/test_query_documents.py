"""Each example of the documents gets a reply of the query manager with every documented key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk_kit import FakeDesk, Serving
from node_kit import Caller

from vdag.control.queries import Parts
from vdag.control.records import Store

pytestmark = pytest.mark.slow  # as a whole

DOCUMENTS = Path(__file__).parents[1] / "documents" / "query"
EXAMPLES = {path.stem: json.loads(path.read_text()) for path in sorted(DOCUMENTS.glob("*.json"))}
#: Keys that stand for any number of others: addresses, numbers of videos, ids.
VARIABLE = re.compile(r"[\d.]+(:\d+)?|GLOBAL_ID_\d+|<job_uid>")
VIDEOS = (("192.168.56.102", 7000), ("192.168.56.102", 8000), ("127.0.0.1", 5001))


def differences(documented: Any, found: Any, place: str = "reply") -> list[str]:
    """Say where a value lacks a documented key, or has another type."""
    if isinstance(documented, dict):
        if not isinstance(found, dict):
            return [f"{place} is no object"]
        wrong = []
        for key, value in documented.items():
            is_variable = VARIABLE.fullmatch(key)
            keys = [name for name in found if VARIABLE.fullmatch(name)] if is_variable else [key]
            if not keys or not set(keys) <= found.keys():
                wrong.append(f"{place} has no {key}")
                continue
            for name in keys:
                wrong += differences(value, found[name], f"{place}.{name}")
        return wrong
    if isinstance(documented, list):
        if not isinstance(found, list) or (documented and not found):
            return [f"{place} is no list, or empty"]
        return [
            text
            for item in documented[:1]
            for index, other in enumerate(found)
            for text in differences(item, other, f"{place}[{index}]")
        ]
    kinds = (int, float) if type(documented) in (int, float) else type(documented)
    return [] if isinstance(found, kinds) else [f"{place} is {found!r}"]


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    """Asks a query manager that knows the documents' nodes."""
    with Store(tmp_path / "records.sqlite") as store:
        serving = Serving(Parts(FakeDesk(store), store))
        caller = Caller(serving.url)
        for ip, port in VIDEOS:
            for number in (0, 1, 3):
                joining = {"node_port": port, "video_id": number, "video_type": "x", "node_ip": ip}
                caller.post("/node/join", joining)
        yield caller
        caller.close()
        serving.close()


def submit(caller: Caller, example: str) -> str:
    """Submit one of the documents' queries, give it a plan, a runtime and a result."""
    request, path = EXAMPLES[example]["request"], EXAMPLES[example]["path"]
    found = caller.post(path, request).json()["job_uid"]
    for name in ("update_prev_plan", "sync_runtime", "sync_result"):
        request = {**EXAMPLES[name]["request"], "job_uid": found}
        assert caller.post(EXAMPLES[name]["path"], request).status == 200
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_documented_example_gets_a_reply_with_every_documented_key_and_type(name, caller):
    example = EXAMPLES[name]
    path, request = example["path"], example["request"]
    if "<flow_uid>" in path:
        path = path.replace("<flow_uid>", submit(caller, "user_submit_job"))
    else:
        query_id = submit(caller, "submit_query")
        path = path.replace("<job_uid>", query_id)
        if request is not None and request.get("job_uid") == "":
            request["job_uid"] = query_id
    reply = caller.get(path) if example["method"] == "GET" else caller.post(path, request)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    found = reply.json()
    assert found, "callers want something that is true"
    assert differences(example["reply"], found) == []
    assert found.get("status", 0) == example["reply"].get("status", 0)
    if "msg" in example["reply"]:
        assert found["msg"] == example["reply"]["msg"]


def test_the_comparison_finds_what_is_missing():
    documented = {"a": 1, "b": [{"c": "x"}], "1.2.3.4:5500": {"d": 1.5}, "e": [], "f": True}
    found = {"b": [{}, {"c": 3}], "9.9.9.9:1": {"d": None}, "e": {}, "f": 1}
    assert differences(documented, found) == [
        "reply has no a",
        "reply.b[0] has no c",
        "reply.b[1].c is 3",
        "reply.9.9.9.9:1.d is None",
        "reply.e is no list, or empty",
        "reply.f is 1",
    ]
