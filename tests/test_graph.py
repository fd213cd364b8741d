from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.errors import GraphError
from vdag.graph import Edge, Graph, Signature

SIGNATURES = {
    "face_detection": Signature(frozenset({"image"}), frozenset({"bbox", "prob", "faces"})),
    "face_alignment": Signature(
        frozenset({"bbox"}),
        frozenset({"head_pose", "bbox"}),
        optional=frozenset({"image", "prob", "faces"}),
    ),
    "car_detection": Signature(frozenset({"image"}), frozenset({"result"})),
}
DOCUMENTED = {
    "flow": ["face_detection", "face_alignment"],
    "input": {
        "face_detection": {"image": "SingleFrameGenerator.image"},
        "face_alignment": {
            "image": "SingleFrameGenerator.image",
            "bbox": "face_detection.bbox",
            "prob": "face_detection.prob",
        },
    },
}


def test_the_documented_dag_is_read_with_the_generator_on_top():
    graph = Graph.from_dag({"generator": "SingleFrameGenerator", "dag": DOCUMENTED})
    assert graph.tasks == ("face_detection", "face_alignment")
    assert Edge("bbox", "face_detection", "bbox") in graph.edges["face_alignment"]
    assert graph.producers("face_alignment") == ("face_detection",)


def test_the_second_generation_lists_the_generator_in_flow_and_renders():
    dag = {
        "generator": "SingleFrameGenerator",
        "flow": ["SingleFrameGenerator", *DOCUMENTED["flow"]],
        "input": {
            **DOCUMENTED["input"],
            "Render": {"image": "face_alignment.image", "count": "face_alignment.count_result"},
        },
    }
    assert Graph.from_dag(dag) == Graph.from_dag(DOCUMENTED)


def test_a_dag_survives_the_way_out_and_back():
    graph = Graph.from_dag(DOCUMENTED).check(SIGNATURES)
    again = Graph.from_dag(json.loads(json.dumps(graph.to_dag())))
    assert again == graph
    assert hash(again) == hash(graph)


def test_inputs_left_out_come_from_the_nearest_producer_before():
    graph = Graph.chain("face_detection", "car_detection", "face_alignment").check(SIGNATURES)
    wiring = {edge.name: str(edge) for edge in graph.edges["face_alignment"]}
    assert wiring == {
        "bbox": "face_detection.bbox",
        "faces": "face_detection.faces",
        "image": "SingleFrameGenerator.image",
        "prob": "face_detection.prob",
    }


def test_independent_branches_share_only_the_generator():
    graph = Graph.chain("face_detection", "face_alignment", "car_detection").check(SIGNATURES)
    assert graph.producers("car_detection") == ()
    assert graph.sinks() == ("face_alignment", "car_detection")
    assert graph.consumers("face_detection") == ("face_alignment",)


def test_tasks_are_put_behind_their_producers():
    dag = {"flow": ["face_alignment", "face_detection"], "input": DOCUMENTED["input"]}
    assert Graph.from_dag(dag).tasks == ("face_detection", "face_alignment")


@pytest.mark.parametrize(
    ("dag", "message"),
    [
        (7, "a graph is an object with flow and input, not a int"),
        ({}, "flow is a list of task names, not nothing"),
        ({"flow": "face_detection"}, "flow is a list of task names, not a str"),
        ({"flow": []}, "flow names no task"),
        ({"flow": ["face_detection", 3]}, "flow[1] is a task name, not 3"),
        ({"flow": ["car", "car"]}, "flow lists car twice"),
        ({"flow": [str(n) for n in range(65)]}, "flow of 65 tasks exceeds the limit of 64"),
        ({"flow": ["car"], "input": []}, "input is an object with one entry per task, not a list"),
        (
            {"flow": ["car"], "input": {"bus": {}}},
            "input is given for 'bus', which flow does not list",
        ),
        (
            {"flow": ["car"], "input": {"car": 1}},
            "input.car is an object of field names, not a int",
        ),
        (
            {"flow": ["car"], "input": {"car": {"image": "image"}}},
            "input.car.image is 'image', expected 'producer.field'",
        ),
        (
            {"flow": ["car"], "input": {"car": {"image": "bus.image"}}},
            "input.car.image is 'bus.image', but bus is neither the generator "
            "SingleFrameGenerator nor a task of flow",
        ),
        (
            {"flow": ["car"], "generator": "Camera"},
            "unknown generator 'Camera': expected one of ClipGenerator, SingleFrameGenerator",
        ),
        (
            {
                "flow": ["a", "b", "c"],
                "input": {"a": {"x": "c.x"}, "b": {"x": "a.x"}, "c": {"x": "b.x"}},
            },
            "cycle: a -> b -> c -> a",
        ),
        ({"flow": ["a"], "input": {"a": {"x": "a.x"}}}, "cycle: a -> a"),
    ],
)
def test_a_broken_dag_says_where(dag, message):
    with pytest.raises(GraphError) as caught:
        Graph.from_dag(dag)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("dag", "message"),
    [
        (
            {"flow": ["bus_detection"]},
            "unknown task 'bus_detection': expected one of car_detection, face_alignment, "
            "face_detection",
        ),
        (
            {
                "flow": ["car_detection"],
                "input": {"car_detection": {"clip": "SingleFrameGenerator.image"}},
            },
            "car_detection takes no input clip: it takes image",
        ),
        (
            {
                "flow": ["face_detection", "face_alignment"],
                "input": {"face_alignment": {"bbox": "face_detection.box"}},
            },
            "input bbox of face_alignment: face_detection produces no box, only bbox, faces, prob",
        ),
        ({"flow": ["face_alignment"]}, "input bbox of face_alignment comes from nowhere"),
    ],
)
def test_a_graph_that_does_not_fit_its_tasks_says_where(dag, message):
    with pytest.raises(GraphError) as caught:
        Graph.from_dag(dag).check(SIGNATURES)
    assert str(caught.value) == message


def test_a_graph_file_that_cannot_be_read_is_named(tmp_path: Path):
    missing = tmp_path / "none.json"
    with pytest.raises(
        GraphError, match=f"^cannot read graph {missing}: No such file or directory$"
    ):
        Graph.load(missing)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(GraphError, match=f"^{broken} is not JSON: "):
        Graph.load(broken)
    broken.write_text('{"flow": []}')
    with pytest.raises(GraphError, match=f"^{broken}: flow names no task$"):
        Graph.load(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(GraphError, match=f"^cannot read graph {broken}: not UTF-8 text$"):
        Graph.load(broken)


@given(st.data())
def test_any_acyclic_graph_is_put_in_order(data):
    count = data.draw(st.integers(1, 12))
    names = [f"t{n}" for n in range(count)]
    inputs = {
        name: {f"from_{p}": f"{p}.x" for p in data.draw(st.sets(st.sampled_from(names[:index])))}
        for index, name in enumerate(names)
        if index
    }
    flow = data.draw(st.permutations(names))
    graph = Graph.from_dag({"flow": flow, "input": inputs})
    assert sorted(graph.tasks) == sorted(names)
    for task in graph.tasks:
        before = graph.tasks[: graph.tasks.index(task)]
        assert set(graph.producers(task)) <= set(before)
