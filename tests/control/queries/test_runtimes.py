"""What was measured, in the places where the documents have it."""

from __future__ import annotations

import pytest
from query_kit import (
    CONF,
    CONSTRAINT,
    RUNTIME,
    frame,
    post_result,
    submit,
)


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
