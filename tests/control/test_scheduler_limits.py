"""Limits of plans: ordered where the tasks are done, whatever becomes of queries and nodes."""

from __future__ import annotations

import pytest
from scheduler_kit import CLOUD, CONF, EDGE, HOST, QUERY, Story, mapping, node, query

from vdag.control.scheduling.events import (
    ConstraintChanged,
    JobReported,
    NodeJoined,
    NodeLeft,
    NodeReported,
    QueryDeleted,
    QueryRestored,
    QueryState,
    QueryStopped,
)
from vdag.control.scheduling.instructions import LimitTask, RecordFault, RecordPlan
from vdag.plan import Constraint, Plan, ResourceLimit

FACES, POSES = "face_detection", "face_alignment"
SPLIT = mapping(face_detection=HOST, face_alignment=CLOUD)
AT_HOST = mapping(face_detection=HOST, face_alignment=HOST)
SECOND = "GLOBAL_ID_2"


def of(cpu: float, memory: float = 1.0) -> dict[str, float]:
    """A limit, as a policy writes it."""
    return {"cpu_util_limit": cpu, "mem_util_limit": memory}


@pytest.fixture
def story() -> Story:
    return Story(node(HOST), node(CLOUD))


def submit(story: Story, query_id: str, limit: object, placed: object = SPLIT) -> list[LimitTask]:
    """Have a query run under a plan; return what was ordered of limits."""
    story.submit(query(query_id))
    story.propose(query_id, placed, CONF, limit)
    return story.all(LimitTask)


def replan(story: Story, query_id: str, limit: object, placed: object = SPLIT) -> list[LimitTask]:
    """Have the policy asked again; answer, and return the orders."""
    story.tell(ConstraintChanged, query_id, Constraint())
    story.propose(query_id, placed, CONF, limit)
    return story.all(LimitTask)


def test_a_plan_has_each_node_limit_what_it_does_for_it(story):
    ordered = submit(story, QUERY, {FACES: of(0.5), POSES: of(0.25, 0.5)})
    assert ordered == [
        LimitTask(HOST, FACES, ResourceLimit(0.5)),
        LimitTask(CLOUD, POSES, ResourceLimit(0.25, 0.5)),
    ]
    # Before the job starts, and after the plan is on record.
    assert story.kinds()[:4] == ["RecordPlan", "LimitTask", "LimitTask", "StartJob"]


@pytest.mark.parametrize("limit", [None, {}, {FACES: None}, {FACES: of(1.0)}])
def test_without_a_limit_nothing_is_ordered(story, limit):
    assert submit(story, QUERY, limit) == []


def test_another_limit_replaces_it_and_none_lifts_it(story):
    submit(story, QUERY, {FACES: of(0.5)})
    assert replan(story, QUERY, {FACES: of(0.75)}) == [LimitTask(HOST, FACES, ResourceLimit(0.75))]
    assert replan(story, QUERY, {}) == [LimitTask(HOST, FACES, None)]


def test_a_plan_that_repeats_it_orders_nothing(story):
    submit(story, QUERY, {FACES: of(0.5)})
    story.tell(ConstraintChanged, QUERY, Constraint())
    story.propose(QUERY, SPLIT, {**CONF, "fps": 10})
    assert story.last(RecordPlan).plan.resource_limit == {FACES: ResourceLimit(0.5)}
    assert story.all(LimitTask) == []


def test_the_limit_moves_with_the_task(story):
    submit(story, QUERY, {POSES: of(0.5)})
    assert replan(story, QUERY, {POSES: of(0.5)}, AT_HOST) == [
        LimitTask(CLOUD, POSES, None),
        LimitTask(HOST, POSES, ResourceLimit(0.5)),
    ]


def test_of_several_limits_of_a_task_the_largest_of_each_kind_binds(story):
    submit(story, QUERY, {FACES: of(0.5, 0.25)})
    assert submit(story, SECOND, {FACES: of(0.25, 0.5)}) == [
        LimitTask(HOST, FACES, ResourceLimit(0.5, 0.5))
    ]
    assert story.tell(QueryStopped, QUERY)[1] == LimitTask(HOST, FACES, ResourceLimit(0.25, 0.5))
    assert story.tell(QueryStopped, SECOND)[1] == LimitTask(HOST, FACES, None)


def test_a_query_that_is_not_limited_lifts_the_limits_of_others_as_long_as_it_runs(story):
    submit(story, QUERY, {FACES: of(0.5)})
    assert submit(story, SECOND, None) == [LimitTask(HOST, FACES, None)]
    story.tell(QueryStopped, SECOND)
    assert story.all(LimitTask) == [LimitTask(HOST, FACES, ResourceLimit(0.5))]


@pytest.mark.parametrize(
    "end",
    [
        (QueryStopped, QUERY),
        (QueryDeleted, QUERY),
        (JobReported, QUERY, HOST, QueryState.ENDED),
        (JobReported, QUERY, HOST, QueryState.FAILED, "why"),
    ],
    ids=["stopped", "deleted", "ended", "failed"],
)
def test_with_the_query_its_limits_end(story, end):
    submit(story, QUERY, {FACES: of(0.5), POSES: of(0.5)})
    story.tell(*end)
    assert story.all(LimitTask) == [LimitTask(HOST, FACES, None), LimitTask(CLOUD, POSES, None)]


def test_a_node_that_was_started_anew_is_told_again(story):
    submit(story, QUERY, {POSES: of(0.5)})
    story.tell(NodeLeft, CLOUD)
    assert story.all(LimitTask) == [], "there is nobody to tell"
    story.tell(NodeJoined, node(CLOUD, session="second"))
    assert story.all(LimitTask) == [LimitTask(CLOUD, POSES, ResourceLimit(0.5))]


def test_a_node_that_still_has_it_is_not(story):
    submit(story, QUERY, {POSES: of(0.5)})
    story.tell(NodeLeft, CLOUD)
    story.tell(NodeJoined, node(CLOUD, limits={POSES: ResourceLimit(0.5)}))
    assert story.all(LimitTask) == []


def test_a_node_that_has_limits_of_nobody_is_told_to_lift_them(story):
    story.tell(
        NodeJoined, node(EDGE, limits={FACES: ResourceLimit(0.5), "gone": ResourceLimit(0.1)})
    )
    assert story.all(LimitTask) == [LimitTask(EDGE, FACES, None), LimitTask(EDGE, "gone", None)]


def test_what_ends_while_a_node_is_away_is_lifted_when_it_is_back(story):
    submit(story, QUERY, {POSES: of(0.5)})
    story.tell(NodeLeft, CLOUD)
    story.tell(QueryStopped, QUERY)
    assert story.all(LimitTask) == []
    story.tell(NodeJoined, node(CLOUD, limits={POSES: ResourceLimit(0.5)}))
    assert story.all(LimitTask) == [LimitTask(CLOUD, POSES, None)]


def test_after_a_restart_of_the_controller_the_limits_are_those_of_the_plans_on_record():
    before = Story(node(HOST), node(CLOUD))
    submit(before, QUERY, {FACES: of(0.5), POSES: of(0.25)})
    plan = before.scheduler.plan_of(QUERY)
    assert isinstance(plan, Plan)
    story = Story()
    story.tell(QueryRestored, query(), QueryState.RUNNING, plan, 2)
    assert story.all(LimitTask) == []
    # The host was told in time, the server was not, and has a limit of a query that is gone.
    story.tell(NodeJoined, node(HOST, limits={FACES: ResourceLimit(0.5)}))
    assert story.all(LimitTask) == []
    story.tell(NodeJoined, node(CLOUD, limits={FACES: ResourceLimit(0.5)}))
    assert story.all(LimitTask) == [
        LimitTask(CLOUD, FACES, None),
        LimitTask(CLOUD, POSES, ResourceLimit(0.25)),
    ]


@pytest.mark.parametrize("dialect", ["push", "pull"])
def test_a_node_that_speaks_only_the_documented_rest_is_told_nothing(dialect):
    story = Story(node(HOST, dialect=dialect), node(CLOUD))
    assert submit(story, QUERY, {FACES: of(0.5), POSES: of(0.5)}) == [
        LimitTask(CLOUD, POSES, ResourceLimit(0.5))
    ]


def test_a_node_that_cannot_limit_is_a_fault_of_the_queries_that_want_it_and_no_more(story):
    submit(story, QUERY, {POSES: of(0.5)})
    submit(story, SECOND, None, AT_HOST)
    story.tell(NodeReported, CLOUD, None, None, None, {POSES: "no rights", FACES: "no rights"})
    text = f"node {CLOUD} cannot limit task {POSES}: no rights"
    assert story.out == [RecordFault(QUERY, text)]
    assert story.scheduler.state_of(QUERY) == QueryState.READY


def test_a_query_that_comes_later_is_told_once(story):
    submit(story, QUERY, {POSES: of(0.5)})
    story.tell(NodeReported, CLOUD, None, None, None, {POSES: "no rights"})
    submit(story, SECOND, {POSES: of(0.25)})
    text = f"node {CLOUD} cannot limit task {POSES}: no rights"
    assert story.all(RecordFault) == [RecordFault(SECOND, text)]
    replan(story, SECOND, {POSES: of(0.5)})
    assert story.all(RecordFault) == []


def test_a_node_that_can_again_is_no_fault_any_more(story):
    submit(story, QUERY, {POSES: of(0.5)})
    story.tell(NodeReported, CLOUD, None, None, None, {POSES: "no rights"})
    story.tell(NodeReported, CLOUD, None, None, None, {POSES: ""})
    assert story.out == []
    submit(story, SECOND, {POSES: of(0.25)})
    assert story.all(RecordFault) == []


def test_a_long_reason_is_cut(story):
    submit(story, QUERY, {POSES: of(0.5)})
    story.tell(NodeReported, CLOUD, None, None, None, {POSES: "x" * 4000})
    (fault,) = story.all(RecordFault)
    assert fault.what == f"node {CLOUD} cannot limit task {POSES}: {'x' * 300}"
