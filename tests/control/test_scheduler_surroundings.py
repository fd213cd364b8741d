"""What policies are told of the nodes around, of other queries, and of what they said before."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_kit import CLOUD, EDGE, HOST, QUERY, SPLIT, TASKS, S, Story, mapping, node, query

from vdag.control.advisers.advice import Asked, decode_order, frame
from vdag.control.profile import Cost
from vdag.control.profile.costs import BatchPoint
from vdag.control.scheduling.events import (
    ConstraintChanged,
    NodeJoined,
    NodeLeft,
    NodeReported,
    PlanProposed,
    QueryStopped,
    QuerySubmitted,
    RuntimeReported,
    ServiceInfo,
)
from vdag.control.scheduling.instructions import AskPolicy, Question, RecordDecision
from vdag.control.scheduling.rooms import LEAST, Rooms
from vdag.control.scheduling.surroundings import NO_LOAD, Snapshot, Surroundings, TaskLoad
from vdag.plan import Constraint

SECOND = "GLOBAL_ID_2"


def measured(detection_s: float, alignment_s: float) -> dict:
    delays = {"face_detection": detection_s, "face_alignment": alignment_s}
    return {"delay": 0.2, "plan_result": {"process_delay": delays}}


@pytest.fixture
def story() -> Story:
    """Two queries on one host; the first has its tasks there at 25 frames of 10 and 20 ms."""
    story = Story(node(HOST), node(EDGE), node(CLOUD))
    story.submit(face_detection=HOST, face_alignment=HOST)
    story.tell(RuntimeReported, QUERY, measured(0.010, 0.020), 1)
    story.tell(QuerySubmitted, query(SECOND))
    return story


def own_question(story: Story) -> Question:
    """Let a period pass, and return the question about the first query."""
    story.wait(2.1)
    return next(each for each in story.all(AskPolicy) if each.query_id == QUERY).question


def around(story: Story) -> Surroundings:
    return story.last(AskPolicy).question.around


def test_a_query_is_told_what_others_take_and_not_what_it_takes_itself(story):
    # The plan says 30 frames per second.
    seen = around(story)
    assert seen.load(HOST, "face_detection") == TaskLoad(1, pytest.approx(0.3))
    assert seen.load(HOST, "face_alignment") == TaskLoad(1, pytest.approx(0.6))
    assert seen.load(CLOUD, "face_detection") == NO_LOAD
    assert seen.node_busy(HOST) == pytest.approx(0.9)
    own = own_question(story).around
    assert own.load(HOST, "face_detection") == NO_LOAD
    assert own.node_busy(HOST) == 0


def test_a_query_is_told_what_others_send_and_how_many_there_are_on_a_node(story):
    story.propose(SECOND, mapping(face_detection=HOST, face_alignment=CLOUD))
    own = own_question(story).around
    assert [own.node_queries(addr) for addr in (HOST, EDGE, CLOUD)] == [1, 0, 1]
    frame = own.profile.frame_nbytes("480p", "JPEG")
    assert own.sent_by(HOST) == TaskLoad(1, pytest.approx(30 * frame))
    assert own.sent_by(CLOUD) == NO_LOAD
    story.tell(RuntimeReported, SECOND, {"data_trans_size": {"face_alignment": 1000.0}}, 1)
    assert own.sent_by(HOST) == TaskLoad(1, 30_000.0)
    assert own.snapshot().sent == {HOST: TaskLoad(1, 30_000.0)}
    story.tell(RuntimeReported, SECOND, {"data_trans_size": {"face_alignment": -1}}, 1)
    assert own.sent_by(HOST) == TaskLoad(1, pytest.approx(30 * frame))
    story.tell(QueryStopped, SECOND)
    assert own.sent_by(HOST) == NO_LOAD
    assert [own.node_queries(addr) for addr in (HOST, EDGE, CLOUD)] == [0, 0, 0]


def test_where_nothing_was_measured_of_batches_a_frame_takes_all_of_its_own(story):
    seen, told = around(story), measured(0.010, 0.020)
    told["plan_result"]["batch"] = {"face_detection": 4.0, "face_alignment": 1e12}
    story.tell(RuntimeReported, QUERY, told, 1)
    assert seen.load(HOST, "face_detection") == TaskLoad(1, pytest.approx(0.3))
    assert seen.load(HOST, "face_alignment") == TaskLoad(1, pytest.approx(0.6))
    # What is measured before a run comes to bear at once.
    cost = Cost(0.010, 0.012, batches=(BatchPoint(4, 0.02),))
    seen.profile.put_cost("face_detection", 0, "480p", cost, HOST)
    story.tell(RuntimeReported, QUERY, told, 1)
    assert seen.load(HOST, "face_detection") == TaskLoad(1, pytest.approx(0.3 / 4))


def test_a_query_takes_what_its_frames_would_in_the_best_batch_that_the_profile_knows(story):
    batches = (BatchPoint(4, 0.016), BatchPoint(16, 0.040))
    seen = around(story)
    seen.profile.put_cost("face_detection", 0, "480p", Cost(0.010, 0.012, batches=batches))
    # A worker that has room works on single frames: they take a quarter of that when it is full.
    story.tell(RuntimeReported, QUERY, measured(0.010, 0.020), 1)
    assert seen.load(HOST, "face_detection") == TaskLoad(1, pytest.approx(0.3 / 4))
    told = measured(0.016, 0.020)
    told["plan_result"]["batch"] = {"face_detection": 4.0}
    story.tell(RuntimeReported, QUERY, told, 1)
    assert seen.load(HOST, "face_detection") == TaskLoad(1, pytest.approx(0.3 / 4))
    told["plan_result"]["batch"] = {"face_detection": -4.0}  # that is none
    story.tell(RuntimeReported, QUERY, told, 1)
    assert seen.load(HOST, "face_detection") == TaskLoad(1, pytest.approx(30 * 0.016 / 4))
    # Nothing is measured under a plan that has just begun.
    story.propose(SECOND, mapping(face_detection=CLOUD, face_alignment=CLOUD))
    load = own_question(story).around.load(CLOUD, "face_detection")
    assert load == TaskLoad(1, pytest.approx(30 * 0.0025))


@pytest.mark.parametrize("end", [(QueryStopped, QUERY), (NodeLeft, HOST)])
def test_who_is_over_or_away_takes_nothing(story, end):
    story.propose(SECOND, mapping(face_detection=EDGE, face_alignment=EDGE))
    story.tell(*end)
    story.tell(QuerySubmitted, query("GLOBAL_ID_3", EDGE))
    assert around(story).load(HOST, "face_detection") == NO_LOAD
    assert around(story).node_busy(HOST) == 0


def test_candidates_are_the_host_then_the_roomiest_of_each_kind(story):
    servers = [f"10.0.1.{n}:5001" for n in range(6)]
    for name in servers:
        story.tell(NodeJoined, node(name, role="cloud"))
    story.propose(SECOND, mapping(face_detection=servers[0], face_alignment=CLOUD))
    seen = own_question(story).around
    found = [each.node_addr for each in seen.candidates("face_detection", count=3)]
    assert found[0] == HOST
    assert servers[0] not in found, "it is the only server that has something to do"
    assert [name == EDGE for name in found] == [False, False, False, False, True]
    assert [each.node_addr for each in seen.candidates("face_detection", 7, count=3)] == found
    assert seen.candidates("no_such_task") == []


def test_a_node_that_takes_no_frames_is_no_candidate(story):
    story.tell(NodeJoined, node("10.0.1.1:5001", role="cloud", landing=""))
    found = own_question(story).around.candidates("face_detection", count=9)
    names = [each.node_addr for each in found]
    assert "10.0.1.1:5001" not in names


def test_the_way_back_stands_in_for_a_way_that_nobody_has_measured(story):
    story.tell(NodeReported, CLOUD, None, None, {HOST: 2e6})
    story.wait(2.1)
    seen = story.last(AskPolicy).question.around
    assert seen.bandwidth_between(CLOUD, HOST) == 2e6
    assert seen.bandwidth_between(HOST, CLOUD) == 2e6
    assert seen.bandwidth_between(HOST, EDGE) is None


def test_a_policy_is_told_what_it_wanted_to_remember_and_when_it_is(story):
    told = story.last(AskPolicy)
    assert dict(told.question.memory) == {}
    assert told.question.now_s == pytest.approx(story.now_ns / S)
    memory, why = {"level": 3}, {"why": "so"}
    conf, placed = (
        {"resolution": "480p", "fps": 5},
        mapping(face_detection=EDGE, face_alignment=EDGE),
    )
    story.tell(PlanProposed, SECOND, told.round, conf, placed, None, memory, why)
    decision = story.last(RecordDecision)
    assert (decision.number, decision.is_change, decision.explanation) == (1, True, why)
    story.tell(RuntimeReported, SECOND, {"delay": 0.1}, 1)
    story.wait(2.1)
    again = next(each for each in story.all(AskPolicy) if each.query_id == SECOND)
    assert again.question.memory == memory
    assert again.question.measured == 1


def test_what_was_measured_under_an_older_plan_is_not_told_as_of_this_one(story):
    story.tell(PlanProposed, SECOND, story.rounds[SECOND], {"resolution": "480p", "fps": 5}, SPLIT)
    story.tell(RuntimeReported, SECOND, {"delay": 0.5}, 1)
    story.wait(2.1)
    story.tell(PlanProposed, SECOND, story.rounds[SECOND], {"fps": 4}, SPLIT)
    story.tell(RuntimeReported, SECOND, {"delay": 0.9}, 1)
    story.wait(4.2)
    story.tell(RuntimeReported, SECOND, {"delay": 0.1}, 2)
    story.wait(2.1)
    told = next(each for each in story.all(AskPolicy) if each.query_id == SECOND).question
    assert (told.runtime_info, told.measured) == ({"delay": 0.1}, 2)


def test_where_there_is_no_server_the_host_stands_in():
    story = Story(node(HOST))
    story.submit()
    info = story.last(AskPolicy).question.around.resource_info()
    assert info["cloud"] == info["host"]
    assert info["edge"] == {}


def test_a_changed_service_is_told_in_the_next_question(running):
    services = {task: ServiceInfo(4, (), 0.5, 0.25) for task in TASKS}
    running.tell(NodeJoined, replace(node(CLOUD), services=services))
    running.tell(ConstraintChanged, QUERY, Constraint())
    shares = running.last(AskPolicy).question.around.resource_info()["cloud"]["10.0.0.9"]
    assert shares["face_detection"] == {"n_process": 4, "cpu_ratio": 0.5, "mem_ratio": 0.25}


def test_what_nodes_report_is_told_in_questions(running):
    running.tell(NodeReported, EDGE, {"mem_ratio": 0.5}, None, {CLOUD: 1e7})
    running.tell(ConstraintChanged, QUERY, Constraint())
    question = running.last(AskPolicy).question
    assert question.around.node_state()[EDGE] == {"mem_ratio": 0.5}
    assert question.around.bandwidth() == {EDGE: {CLOUD: 1e7}}


def test_a_snapshot_travels_and_says_the_same(story):
    story.tell(NodeReported, EDGE, {"mem_ratio": 0.5}, None, {CLOUD: 1e7})
    question = own_question(story)
    sent = replace(question, around=question.around.snapshot())
    assert sent.around.profile is question.around.profile
    read = decode_order(frame(Asked(7, sent))[4:])
    assert isinstance(read, Asked)
    seen = read.question.around
    assert isinstance(seen, Snapshot)
    assert seen.knowledge is None  # it travels apart
    assert seen.nodes() == question.around.nodes()
    assert seen.host == question.around.host
    assert seen.get(EDGE) == question.around.get(EDGE)
    assert seen.get("nobody") is None
    assert seen.load(HOST, "face_detection") == question.around.load(HOST, "face_detection")
    assert seen.node_busy(HOST) == pytest.approx(question.around.node_busy(HOST))
    assert seen.bandwidth_between(EDGE, CLOUD) == 1e7
    assert seen.node_state()[EDGE] == {"mem_ratio": 0.5}
    assert [each.node_addr for each in seen.candidates("face_detection")] == [HOST, CLOUD, EDGE]
    assert msgspec.to_builtins(read.question.constraint) == msgspec.to_builtins(question.constraint)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["keep", "forget", "take"]),
            st.integers(0, 5),
            st.sampled_from(["a", "b"]),
            st.floats(0, 3),
            st.integers(0, 2),
        ),
        max_size=60,
    )
)
def test_rooms_are_sorted_by_what_is_taken_whatever_happens(steps):
    rooms, alive, taken = Rooms(), {}, {}
    for kind, number, task, busy, queries in steps:
        name = f"10.0.0.{number}:5001"
        if kind == "keep":
            services = {task: ServiceInfo(workers=queries)}
            alive[name] = node(name, services=services, role="cloud" if number % 2 else "edge")
            rooms.keep(alive[name])
        elif kind == "forget":
            alive.pop(name, None)
            rooms.forget(name)
        else:
            taken[name, task] = TaskLoad(queries, busy if queries else 0.0)
            rooms.set_taken(alive.get(name), name, task, taken[name, task])
    for task in ("a", "b"):
        for servers in (True, False):
            found = list(rooms.roomiest(task, servers=servers))
            able = {
                each.node_addr
                for each in alive.values()
                if task in each.services and (each.role == "cloud") == servers
            }
            assert set(found) == able
            assert len(found) == len(able)
            shares = [_share(alive[name], task, taken.get((name, task), NO_LOAD)) for name in found]
            # Each stands where it last moved to, and has drifted from there by no more than that.
            most = 0.0
            for share in shares:
                assert share >= most - 2 * LEAST - 1e-9
                most = max(most, share)


def _share(info, task, load):
    return (load.busy + 1e-6 * load.queries) / max(info.services[task].workers, 1)
