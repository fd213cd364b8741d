"""What `/docs` shows of the query manager: bodies, parameters, and the documents' own examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["EXAMPLES", "described", "parameter"]

_CONF = {"resolution": "480p", "fps": 30, "encoder": "JPEG"}
_MAPPING = {
    "face_detection": {"model_id": 0, "node_role": "host", "node_ip": "127.0.0.1"},
    "face_alignment": {"model_id": 0, "node_role": "cloud", "node_ip": "127.0.0.9"},
}
_PLAN = {"video_conf": _CONF, "flow_mapping": _MAPPING}
_LIMITS = {"face_detection": {"cpu_util_limit": 0.25, "mem_util_limit": 1.0}}
_RUNTIME = {"delay": 0.0156, "obj_n": 8.0, "obj_size": 2335.9, "obj_stable": True}
_FRAME = {
    "count_result": {"up": 6, "total": 8},
    "frame_id": 1.0,
    "n_loop": 1,
    "delay": 0.0156,
    "ext_plan": _PLAN,
    "ext_runtime": _RUNTIME,
}
_NAME = {"query_id": "GLOBAL_ID_1"}
_CONSTRAINT = {"delay": 0.3, "accuracy": 0.9}
_PIPELINE = ["face_detection", "face_alignment"]
_DAG = {
    "flow": _PIPELINE,
    "input": {
        "face_detection": {"image": "SingleFrameGenerator.image"},
        "face_alignment": {
            "image": "SingleFrameGenerator.image",
            "bbox": "face_detection.bbox",
            "prob": "face_detection.prob",
        },
    },
}
_JOB = {
    "node_addr": "192.168.56.102:7000",
    "video_id": 1,
    "generator": "SingleFrameGenerator",
    "dag": _DAG,
}
_RESULTS = {
    "appended_result": [_FRAME],
    "latest_result": {"plan": _PLAN, "plan_result": {"delay": {}}, "runtime": _RUNTIME},
}

#: Path to the documented request (None for none) and reply.
EXAMPLES: Mapping[str, tuple[Any, Any]] = {
    "/query/submit_query": (
        {
            "node_addr": "127.0.0.1:5001",
            "video_id": 1,
            "pipeline": _PIPELINE,
            "user_constraint": _CONSTRAINT,
        },
        {
            "msg": "submitted to (cloud) manager from api: /query/submit_query",
            "query_id": "GLOBAL_ID_1",
            "r_sidechan": '{"msg":"update <job_uid, addr> '
            '(<GLOBAL_ID_1, 127.0.0.1:5101>) to cloud"}\n',
            "status": 0,
        },
    ),
    "/query/list": (
        None,
        {"status": 0, "queries": [{**_NAME, "state": 2, "state_name": "running"}]},
    ),
    "/query/stop": (_NAME, {"status": 0, "msg": "query stopped", **_NAME}),
    "/query/{query_id}": (None, {"status": 0, "msg": "query deleted", **_NAME}),
    "/query/update_constraint": (
        {**_NAME, "user_constraint": _CONSTRAINT},
        {"status": 0, "msg": "node updated constraint (manager.update_job_user_constraint)"},
    ),
    "/query/sync_result": (
        {"job_uid": "GLOBAL_ID_1", "job_result": {"appended_result": _FRAME}},
        {"status": 500},
    ),
    "/query/sync_runtime": (
        {
            "job_uid": "GLOBAL_ID_1",
            "job_runtime": {
                "face_detection": {"bbox": [[1, 2, 30, 40]], "prob": [0.9]},
                "end_pipe": {"delay": 0.19, "frame_id": 1.0, "n_loop": 1},
            },
        },
        {"status": 500},
    ),
    "/query/get_result/{query_id}": (None, _RESULTS),
    "/query/get_agg_info/{query_id}": (None, _RESULTS),
    "/query/get_plan/{query_id}": (None, _PLAN),
    "/query/get_runtime/{query_id}": (None, _RUNTIME),
    "/query/get_work_condition/{query_id}": (None, _RUNTIME),
    "/query/get_portrait_info/{query_id}": (
        None,
        {"cur_latency": 0.19, "user_constraint": _CONSTRAINT, "if_overtime": False},
    ),
    "/query/get_drops/{query_id}": (
        None,
        {"status": 0, **_NAME, "drops": {"deadline": 3}, "total": 3},
    ),
    "/query/get_packets/{query_id}": (
        None,
        {
            "status": 0,
            **_NAME,
            "session": {"session_id": 1, "name": "GLOBAL_ID_1", "state": "running"},
            "handlers": [{"handler_id": 1, "name": "face_detection"}],
            "nodes": [{"node_id": 65536, "name": "edge", "addr": "192.168.56.102"}],
            "extent": {"rows": 1, "first": 0, "last": 0, "newest": 0},
            "packets": [[1795302130.75, 1, 1, 0, "start", None, 65536]],
            "next": None,
        },
    ),
    "/query/get_circumstances/{query_id}": (
        None,
        {
            "status": 0,
            **_NAME,
            "circumstances": {
                "changes": [{"number": 1, "at_s": 1795302130.5, "cause": "submitted"}],
                "placements": [{"handler_id": 1, "node_id": 65536, "since_s": 1795302130.5}],
                "loads": [{"node_id": 65536, "values": {"cpu": [None, 41.5]}}],
                "dropped": {"deadline": 3},
            },
        },
    ),
    "/query/explain/{query_id}": (
        None,
        {
            "status": 0,
            **_NAME,
            "policy": "predictive",
            "user_constraint": _CONSTRAINT,
            "decisions": [
                {
                    "number": 2,
                    "cause": "period",
                    "plan": {**_PLAN, "resource_limit": {}},
                    "explanation": {"why": "480p instead of 720p: 0.41 s exceed 0.3 s"},
                    "measured": {"reports": 60, "within": 58, "delay": 0.19, "delay_p95": 0.24},
                }
            ],
        },
    ),
    "/query/update_prev_plan": (
        {"job_uid": "GLOBAL_ID_1", **_PLAN, "resource_limit": _LIMITS},
        {"msg": "prev plan has been updated", "statys": 0},
    ),
    "/query/get_jobs_info_and_jobs_plan": (
        {
            "node_addr": "192.168.1.7:5001",
            "bandwidth": {"bps": 8e7, "kbps": 8e4, "Mbps": 80.0, "kB/s": 10000.0, "MB/s": 10.0},
        },
        {"jobs_info": {}, "jobs_plan": {}},
    ),
    "/node/get_video_info": (None, {"127.0.0.1:5001": {"0": {"type": "student in classroom"}}}),
    "/node/join": (
        {"node_port": 5001, "video_id": 0, "video_type": "student in classroom"},
        {"msg": "joined one video to query_manager", "node_addr": "127.0.0.1:5001", "status": 0},
    ),
    "/node/get_all_status": (
        None,
        {"data": {"192.168.56.102:7000": {"video": {"0": {"type": "traffic flow"}}}}, "status": 0},
    ),
    "/user/submit_job": (
        _JOB,
        {
            "job_uid": "GLOBAL_ID_1",
            "msg": "submitted to manager from api: node/submit_job",
            "status": 0,
        },
    ),
    "/node/submit_job": (
        {"unique_job_id": "GLOBAL_ID_1.SUB_ID_1", **_JOB},
        {
            "job_uid": "GLOBAL_ID_1",
            "msg": "submitted to manager from api: node/submit_job",
            "status": 0,
        },
    ),
    "/user/sync_job_result/{query_id}": (
        None,
        {"result": {"appended_result": [8], "plan": _PLAN}, "status": 0},
    ),
    "/node/sync_job_result": (
        {"job_uid": "GLOBAL_ID_1", "job_result": {"appended_result": 8, "plan": _PLAN}},
        {"status": 200},
    ),
    "/node/update_plan": (
        {"job_uid": "GLOBAL_ID_1", **_PLAN},
        {"msg": "node updated plan (manager.update_job_plan)", "status": 0},
    ),
    "/node/get_plan": (
        {
            "job_uid": "GLOBAL_ID_1",
            "dag": _DAG,
            "last_plan_result": {"delay": {"face_detection": 0.3}},
            "user_constraint": None,
        },
        {"msg": "accepted (put to unsched_job_q)", "status": 0},
    ),
}
#: Paths that mean the same as another.
ALIASES: Mapping[str, str] = {
    "/node/update_status": "/node/join",
    "/user/get_all_status": "/node/get_all_status",
    "/user/submit_job_user_constraint": "/query/update_constraint",
}


def parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Return a parameter in a URL after its `?`."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def described(path: str, body: type | None, *parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an endpoint adds to its operation.

    Args:
        path: of the endpoint; what it is shown with is in `EXAMPLES`.
        body: what its body is read into; None for none.
        parameters: of its URL.
    """
    request, answer = EXAMPLES[ALIASES.get(path, path)]
    found: dict[str, Any] = {"parameters": list(parameters)} if parameters else {}
    if body is not None:
        content = {"schema": _schema(body), "example": request}
        found["requestBody"] = {"required": True, "content": {"application/json": content}}
    # Some replies are `null`, or soft errors with other fields.
    content = {"schema": {}, "example": answer}
    found["responses"] = {"200": {"description": "Done.", "content": {"application/json": content}}}
    return found


def _schema(body: type) -> dict[str, Any]:
    """Return the schema of a body; `Raw` fields are objects."""

    def raw(kind: Any) -> dict[str, Any]:
        return {"type": "object"}

    (_,), found = msgspec.json.schema_components([body], schema_hook=raw, ref_template="{name}")
    schema: dict[str, Any] = found[body.__name__]
    schema.pop("title", None)
    return schema
