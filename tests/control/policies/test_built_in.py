"""The policies `static` and `golden`: where they place tasks, and in which quality."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policy_kit import refuses
from scheduler_kit import CLOUD, EDGE, HOST, QUERY, TASKS, Story, mapping, node, query

from vdag.control import policies
from vdag.control.scheduling.events import NodeInfo, NodeJoined, NodeLeft, PlanProposed, ServiceInfo
from vdag.control.scheduling.events import VideoInfo as Video
from vdag.control.scheduling.instructions import AskPolicy, Question, RecordFault, StartJob
from vdag.control.scheduling.surroundings import Snapshot
from vdag.errors import PlanError
from vdag.plan import Placement, Plan, VideoConf


def among(question: Question, *nodes: NodeInfo) -> Question:
    """Return a question with these nodes around, the first of them the host."""
    return replace(question, around=Snapshot(nodes))


# static.


def fixed(**changes) -> Plan:
    conf = VideoConf("360p", 5)
    return Plan(0, conf, {task: Placement("10.0.0.9", "cloud") for task in TASKS}, **changes)


def answered(story: Story) -> None:
    """Have the open question answered by its policy, as a controller does."""
    order = story.last(AskPolicy)
    answer = policies.load(order.policy).answer(order.question)
    story.tell(PlanProposed, order.query_id, order.round, *answer)


def test_static_gives_the_plan_that_was_fixed():
    story = Story(node(HOST), node(CLOUD))
    story.submit(query(policy="static", plan=fixed()))
    answered(story)
    assert story.last(StartJob).plan.video_conf == VideoConf("360p", 5)
    assert set(story.placed().values()) == {CLOUD}


def test_static_keeps_what_a_task_asks_for_itself():
    story = Story(node(HOST), node(CLOUD))
    plan = fixed(task_conf={"face_alignment": VideoConf("360p", 1)})
    story.submit(query(policy="static", plan=plan))
    answered(story)
    assert story.last(StartJob).plan.task_conf == plan.task_conf


def test_static_goes_back_to_its_plan_when_a_lost_node_is_back():
    story = Story(node(HOST), node(CLOUD))
    story.submit(query(policy="static", plan=fixed()))
    answered(story)
    story.tell(NodeLeft, CLOUD)
    answered(story)
    assert set(story.placed().values()) == {HOST}
    story.tell(NodeJoined, node(CLOUD))
    answered(story)
    assert set(story.placed().values()) == {CLOUD}


def test_static_without_a_fixed_plan_keeps_the_one_in_force(question):
    static = policies.load("static")
    before = fixed().numbered(3)
    answer = static.answer(replace(question, previous=before))
    assert Plan.from_documents(TASKS, *answer[:3], number=3) == before
    with refuses(PlanError, f"{QUERY} was submitted without a plan"):
        static.answer(question)


# golden.


def test_golden_is_the_best_quality_on_a_server(question):
    conf, placed, *_ = policies.load("golden").answer(question)
    assert conf == {"resolution": "720p", "fps": 25.0, "encoder": "JPEG"}
    assert {where["node_addr"] for where in placed.values()} == {CLOUD}


@pytest.mark.parametrize(
    ("video", "resolution", "fps"),
    [
        (Video(), "1080p", 30),
        (Video("", 1920, 1080, 120), "1080p", 30),
        (Video("", 3840, 2160, 24), "1080p", 24),
        (Video("", 176, 144, 15), "360p", 15),
    ],
)
def test_golden_asks_for_no_more_than_the_video_has(question, video, resolution, fps):
    conf = policies.load("golden").answer(replace(question, video=video)).video_conf
    assert (conf["resolution"], conf["fps"]) == (resolution, fps)


@pytest.mark.parametrize(
    ("cloud", "placed"),
    [
        ({"services": {"face_detection": ServiceInfo()}}, {TASKS[0]: CLOUD, TASKS[1]: HOST}),
        ({"landing": ""}, {TASKS[0]: HOST, TASKS[1]: HOST}),
    ],
)
def test_golden_falls_back_to_the_host_for_what_no_server_can_do(cloud, placed):
    story = Story(node(HOST), node(EDGE), node(CLOUD, **cloud))
    story.submit(query(policy="golden"))
    answered(story)
    assert story.placed() == placed


def test_golden_takes_another_edge_if_nothing_else_offers_a_task():
    story = Story(node(HOST, services={}), node(EDGE))
    story.submit(query(policy="golden"))
    answered(story)
    assert set(story.placed().values()) == {EDGE}


def test_golden_says_which_task_nobody_offers(question):
    with refuses(PlanError, "no live node offers face_detection"):
        policies.load("golden").answer(among(question, node(HOST, services={})))


def test_golden_takes_the_largest_model_that_there_is(question):
    services = {task: ServiceInfo(1, (2, 1)) for task in TASKS}
    nodes = (node(HOST), node(CLOUD, services=services))
    answer = policies.load("golden").answer(among(question, *nodes))
    assert {where["model_id"] for where in answer.flow_mapping.values()} == {1}


def test_golden_spreads_queries_over_servers_and_leaves_them_there(question):
    servers = tuple(node(f"10.0.1.{number}:5001", role="cloud") for number in range(4))
    golden = policies.load("golden")

    def chosen(uid: str, nodes, previous=None) -> str:
        asked = replace(among(question, node(HOST), *nodes), job_uid=uid, previous=previous)
        return golden.answer(asked).flow_mapping[TASKS[0]]["node_addr"]

    counts = [chosen(f"GLOBAL_ID_{number}", servers) for number in range(400)]
    assert {counts.count(server.node_addr) > 50 for server in servers} == {True}
    here = Plan(1, VideoConf("720p", 25), {
        task: Placement("10.0.1.3", "cloud", 0, "10.0.1.3:5001") for task in TASKS
    })  # fmt: skip
    assert {chosen(f"GLOBAL_ID_{number}", servers, here) for number in range(20)} == {
        "10.0.1.3:5001"
    }


def test_a_built_in_policy_that_has_no_plan_is_reported():
    story = Story(node(HOST, services={}))
    story.submit()
    story.propose(QUERY, mapping(face_detection=HOST, face_alignment=HOST))
    assert story.kinds() == ["RecordFault"]
    assert "does not offer face_detection" in story.last(RecordFault).what
