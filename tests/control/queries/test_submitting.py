"""Queries that are submitted over HTTP, by pages and programs of every version."""

from __future__ import annotations

import pytest
from query_kit import (
    CONF,
    CONSTRAINT,
    MAPPING,
    NODE,
    PIPELINE,
    post_result,
    submit,
)


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
