"""Results that nodes post over HTTP, and how they are read."""

from __future__ import annotations

import pytest
from query_kit import (
    CONF,
    MAPPING,
    RUNTIME,
    frame,
    post_result,
    submit,
)

from vdag.control.queries import asking
from vdag.errors import Saturated

pytestmark = pytest.mark.slow  # as a whole

#: What nodes of all versions post, and the counts, plan and runtime that come of it.
REPORTS = {
    "newest": ({"appended_result": frame(1)}, {"up": 6, "total": 8}, "480p", RUNTIME),
    "with a plan beside": (
        {
            "appended_result": {"count_result": {"total": 3}, "n_loop": 1, "frame_id": 1.0,
                                "delay": 0.2},
            "latest_result": {"plan": {"video_conf": {**CONF, "resolution": "720p"},
                                       "flow_mapping": MAPPING},
                              "plan_result": {"delay": {"face_detection": 0.1}}},
        },
        {"total": 3}, "720p", {},
    ),
    "with limits and resources": (
        {
            "appended_result": frame(
                1, proc_delay=0.1, bandwidth=12.5, data_trans_size={"face_detection": 1},
                obj_n=8, task_conf=CONF,
                ext_plan={"video_conf": {"reso": "360p", "fps": 7, "encoder": "JEPG"},
                          "flow_mapping": MAPPING, "resource_limit": {}},
            )
        },
        {"up": 6, "total": 8}, "360p", RUNTIME,
    ),
    "boxes and pictures": (
        {"appended_result": {"bbox": [[1, 2, 3, 4]] * 5, "prob": [0.5] * 5,
                             "faces": ["b'x'"] * 5, "n_loop": 1, "frame_id": 1.0, "delay": 0.1,
                             "something new": {"deep": [1]}}},
        {"total": 5}, None, {},
    ),
    "counts beside the number": (
        {"appended_result": {"n_loop": 1, "total": 4, "up": 3},
         "latest_result": {"plan": {"video_conf": CONF, "flow_mapping": {}}}},
        {"total": 4, "up": 3}, "480p", {},
    ),
    "a number": ({"appended_result": 4, "plan": {"video_conf": CONF, "flow_mapping": {}}},
                 {"total": 4}, "480p", {}),
    "nothing": ({"appended_result": None, "plan": {}}, {}, None, {}),
}  # fmt: skip


def test_before_the_first_result_replies_are_empty_and_false(caller):
    query_id = submit(caller)
    for path in ("get_result", "get_agg_info"):
        reply = caller.get(f"/query/{path}/{query_id}")
        assert (reply.status, reply.body) == (200, b"null")
    plan = caller.get(f"/query/get_plan/{query_id}").json()
    assert plan["flow_mapping"] is None
    assert plan["video_conf"] is None
    for path in ("get_runtime", "get_work_condition", "get_portrait_info"):
        assert caller.get(f"/query/{path}/{query_id}").json() == {}
    assert caller.get(f"/user/sync_job_result/{query_id}").json() == {"result": None, "status": 0}
    assert caller.get(f"/query/get_drops/{query_id}").json() == {
        "status": 0, "query_id": query_id, "drops": {}, "total": 0,
    }  # fmt: skip


def test_the_newest_eleven_results_are_returned_with_everything_beside_them(caller):
    query_id = submit(caller)
    for n in range(1, 16):
        post_result(caller, query_id, appended_result=frame(n))
    found = caller.get(f"/query/get_result/{query_id}").json()
    assert [item["n_loop"] for item in found["appended_result"]] == list(range(5, 16))
    assert found["appended_result"][-1] == frame(15)
    latest = found["latest_result"]
    assert latest["runtime"] == RUNTIME
    assert latest["plan"]["flow_mapping"] == MAPPING
    assert latest["plan"]["video_conf"] == {**CONF, "reso": "480p"}
    assert all(isinstance(value, dict) for value in latest["plan"].values())
    assert latest["plan_result"] == {"delay": {}}
    assert caller.get(f"/query/get_agg_info/{query_id}").json() == found


def test_results_are_followed_by_their_number(caller):
    query_id = submit(caller)
    for n in range(1, 31):
        post_result(caller, query_id, appended_result=frame(n))

    def numbers(parameters: str) -> list[int]:
        found = caller.get(f"/query/get_result/{query_id}?{parameters}").json()
        return [item["n_loop"] for item in found["appended_result"]]

    assert numbers("limit=3") == [28, 29, 30]
    assert numbers("limit=1000") == list(range(1, 31))
    assert numbers("after=10") == list(range(11, 31))
    assert numbers("after=10&limit=2") == [11, 12]
    assert numbers("after=30") == []
    for parameters, error in (
        ("limit=0", "limit is '0', expected 1 to 1000"),
        ("limit=1001", "limit is '1001', expected 1 to 1000"),
        ("after=-1", "after is '-1', expected 0 to 1125899906842624"),
        ("after=x", "after is 'x', expected 0 to 1125899906842624"),
    ):
        reply = caller.get(f"/query/get_result/{query_id}?{parameters}")
        assert (reply.status, reply.json()["error"]) == (400, error)


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("path", ["/query/sync_result", "/node/sync_job_result"])
def test_results_of_every_version_are_taken_in(caller, name, path):
    result, counts, resolution, runtime = REPORTS[name]
    query_id = submit(caller)
    reply = caller.post(path, {"job_uid": f"{query_id}.SUB_ID", "job_result": result, "more": 1})
    assert reply.status == 200, reply.body
    assert reply.json() == {"status": 500 if path.startswith("/query") else 200}
    found = caller.get(f"/query/get_agg_info/{query_id}").json()
    (item,) = found["appended_result"]
    assert item["count_result"] == counts
    assert item["n_loop"] == 1
    assert {"frame_id", "delay", "ext_plan", "ext_runtime"} <= item.keys()
    assert "faces" not in item
    latest = found["latest_result"]
    assert latest["plan"]["video_conf"].get("resolution") == resolution
    assert latest["plan"]["video_conf"].get("reso") == resolution
    assert runtime.items() <= latest["runtime"].items()


def test_unknown_fields_of_a_result_are_kept_but_pictures_are_not(caller):
    query_id = submit(caller)
    picture = "b'" + "\\x00" * 2_000_000 + "'"
    post_result(caller, query_id, appended_result=frame(1, image=picture, mood={"calm": [1, 2]}))
    (item,) = caller.get(f"/query/get_result/{query_id}").json()["appended_result"]
    assert item == frame(1, mood={"calm": [1, 2]})


@pytest.mark.parametrize(
    ("result", "status", "error"),
    [
        ("[]", 400, "field job_result: expected object, got array"),
        ('{"appended_result": "x"}', 400,
         "a result is a str, expected an object or a number"),
        ('{"appended_result": {"n_loop": -1}}', 400,
         "n_loop is '-1', expected 0 to 8796093022208"),
        ('{"appended_result": {"delay": "x"}}', 400, "delay is 'x', expected a number"),
        ('{"appended_result": {"ext_plan": [1]}}', 400, "ext_plan is a list, expected an object"),
        ('{"latest_result": {"plan": 3}}', 400, "plan is a int, expected an object"),
        ('{"appended_result": {"a": "' + "x" * (1 << 20) + '"}}', 413,
         "field appended_result exceeds 1048576 bytes without its pictures"),
        ('{"appended_result": [' + "{}," * 1001 + "{}]}", 400,
         "appended_result has 1002 frames, more than 1000"),
        ('{"appended_result": {' + ",".join(f'"{n}":1' for n in range(100_001)) + "}}", 413,
         "body has more than 100000 fields"),
        ('{"appended_result": ' + "[" * 2000 + "]" * 2000 + "}", 400, None),
    ],
    ids=range(10),
)  # fmt: skip
def test_a_result_that_makes_no_sense_is_refused(caller, result, status, error):
    query_id = submit(caller)
    body = f'{{"job_uid": "{query_id}", "job_result": {result}}}'.encode()
    reply = caller.post("/query/sync_result", body)
    assert reply.status == status, reply.body
    assert error is None or reply.json()["error"] == error
    assert caller.get(f"/query/get_result/{query_id}").body == b"null"


def test_a_result_that_is_too_large_to_keep_is_shortened(caller):
    query_id = submit(caller)
    post_result(caller, query_id, appended_result=frame(1, head_pose=[[0.123456789] * 3] * 20_000))
    (item,) = caller.get(f"/query/get_result/{query_id}").json()["appended_result"]
    assert item == frame(1, is_shortened=True)


def test_drops_are_listed_by_reason(caller, store):
    query_id = submit(caller)
    store.set_dropped(query_id, {"deadline": 3, "queue full": 1}, run="a")
    assert caller.get(f"/query/get_drops/{query_id}").json() == {
        "status": 0, "query_id": query_id, "drops": {"deadline": 3, "queue full": 1}, "total": 4,
    }  # fmt: skip


def test_a_page_that_shows_results_goes_on_when_records_cannot_be_read(caller, store, monkeypatch):
    query_id, other = submit(caller), submit(caller)
    post_result(caller, query_id, appended_result=frame(1))
    path = f"/query/get_agg_info/{query_id}"
    before = caller.get(path)

    def fail(*args: object, **more: object) -> None:
        raise Saturated("records cannot be read: disk I/O error")

    monkeypatch.setattr(store, "results", fail)
    assert caller.get(path).body == before.body
    for refused in (f"/query/get_agg_info/{other}", f"/query/get_result/{query_id}"):
        reply = caller.get(refused)
        assert (reply.status, reply.json()["error"]) == (
            503, "records cannot be read: disk I/O error",
        )  # fmt: skip
        assert reply.headers["retry-after"] == "1"


def test_replies_that_are_kept_for_pages_are_bounded(caller, monkeypatch):
    monkeypatch.setattr(asking, "MAX_LAST", 2)
    for _ in range(4):
        query_id = submit(caller)
        post_result(caller, query_id, appended_result=frame(1))
        assert caller.get(f"/query/get_agg_info/{query_id}").status == 200
        assert caller.get(f"/query/get_work_condition/{query_id}").status == 200
