"""The query manager over HTTP, with real records behind a desk that schedules nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk_kit import FakeDesk, Serving
from node_kit import Caller

from vdag.control.queries import Parts, asking
from vdag.control.queries import parts as parts_module
from vdag.control.records import Store
from vdag.errors import Saturated

NODE = "127.0.0.1:5001"
PIPELINE = ["face_detection", "face_alignment"]
CONSTRAINT = {"delay": 0.3, "accuracy": 0.9}
CONF = {"resolution": "480p", "fps": 30, "encoder": "JPEG"}
MAPPING = {
    "face_detection": {"model_id": 0, "node_role": "host", "node_ip": "127.0.0.1"},
    "face_alignment": {"model_id": 0, "node_role": "cloud", "node_ip": "127.0.0.9"},
}
RUNTIME = {"obj_n": 8.0, "obj_size": 2335.9, "delay": 0.0156, "obj_stable": True}
UNKNOWN = [
    ("GET", "/query/get_result/GLOBAL_ID_9", None),
    ("GET", "/query/get_agg_info/GLOBAL_ID_9", None),
    ("GET", "/query/get_plan/GLOBAL_ID_9", None),
    ("GET", "/query/get_runtime/GLOBAL_ID_9", None),
    ("GET", "/query/get_work_condition/GLOBAL_ID_9", None),
    ("GET", "/query/get_portrait_info/GLOBAL_ID_9", None),
    ("GET", "/query/get_drops/GLOBAL_ID_9", None),
    ("GET", "/query/stream/GLOBAL_ID_9", None),
    ("GET", "/user/sync_job_result/GLOBAL_ID_9.SUB_ID", None),
    ("DELETE", "/query/GLOBAL_ID_9", None),
    ("POST", "/query/sync_result", {"job_uid": "GLOBAL_ID_9", "job_result": {}}),
    ("POST", "/query/sync_runtime", {"job_uid": "GLOBAL_ID_9", "job_runtime": {}}),
    ("POST", "/node/sync_job_result", {"job_uid": "GLOBAL_ID_9", "job_result": {}}),
    ("POST", "/node/get_plan", {"job_uid": "GLOBAL_ID_9"}),
    ("POST", "/query/stop", {"query_id": "GLOBAL_ID_9"}),
    ("POST", "/query/update_constraint", {"query_id": "GLOBAL_ID_9", "user_constraint": {}}),
    ("POST", "/query/update_prev_plan",
     {"job_uid": "GLOBAL_ID_9", "video_conf": {}, "flow_mapping": {}}),
]  # fmt: skip


def frame(n_loop: int, **more: Any) -> dict[str, Any]:
    return {
        "count_result": {"up": 6, "total": 8},
        "frame_id": float(n_loop),
        "n_loop": n_loop,
        "delay": 0.0156,
        "ext_plan": {"video_conf": CONF, "flow_mapping": MAPPING},
        "ext_runtime": RUNTIME,
        **more,
    }


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "records.sqlite") as store:
        yield store


@pytest.fixture
def desk(store: Store) -> FakeDesk:
    return FakeDesk(store)


@pytest.fixture
def serving(store: Store, desk: FakeDesk) -> Iterator[Serving]:
    serving = Serving(Parts(desk, store))
    yield serving
    serving.close()


@pytest.fixture
def caller(serving: Serving) -> Iterator[Caller]:
    caller = Caller(serving.url)
    for number, words in ((0, "student in classroom"), (1, "people in meeting-room")):
        joining = {"node_port": 5001, "video_id": number, "video_type": words}
        assert caller.post("/node/join", joining).json()["node_addr"] == NODE
    yield caller
    caller.close()


def submit(caller: Caller, **more: Any) -> str:
    request = {
        "node_addr": NODE,
        "video_id": 1,
        "pipeline": PIPELINE,
        "user_constraint": CONSTRAINT,
        **more,
    }
    reply = caller.post("/query/submit_query", request)
    assert reply.status == 200, reply.body
    query_id = reply.json()["query_id"]
    assert isinstance(query_id, str)
    return query_id


def post_result(caller: Caller, query_id: str, **result: Any) -> None:
    reply = caller.post("/query/sync_result", {"job_uid": query_id, "job_result": result})
    assert (reply.status, reply.json()) == (200, {"status": 500})


def test_a_submitted_query_is_answered_as_every_version_expects(caller, desk):
    request = {
        "node_addr": NODE, "video_id": 1, "pipeline": PIPELINE, "user_constraint": CONSTRAINT,
    }  # fmt: skip
    assert caller.post("/query/submit_query", request).json() == {
        "status": 0,
        "msg": "submitted to (cloud) manager from api: /query/submit_query",
        "query_id": "GLOBAL_ID_1",
        "job_uid": "GLOBAL_ID_1",
        "r_sidechan": '{"msg":"update <job_uid, addr> (<GLOBAL_ID_1, 127.0.0.1:5101>) to cloud"}\n',
    }
    (asked,) = desk.requests
    assert asked.graph.tasks == tuple(PIPELINE)
    assert asked.constraint.document == CONSTRAINT
    assert (asked.form, asked.policy, asked.plan) == ("pipeline", "", None)


def test_an_unknown_node_or_video_is_a_soft_error(caller):
    request = {"node_addr": "1.2.3.4:5001", "video_id": 1, "pipeline": PIPELINE,
               "user_constraint": CONSTRAINT}  # fmt: skip
    reply = caller.post("/query/submit_query", request)
    assert (reply.status, reply.json()) == (
        200, {"status": 1, "error": "cannot found 1.2.3.4:5001"},
    )  # fmt: skip
    reply = caller.post("/query/submit_query", {**request, "node_addr": NODE, "video_id": 9})
    assert reply.json() == {"status": 1, "error": f"{NODE} has no video 9, only 0, 1"}


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"pipeline": None}, 400, "field pipeline is missing"),
        ({"pipeline": []}, 422, "pipeline has no tasks"),
        ({"pipeline": "face_detection"}, 400,
         "body is malformed: pipeline: expected array | null, got str"),
        ({"pipeline": ["a", "a"]}, 422, "flow lists a twice"),
        ({"video_id": "1"}, 400, "body is malformed: video_id: expected int, got str"),
        ({"user_constraint": [1]}, 400,
         "body is malformed: user_constraint: expected object | null, got array"),
        ({"node_addr": "x" * 300}, 400,
         "body is malformed: node_addr: expected str of length <= 255"),
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused(caller, change, status, error):
    request = {"node_addr": NODE, "video_id": 1, "pipeline": PIPELINE, "user_constraint": {}}
    reply = caller.post("/query/submit_query", {**request, **change})
    assert (reply.status, reply.json()) == (status, {"status": 1, "error": error})


def test_a_number_that_a_page_left_empty_is_no_constraint(caller, desk):
    body = (
        b'{"node_addr":"127.0.0.1:5001","video_id":1,"pipeline":["face_detection"],'
        b'"user_constraint":{"delay":NaN,"accuracy":null}}'
    )
    assert caller.post("/query/submit_query", body).json()["query_id"] == "GLOBAL_ID_1"
    assert desk.requests[0].constraint.document == {"delay": None, "accuracy": None}


@pytest.mark.parametrize(("method", "path", "body"), UNKNOWN, ids=lambda value: str(value)[:30])
def test_an_unknown_query_is_a_clear_error(caller, method, path, body):
    reply = caller.post(path, body) if method == "POST" else caller.ask(method, path)
    assert (reply.status, reply.json()) == (
        404, {"status": 1, "error": "query 9 is not known"},
    )  # fmt: skip
    assert reply.headers["content-type"] == "application/json"


def test_a_name_that_is_no_id_is_a_clear_error(caller):
    reply = caller.get("/query/get_result/nothing")
    assert (reply.status, reply.json()["error"]) == (404, "'nothing' is no query's id")
    reply = caller.get("/query/get_agg_info/")
    assert (reply.status, reply.json()["error"]) == (404, "not found")


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


def test_what_was_measured_is_published_in_all_documented_places(caller):
    query_id = submit(caller)
    info = {"pid": 7, "cpu_util_limit": 0.5, "cpu_util_use": 0.49, "mem_util_limit": 1.0,
            "mem_util_use": 0.1, "compute_latency": 0.1, "node_ip": "1.2.3.4",
            "node_role": "host"}  # fmt: skip
    runtime = {
        "face_detection": {"faces": ["b'x'"], "bbox": [[0, 0, 10, 20], [0, 0, 30, 20]],
                           "prob": [0.9, 0.8], "proc_resource_info": info, "task_conf": CONF},
        "end_pipe": {"delay": 0.4, "process_delay": 0.2, "frame_id": 1.0, "n_loop": 1},
        "user_constraint": CONSTRAINT,
        "delay": {"face_detection": 0.3},
        "process_delay": {"face_detection": 0.1},
        "data_trans_size": {"face_detection": 1000},
        "frame": "b'picture'",
        "adjacent_frames": ["b'picture'"] * 4,
    }  # fmt: skip
    reply = caller.post("/query/sync_runtime", {"job_uid": query_id, "job_runtime": runtime})
    assert (reply.status, reply.json()) == (200, {"status": 500})
    found = caller.get(f"/query/get_runtime/{query_id}").json()
    assert found == {
        "obj_n": 2,
        "obj_size": 400.0,
        "delay": 0.4,
        "process_delay": 0.2,
        "frame_id": 1.0,
        "n_loop": 1,
        "data_trans_size": {"face_detection": 1000},
        "plan_result": {
            "delay": {"face_detection": 0.3}, "process_delay": {"face_detection": 0.1},
        },
        "proc_resource_info": {"face_detection": info},
    }  # fmt: skip
    portrait = caller.get(f"/query/get_portrait_info/{query_id}").json()
    assert portrait["if_overtime"] is True
    assert portrait["cur_latency"] == 0.4
    assert portrait["available_resource"]["1.2.3.4"]["available_cpu"] == pytest.approx(0.51)
    task = portrait["resource_portrait"]["face_detection"]
    assert (task["cpu_portrait"], task["mem_portrait"], task["node_role"]) == (0, 2, "host")
    assert portrait["work_condition"]["obj_n"] == 2


def test_a_work_condition_is_the_mean_since_it_was_last_asked_for(caller):
    query_id = submit(caller)
    path = f"/query/get_work_condition/{query_id}"
    for n, count in enumerate((2, 4), 1):
        post_result(
            caller, query_id, appended_result=frame(n, ext_runtime={**RUNTIME, "obj_n": count})
        )
    found = caller.get(path).json()
    assert found == {"obj_n": 3.0, "obj_size": 2335.9, "delay": 0.0156, "obj_stable": False}
    assert caller.get(path).json() == found
    post_result(caller, query_id, appended_result=frame(3))
    assert caller.get(path).json() == {**RUNTIME}


def test_a_job_of_the_older_documents_is_read_as_it_was_written(caller, desk):
    flow = {
        "node_addr": NODE,
        "video_id": 1,
        "generator": "SingleFrameGenerator",
        "dag": {
            "flow": PIPELINE,
            "input": {
                "face_detection": {"image": "SingleFrameGenerator.image"},
                "face_alignment": {"bbox": "face_detection.bbox", "prob": "face_detection.prob"},
            },
        },
    }
    dag = {
        "node_addr": NODE,
        "video_id": 1,
        "dag": {
            "generator": "SingleFrameGenerator",
            "flow": ["SingleFrameGenerator", *PIPELINE],
            "input": {
                **flow["dag"]["input"],
                "Render": {"image": "face_alignment.image", "count": "face_alignment.count_result"},
            },
        },
    }
    first, second = (caller.post("/user/submit_job", job).json() for job in (flow, dag))
    assert first["msg"] == "submitted to manager from api: node/submit_job"
    assert (first["status"], first["constraint"], second["status"]) == (0, 1, 0)
    assert [request.form for request in desk.requests] == ["flow", "dag"]
    assert desk.requests[0].graph == desk.requests[1].graph
    assert desk.requests[1].constraint.document == {"delay": 0.8, "accuracy": 0.8}
    for job in (first, second):
        post_result(
            caller, job["job_uid"],
            appended_result={"n_loop": 2, "total": 4, "up": 3},
            latest_result={"plan": {"video_conf": CONF, "flow_mapping": MAPPING},
                           "plan_result": {"delay": {"face_detection": 0.3}}},
        )  # fmt: skip
    found = caller.get(f"/user/sync_job_result/{first['job_uid']}").json()
    assert (found["status"], found["result"]["appended_result"]) == (0, [4])
    assert found["result"]["plan"]["flow_mapping"] == MAPPING
    found = caller.get(f"/user/sync_job_result/{second['job_uid']}.SUB_ID").json()["result"]
    assert found["appended_result"] == [{"n_loop": 2, "total": 4, "up": 3}]
    assert found["latest_result"]["plan_result"] == {"delay": {"face_detection": 0.3}}


def test_a_job_that_is_known_by_its_id_is_not_taken_in_again(caller, desk):
    query_id = submit(caller)
    job = {"node_addr": NODE, "video_id": 1, "dag": {"flow": PIPELINE},
           "unique_job_id": f"{query_id}.SUB_ID"}  # fmt: skip
    assert caller.post("/node/submit_job", job).json()["job_uid"] == query_id
    assert len(desk.requests) == 1
    other = caller.post("/node/submit_job", {**job, "unique_job_id": "GLOBAL_ID_77.SUB_ID_1"})
    assert other.json()["job_uid"] == "GLOBAL_ID_2"


def test_a_generator_that_is_not_known_is_a_soft_error(caller):
    job = {"node_addr": NODE, "video_id": 1, "generator": "Nobody", "dag": {"flow": PIPELINE}}
    reply = caller.post("/user/submit_job", job)
    assert reply.status == 200
    assert reply.json()["msg"] == "unsupport generator name"
    assert reply.json()["status"] == 1


def test_nodes_join_by_the_address_they_name_or_call_from(caller, desk):
    assert caller.get("/node/get_video_info").json() == {
        NODE: {"0": {"type": "student in classroom"}, "1": {"type": "people in meeting-room"}}
    }
    joining = {"node_port": "6001", "video_id": 99, "video_type": "loop", "node_ip": "10.0.0.7"}
    assert caller.post("/node/update_status", joining).json() == {
        "status": 0, "msg": "joined one video to query_manager", "node_addr": "10.0.0.7:6001",
    }  # fmt: skip
    assert desk.known["10.0.0.7:6001"].dialect == "pull"
    assert desk.known[NODE].dialect == "push"
    for path in ("/node/get_all_status", "/user/get_all_status"):
        found = caller.get(path).json()
        assert found["status"] == 0
        assert found["data"]["10.0.0.7:6001"] == {"video": {"99": {"type": "loop"}},
                                                  "job_uid_list": []}  # fmt: skip
    for change, error in (
        ({"node_port": 0}, "node_port: expected int >= 1"),
        ({"node_port": "99999"}, None),
        ({"node_ip": "a-b"}, None),
    ):
        reply = caller.post("/node/join", {**joining, **change})
        assert reply.status == 400
        assert error is None or reply.json()["error"] == f"body is malformed: {error}"


def test_a_node_that_asks_is_given_each_query_once_and_every_plan(caller, desk):
    asking_node = {"node_addr": NODE, "bandwidth": {"Mbps": 80.0, "bps": 8e7, "kbps": None}}

    def ask() -> dict[str, Any]:
        reply = caller.post("/query/get_jobs_info_and_jobs_plan", asking_node)
        assert reply.status == 200, reply.body
        found = reply.json()
        assert isinstance(found, dict)
        return found

    query_id = submit(caller)
    first = ask()
    assert first["jobs_plan"] == {}
    info = first["jobs_info"][query_id]
    assert info["pipeline"] == PIPELINE
    assert info["user_constraint"] == CONSTRAINT
    assert (info["job_uid"], info["node_addr"], info["video_id"]) == (query_id, NODE, 1)
    limits = {"face_detection": {"cpu_util_limit": 0.25, "mem_util_limit": 1.0}}
    desk.plan(query_id, {"video_conf": CONF, "flow_mapping": MAPPING, "resource_limit": limits})
    for _ in range(2):
        found = ask()
        assert found["jobs_info"] == {}
        plan = found["jobs_plan"][query_id]
        assert plan["video_conf"] == {**CONF, "reso": "480p"}
        assert plan["flow_mapping"] == MAPPING
        assert plan["resource_limit"] == {
            "face_detection": {"cpu_util_limit": 0.25, "mem_util_limit": 1.0},
            "face_alignment": {"cpu_util_limit": 1.0, "mem_util_limit": 1.0},
        }
    assert desk.bandwidth[NODE] == {"Mbps": 80.0, "bps": 8e7}
    assert caller.post("/query/get_jobs_info_and_jobs_plan", {"node_addr": "1.1.1.1:1"}).json() == {
        "jobs_info": {},
        "jobs_plan": {},
    }


def test_a_plan_from_outside_is_followed_and_kept_in_the_history(caller):
    query_id = submit(caller)
    plan = {"job_uid": query_id, "video_conf": CONF, "flow_mapping": MAPPING}
    assert caller.post("/query/update_prev_plan", {**plan, "resource_limit": {}}).json() == {
        "status": 0, "statys": 0, "msg": "prev plan has been updated",
    }  # fmt: skip
    conf = {**CONF, "resolution": "720p"}
    assert caller.post("/node/update_plan", {**plan, "video_conf": conf}).json() == {
        "status": 0, "msg": "node updated plan (manager.update_job_plan)",
    }  # fmt: skip
    found = caller.get(f"/query/get_plan/{query_id}?history=10").json()
    assert found["number"] == 2
    assert found["video_conf"]["resolution"] == "720p"
    assert [entry["number"] for entry in found["history"]] == [1, 2]
    assert found["history"][0]["video_conf"]["resolution"] == "480p"
    assert found["history"][0]["cause"] == "submitted"


@pytest.mark.parametrize("path", ["/query/update_constraint", "/user/submit_job_user_constraint"])
@pytest.mark.parametrize("name", ["query_id", "job_uid"])
def test_a_constraint_is_changed_by_either_name(caller, path, name):
    query_id = submit(caller)
    change = {name: query_id, "user_constraint": {"delay": 0.1, "accuracy": 0.8}}
    reply = caller.post(path, change).json()
    assert reply["msg"] == "node updated constraint (manager.update_job_user_constraint)"
    (listed,) = caller.get("/query/list").json()["queries"]
    assert listed["user_constraint"] == {"delay": 0.1, "accuracy": 0.8}
    reply = caller.post(path, {"user_constraint": {}})
    assert (reply.status, reply.json()["error"]) == (400, "field query_id is missing")


def test_queries_are_listed_stopped_and_deleted(caller):
    first, second = submit(caller), submit(caller)
    post_result(caller, first, appended_result=frame(1))

    def listed(parameters: str = "") -> list[tuple[str, str]]:
        found = caller.get(f"/query/list?{parameters}").json()["queries"]
        return [(query["query_id"], query["state_name"]) for query in found]

    assert [name for name, _ in listed()] == [first, second]
    assert caller.post("/query/stop", {"query_id": first}).json() == {
        "status": 0, "msg": "query stopped", "query_id": first,
    }  # fmt: skip
    assert caller.post("/query/stop", {"job_uid": first}).json()["msg"] == "query was over"
    assert listed("state=over") == [(first, "ended")]
    assert [name for name, _ in listed("state=live")] == [second]
    assert listed(f"before={second}") == [(first, "ended")]
    assert len(caller.get(f"/query/get_result/{first}").json()["appended_result"]) == 1
    reply = caller.post("/query/update_constraint", {"query_id": first, "user_constraint": {}})
    assert (reply.status, reply.json()["error"]) == (409, "query 1 is over")
    reply = caller.ask("DELETE", f"/query/{first}")
    assert reply.json() == {"status": 0, "msg": "query deleted", "query_id": first}
    assert caller.get(f"/query/get_result/{first}").status == 404
    assert [name for name, _ in listed()] == [second]
    reply = caller.get("/query/list?state=some")
    assert (reply.status, reply.json()["error"]) == (
        400, "state is 'some', expected all, live or over",
    )  # fmt: skip


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


def test_results_plans_and_ids_are_there_after_a_restart(tmp_path):
    def serve(act):
        with Store(tmp_path / "records.sqlite") as store:
            desk = FakeDesk(store)
            serving = Serving(Parts(desk, store))
            caller = Caller(serving.url)
            caller.post("/node/join", {"node_port": 5001, "video_id": 1, "video_type": "x"})
            try:
                return act(caller, desk)
            finally:
                caller.close()
                serving.close()

    def before(caller, desk):
        query_id = submit(caller)
        desk.plan(query_id, {"video_conf": CONF, "flow_mapping": MAPPING, "resource_limit": {}})
        post_result(caller, query_id, appended_result=frame(1))
        return [
            caller.get(f"/query/{path}/{query_id}").json() for path in ("get_result", "get_plan")
        ]

    def after(caller, desk):
        found = [
            caller.get(f"/query/{path}/GLOBAL_ID_1").json() for path in ("get_result", "get_plan")
        ]
        assert caller.get("/query/get_runtime/GLOBAL_ID_1").json() == RUNTIME
        assert submit(caller) == "GLOBAL_ID_2"
        return found

    assert serve(before) == serve(after)


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
