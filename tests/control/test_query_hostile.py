"""Whatever is posted, it is taken or refused in JSON, and the next request is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk_kit import FakeDesk, Serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_kit import Caller

from vdag.control.queries import Parts
from vdag.control.queries.description import EXAMPLES
from vdag.control.records import Store

pytestmark = pytest.mark.slow  # as a whole

NODE = "127.0.0.1:5001"
POSTED = sorted(path for path, (request, _) in EXAMPLES.items() if request is not None)
REFUSALS = {400, 404, 409, 413, 422}
NAMES = (
    "appended_result", "latest_result", "plan", "n_loop", "frame_id", "delay", "bbox",
    "count_result", "ext_plan", "ext_runtime", "end_pipe", "video_conf", "obj_n",
)  # fmt: skip
NO_REQUESTS = (
    b"", b"x", b"[]", b"null", b"{", b"\xff\xfe", b'{"a": ' + b"[" * 100_000, b"NaN",
    b'"\\ud800"',
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**320)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([NODE, "GLOBAL_ID_1", "face_detection", [], {}]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    with Store(tmp_path / "records.sqlite") as store:
        serving = Serving(Parts(FakeDesk(store), store))
        caller = Caller(serving.url)
        for number in (0, 1):
            joining = {"node_port": 5001, "video_id": number, "video_type": "x"}
            assert caller.post("/node/join", joining).status == 200
        request, _ = EXAMPLES["/query/submit_query"]
        assert caller.post("/query/submit_query", request).status == 200
        yield caller
        caller.close()
        serving.close()


@pytest.mark.parametrize("path", [path for path in POSTED if path != "/query/stop"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_request_with_a_field_changed_is_taken_or_refused(caller, path, data):
    request: dict[str, Any] = dict(EXAMPLES[path][0])
    name = data.draw(st.sampled_from([*sorted(request), "something"]))
    request[name] = data.draw(VALUES)
    reply = caller.post(path, json.dumps(request).encode())
    assert reply.status == 200 or reply.status in REFUSALS, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert reply.status == 200 or reply.json()["error"]
    for asked in ("get_result", "get_agg_info", "get_runtime", "get_portrait_info", "get_plan"):
        answer = caller.get(f"/query/{asked}/GLOBAL_ID_1")
        assert answer.status == 200, (asked, answer.body)
        answer.json()


@pytest.mark.parametrize("path", POSTED)
def test_a_body_that_is_no_request_is_refused(caller, path):
    for body in NO_REQUESTS:
        reply = caller.post(path, body)
        assert reply.status == 400, (body[:20], reply.body)
        assert reply.json()["error"]
