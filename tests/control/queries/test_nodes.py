"""Nodes of other makes over HTTP: they join, and ask for their work."""

from __future__ import annotations

from typing import Any

from query_kit import (
    CONF,
    CONSTRAINT,
    MAPPING,
    NODE,
    PIPELINE,
    submit,
)


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
