"""Policies of ours as functions: the documents' calls, explanations, hostile reports."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_kit import (
    CLOUD,
    EDGE,
    HOST,
    MBIT,
    NEWER_CONSTRAINT,
    TASKS,
    Around,
    Loop,
    Plant,
    ask,
    documents,
    in_force,
    node,
    nodes,
    plan_of,
    question,
)

from vdag.control.policies import BUILT_IN, Policy
from vdag.control.policies.pid import Controller
from vdag.control.prediction import Candidate, Outlook, predict_on
from vdag.control.profile import Cost
from vdag.control.scheduling.events import ServiceInfo
from vdag.control.scheduling.surroundings import Snapshot
from vdag.errors import PlanError
from vdag.plan import Constraint, Plan, VideoConf

ADAPTIVE = ("predictive", "pid", "cold_start")
BASELINES = ("demo", "reference", "reference_pid", "reference_mogai", "reference_auto_pid")
# The documents' examples.
OLDER_CONSTRAINT = {"delay": [-1, 50], "acc_level": 5}
RUNTIME_INFO = {
    "delay": 0.3066457410653432, "obj_n": 20.75, "obj_size": 2335.908716666574,
    "obj_stable": False,
}  # fmt: skip
NEWER_FLOW_MAPPING = {
    "face_detection": {"model_id": 0, "node_role": "host", "node_ip": "127.0.0.1"},
    "face_alignment": {"model_id": 0, "node_role": "cloud", "node_ip": "127.0.0.1"},
}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_where_frames_have_to_be_taken_so_only_tasks_are_placed(name):
    conf = VideoConf("320x240", 12.5)
    asked = question(constraint=Constraint((-1.0, 0.3), 0.9, conf))
    first = ask(name, asked)
    assert plan_of(asked, first).video_conf == conf
    told = {"delay": 0.5, "delay_p95": 0.6, "obj_n": 20.0, "frames": 100}
    later = ask(name, in_force(asked, first, runtime_info=told))
    assert plan_of(asked, later).video_conf == conf
    chosen = {
        (each["video_conf"]["resolution"], each["video_conf"]["fps"])
        for answer in (first, later)
        for each in answer.explanation["alternatives"]
    }
    assert chosen <= {("320x240", 12.5)}


@pytest.mark.parametrize("name", [*ADAPTIVE, *BASELINES])
@pytest.mark.parametrize("constraint", [OLDER_CONSTRAINT, NEWER_CONSTRAINT])
def test_the_documents_examples_as_calls(name, constraint):
    asked = documents("192.168.56.102", "114.212.81.11", constraint)
    first = ask(name, asked)
    plan = plan_of(asked, first)
    assert plan.flow_mapping.keys() == set(TASKS)
    delays = {"delay": {"face_detection": 20, "face_alignment": 0.5}}
    again = in_force(asked, first, runtime_info={**RUNTIME_INFO, "plan_result": delays},
                     last_plan_res=delays)  # fmt: skip
    assert plan_of(again, ask(name, again), 2).flow_mapping.keys() == set(TASKS)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_newer_documents_placement_is_a_plan_to_go_on_from(name):
    asked = documents("127.0.0.1", "127.0.0.1", NEWER_CONSTRAINT)
    before = Plan.from_documents(
        TASKS, {"resolution": "480p", "fps": 30, "encoder": "JPEG"},
        {task: {**each, "node_addr": addr} for (task, each), addr in
         zip(NEWER_FLOW_MAPPING.items(), ("127.0.0.1:7000", "127.0.0.1:8000"), strict=True)},
        number=1,
    )  # fmt: skip
    asked = replace(asked, runtime_info=RUNTIME_INFO, previous=before, measured=1, cause="period")
    answer = ask(name, asked)
    assert plan_of(asked, answer).flow_mapping.keys() == set(TASKS)
    assert answer.explanation["inputs"].get("obj_n", 20.75) == 20.75


@pytest.mark.parametrize("name", ADAPTIVE)
def test_every_decision_explains_itself(name):
    asked = question(Around(*nodes(), links={HOST: {CLOUD: 20 * MBIT}}), delay=0.1)
    told = ask(name, asked).explanation
    assert told.keys() == {"why", "predicted", "alternatives", "bound", "inputs"}
    assert told["why"]
    assert told["predicted"].keys() == {"delay", "delay_p95", "accuracy", "fps", "tasks"}
    for task in TASKS:
        assert told["predicted"]["tasks"][task].keys() == {"node", "transfer", "queue", "compute"}
    assert len(told["alternatives"]) <= 12
    for each in told["alternatives"]:
        assert each["verdict"]
        assert each["flow_mapping"].keys() == each["models"].keys() == set(TASKS)
    assert told["inputs"]["bound_delay"] == 0.1
    assert len(json.dumps(told)) <= 32 * 1024


def test_a_bound_that_cannot_be_kept_is_named_and_the_closest_plan_is_used():
    delay = ask("cold_start", question(delay=0.001)).explanation["bound"]
    assert (delay["what"], delay["limit"]) == ("delay", 0.001)
    assert delay["short_by"] == pytest.approx(delay["best"] - 0.001, abs=1e-5)
    accuracy = ask("cold_start", question(accuracy=1.0)).explanation["bound"]
    assert (accuracy["what"], accuracy["limit"]) == ("accuracy", 1.0)
    assert 0.9 < accuracy["best"] < 1.0
    slow = node(HOST, services={task: ServiceInfo(1, (0,)) for task in TASKS})
    around = Around(slow)
    around.profile.put_cost("face_detection", 0, "360p", Cost(30.0, 30.0), HOST)
    capacity = ask("cold_start", question(around, delay=None)).explanation["bound"]
    assert capacity["what"] == "capacity"
    assert capacity["best"] > 1
    assert ask("predictive", question()).explanation["bound"] is None


def test_cold_start_is_the_most_accurate_of_all_that_keep_the_delay_and_then_stays():
    asked = question(Around(*nodes(), links={HOST: {CLOUD: 20 * MBIT}}), delay=0.1)
    answer = ask("cold_start", asked)
    outlook = Outlook(asked)
    again = in_force(asked, answer, runtime_info={"delay": 9.0, "delay_p95": 9.9})
    predicted = predict_on(Candidate.of_plan(again.previous), outlook)
    assert predicted.fits
    assert predicted.delay_p95_s <= 0.1
    kept = ask("cold_start", again)
    assert (kept.video_conf, kept.flow_mapping) == (answer.video_conf, answer.flow_mapping)
    # Until a node of it is gone.
    away = [each for each in asked.around.nodes() if each.node_addr != CLOUD]
    asked.around.change(around=tuple(away))
    moved = ask("cold_start", replace(again, cause="node lost"))
    assert CLOUD not in {each["node_addr"] for each in moved.flow_mapping.values()}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_tasks_that_nobody_offers_cannot_be_placed(name):
    with pytest.raises(PlanError, match=r"^no live node offers lip_reading$"):
        ask(name, question(tasks=("lip_reading",)))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_tasks_that_nobody_has_measured_are_planned_all_the_same(name):
    offered = {"lip_reading": ServiceInfo(2)}
    around = Around(node(HOST, services=offered), node(CLOUD, services=offered))
    asked = question(around, tasks=("lip_reading",))
    assert plan_of(asked, ask(name, asked)).flow_mapping.keys() == {"lip_reading"}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_long_graph_over_many_nodes_is_planned(name):
    tasks = tuple(f"task{n}" for n in range(20))
    offered = {task: ServiceInfo(2, (0, 1)) for task in tasks}
    fleet = [node(f"10.0.0.{n}:5001", services=offered) for n in (1, 2, 3, 4, 9, 10, 11)]
    asked = question(Around(*fleet), tasks=tasks, delay=5.0)
    answer = ask(name, asked)
    again = in_force(asked, answer, runtime_info={"delay": 9.0, "delay_p95": 9.9, "frames": 50})
    for each in (asked, again):
        assert plan_of(each, ask(name, each)).flow_mapping.keys() == set(tasks)


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize(
    "document", [{}, {"delay": 0.3}, {"accuracy": 0.9}, {"delay": 0}, {"delay": 0, "accuracy": 1}]
)
def test_any_constraint_has_a_plan(name, document):
    asked = question(constraint=Constraint.from_document(document))
    answer = ask(name, asked)
    again = in_force(asked, answer, runtime_info={"delay": 0.1, "delay_p95": 0.2, "frames": 50})
    for each in (asked, again):
        assert plan_of(each, ask(name, each))
    json.dumps(answer.explanation, allow_nan=False)


def test_in_a_process_without_a_profile_there_is_a_plan_too():
    asked = replace(question(), around=Snapshot(nodes()))
    assert plan_of(asked, ask("predictive", asked))


odd = st.one_of(
    st.floats(), st.integers(), st.integers(-(10**400), 10**400), st.text(max_size=5), st.none(),
    st.booleans(), st.lists(st.floats(), max_size=2), st.just({}), st.just({"face_detection": "x"}),
    st.floats(0, 1),
)  # fmt: skip
names = st.sampled_from((*TASKS, "other", ""))
hostile = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("delay", "delay_p50", "delay_p95", "frames", "window_s", "fps", "dropped", "obj_n",
             "obj_size", "obj_size_1080p", "obj_speed", "obj_stable", "home_delay"), odd),
        "plan_result": st.one_of(
            odd,
            st.dictionaries(
                st.sampled_from(("process_delay", "queue_delay", "transfer_delay", "delay")),
                st.one_of(odd, st.dictionaries(names, odd, max_size=3)), max_size=4,
            ),
        ),
    },
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(ADAPTIVE),
    reports=st.lists(hostile, min_size=1, max_size=4),
    steps=st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4),
    measured=st.sampled_from((0, 1, 7)),
)
def test_no_report_makes_a_policy_fail_or_its_plan_invalid(name, reports, steps, measured):
    asked = question()
    answer = ask(name, asked)
    for number, (runtime, step) in enumerate(zip(reports, steps, strict=False), start=1):
        asked = in_force(asked, answer, number, runtime_info=runtime)
        asked = replace(asked, measured=measured, now_s=asked.now_s + step)
        answer = ask(name, asked)
        plan = plan_of(asked, answer, number + 1)
        assert all(asked.around.get(each.node_addr) for each in plan.flow_mapping.values())
        json.dumps(answer.memory, allow_nan=False)
        json.dumps(answer.explanation, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(("predictive", "pid")),
    memory=st.dictionaries(
        st.sampled_from(("calibration", "bars", "key", "changed_s", "origin", "hold_s", "failures",
                         "p95_s", "delay_s", "bound", "extra")),
        st.one_of(odd, st.lists(odd, max_size=2), st.dictionaries(names, odd, max_size=2)),
    ),
)  # fmt: skip
def test_a_memory_of_another_version_does_no_harm(name, memory):
    asked = question(memory=memory)
    answer = ask(name, asked)
    again = in_force(asked, answer, runtime_info={"delay": 0.2, "delay_p95": 0.4, "frames": 30})
    assert plan_of(again, ask(name, replace(again, memory=memory)))


@pytest.mark.parametrize("value", [-1e12, 1e12])
def test_corrections_that_nobody_could_have_learned_are_bounded(value):
    places = {f"{task}@{addr}": value for task in TASKS for addr in (HOST, EDGE, CLOUD)}
    links = {f"{HOST}>{CLOUD}": value, f"{HOST}>{EDGE}": value}
    calibration = {
        "compute": places, "queue": places, "link": links, "hop": links,
        "bandwidth": links, "spread": value, "at_s": value,
    }  # fmt: skip
    asked = question(memory={"calibration": calibration})
    again = in_force(asked, ask("predictive", asked), runtime_info={"delay_p95": 0.4, "frames": 30})
    for policy in ("predictive", "pid"):
        assert plan_of(again, ask(policy, replace(again, memory={"calibration": calibration})))


def test_the_controller_is_a_pid_controller():
    controller = Controller(0.5)
    # At the set point nothing moves, whatever the time.
    assert controller.step(0.75, 10.0) == pytest.approx(0.5)
    assert controller.step(0.75, 15.0) == pytest.approx(0.5)
    # Proportional, integral, and the derivative of the measurement.
    assert controller.step(0.65, 17.0) == pytest.approx(0.5 + 0.01 + 0.12 * 0.1 * 2 + 0.0025)
    # What was not carried out is not summed up.
    for second in range(100):
        controller.step(0.1, 20.0 + second)
        controller.track(0.5)
    assert controller.step(0.75, 121.0) < 0.5
    # A gap in time counts as no more than five seconds.
    quick, slow = Controller(0.5, 0.75, 0.0), Controller(0.5, 0.75, 0.0)
    assert quick.step(0.5, 5.0) == pytest.approx(slow.step(0.5, 1e6))


def test_an_upgrade_that_fails_is_not_tried_again_at_once():
    # The profile believes the cloud's model at 1080p to be faster than it is, and only that.
    plant = Plant(links={HOST: {CLOUD: 30 * MBIT}})
    loop = Loop(BUILT_IN["predictive"].answer, plant, delay=0.12)
    real = plant.report
    plant.report = lambda plan, tasks, window_s=2.0: trouble(real(plan, tasks, window_s), plan)

    def trouble(runtime, plan):
        if plan.video_conf.size > (960, 540):
            return {**runtime, "delay": 0.5, "delay_p95": 0.6, "delay_p50": 0.5}
        return runtime

    loop.run(600)
    assert loop.plan.video_conf.size <= (960, 540)
    assert 1 <= len(loop.changes) <= 8


def test_built_in_policies_are_named_as_their_functions():
    assert list(BUILT_IN)[:2] == ["golden", "static"]
    for name, policy in BUILT_IN.items():
        assert isinstance(policy, Policy)
        assert policy.function.__name__ == name
        assert policy.is_built_in
