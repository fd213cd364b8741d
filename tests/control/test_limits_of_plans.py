"""Limits and models of plans on a node as it is: over the plan channel, and over REST."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from node_kit import Caller, Running
from waiting_kit import until

pytestmark = pytest.mark.slow  # as a whole

TIMEOUT_S = 60.0
TASK = """
import vdag

class Shade:
    '''Says which model it is.'''

    signature = vdag.Signature(frozenset({"image"}), frozenset({"shade"}))
    max_batch = 8

    def __init__(self, options):
        self.model = options.model_id

    def process(self, batch):
        return [{"shade": self.model} for _ in batch]

    def close(self):
        pass

vdag.register("shade", Shade)
"""
SETTINGS = """
[node]
roles = {roles}
state = "{folder}/state"
limits = "rlimit"

[service]
modules = ["{folder}/user_tasks.py"]
slots = [[640, 480, 16]]
tasks.shade = {{model_id = 1, models = [0, 1, 3]}}

[edge]
port = 0
live_port = 0
videos.0 = {{path = "synthetic:320x240@25", type = "test pattern"}}
{rest}
"""
CLOUD = """
[cloud]
port = 0
live_port = 0
channel = "tcp://127.0.0.1:0"
period_s = 0.1
"""
#: A cloud that speaks only the documented REST, and is away: what it posts comes from the test.
ELSEWHERE = 'query_addr = "127.0.0.1:1"'
CONF = {"resolution": "360p", "fps": 10, "encoder": "JPEG"}


Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A node with the role `cloud`, or without it if the test says so."""
    is_cloud = getattr(request, "param", True)
    folder = tmp_path_factory.mktemp("node")
    (folder / "user_tasks.py").write_text(TASK)
    config = folder / "node.toml"
    roles = '["all"]' if is_cloud else '["edge", "service"]'
    rest = CLOUD if is_cloud else ELSEWHERE
    config.write_text(SETTINGS.format(folder=folder, roles=roles, rest=rest))
    node = Running("--config", str(config))
    yield node
    assert node.stop() == 0
    assert "Traceback" not in "".join(node.log)


@pytest.fixture
def ask(node: Running) -> Iterator[Ask]:
    """Ask an app of the node, by its section."""
    callers = {
        section: Caller(node.urls[section])
        for section in ("service", "edge", "cloud")
        if section in node.urls
    }

    def ask(section: str, path: str, body: Any = None) -> Any:
        caller = callers[section]
        reply = caller.get(path) if body is None else caller.post(path, body)
        assert reply.status == 200, reply.body
        return reply.json()

    yield ask
    for caller in callers.values():
        caller.close()


def shares(ask: Ask) -> tuple[float, float]:
    """What the workers of the task may use now, by the documents' overview."""
    (state,) = ask("service", "/get_cluster_info").values()
    service = state["service_state"]["shade"]
    assert service["models"] == [0, 1, 3]
    return service["cpu_util_limit"], service["mem_util_limit"]


def flow_mapping(model: int) -> dict[str, Any]:
    return {"shade": {"node_role": "host", "node_ip": "127.0.0.1", "model_id": model}}


def test_a_query_limits_its_task_and_chooses_its_model_until_it_is_over(node, ask):
    before = shares(ask)
    plan = {
        "video_conf": CONF,
        "flow_mapping": flow_mapping(3),
        "resource_limit": {"shade": {"cpu_util_limit": 0.75, "mem_util_limit": 0.5}},
    }
    edge = urllib.parse.urlsplit(node.urls["edge"]).netloc
    query = {"node_addr": edge, "video_id": 0, "pipeline": ["shade"], "policy": "static"}
    uid = ask("cloud", "/query/submit_query", {**query, "plan": plan})["query_id"]
    until(lambda: shares(ask) == (0.75, 0.5))
    ask("service", "/limit_task_resource", {"task_name": "shade", "cpu_util_limit": 0.5})
    assert shares(ask) == (0.5, 0.5)

    found = until(lambda: ask("cloud", f"/query/get_result/{uid}"))["appended_result"][-1]
    assert found["shade"] == 3
    assert found["proc_resource_info"]["model_id"] == 3
    assert found["proc_resource_info"]["mem_util_limit"] == 0.5
    assert found["ext_plan"]["resource_limit"]["shade"]["cpu_util_limit"] == 0.75
    ask("cloud", "/query/stop", {"query_id": uid})
    until(lambda: shares(ask) == (0.5, 1.0))
    ask("service", "/limit_task_resource", {"task_name": "shade", "cpu_util_limit": 1.0})
    assert shares(ask) == before == (1.0, 1.0)


@pytest.mark.parametrize("node", [False], indirect=True)
def test_a_plan_that_comes_over_rest_limits_what_is_done_here_until_its_job_ends(ask):
    uid = ask("edge", "/job/submit_job", {
        "job_uid": "GLOBAL_ID_901", "video_id": 0, "pipeline": ["shade"],
        "user_constraint": {"delay": 1.0},
    })["job_uid"]  # fmt: skip
    plan = {"job_uid": uid, "video_conf": CONF, "flow_mapping": flow_mapping(2)}
    limit = {"shade": {"cpu_util_limit": 0.5, "mem_util_limit": 0.75}}
    ask("edge", "/job/update_plan", {**plan, "resource_limit": limit})
    until(lambda: shares(ask) == (0.5, 0.75))
    ask("edge", "/job/update_plan", {**plan, "resource_limit": {}})
    until(lambda: shares(ask) == (1.0, 1.0))
    ask("edge", "/job/update_plan", {**plan, "resource_limit": limit})
    until(lambda: shares(ask) == (0.5, 0.75))
    ask("edge", "/job/stop_job", {"job_uid": uid})
    until(lambda: shares(ask) == (1.0, 1.0))


def test_a_caller_of_the_service_chooses_a_model(node, ask):
    picture = {"image": [[7, 7], [7, 7]]}
    assert ask("service", "/execute_task/shade", picture)["shade"] == 1
    for model in (0, 1, 3):
        found = ask("service", f"/execute_task/shade?model_id={model}", picture)
        assert found["shade"] == model
        assert found["proc_resource_info"]["model_id"] == model
    caller = Caller(node.urls["service"])
    for wrong in ("2", "large", "-1"):
        refused = caller.post(f"/execute_task/shade?model_id={wrong}", picture)
        assert refused.status == 400
        text = f"model_id of shade is '{wrong}', expected of 0, 1, 3"
        assert refused.json()["error"] == text
    caller.close()
