"""The scheduler after a restart of the controller: what frames were lost meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduler_kit import CLOUD, EDGE, HOST, QUERY, TASKS, S, node, query

from vdag.control.scheduling.events import (
    JobInfo,
    NodeJoined,
    QueryRestored,
    QueryState,
    Tick,
)
from vdag.control.scheduling.instructions import AskPolicy, Instruction, SendPlan
from vdag.control.scheduling.scheduler import Scheduler
from vdag.plan import Placement, Plan, VideoConf

PLAN = Plan(
    number=4,
    video_conf=VideoConf("480p", 30, "JPEG"),
    flow_mapping={
        TASKS[0]: Placement("10.0.0.1", "host", 0, HOST),
        TASKS[1]: Placement("10.0.0.9", "cloud", 0, CLOUD),
    },
)
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
