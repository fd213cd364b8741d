"""Nodes that only speak the documented REST: pushed to, or asking for their plans."""

from __future__ import annotations

from dataclasses import replace

from scheduler_kit import CLOUD, HOST, QUERY, S, Story, node

from vdag.control.scheduling.events import DispatchFailed, NodeJoined, NodeLeft, QueryState, Tick
from vdag.control.scheduling.instructions import RecordState, SendPlan


def test_a_node_that_is_pushed_to_gets_its_plan_again_and_again():
    story = Story(node(HOST, dialect="push"))
    story.submit(face_detection=HOST, face_alignment=HOST)
    sent = [each for each in story.wait(10) if isinstance(each, SendPlan)]
    assert [each.plan.number for each in sent] == [1, 1, 1]


def test_a_node_that_is_pushed_to_is_never_silent_but_lost_when_dispatching_fails():
    story = Story(node(HOST, dialect="push"))
    story.submit(face_detection=HOST, face_alignment=HOST)
    story.wait(60, HOST)
    assert story.scheduler.is_alive(HOST)
    story.tell(DispatchFailed, HOST, "connection refused")
    reason = f"node {HOST} is lost: connection refused"
    assert story.out == [RecordState(QUERY, QueryState.READY, reason, suspended=True)]
    assert not [each for each in story.wait(10) if isinstance(each, SendPlan)]
    story.tell(NodeJoined, node(HOST, dialect="push"))
    assert story.kinds() == ["RecordState", "StartJob"]


def test_a_plan_that_needs_a_lost_node_is_not_repeated():
    story = Story(node(HOST, dialect="push"), node(CLOUD))
    story.submit(face_detection=HOST, face_alignment=CLOUD)
    story.tell(NodeLeft, CLOUD)
    story.now_ns += 4 * S
    # Both the repetition and the end of the question are due; the order does not matter.
    story.tell(Tick)
    assert all(set(each.plan.nodes()) == {HOST} for each in story.all(SendPlan))


def test_a_node_that_joins_once_per_video_is_not_told_of_its_jobs_each_time():
    story = Story(node(HOST, dialect="push"))
    story.submit(face_detection=HOST, face_alignment=HOST)
    known = node(HOST, dialect="push")
    assert story.tell(NodeJoined, replace(known, videos={**known.videos, 2: known.videos[1]})) == []


def test_a_node_that_asks_for_its_plans_may_be_silent_for_longer():
    story = Story(node(HOST, dialect="pull"))
    story.submit(face_detection=HOST, face_alignment=HOST)
    story.wait(11, HOST)
    assert story.scheduler.is_alive(HOST)
    story.wait(1.5, HOST)
    assert not story.scheduler.is_alive(HOST)
