"""The scheduler after a restart of the controller: queries go on, and lost frames are given up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduler_kit import ALL_HOST, CLOUD, EDGE, HOST, QUERY, TASKS, S, Story, node, query

from vdag.control.scheduling.events import (
    JobInfo,
    NodeJoined,
    NodeReported,
    PolicyFailed,
    QueryRestored,
    QueryState,
    Tick,
)
from vdag.control.scheduling.instructions import (
    AskPolicy,
    Instruction,
    RecordState,
    SendPlan,
    StartJob,
    StopJob,
)
from vdag.control.scheduling.scheduler import Scheduler
from vdag.plan import Placement, Plan, VideoConf

# Queries go on.


def plan(number: int = 3, *, peer: str = CLOUD) -> Plan:
    return Plan(
        number,
        VideoConf("480p", 30),
        {
            "face_detection": Placement("10.0.0.1", "host", 0, HOST),
            "face_alignment": Placement(peer.partition(":")[0], "cloud", 0, peer),
        },
    )


@pytest.fixture
def restored() -> Story:
    """A query that ran under plan 3 when the controller went."""
    story = Story()
    story.tell(QueryRestored, query(), QueryState.RUNNING, plan(), 4)
    return story


def runs(number: int) -> tuple[JobInfo, ...]:
    return (JobInfo(QUERY, number, QueryState.RUNNING),)


def test_a_restored_query_is_suspended_until_its_host_joins(restored):
    assert restored.out == [
        RecordState(QUERY, QueryState.RUNNING, "the controller was started", suspended=True)
    ]
    restored.tell(NodeJoined, node(CLOUD))
    restored.tell(NodeJoined, node(HOST, jobs=runs(3)))
    assert restored.kinds() == ["RecordState", "SendPlan"]
    assert restored.last(SendPlan).plan == plan()


def test_a_job_that_kept_running_waits_for_its_peers_to_come_back(restored):
    restored.tell(NodeJoined, node(HOST, jobs=runs(3)))
    assert restored.kinds() == ["RecordState"]
    restored.tell(NodeJoined, node(CLOUD))
    assert restored.kinds() == ["SendPlan"]
    assert restored.scheduler.plan_of(QUERY).number == 3


def test_a_peer_that_does_not_come_back_is_lost_after_a_while(restored):
    restored.tell(NodeJoined, node(HOST, jobs=runs(3)))
    restored.wait(2.1)
    restored.tell(PolicyFailed, QUERY, restored.rounds[QUERY], "no")
    assert set(restored.placed().values()) == {HOST}
    assert restored.scheduler.plan_of(QUERY).number == 4


def test_a_peer_that_is_missed_by_nobody_else_is_checked_for(restored):
    restored.tell(NodeJoined, node(HOST, jobs=runs(3)))
    restored.wait(2.1)
    assert restored.last(AskPolicy).question.cause == "period"
    restored.wait(0.5)
    restored.tell(PolicyFailed, QUERY, restored.rounds[QUERY], "no")
    assert restored.last(AskPolicy).question.cause == "node lost"


def test_a_host_under_a_plan_that_was_not_written_down_gets_a_higher_number(restored):
    restored.tell(NodeJoined, node(CLOUD))
    restored.tell(NodeJoined, node(HOST, jobs=runs(7)))
    assert restored.kinds() == ["RecordState", "RecordPlan", "SendPlan"]
    assert restored.last(SendPlan).plan == plan(8)


@pytest.mark.parametrize("dialect", ["channel", "push"])
def test_a_host_hears_of_the_higher_number_when_it_offers_all_tasks_again(dialect):
    story, jobs, both = Story(), runs(7), node(HOST).services
    story.tell(QueryRestored, query(), QueryState.RUNNING, plan(peer=HOST), 4)
    one = {TASKS[0]: both[TASKS[0]]}
    story.tell(NodeJoined, node(HOST, dialect=dialect, jobs=jobs, services=one))
    assert story.kinds()[:2] == ["RecordState", "RecordPlan"]
    assert not story.all(SendPlan)
    if dialect == "push":
        story.tell(NodeJoined, node(HOST, dialect=dialect, jobs=jobs))
    else:
        story.tell(NodeReported, HOST, None, both)
    assert story.last(SendPlan).plan == plan(8, peer=HOST)


def test_a_host_that_was_started_anew_as_well_gets_its_job(restored):
    restored.tell(NodeJoined, node(CLOUD))
    restored.tell(NodeJoined, node(HOST))
    assert restored.last(StartJob).plan == plan()
    assert restored.scheduler.state_of(QUERY) is QueryState.READY


def test_state_and_plan_need_not_have_been_written_together():
    story = Story(node(HOST), node(CLOUD))
    story.tell(QueryRestored, query("a"), QueryState.UNSCHEDULED, plan(), 1)
    assert story.kinds() == ["RecordState", "RecordState", "StartJob"]
    assert story.scheduler.state_of("a") is QueryState.READY
    story.tell(QueryRestored, query("b"), QueryState.RUNNING, None, 5)
    assert story.kinds() == ["RecordState", "RecordState", "AskPolicy"]
    assert story.scheduler.state_of("b") is QueryState.UNSCHEDULED
    story.propose("b", ALL_HOST)
    assert story.last(StartJob).plan.number == 5


def test_a_query_that_was_over_stays_over():
    story = Story()
    assert story.tell(QueryRestored, query(), QueryState.FAILED, plan(), 4) == []
    story.tell(NodeJoined, node(HOST, jobs=runs(3)))
    assert story.out == [StopJob(HOST, QUERY, "over")]


# What frames were lost meanwhile.

PLAN = plan(4)
OLD_LANDING, NEW_LANDING = "tcp://10.0.0.9:5020", "tcp://10.0.0.9:6020"


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler()
    scheduler.handle(QueryRestored(0, query(), QueryState.RUNNING, PLAN, 5))
    return scheduler


def host() -> NodeJoined:
    job = JobInfo(QUERY, 4, QueryState.RUNNING, routes={TASKS[1]: OLD_LANDING})
    return NodeJoined(S, replace(node(HOST), jobs=(job,)))


def plans(out: list[Instruction]) -> list[SendPlan]:
    return [each for each in out if isinstance(each, SendPlan)]


@pytest.mark.parametrize("is_host_first", [True, False])
def test_a_landing_that_has_moved_meanwhile_is_lost(scheduler, is_host_first):
    joins = [host(), NodeJoined(S, replace(node(CLOUD), landing=NEW_LANDING))]
    out = [
        order
        for event in (joins if is_host_first else reversed(joins))
        for order in plans(scheduler.handle(event))
    ]
    assert [(each.routes, each.lost) for each in out] == [({TASKS[1]: NEW_LANDING}, (OLD_LANDING,))]


def test_a_landing_that_is_there_is_not_lost(scheduler):
    (order,) = plans([*scheduler.handle(host()), *scheduler.handle(NodeJoined(S, node(CLOUD)))])
    assert (order.routes, order.lost) == ({TASKS[1]: OLD_LANDING}, ())


def test_a_node_that_does_not_come_back_is_lost_with_the_plan_that_does_without(scheduler):
    scheduler.handle(NodeJoined(S, node(EDGE)))
    out = scheduler.handle(host())
    now_ns = S
    while not any(isinstance(each, AskPolicy) for each in out):
        due_ns = scheduler.next_due_ns()
        assert due_ns is not None
        now_ns = max(due_ns, now_ns)
        # The others are there all the time; a period may ask before the time-out does.
        for name in (HOST, EDGE):
            scheduler.handle(NodeJoined(now_ns, host().node if name == HOST else node(name)))
        out = scheduler.handle(Tick(now_ns))
    while not (orders := plans(out)):  # nobody answers: the scheduler moves the task itself
        due_ns = scheduler.next_due_ns()
        assert due_ns is not None
        now_ns = max(due_ns, now_ns)
        out = scheduler.handle(Tick(now_ns))
    assert orders[0].lost == (OLD_LANDING,)
    assert OLD_LANDING not in orders[0].routes.values()
