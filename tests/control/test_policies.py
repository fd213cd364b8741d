"""Policies: found by name, called with the documents' own examples, and what they may return."""

from __future__ import annotations

import subprocess
import sys

import pytest
from policy_kit import refuses
from scheduler_kit import QUERY, TASKS, Story, node, query

from vdag.control import policies
from vdag.control.policies import Answer, Policy
from vdag.control.scheduling.events import (
    ConstraintChanged,
    PlanProposed,
    RuntimeReported,
    ServiceInfo,
)
from vdag.control.scheduling.instructions import AskPolicy, Question, SendPlan
from vdag.errors import ConfigError, PlanError
from vdag.plan import Constraint, Placement, VideoConf

# The documents' example of the older interface, word by word.
OLDER = {
    "dag_flow": ["face_detection", "face_alignment"],
    "generator_output": {},
    "resource_info": {
        "192.168.56.102": {
            "face_detection": {"n_process": 1, "cpu_ratio": 0.8, "mem_ratio": 0.4},
            "face_alignment": {"n_process": 1, "cpu_ratio": 0.8, "mem_ratio": 0.4},
        },
        "114.212.81.11": {
            "face_detection": {"n_process": 1, "cpu_ratio": 0.8, "mem_ratio": 0.4},
            "face_alignment": {"n_process": 1, "cpu_ratio": 0.8, "mem_ratio": 0.4},
        },
    },
    "last_plan_res": {"delay": {"face_detection": 20, "face_alignment": 0.5}},
    "user_constraint": {"delay": [-1, 50], "acc_level": 5},
}
OLDER_VIDEO_CONF = {
    "face_detection": {"resolution": "480p", "fps": 30, "encoder": "H264"},
    "face_alignment": {"resolution": "480p", "fps": 30, "encoder": "H264"},
}
OLDER_FLOW_MAPPING = {
    "face_detection": {"model_id": 0, "node_ip": "192.168.56.102"},
    "face_alignment": {"model_id": 0, "node_ip": "114.212.81.11"},
}
# And of the newer one.
RUNTIME_INFO = {
    "delay": 0.3066457410653432,
    "obj_n": 20.75,
    "obj_size": 2335.908716666574,
    "obj_stable": False,
}
NEWER_FLOW_MAPPING = {
    "face_detection": {"model_id": 0, "node_role": "host", "node_ip": "127.0.0.1"},
    "face_alignment": {"model_id": 0, "node_role": "cloud", "node_ip": "127.0.0.1"},
}


def documents_nodes(host_ip: str, cloud_ip: str) -> Story:
    """The nodes of the documents' examples: the one with the video, and a server."""
    services = {task: ServiceInfo(1, (), 0.8, 0.4) for task in TASKS}
    return Story(
        node(f"{host_ip}:7000", services=services),
        node(f"{cloud_ip}:8000", services=services, role="cloud"),
    )


def ask(story: Story, document: dict, runtime: dict, first: dict) -> Question:
    """Return the question about a query that has measured something under its first plan."""
    host = story.scheduler.nodes()[0]
    info = query(node_addr=host.node_addr, constraint=Constraint.from_document(document))
    story.submit(info)
    story.propose(QUERY, first)
    story.tell(RuntimeReported, QUERY, runtime, 1)
    story.tell(ConstraintChanged, QUERY, info.constraint)
    return story.last(AskPolicy).question


def test_a_policy_of_the_older_interface_is_called_with_the_documents_example():
    called = {}

    def scheduler(dag_flow, generator_output, resource_info, last_plan_res, user_constraint):
        told = dag_flow, generator_output, resource_info, last_plan_res, user_constraint
        called.update(zip(OLDER, told, strict=True))
        return OLDER_VIDEO_CONF, OLDER_FLOW_MAPPING

    story = documents_nodes("192.168.56.102", "114.212.81.11")
    runtime = {"plan_result": OLDER["last_plan_res"]}
    question = ask(story, OLDER["user_constraint"], runtime, OLDER_FLOW_MAPPING)
    answer = Policy("older", scheduler).answer(question)
    assert called == OLDER
    assert list(called["resource_info"]) == ["192.168.56.102", "114.212.81.11"]
    story.tell(PlanProposed, QUERY, story.rounds[QUERY], *answer)
    plan = story.last(SendPlan).plan
    assert plan.video_conf == VideoConf("480p", 30, "H264")
    assert plan.flow_mapping == {
        "face_detection": Placement("192.168.56.102", "host", 0, "192.168.56.102:7000"),
        "face_alignment": Placement("114.212.81.11", "cloud", 0, "114.212.81.11:8000"),
    }


def test_a_policy_of_the_newer_interface_is_called_with_the_documents_example():
    called = {}

    def scheduler(job_uid, dag, resource_info, runtime_info, user_constraint):
        called.update(job_uid=job_uid, dag=dag, resource_info=resource_info)
        called.update(runtime_info=runtime_info, user_constraint=user_constraint)
        return {"resolution": "480p", "fps": 30, "encoder": "JPEG"}, NEWER_FLOW_MAPPING

    story = documents_nodes("127.0.0.1", "127.0.0.1")
    question = ask(story, {"delay": 0.3, "accuracy": 0.9}, RUNTIME_INFO, NEWER_FLOW_MAPPING)
    answer = Policy("newer", scheduler).answer(question)
    shares = OLDER["resource_info"]["114.212.81.11"]
    assert called == {
        "job_uid": QUERY,
        "dag": {"generator": "SingleFrameGenerator", "flow": list(TASKS), "input": {}},
        "resource_info": {
            "host": {"127.0.0.1": shares}, "cloud": {"127.0.0.1": shares}, "edge": {},
        },
        "runtime_info": RUNTIME_INFO,
        "user_constraint": {"delay": 0.3, "accuracy": 0.9},
    }  # fmt: skip
    story.tell(PlanProposed, QUERY, story.rounds[QUERY], *answer)
    assert story.out == []  # it is the plan in force, at the nodes that it means
    assert story.placed() == {
        "face_detection": "127.0.0.1:7000", "face_alignment": "127.0.0.1:8000",
    }  # fmt: skip


def test_before_the_first_frames_there_is_nothing_to_go_by():
    def scheduler(dag_flow, last_plan_res, runtime_info):
        return last_plan_res, runtime_info

    story = documents_nodes("192.168.56.102", "114.212.81.11")
    story.submit(query(node_addr="192.168.56.102:7000"))
    assert Policy("x", scheduler).answer(story.last(AskPolicy).question)[:2] == ({}, {})


# What a policy may take and return.


def test_a_policy_may_take_more_by_name_and_less(question):
    def scheduler(flow, *, nodes, video, previous, cause, limit=5, **rest):
        assert not rest
        return (nodes, video, previous), (flow, cause, limit)

    answer = Policy("x", scheduler).answer(question)
    assert answer.video_conf == (question.around.nodes(), question.video, None)
    assert answer.flow_mapping == (list(TASKS), "submitted", 5)


def test_a_callable_of_any_kind_will_do(question):
    class Steady:
        def __call__(self, dag, resource_info):
            return {"fps": 1}, {"a": resource_info["host"]}

    assert Policy("x", Steady()).answer(question).video_conf == {"fps": 1}


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda dag, weather: None, "policy 'x' takes 'weather', which no policy is told"),
        (lambda: None, "policy 'x' takes none of dag, dag_flow, flow"),
        (lambda *everything: None, "policy 'x' takes none of dag, dag_flow, flow"),
        (lambda dag, /: None, "policy 'x' takes 'dag', which no policy is told"),
    ],
)
def test_a_function_that_is_no_policy_is_refused(function, text):
    with refuses(ConfigError, text):
        Policy("x", function)


@pytest.mark.parametrize(
    ("returned", "answer"),
    [
        (("c", "m"), ("c", "m")),
        (["c", "m", "r"], ("c", "m", "r")),
        (("c", "m", "r", {"n": 1}, {"why": "so"}), ("c", "m", "r", {"n": 1}, {"why": "so"})),
        ({"video_conf": "c", "flow_mapping": "m"}, ("c", "m")),
        ({"video_conf": "c", "memory": {"n": 1}}, ("c", None, None, {"n": 1})),
        ((None, None), (None, None)),
    ],
)
def test_a_policy_may_return_a_tuple_of_two_to_five_or_a_mapping(question, returned, answer):
    assert Policy("x", lambda dag: returned).answer(question) == Answer(*answer)


@pytest.mark.parametrize(
    ("returned", "what"),
    [(None, "nothing"), (5, "a int"), ((1,), "1 values"), ([1] * 6, "6 values")],
)
def test_what_is_no_plan_by_its_shape_is_refused(question, returned, what):
    with refuses(PlanError, f"it returned {what}, expected video_conf, flow_mapping"):
        Policy("x", lambda dag: returned).answer(question)


# How policies are found.


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a policy file; return its path. Modules are found beside it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str, name: str = "chosen_policy.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    yield write
    for name in [name for name in sys.modules if "chosen_policy" in name]:
        del sys.modules[name]


GOOD = "def plan(dag):\n    return {'fps': 7}, {}\n"


def test_a_policy_is_found_by_file_and_by_module(written, question):
    path = written(GOOD)
    for name in (f"{path}:plan", "chosen_policy:plan"):
        assert policies.load(name).answer(question).video_conf == {"fps": 7}


def test_a_file_does_not_stand_in_for_a_module_of_its_name(written):
    import json

    policies.load(f"{written(GOOD, 'json.py')}:plan")
    assert sys.modules["json"] is json
    del sys.modules["vdag_policy_json"]


@pytest.mark.parametrize("name", ["golden", "static"])
def test_a_policy_is_found_by_its_own_name(name):
    assert policies.load(name) is policies.BUILT_IN[name]


@pytest.mark.parametrize(
    "name", ["", "gold", "os", "os:", ":system", "os:path.join", "a b:c",
             "./relative.py:f", "/file.txt:f", "x" * 600 + ":f"],
)  # fmt: skip
def test_a_name_that_cannot_be_a_policys_is_refused(name):
    ours = ", ".join(policies.BUILT_IN)
    text = (
        f"policy {name[:512]!r} is unknown, expected one of {ours}, module:function, "
        f"/path/file.py:function"
    )
    with refuses(ConfigError, text):
        policies.load(name)


@pytest.mark.parametrize(
    ("text", "function", "reason"),
    [
        (GOOD, "other", "no function other"),
        ("plan = 5", "plan", "no function plan"),
        ("1 / 0", "plan", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "plan", "SystemExit: 3"),
    ],
)
def test_a_file_without_the_policy_is_refused(written, text, function, reason):
    name = f"{written(text)}:{function}"
    with refuses(ConfigError, f"policy {name!r}: {reason}"):
        policies.load(name)


def test_a_policy_that_is_not_there_is_refused(tmp_path):
    name = f"{tmp_path}/none.py:f"
    with refuses(ConfigError, f"policy {name!r}: no such file"):
        policies.load(name)
    with refuses(ConfigError, "policy 'none_such:f': ModuleNotFoundError: No module named "
                 "'none_such'"):  # fmt: skip
        policies.load("none_such:f")


def test_a_name_from_the_network_counts_only_if_the_operator_has_listed_it():
    policies.expect_allowed("golden", ())
    policies.expect_allowed("ours:plan", ["ours:plan"])
    known = ", ".join([*policies.BUILT_IN, "ours:plan"])
    text = f"policy 'os:system' is unknown, expected one of {known}"
    with refuses(ConfigError, text):
        policies.expect_allowed("os:system", ["ours:plan"])


def test_plans_are_made_without_any_engine_decoder_or_socket():
    code = (
        "import sys, vdag.control.scheduling.scheduler, vdag.control.advisers.adviser\n"
        "heavy = {'cv2', 'av', 'onnxruntime', 'tensorrt', 'zmq'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
