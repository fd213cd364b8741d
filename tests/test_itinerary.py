from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.errors import GraphError, PlanError
from vdag.graph import Edge, Graph
from vdag.itinerary import (
    HOME,
    MAX_BRANCHES,
    branches,
    lighten,
    onward,
    plan_itinerary,
    shed,
)
from vdag.tasks import signatures
from vdag.transport.codec import Hop

EXCHANGE, ELSEWHERE, HOME_ADDRESS = "ipc:///run/exchange", "tcp://10.0.0.2:7000", "ipc:///run/job-1"


def graph_of(edges, *tasks):
    """A graph in which each task takes `field` from those that `edges` names, else the image."""
    return Graph(
        "SingleFrameGenerator",
        tasks,
        {
            task: tuple(
                Edge(f"from_{producer}", producer, "field")
                for producer in edges.get(task, ("SingleFrameGenerator",))
            )
            for task in tasks
        },
    )


FACES_AND_CARS = graph_of({"pose": ("faces",)}, "faces", "cars", "pose")


@st.composite
def graphs(draw):
    tasks = [f"task{n}" for n in range(draw(st.integers(1, 12)))]
    edges = {}
    for index, task in enumerate(tasks):
        if index and (producers := draw(st.sets(st.sampled_from(tasks[:index]), max_size=2))):
            edges[task] = sorted(producers)
    return graph_of(edges, *tasks)


def test_a_chain_is_one_branch():
    assert branches(graph_of({"pose": ("faces",)}, "faces", "pose")) == (("faces", "pose"),)


def test_tasks_without_an_edge_between_them_are_branches():
    assert branches(FACES_AND_CARS) == (("faces", "pose"), ("cars",))


def test_a_fork_that_joins_again_stays_one_branch():
    diamond = graph_of({"left": ("top",), "right": ("top",), "end": ("left", "right")},
                       "top", "left", "right", "end")  # fmt: skip
    assert branches(diamond) == (("top", "left", "right", "end"),)


def test_a_late_task_can_join_branches():
    graph = graph_of({"both": ("left", "right")}, "left", "alone", "right", "both")
    assert branches(graph) == (("left", "right", "both"), ("alone",))


@given(graphs())
def test_every_task_is_in_one_branch_after_its_producers_and_no_edge_leaves_a_branch(graph):
    split = branches(graph)
    assert sorted(task for branch in split for task in branch) == sorted(graph.tasks)
    for branch in split:
        for index, task in enumerate(branch):
            assert set(graph.producers(task)) <= set(branch[:index])


@given(graphs())
def test_a_branch_cannot_be_split_further(graph):
    for branch in branches(graph):
        reached = {branch[0]}
        for _ in branch:
            for task in branch:
                linked = {task, *graph.producers(task)}
                if linked & reached:
                    reached |= linked
        assert reached == set(branch)


def test_routes_visit_the_tasks_where_they_are_placed_and_end_at_home():
    itinerary = plan_itinerary(
        FACES_AND_CARS,
        exchange=EXCHANGE,
        home=HOME_ADDRESS,
        placement={"pose": ELSEWHERE},
        plan=7,
    )
    home = Hop(HOME, HOME_ADDRESS)
    assert itinerary.routes == (
        (Hop("faces", EXCHANGE), Hop("pose", ELSEWHERE), home),
        (Hop("cars", EXCHANGE), home),
    )
    assert itinerary.plan == 7
    assert itinerary.branch_of == {"faces": 0, "pose": 0, "cars": 1}


def test_a_hop_names_the_model_that_its_task_is_done_with():
    itinerary = plan_itinerary(
        FACES_AND_CARS,
        exchange=EXCHANGE,
        home=HOME_ADDRESS,
        placement={"pose": ELSEWHERE},
        models={"pose": 2, "cars": 0},
    )
    home = Hop(HOME, HOME_ADDRESS)
    assert itinerary.routes == (
        (Hop("faces", EXCHANGE), Hop("pose", ELSEWHERE, 2), home),
        (Hop("cars", EXCHANGE, 0), home),
    )
    assert [itinerary.is_here(task) for task in ("faces", "pose", "cars")] == [True, False, True]


def test_a_model_of_an_unknown_task_is_refused():
    with pytest.raises(PlanError, match=r"^models names 'boats', which is no task of the graph$"):
        plan_itinerary(FACES_AND_CARS, exchange=EXCHANGE, home=HOME_ADDRESS, models={"boats": 0})


def test_a_model_that_no_hop_can_name_is_refused():
    text = "plan 3 cannot travel: route[0].model 100 is not between 0 and 99"
    with pytest.raises(PlanError, match=f"^{re.escape(text)}$"):
        plan_itinerary(
            FACES_AND_CARS, exchange=EXCHANGE, home=HOME_ADDRESS, models={"faces": 100}, plan=3
        )


def test_a_placement_of_an_unknown_task_is_refused():
    with pytest.raises(
        PlanError, match=r"^placement names 'boats', which is no task of the graph$"
    ):
        plan_itinerary(
            FACES_AND_CARS, exchange=EXCHANGE, home=HOME_ADDRESS, placement={"boats": EXCHANGE}
        )


def test_an_endpoint_that_is_no_address_is_refused():
    text = "plan 3 cannot travel: route[1].endpoint 'here' is no address"
    with pytest.raises(PlanError, match=f"^{re.escape(text)}$"):
        plan_itinerary(
            FACES_AND_CARS,
            exchange=EXCHANGE,
            home=HOME_ADDRESS,
            placement={"pose": "here"},
            plan=3,
        )


def test_more_branches_than_a_slot_has_leases_for_are_refused():
    tasks = [f"task{n}" for n in range(MAX_BRANCHES + 1)]
    plan_itinerary(graph_of({}, *tasks[1:]), exchange=EXCHANGE, home=HOME_ADDRESS)
    with pytest.raises(GraphError, match=r"^graph of 19 independent branches exceeds 18$"):
        plan_itinerary(graph_of({}, *tasks), exchange=EXCHANGE, home=HOME_ADDRESS)


def test_a_branch_longer_than_a_route_is_refused():
    tasks = [f"task{n}" for n in range(64)]
    chain = graph_of({b: (a,) for a, b in itertools.pairwise(tasks)}, *tasks)
    with pytest.raises(GraphError, match=r"^branch of 64 tasks exceeds 63$"):
        plan_itinerary(chain, exchange=EXCHANGE, home=HOME_ADDRESS)


def test_face_alignment_gets_no_crops_beside_the_frame():
    matched = Graph.chain("face_detection", "face_alignment").check(signatures())
    names = {edge.name for edge in matched.edges["face_alignment"]}
    assert {edge.name for edge in lighten(matched).edges["face_alignment"]} == names - {"faces"}
    assert names > {"faces", "image", "bbox"}
    context = {"face_detection": {"bbox": 1, "faces": 2}}
    shed(lighten(matched), context, ["face_alignment"])
    assert context == {"face_detection": {"bbox": 1}}


def test_face_alignment_keeps_the_crops_when_it_has_nothing_else():
    graph = Graph.from_dag(
        {
            "flow": ["face_detection", "face_alignment"],
            "input": {
                "face_detection": {"image": "SingleFrameGenerator.image"},
                "face_alignment": {
                    "bbox": "face_detection.bbox",
                    "faces": "face_detection.faces",
                },
            },
        }
    ).check(signatures())
    assert lighten(graph) == graph


@pytest.mark.parametrize(("field", "kept"), [("faces", True), ("bbox", False)])
def test_pictures_travel_only_to_who_takes_them(field, kept):
    graph = Graph("SingleFrameGenerator", ("faces", "pose"), {
        "faces": (), "pose": (Edge(field, "faces", field),)
    })  # fmt: skip
    outputs = {"bbox": 1, "faces": 2}
    context = {"faces": outputs, "@times": {"faces": [1, 2]}}
    shed(graph, context, ["pose", "~home"])
    assert context["faces"] == (outputs if kept else {"bbox": 1})
    context["pose"] = {"image": 3, "prob": 4}
    shed(graph, context, ["~home"])  # whoever has taken them is behind
    assert context == {"faces": {"bbox": 1}, "pose": {"prob": 4}, "@times": {"faces": [1, 2]}}
    assert outputs == {"bbox": 1, "faces": 2}


def test_frames_go_on_from_other_nodes_to_other_nodes():
    graph = graph_of({"pose": ("faces",), "age": ("pose",)}, "faces", "cars", "pose", "age")
    a, b = "tcp://10.0.0.2:7000", "tcp://10.0.0.3:7000"
    assert onward(graph, {}) == {}
    assert onward(graph, {"faces": a, "cars": b}) == {}  # of two branches, and each home from there
    assert onward(graph, {"faces": a, "pose": a, "age": b}) == {a: {b}}
    assert onward(graph, {"faces": a, "pose": b, "age": a}) == {a: {b}, b: {a}}
    assert onward(graph, {"faces": a, "age": b}) == {}  # back here in between
