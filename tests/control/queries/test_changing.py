"""Queries that are listed, changed, stopped and deleted over HTTP, or are not there."""

from __future__ import annotations

import pytest
from desk_kit import FakeDesk, Serving
from node_kit import Caller
from query_kit import (
    CONF,
    MAPPING,
    RUNTIME,
    frame,
    post_result,
    submit,
)

from vdag.control.queries import Parts
from vdag.control.records import Store

pytestmark = pytest.mark.slow  # as a whole

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
