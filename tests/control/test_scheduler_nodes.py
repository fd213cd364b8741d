"""What the scheduler does when nodes come and go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_kit import (
    ALL_HOST,
    CLOUD,
    CONF,
    EDGE,
    HOST,
    QUERY,
    SPLIT,
    TASKS,
    S,
    Story,
    mapping,
    node,
    query,
)

from vdag.control.scheduling.events import (
    ConstraintChanged,
    JobInfo,
    NodeJoined,
    NodeLeft,
    NodeReported,
    PlanProposed,
    PolicyFailed,
    QueryState,
    QueryStopped,
    RuntimeReported,
    ServiceInfo,
    Tick,
)
from vdag.control.scheduling.instructions import (
    AskPolicy,
    RecordFault,
    RecordPlan,
    RecordState,
    SendPlan,
    StartJob,
    StopJob,
)
from vdag.control.scheduling.nodes import Nodes
from vdag.plan import Constraint

RUNS_FIRST = (JobInfo(QUERY, 1, QueryState.RUNNING),)


def back(node_addr: str, **changes):
    """The node after its daemon was started anew."""
    return node(node_addr, session="second", **changes)


# A node that a plan needs is lost.


def test_a_silent_node_is_lost_and_its_queries_are_asked_about_at_once(running):
    running.wait(2.1, CLOUD)
    running.propose(QUERY, SPLIT)
    assert running.scheduler.is_alive(CLOUD)
    running.wait(0.5, CLOUD)
    assert not running.scheduler.is_alive(CLOUD)
    assert running.last(AskPolicy).question.cause == "node lost"
    assert CLOUD not in {each.node_addr for each in running.last(AskPolicy).question.around.nodes()}


def test_a_node_that_reports_is_not_lost(running):
    running.wait(60)
    assert len(running.scheduler.nodes()) == 3


def test_a_node_that_says_so_is_lost_at_once(running):
    running.tell(NodeLeft, CLOUD)
    assert running.last(AskPolicy).question.cause == "node lost"
    assert running.tell(NodeLeft, CLOUD) == []


def test_the_policys_answer_to_a_loss_is_sent(running):
    running.tell(NodeLeft, CLOUD)
    running.propose(QUERY, mapping(face_detection=EDGE, face_alignment=EDGE))
    sent = running.last(SendPlan)
    assert (sent.node_addr, sent.plan.number) == (HOST, 2)
    assert sent.routes == dict.fromkeys(TASKS, "tcp://10.0.0.2:5020")


def test_without_an_answer_lost_tasks_move_to_the_host(running):
    running.tell(NodeLeft, CLOUD)
    running.tell(PolicyFailed, QUERY, running.rounds[QUERY], "no")
    assert running.kinds() == ["RecordFault", "RecordPlan", "SendPlan"]
    assert running.placed() == {"face_detection": HOST, "face_alignment": HOST}
    assert running.last(RecordPlan).cause == "node lost"


def test_an_answer_that_needs_the_lost_node_is_as_good_as_none(running):
    running.tell(NodeLeft, CLOUD)
    running.propose(QUERY, SPLIT)
    text = "policy somebody:policy: flow_mapping.face_alignment: no live node 10.0.0.9"
    assert running.last(RecordFault) == RecordFault(QUERY, text)
    assert running.placed() == {"face_detection": HOST, "face_alignment": HOST}


def test_an_answer_given_before_the_loss_does_not_delay_the_move(running):
    running.tell(ConstraintChanged, QUERY, Constraint())
    assert running.tell(NodeLeft, CLOUD) == []
    running.propose(QUERY, SPLIT)
    assert running.kinds() == ["RecordFault", "RecordPlan", "SendPlan", "AskPolicy"]
    assert running.last(AskPolicy).question.cause == "node lost"


@pytest.mark.parametrize(
    ("at_host", "elsewhere", "chosen"),
    [
        ((0,), ((CLOUD, ()), (EDGE, ())), HOST),
        (None, ((EDGE, ()), (CLOUD, ())), CLOUD),
        (None, ((EDGE, ()),), EDGE),
        # The model that was planned is worth more than the nearness.
        ((1,), ((EDGE, (0,)),), EDGE),
        ((1,), ((EDGE, (2,)),), HOST),
    ],
)
def test_lost_tasks_move_to_the_nearest_node_that_has_them(at_host, elsewhere, chosen):
    gone = "10.0.0.7:5001"
    services = {"face_detection": ServiceInfo()}
    if at_host is not None:
        services["face_alignment"] = ServiceInfo(1, at_host)
    others = (
        node(name, services={"face_alignment": ServiceInfo(1, models)})
        for name, models in elsewhere
    )
    story = Story(node(HOST, services=services), *others, node(gone))
    story.submit(face_detection=HOST, face_alignment=gone)
    story.tell(NodeLeft, gone)
    story.tell(PolicyFailed, QUERY, story.rounds[QUERY], "no")
    assert story.placed()["face_alignment"] == chosen


def test_a_task_that_nobody_offers_any_more_waits_for_a_node_that_does():
    story = Story(node(HOST, services={"face_detection": ServiceInfo()}), node(CLOUD))
    story.submit(face_detection=HOST, face_alignment=CLOUD)
    story.tell(NodeLeft, CLOUD)
    story.tell(PolicyFailed, QUERY, story.rounds[QUERY], "no")
    assert story.out[1:] == [RecordFault(QUERY, "no live node offers face_alignment")]
    assert story.scheduler.plan_of(QUERY).number == 1
    story.tell(NodeJoined, node(EDGE))
    assert story.last(AskPolicy).question.cause == "node back"
    story.tell(PolicyFailed, QUERY, story.rounds[QUERY], "no")
    assert story.placed()["face_alignment"] == EDGE


def test_a_query_without_a_plan_is_asked_about_when_a_node_comes_that_could_help():
    services = {"car_detection": ServiceInfo()}
    story = Story(node(HOST, services={}))
    story.submit()
    story.propose(QUERY, ALL_HOST)
    assert story.kinds() == ["RecordFault"]
    assert story.tell(NodeJoined, node(EDGE, services=services)) == []
    story.tell(NodeJoined, node(CLOUD))
    assert story.last(AskPolicy).question.cause == "node back"


def test_a_service_that_is_gone_is_like_a_lost_node(running):
    services = {"face_detection": ServiceInfo()}
    running.tell(NodeReported, CLOUD, None, services, None)
    assert running.last(AskPolicy).question.cause == "service gone"
    running.tell(PolicyFailed, QUERY, running.rounds[QUERY], "no")
    assert running.placed()["face_alignment"] == HOST


def test_a_service_that_grows_is_no_news_but_one_that_comes_is():
    story = Story(node(HOST, services={"face_detection": ServiceInfo()}))
    story.submit()
    story.propose(QUERY, ALL_HOST)
    more = {"face_detection": ServiceInfo(workers=4)}
    assert story.tell(NodeReported, HOST, None, more, None) == []
    story.tell(NodeReported, HOST, None, {**more, "face_alignment": ServiceInfo()}, None)
    assert story.kinds() == ["AskPolicy"]


@given(st.lists(st.tuples(st.sampled_from((HOST, EDGE, CLOUD)), st.integers(0, 3))))
def test_landings_are_those_of_the_live_nodes(story):
    nodes = Nodes()
    for moment, (node_addr, number) in enumerate(story):
        if number and node_addr in nodes and moment % 3 == 0:
            nodes.lose(node_addr)
        else:
            nodes.join(node(node_addr, landing=f"tcp://10.0.0.9:{number}"), moment)
        alive = {each.landing for each in nodes.alive()}
        landings = [f"tcp://10.0.0.9:{each}" for each in range(4)]
        assert {each for each in landings if nodes.has_landing(each)} == alive


def test_a_peer_that_is_back_at_another_landing_is_made_known(running):
    running.tell(NodeLeft, CLOUD)
    running.tell(NodeJoined, back(CLOUD, landing="tcp://10.0.0.9:6020"))
    sent = running.last(SendPlan)
    assert (sent.plan.number, sent.routes) == (1, {"face_alignment": "tcp://10.0.0.9:6020"})


def test_a_peer_that_moves_while_another_does_without_a_task_is_made_known_in_the_end(running):
    one = {"face_detection": ServiceInfo()}
    both = {**one, "face_alignment": ServiceInfo()}
    running.tell(ConstraintChanged, QUERY, Constraint())
    running.propose(QUERY, mapping(face_detection=EDGE, face_alignment=HOST))
    running.tell(NodeReported, HOST, None, one)
    running.tell(NodeJoined, back(EDGE, landing="tcp://10.0.0.2:6020"))
    assert running.all(SendPlan) == [], "no plan can be sent: a task is not to be had"
    running.tell(NodeReported, HOST, None, both)
    assert running.last(SendPlan).routes == {"face_detection": "tcp://10.0.0.2:6020"}


def test_the_host_is_told_whose_frames_will_not_come_home(running):
    running.tell(NodeLeft, CLOUD)
    running.tell(PolicyFailed, QUERY, running.rounds[QUERY], "no")
    sent = running.last(SendPlan)
    assert (sent.routes, sent.lost) == ({}, (node(CLOUD).landing,))


def test_a_plan_that_only_moves_a_task_gives_no_frame_up(running):
    running.tell(ConstraintChanged, QUERY, Constraint())
    running.propose(QUERY, mapping(face_detection=HOST, face_alignment=EDGE))
    sent = running.last(SendPlan)
    assert (sent.routes, sent.lost) == ({"face_alignment": node(EDGE).landing}, ())


@pytest.mark.parametrize(("session", "lost"), [("second", True), (f"first of {CLOUD}", False)])
def test_frames_of_a_peer_that_was_started_anew_are_given_up(running, session, lost):
    running.tell(NodeLeft, CLOUD)
    running.tell(NodeJoined, node(CLOUD, session=session))
    assert running.last(SendPlan).lost == ((node(CLOUD).landing,) if lost else ())


# The host is lost.


def test_a_query_whose_host_is_lost_is_suspended_and_nothing_is_sent(running):
    reason = f"node {HOST} was silent for 2.5 s"
    running.wait(2.6, HOST)
    assert running.last(RecordState) == RecordState(QUERY, QueryState.RUNNING, reason, True)
    running.tell(NodeLeft, CLOUD)
    assert running.out == []
    assert running.wait(20) == []


def test_a_host_that_was_started_anew_gets_its_jobs_again(running):
    running.tell(NodeLeft, HOST)
    running.tell(NodeJoined, back(HOST))
    plan = running.scheduler.plan_of(QUERY)
    assert running.out == [
        RecordState(QUERY, QueryState.RUNNING),
        StartJob(HOST, query(), plan, {"face_alignment": "tcp://10.0.0.9:5020"}),
        RecordState(QUERY, QueryState.READY),
    ]
    assert plan.number == 1


def test_a_host_started_anew_before_it_was_missed_gets_its_jobs_again(running):
    running.tell(NodeJoined, back(HOST))
    assert running.kinds() == ["StartJob", "RecordState"]


def test_a_host_that_only_lost_sight_of_us_goes_on(running):
    running.wait(2.1, HOST)
    running.propose(QUERY, SPLIT)
    running.wait(1, HOST)
    running.tell(NodeJoined, node(HOST, jobs=RUNS_FIRST))
    assert running.kinds() == ["RecordState", "SendPlan"]
    assert running.last(SendPlan).plan.number == 1


def test_a_host_that_is_back_without_its_peers_is_asked_about(running):
    running.tell(NodeLeft, HOST)
    running.tell(NodeLeft, CLOUD)
    running.tell(NodeJoined, back(HOST))
    assert running.kinds() == ["RecordState", "AskPolicy"]
    running.tell(PolicyFailed, QUERY, running.rounds[QUERY], "no")
    assert running.last(StartJob).plan.number == 2
    assert set(running.placed().values()) == {HOST}


def test_a_constraint_changed_meanwhile_is_asked_about_when_the_host_is_back(running):
    running.tell(NodeLeft, HOST)
    assert running.tell(ConstraintChanged, QUERY, Constraint.from_document({"delay": 1})) == []
    running.tell(NodeJoined, back(HOST))
    assert running.last(AskPolicy).question.user_constraint == {"delay": 1}


def test_an_answer_that_comes_while_the_host_is_away_is_of_no_use(running):
    running.tell(ConstraintChanged, QUERY, Constraint())
    running.tell(NodeLeft, HOST)
    assert running.propose(QUERY, ALL_HOST) == []
    running.tell(NodeJoined, back(HOST))
    assert running.scheduler.plan_of(QUERY).number == 1


def test_what_a_lost_host_still_says_is_ignored(running):
    running.tell(NodeLeft, HOST)
    for event in (
        (RuntimeReported, QUERY, {"delay": 1}, 1),
        (NodeReported, HOST, {}, None, None),
    ):
        assert running.tell(*event) == []
    assert not running.scheduler.is_alive(HOST)


def test_a_job_that_ended_while_its_host_was_away_ends_the_query(running):
    running.tell(NodeLeft, HOST)
    jobs = (JobInfo(QUERY, 1, QueryState.ENDED),)
    running.tell(NodeJoined, node(HOST, jobs=jobs))
    assert running.out == [RecordState(QUERY, QueryState.ENDED)]


def test_jobs_that_a_node_should_not_have_are_stopped(running):
    jobs = (JobInfo("GLOBAL_ID_9"), JobInfo("GLOBAL_ID_8", 1, QueryState.ENDED), *RUNS_FIRST)
    running.tell(NodeJoined, node(EDGE, jobs=jobs))
    assert running.out == [
        StopJob(EDGE, "GLOBAL_ID_9", "unknown"),
        StopJob(EDGE, QUERY, "over"),
    ]


def test_a_query_stopped_while_its_host_was_away_is_stopped_there_when_it_is_back(running):
    running.tell(NodeLeft, HOST)
    running.tell(QueryStopped, QUERY)
    assert running.out == [RecordState(QUERY, QueryState.ENDED, "stopped")]
    running.tell(NodeJoined, node(HOST, jobs=RUNS_FIRST))
    assert running.out == [StopJob(HOST, QUERY, "over")]


# Time.


def test_there_is_something_due_only_while_there_is_something_to_wait_for():
    story = Story()
    assert story.scheduler.next_due_ns() is None
    story.tell(NodeJoined, node(HOST))
    assert story.scheduler.next_due_ns() == story.now_ns + 2_500_000_000
    story.submit()
    assert story.scheduler.next_due_ns() == story.now_ns + S
    story.tell(NodeLeft, HOST)
    story.tell(PlanProposed, QUERY, 1, CONF, ALL_HOST)
    assert story.scheduler.next_due_ns() is None


def test_what_was_due_long_ago_is_done_at_the_next_tick(running):
    running.now_ns += 3600 * S
    running.tell(Tick)
    assert running.scheduler.nodes() == ()
    assert running.scheduler.stats().suspended == 1
