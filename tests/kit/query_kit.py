"""Queries about a clip of people, and what a node of another make reports of them."""

from __future__ import annotations

from typing import Any

from node_kit import Caller

NODE = "127.0.0.1:5001"
PIPELINE = ["face_detection", "face_alignment"]
CONSTRAINT = {"delay": 0.3, "accuracy": 0.9}
CONF = {"resolution": "480p", "fps": 30, "encoder": "JPEG"}
MAPPING = {
    "face_detection": {"model_id": 0, "node_role": "host", "node_ip": "127.0.0.1"},
    "face_alignment": {"model_id": 0, "node_role": "cloud", "node_ip": "127.0.0.9"},
}
RUNTIME = {"obj_n": 8.0, "obj_size": 2335.9, "delay": 0.0156, "obj_stable": True}


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
