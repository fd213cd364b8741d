"""What the scheduler does with a query: up to its first plan, and at its end."""

from __future__ import annotations

import re

import pytest
from scheduler_kit import ALL_HOST, CLOUD, EDGE, HOST, QUERY, SPLIT, Story, node, query, questions

from vdag.control.scheduling.events import (
    ConstraintChanged,
    JobReported,
    NodeJoined,
    PlanTaken,
    QueryDeleted,
    QueryState,
    QueryStopped,
    QuerySubmitted,
    RuntimeReported,
)
from vdag.control.scheduling.instructions import (
    AskPolicy,
    RecordDecision,
    RecordPlan,
    RecordState,
    StartJob,
    StopJob,
)
from vdag.control.scheduling.scheduler import SchedulerSettings
from vdag.errors import ConfigError, InvalidTransition
from vdag.graph import Graph
from vdag.plan import Constraint, Placement, Plan, VideoConf

# From the query to its first plan.


def test_a_submitted_query_is_asked_about_at_once(story):
    story.submit()
    assert story.out[0] == RecordState(QUERY, QueryState.UNSCHEDULED)
    assert story.kinds() == ["RecordState", "AskPolicy"]
    asked = story.last(AskPolicy)
    assert (asked.round, asked.policy) == (1, "somebody:policy")


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


# The end of a query.


def test_a_job_that_has_ended_ends_the_query(running):
    running.tell(JobReported, QUERY, HOST, QueryState.ENDED, "the video is over")
    assert running.out == [RecordState(QUERY, QueryState.ENDED, "the video is over")]
    assert running.scheduler.state_of(QUERY) is QueryState.ENDED
    assert questions(running.wait(5)) == []


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
