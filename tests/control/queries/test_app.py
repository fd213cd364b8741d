"""The query manager as an app: its doors, its description, what it loads."""

from __future__ import annotations

import subprocess
import sys

from desk_kit import Serving
from node_kit import Caller
from query_kit import (
    NODE,
    PIPELINE,
    frame,
    submit,
)

from vdag.control.queries import Parts
from vdag.control.queries import parts as parts_module


def test_a_controller_that_is_behind_is_said_so(caller, desk, monkeypatch):
    query_id = submit(caller)
    desk.is_full = True
    reply = caller.post(
        "/query/sync_result", {"job_uid": query_id, "job_result": {"appended_result": frame(1)}}
    )
    assert (reply.status, reply.json()["error"]) == (503, "the controller has too much to do")
    desk.is_stuck = True
    monkeypatch.setattr(parts_module, "DESK_TIMEOUT_S", 0.05)
    reply = caller.post(
        "/query/submit_query", {"node_addr": NODE, "video_id": 1, "pipeline": PIPELINE}
    )
    assert (reply.status, reply.json()["error"]) == (
        503, "the controller has not answered within 0.05 s",
    )  # fmt: skip


def test_pages_of_any_origin_may_ask_and_a_token_is_wanted_where_there_is_one(store, desk):
    serving = Serving(Parts(desk, store, token="x" * 16))
    caller = Caller(serving.url)
    try:
        reply = caller.get("/query/list", origin="http://page")
        assert reply.status == 401
        assert reply.headers["access-control-allow-origin"] == "http://page"
        reply = caller.get("/query/list", authorization="Bearer " + "x" * 16)
        assert reply.status == 200
        assert reply.headers["access-control-allow-origin"] == "*"
        assert caller.get("/healthz").json() == {"status": 0}
    finally:
        caller.close()
        serving.close()


def test_every_endpoint_is_documented_with_its_example(caller):
    paths = caller.get("/openapi.json").json()["paths"]
    operations = [
        (path, method, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]
    assert len(operations) >= 30
    for path, method, operation in operations:
        assert operation["summary"], path
        if method == "post":
            content = operation["requestBody"]["content"]["application/json"]
            assert content["example"], path
            assert content["schema"]["type"] == "object", path
        if path not in ("/healthz", "/readyz", "/query/stream/{query_id}"):
            content = operation["responses"]["200"]["content"]["application/json"]
            assert content["example"] is not None, path
    assert caller.get("/docs").status == 200


def test_the_query_side_loads_no_engine_and_no_decoder():
    code = (
        "import sys\n"
        "import vdag.control.queries, vdag.control.desk, vdag.control.records\n"
        "heavy = {'cv2', 'av', 'onnxruntime', 'tensorrt', 'pynvml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
