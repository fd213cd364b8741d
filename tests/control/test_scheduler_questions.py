"""What policies are asked and when, and what becomes of their answers."""

from __future__ import annotations

import math

import pytest
from scheduler_kit import (
    ALL_HOST,
    CLOUD,
    CONF,
    EDGE,
    HOST,
    QUERY,
    SPLIT,
    TASKS,
    Story,
    mapping,
    node,
    query,
    questions,
)

from vdag.control.scheduling.events import (
    ConstraintChanged,
    NodeJoined,
    PlanProposed,
    PolicyFailed,
    RuntimeReported,
    ServiceInfo,
    Tick,
    VideoInfo,
)
from vdag.control.scheduling.instructions import (
    AskPolicy,
    RecordFault,
    RecordPlan,
    SendPlan,
    StartJob,
)
from vdag.plan import Constraint

# When a policy is asked, and what.


def test_a_question_tells_what_the_documents_promise(story):
    story.submit()
    question = story.last(AskPolicy).question
    shares = {task: {"n_process": 1, "cpu_ratio": 1.0, "mem_ratio": 1.0} for task in TASKS}
    assert question.job_uid == QUERY
    assert question.dag == {
        "generator": "SingleFrameGenerator", "flow": list(TASKS), "input": {},
    }  # fmt: skip
    assert question.dag_flow == list(TASKS)
    assert question.around.resource_info() == {
        "host": {"10.0.0.1": shares},
        "cloud": {"10.0.0.9": shares},
        "edge": {"10.0.0.2": shares},
    }
    assert question.user_constraint == {"delay": 0.3, "accuracy": 0.9}
    assert (question.runtime_info, question.last_plan_res) == ({}, {})
    assert [each.node_addr for each in question.around.nodes()] == [HOST, EDGE, CLOUD]
    assert question.video == VideoInfo("people", 1280, 720, 25.0)
    assert (question.previous, question.fixed, question.cause) == (None, None, "submitted")


def test_a_new_runtime_leads_to_a_question_after_the_period(running):
    assert [each.question.cause for each in questions(running.wait(2.1))] == ["period"]
    question = running.last(AskPolicy).question
    assert question.runtime_info == {"delay": 0.2}
    assert question.previous == running.scheduler.plan_of(QUERY)


def test_without_news_nothing_is_asked(running):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    assert questions(running.wait(10)) == []


def test_a_runtime_of_an_older_plan_is_no_news(running):
    running.wait(2.1)
    running.propose(QUERY, ALL_HOST)
    running.tell(RuntimeReported, QUERY, {"delay": 0.1}, 1)
    assert questions(running.wait(5)) == []
    running.tell(RuntimeReported, QUERY, {"delay": 0.1}, 2)
    assert len(questions(running.wait(2.1))) == 1


@pytest.mark.parametrize("runtime", [{"delay_p95": 0.31}, {"delay_p95": 0.2, "changed": True}])
def test_what_cannot_wait_is_asked_about_at_once_but_once(running, runtime):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    running.tell(RuntimeReported, QUERY, {"delay_p95": 0.29}, 1)
    assert questions(running.wait(1.0)) == []
    running.tell(RuntimeReported, QUERY, runtime, 1)
    assert [each.question.cause for each in questions(running.wait(0.25))] == ["period"]
    running.propose(QUERY, SPLIT)
    running.tell(RuntimeReported, QUERY, runtime, 1)
    assert questions(running.wait(1.5)) == [], "it was told of that"
    assert len(questions(running.wait(0.75))) == 1


def test_alarms_do_not_follow_each_other_without_a_pause(running):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    running.tell(RuntimeReported, QUERY, {"delay_p95": 0.31}, 1)
    assert questions(running.tell(Tick)) == []
    assert len(questions(running.wait(0.5))) == 1


@pytest.mark.parametrize("p95_s", [math.nan, math.inf, -1.0, "late", None, True])
def test_what_is_no_delay_is_no_alarm(running, p95_s):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    running.tell(ConstraintChanged, QUERY, Constraint.from_document({"delay": 2.0}))
    running.propose(QUERY, SPLIT)
    running.tell(RuntimeReported, QUERY, {"delay_p95": p95_s}, 1)
    assert questions(running.wait(1.75)) == []


def test_the_delays_of_tasks_are_told_in_the_older_form_too(running):
    runtime = {"delay": 0.3, "plan_result": {"delay": {"face_detection": 0.2}}}
    running.tell(RuntimeReported, QUERY, runtime, 1)
    running.wait(2.1)
    assert running.last(AskPolicy).question.last_plan_res == {"delay": {"face_detection": 0.2}}


def test_a_change_of_the_constraint_leads_to_a_question_at_once(running):
    running.tell(ConstraintChanged, QUERY, Constraint.from_document({"delay": 0.1}))
    question = running.last(AskPolicy).question
    assert (question.user_constraint, question.cause) == ({"delay": 0.1}, "constraint")


def test_a_change_of_the_constraint_is_told_to_the_job_with_the_plan_it_has(running):
    before = running.scheduler.plan_of(QUERY)
    constraint = Constraint.from_document({"delay": 0.1})
    running.tell(ConstraintChanged, QUERY, constraint)
    order = running.last(SendPlan)
    assert (order.plan, order.constraint) == (before, constraint)


def test_a_plan_that_is_preferred_is_asked_for_without_a_word_to_the_job(running):
    running.tell(ConstraintChanged, QUERY, query().constraint, "preferred")
    assert [type(each) for each in running.out] == [AskPolicy]
    assert running.last(AskPolicy).question.cause == "preferred"


def test_what_comes_up_while_a_question_is_open_is_asked_afterwards(running):
    running.tell(ConstraintChanged, QUERY, Constraint.from_document({"delay": 0.1}))
    running.tell(ConstraintChanged, QUERY, Constraint.from_document({"delay": 0.2}))
    assert questions(running.out) == []
    running.propose(QUERY, SPLIT)
    assert running.last(AskPolicy).question.user_constraint == {"delay": 0.2}


def test_other_nodes_are_news_at_the_next_period(running):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    assert running.tell(NodeJoined, node("10.0.0.3:5001")) == []
    assert len(questions(running.wait(2.1))) == 1


# What becomes of an answer.


def test_a_plan_that_is_in_force_already_is_not_sent_again(running):
    running.wait(2.1)
    assert running.propose(QUERY, SPLIT) == []
    assert running.scheduler.plan_of(QUERY).number == 1


def test_another_plan_gets_the_next_number_and_is_sent(running):
    running.wait(2.1)
    running.propose(QUERY, ALL_HOST, {**CONF, "fps": 5})
    assert running.kinds() == ["RecordPlan", "SendPlan", "RecordDecision"]
    sent = running.last(SendPlan)
    assert (sent.node_addr, sent.plan.number, sent.routes) == (HOST, 2, {})
    assert running.last(RecordPlan).cause == "period"


def test_an_answer_to_a_question_that_is_closed_is_ignored(running):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    assert running.propose(QUERY, ALL_HOST) == []
    assert running.tell(PolicyFailed, QUERY, 2, "late") == []
    running.tell(ConstraintChanged, QUERY, Constraint())
    assert running.last(AskPolicy).round == 3
    assert running.tell(PlanProposed, QUERY, 2, CONF, ALL_HOST) == []
    assert running.tell(PolicyFailed, QUERY, 2, "late") == []
    assert running.scheduler.stats().asked == 1


def test_a_policy_may_leave_everything_as_it_is_by_returning_nothing(running):
    running.wait(2.1)
    assert running.propose(QUERY, None, None) == []


@pytest.mark.parametrize(
    ("placed", "text"),
    [
        (None, "flow_mapping is an object, not nothing"),
        (mapping(face_detection=HOST), "flow_mapping does not place face_alignment"),
        (
            mapping(face_detection=HOST, face_alignment="10.0.0.7"),
            "flow_mapping.face_alignment: no live node 10.0.0.7",
        ),
        (
            {**ALL_HOST, "face_alignment": {"node_addr": "10.0.0.7:1"}},
            "flow_mapping.face_alignment: no live node 10.0.0.7:1",
        ),
        (
            mapping(face_detection=EDGE, face_alignment=HOST),
            f"flow_mapping.face_detection: node {EDGE} does not offer face_detection",
        ),
        (
            {**ALL_HOST, "face_alignment": {"node_role": "cloud", "model_id": 2}},
            f"flow_mapping.face_alignment: node {CLOUD} has no model 2 of face_alignment, "
            f"only 0, 1",
        ),
        (
            mapping(face_detection=HOST, face_alignment=EDGE),
            f"flow_mapping.face_alignment: node {EDGE} takes no frames from other nodes",
        ),
    ],
)
def test_a_proposal_that_the_nodes_cannot_do_fails(placed, text):
    services = {"face_detection": ServiceInfo(), "face_alignment": ServiceInfo(1, (0, 1))}
    story = Story(
        node(HOST),
        node(EDGE, services={"face_alignment": ServiceInfo()}, landing=""),
        node(CLOUD, services=services),
    )
    story.submit()
    assert story.propose(QUERY, placed) == [RecordFault(QUERY, f"policy somebody:policy: {text}")]
    assert story.scheduler.plan_of(QUERY) is None


def test_a_failed_question_keeps_the_last_plan(running):
    running.wait(2.1)
    running.tell(PolicyFailed, QUERY, running.rounds[QUERY], "ValueError: no")
    assert running.out == [RecordFault(QUERY, "policy somebody:policy: ValueError: no")]
    assert running.placed() == {"face_detection": HOST, "face_alignment": CLOUD}


def test_the_words_of_a_policy_are_cut_to_a_bearable_length(running):
    running.wait(2.1)
    running.tell(PolicyFailed, QUERY, running.rounds[QUERY], "x" * 10_000)
    assert len(running.last(RecordFault).what) == 503


def test_a_question_without_an_answer_is_closed_after_a_while(running):
    running.wait(2.1)
    running.wait(1.1)
    assert running.all(RecordFault) == [
        RecordFault(QUERY, "policy somebody:policy: no answer within 1 s")
    ]


def test_a_failing_policy_is_asked_ever_more_rarely_until_something_happens(story):
    story.submit()
    gaps = []
    for _ in range(8):
        begin_ns = story.now_ns
        story.tell(PolicyFailed, QUERY, story.rounds[QUERY], "no")
        while not questions(story.wait(0.25)):
            pass
        gaps.append(round((story.now_ns - begin_ns) / 1e9))
    assert gaps == [4, 8, 16, 32, 64, 64, 64, 64]
    story.tell(PolicyFailed, QUERY, story.rounds[QUERY], "no")
    story.tell(ConstraintChanged, QUERY, Constraint())
    story.tell(PolicyFailed, QUERY, story.rounds[QUERY], "no")
    assert len(questions(story.wait(4.3))) == 1


def test_a_policy_that_hangs_on_one_query_delays_no_other(story):
    for number in range(10):
        story.submit(query(f"GLOBAL_ID_{number}"))
        if number:
            story.propose(f"GLOBAL_ID_{number}", ALL_HOST)
            story.tell(RuntimeReported, f"GLOBAL_ID_{number}", {"delay": 0.2}, 1)
    asked = {each.query_id for each in questions(story.wait(2.1))}
    assert asked == {f"GLOBAL_ID_{number}" for number in range(1, 10)}


# Which node a placement means.


@pytest.mark.parametrize(
    ("placement", "node_addr", "role"),
    [
        ({"node_ip": "127.0.0.1", "node_role": "host"}, "127.0.0.1:5001", "host"),
        ({"node_ip": "127.0.0.1", "node_role": "edge"}, "127.0.0.1:5002", "edge"),
        ({"node_ip": "127.0.0.1", "node_role": "cloud"}, "127.0.0.1:5003", "cloud"),
        ({"node_ip": "127.0.0.1"}, "127.0.0.1:5001", "host"),
        ({"node_ip": "127.0.0.1", "node_addr": "127.0.0.1:5002"}, "127.0.0.1:5002", "edge"),
        ({"node_role": "cloud"}, "127.0.0.1:5003", "cloud"),
        ({"node_role": "edge"}, "127.0.0.1:5002", "edge"),
        # Policies that know one address only call it by the role that they want it to have.
        ({"node_ip": "10.0.0.9", "node_role": "host"}, "10.0.0.9:5001", "cloud"),
    ],
)
def test_nodes_that_share_an_address_are_told_apart_by_their_roles(placement, node_addr, role):
    story = Story(
        *(node(f"127.0.0.1:500{number}") for number in (1, 2)),
        node("127.0.0.1:5003", role="cloud"),
        node(CLOUD),
    )
    story.submit(query(node_addr="127.0.0.1:5001"))
    story.propose(QUERY, {"face_detection": placement, "face_alignment": placement})
    placed = story.scheduler.plan_of(QUERY).flow_mapping["face_detection"]
    assert (placed.node_addr, placed.node_role) == (node_addr, role)


def test_a_node_may_be_host_and_server_at_once():
    story = Story(node(HOST, role="cloud"))
    story.submit()
    story.propose(QUERY, {task: {"node_role": "cloud"} for task in TASKS})
    assert story.scheduler.plan_of(QUERY).flow_mapping[TASKS[0]].node_role == "cloud"
    info = story.last(StartJob)
    assert info.routes == {}


def test_a_node_that_does_not_say_what_it_offers_is_believed_to_offer_everything():
    old = node(HOST, dialect="push", services={}, landing="")
    story = Story(old, node(CLOUD, landing=""))
    story.submit(face_detection=HOST, face_alignment=CLOUD)
    assert story.last(StartJob).routes == {}
