"""What the scheduler does: from a query to its plans, and what becomes of them."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from scheduler_kit import (
    CLOUD,
    CONF,
    EDGE,
    HOST,
    QUERY,
    TASKS,
    Story,
    mapping,
    node,
    query,
)

from vdag.control.scheduling.events import (
    ConstraintChanged,
    JobReported,
    NodeJoined,
    PlanProposed,
    PlanTaken,
    PolicyFailed,
    QueryDeleted,
    QueryState,
    QueryStopped,
    QuerySubmitted,
    RuntimeReported,
    ServiceInfo,
    Tick,
    VideoInfo,
)
from vdag.control.scheduling.instructions import (
    AskPolicy,
    RecordDecision,
    RecordFault,
    RecordPlan,
    RecordState,
    SendPlan,
    StartJob,
    StopJob,
)
from vdag.control.scheduling.scheduler import SchedulerSettings
from vdag.errors import ConfigError, InvalidTransition
from vdag.graph import Graph
from vdag.plan import Constraint, Placement, Plan, VideoConf

ALL_HOST = mapping(face_detection=HOST, face_alignment=HOST)
SPLIT = mapping(face_detection=HOST, face_alignment=CLOUD)


@pytest.fixture
def story() -> Story:
    """Three nodes that are alive."""
    return Story(node(HOST), node(EDGE), node(CLOUD))


@pytest.fixture
def running(story: Story) -> Story:
    """And a query that runs on the host and the server."""
    story.submit(face_detection=HOST, face_alignment=CLOUD)
    story.tell(RuntimeReported, QUERY, {"delay": 0.2}, 1)
    return story


# From the query to its first plan.


def test_a_submitted_query_is_asked_about_at_once(story):
    story.submit()
    assert story.out[0] == RecordState(QUERY, QueryState.UNSCHEDULED)
    assert story.kinds() == ["RecordState", "AskPolicy"]
    asked = story.last(AskPolicy)
    assert (asked.round, asked.policy) == (1, "somebody:policy")


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


def test_where_there_is_no_server_the_host_stands_in():
    story = Story(node(HOST))
    story.submit()
    info = story.last(AskPolicy).question.around.resource_info()
    assert info["cloud"] == info["host"]
    assert info["edge"] == {}


def test_the_first_plan_starts_the_job_with_a_route_to_each_other_node(story):
    story.submit()
    story.propose(QUERY, SPLIT)
    plan = Plan(
        1,
        VideoConf("480p", 30),
        {
            "face_detection": Placement("10.0.0.1", "host", 0, HOST),
            "face_alignment": Placement("10.0.0.9", "cloud", 0, CLOUD),
        },
    )
    assert story.out == [
        RecordPlan(QUERY, plan, "submitted"),
        StartJob(HOST, query(), plan, {"face_alignment": "tcp://10.0.0.9:5020"}),
        RecordState(QUERY, QueryState.READY),
        RecordDecision(QUERY, 1, True, "submitted", "somebody:policy", story.now_ns / 1e9, {}, {}),
    ]
    assert story.scheduler.plan_of(QUERY) == plan


def test_a_query_runs_once_its_host_says_so(story):
    story.submit(face_detection=HOST, face_alignment=HOST)
    story.tell(JobReported, QUERY, HOST, QueryState.READY)
    assert story.out == []
    story.tell(JobReported, QUERY, HOST, QueryState.RUNNING)
    assert story.out == [RecordState(QUERY, QueryState.RUNNING)]
    assert story.tell(JobReported, QUERY, HOST, QueryState.RUNNING) == []


def test_a_query_runs_once_there_is_a_runtime_of_it(story):
    story.submit(face_detection=HOST, face_alignment=HOST)
    story.tell(RuntimeReported, QUERY, {"delay": 0.2}, 1)
    assert story.out == [RecordState(QUERY, QueryState.RUNNING)]


def test_a_query_whose_node_is_not_there_waits_for_it():
    story = Story(node(CLOUD))
    story.submit()
    assert story.out == [
        RecordState(QUERY, QueryState.UNSCHEDULED, f"node {HOST} is not there", suspended=True)
    ]
    story.tell(NodeJoined, node(HOST))
    assert story.kinds() == ["RecordState", "AskPolicy"]
    assert story.out[0] == RecordState(QUERY, QueryState.UNSCHEDULED)


# When a policy is asked again.


def test_a_new_runtime_leads_to_a_question_after_the_period(running):
    assert [each.question.cause for each in _asked(running.wait(2.1))] == ["period"]
    question = running.last(AskPolicy).question
    assert question.runtime_info == {"delay": 0.2}
    assert question.previous == running.scheduler.plan_of(QUERY)


def test_without_news_nothing_is_asked(running):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    assert _asked(running.wait(10)) == []


def test_a_runtime_of_an_older_plan_is_no_news(running):
    running.wait(2.1)
    running.propose(QUERY, ALL_HOST)
    running.tell(RuntimeReported, QUERY, {"delay": 0.1}, 1)
    assert _asked(running.wait(5)) == []
    running.tell(RuntimeReported, QUERY, {"delay": 0.1}, 2)
    assert len(_asked(running.wait(2.1))) == 1


@pytest.mark.parametrize("runtime", [{"delay_p95": 0.31}, {"delay_p95": 0.2, "changed": True}])
def test_what_cannot_wait_is_asked_about_at_once_but_once(running, runtime):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    running.tell(RuntimeReported, QUERY, {"delay_p95": 0.29}, 1)
    assert _asked(running.wait(1.0)) == []
    running.tell(RuntimeReported, QUERY, runtime, 1)
    assert [each.question.cause for each in _asked(running.wait(0.25))] == ["period"]
    running.propose(QUERY, SPLIT)
    running.tell(RuntimeReported, QUERY, runtime, 1)
    assert _asked(running.wait(1.5)) == [], "it was told of that"
    assert len(_asked(running.wait(0.75))) == 1


def test_alarms_do_not_follow_each_other_without_a_pause(running):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    running.tell(RuntimeReported, QUERY, {"delay_p95": 0.31}, 1)
    assert _asked(running.tell(Tick)) == []
    assert len(_asked(running.wait(0.5))) == 1


@pytest.mark.parametrize("p95_s", [math.nan, math.inf, -1.0, "late", None, True])
def test_what_is_no_delay_is_no_alarm(running, p95_s):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    running.tell(ConstraintChanged, QUERY, Constraint.from_document({"delay": 2.0}))
    running.propose(QUERY, SPLIT)
    running.tell(RuntimeReported, QUERY, {"delay_p95": p95_s}, 1)
    assert _asked(running.wait(1.75)) == []


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
    assert _asked(running.out) == []
    running.propose(QUERY, SPLIT)
    assert running.last(AskPolicy).question.user_constraint == {"delay": 0.2}


def test_other_nodes_are_news_at_the_next_period(running):
    running.wait(2.1)
    running.propose(QUERY, SPLIT)
    assert running.tell(NodeJoined, node("10.0.0.3:5001")) == []
    assert len(_asked(running.wait(2.1))) == 1


def _asked(out):
    return [each for each in out if isinstance(each, AskPolicy)]


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
        while not _asked(story.wait(0.25)):
            pass
        gaps.append(round((story.now_ns - begin_ns) / 1e9))
    assert gaps == [4, 8, 16, 32, 64, 64, 64, 64]
    story.tell(PolicyFailed, QUERY, story.rounds[QUERY], "no")
    story.tell(ConstraintChanged, QUERY, Constraint())
    story.tell(PolicyFailed, QUERY, story.rounds[QUERY], "no")
    assert len(_asked(story.wait(4.3))) == 1


def test_a_policy_that_hangs_on_one_query_delays_no_other(story):
    for number in range(10):
        story.submit(query(f"GLOBAL_ID_{number}"))
        if number:
            story.propose(f"GLOBAL_ID_{number}", ALL_HOST)
            story.tell(RuntimeReported, f"GLOBAL_ID_{number}", {"delay": 0.2}, 1)
    asked = {each.query_id for each in _asked(story.wait(2.1))}
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


# The end of a query.


def test_a_job_that_has_ended_ends_the_query(running):
    running.tell(JobReported, QUERY, HOST, QueryState.ENDED, "the video is over")
    assert running.out == [RecordState(QUERY, QueryState.ENDED, "the video is over")]
    assert running.scheduler.state_of(QUERY) is QueryState.ENDED
    assert _asked(running.wait(5)) == []


def test_a_job_that_has_failed_fails_the_query(story):
    story.submit(face_detection=HOST, face_alignment=HOST)
    story.tell(JobReported, QUERY, HOST, QueryState.FAILED, "no such video: 1")
    assert story.out == [RecordState(QUERY, QueryState.FAILED, "no such video: 1")]


def test_what_another_node_says_of_a_job_does_not_count(running):
    assert running.tell(JobReported, QUERY, EDGE, QueryState.ENDED, "lies") == []


def test_a_stopped_query_ends_and_its_job_is_stopped(running):
    running.tell(QueryStopped, QUERY)
    assert running.out == [
        StopJob(HOST, QUERY, "stopped"),
        RecordState(QUERY, QueryState.ENDED, "stopped"),
    ]
    assert running.tell(QueryStopped, QUERY) == []


def test_a_query_that_never_ran_has_no_job_to_stop(story):
    story.submit()
    story.tell(QueryStopped, QUERY)
    assert story.out == [RecordState(QUERY, QueryState.ENDED, "stopped")]
    assert story.propose(QUERY, ALL_HOST) == []


def test_a_deleted_query_is_unknown(running):
    running.tell(QueryDeleted, QUERY)
    assert running.out == [StopJob(HOST, QUERY, "deleted")]
    assert running.scheduler.state_of(QUERY) is None
    assert running.tell(RuntimeReported, QUERY, {}, 1) == []


def test_a_query_that_is_over_can_be_deleted(running):
    running.tell(QueryStopped, QUERY)
    assert running.tell(QueryDeleted, QUERY) == []
    assert running.scheduler.state_of(QUERY) is None


def test_a_job_that_goes_on_after_its_query_is_stopped_again(running):
    running.tell(QueryStopped, QUERY)
    running.tell(JobReported, QUERY, HOST, QueryState.RUNNING)
    assert running.out == [StopJob(HOST, QUERY, "over")]
    running.tell(QueryDeleted, QUERY)
    running.tell(JobReported, QUERY, HOST, QueryState.RUNNING)
    assert running.out == [StopJob(HOST, QUERY, "unknown")]
    assert running.tell(JobReported, QUERY, HOST, QueryState.ENDED) == []


def test_queries_that_are_over_are_forgotten_oldest_first():
    story = Story(node(HOST), remembered=2)
    for number in range(3):
        story.submit(query(f"GLOBAL_ID_{number}"))
        story.tell(QueryStopped, f"GLOBAL_ID_{number}")
    known = [story.scheduler.state_of(f"GLOBAL_ID_{number}") for number in range(3)]
    assert known == [None, QueryState.ENDED, QueryState.ENDED]


# What is refused.


def test_a_query_cannot_be_submitted_twice(running):
    text = f"{QUERY}: state RUNNING takes no QuerySubmitted\n  4000000 QuerySubmitted"
    with pytest.raises(InvalidTransition, match=f"^{re.escape(text)}"):
        running.tell(QuerySubmitted, query())
    assert running.scheduler.plan_of(QUERY).number == 1


def test_the_constraint_of_a_query_that_is_over_does_not_change(running):
    running.tell(QueryStopped, QUERY)
    with pytest.raises(InvalidTransition, match="state ENDED takes no ConstraintChanged"):
        running.tell(ConstraintChanged, QUERY, Constraint())


def test_taken_plans_are_noted_and_numbers_that_were_never_given_are_not(running):
    assert running.tell(PlanTaken, QUERY, 1) == []
    assert running.tell(PlanTaken, QUERY, 9) == []


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"period_s": 0}, "period_s 0 is not above 0 to 3600"),
        ({"node_timeout_s": 3601}, "node_timeout_s 3601 is not above 0 to 3600"),
        ({"policy_timeout_s": float("nan")}, "policy_timeout_s nan is not above 0 to 3600"),
        ({"remembered": 0}, "remembered 0 is not at least 1"),
    ],
)
def test_settings_without_meaning_are_refused(setting, text):
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        SchedulerSettings(**setting)


def test_the_numbers_say_what_there_is(running):
    running.submit(query("GLOBAL_ID_2", graph=Graph.chain("face_detection")))
    stats = running.scheduler.stats()
    assert (stats.nodes, stats.suspended, stats.asked, stats.hungry) == (3, 0, 1, 0)
    assert stats.queries == {QueryState.RUNNING: 1, QueryState.UNSCHEDULED: 1}


def test_a_changed_service_is_told_in_the_next_question(running):
    services = {task: ServiceInfo(4, (), 0.5, 0.25) for task in TASKS}
    running.tell(NodeJoined, replace(node(CLOUD), services=services))
    running.tell(ConstraintChanged, QUERY, Constraint())
    shares = running.last(AskPolicy).question.around.resource_info()["cloud"]["10.0.0.9"]
    assert shares["face_detection"] == {"n_process": 4, "cpu_ratio": 0.5, "mem_ratio": 0.25}
