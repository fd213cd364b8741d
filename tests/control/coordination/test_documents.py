"""Node, handler and service files, and what is said of those that have no meaning."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
from coordination_kit import node

from vdag.control.coordination.documents import (
    HandlerSpec,
    Link,
    Node,
    read_handler_types,
    read_nodes,
    read_services,
    service_of,
)
from vdag.control.coordination.types import HANDLER_TYPES
from vdag.errors import ConfigError

CONFIG = Path(__file__).parents[3] / "config"
NODE = {
    "node_id": 1,
    "node_name": "edge_server",
    "node_type": "server",
    "node_addr": "10.21.20.10",
    "node_port": 9000,
}
NODES = [node(0), node(1, handlers=frozenset({6, 8}))]


def link(source, target, target_input=0):
    return {
        "source_handler": source,
        "source_output": 0,
        "target_handler": target,
        "target_input": target_input,
    }


def handler(number, kind, params=None, **fields):
    return {
        "handler_id": number,
        "handler_name": f"h{number}",
        "handler_type": kind,
        "params": params or {},
        **fields,
    }


SERVICE = {
    "service_id": 3,
    "service_name": "faces",
    "handlers": [
        handler(0, 2, {"fps": 20}, node_id=0),
        handler(1, "haar_detect_face", {"scale_factor": 2}),
        handler(2, 16),
        handler(3, 3, node_id=0),
    ],
    "links": [link(0, 1), link(0, 2), link(1, 2, 1), link(2, 3)],
}


def written(folder: Path, **files) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    return folder


# Nodes.


def test_a_documented_node_takes_orders_over_http(tmp_path):
    assert read_nodes(written(tmp_path, any_name=NODE)) == (
        Node(1, "edge_server", "server", "10.21.20.10", 9000, None, "http", None),
    )


def test_a_node_says_what_it_runs_and_how_it_takes_orders(tmp_path):
    written(tmp_path, a=NODE, b={**NODE, "node_id": 0, "handlers": [2, 3], "speaks": "vdag",
                                 "cores": 4})  # fmt: skip
    ours, documented = read_nodes(tmp_path)
    assert (ours.node_id, ours.handlers, ours.speaks, ours.cores) == (
        0, frozenset({2, 3}), "vdag", 4.0,
    )  # fmt: skip
    assert ours.offers(2)
    assert ours.offers(0)
    assert not ours.offers(4)
    assert documented.offers(17)
    assert not documented.offers(18)
    assert node(0).offers(18)


def test_hidden_files_are_passed_over(tmp_path):
    (tmp_path / ".a.json.swp").write_text("no JSON")
    assert len(read_nodes(written(tmp_path, a=NODE))) == 1


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({**NODE, "speaks": "smtp"}, ": invalid enum value 'smtp' - at `$.speaks`"),
        ({**NODE, "handlers": ["2"]}, ": expected `int`, got `str` - at `$.handlers[0]`"),
        (
            {**NODE, "node_name": "a\nb"},
            r": expected `str` matching regex '^[^\\x00-\\x1f\\x7f]*$' - at `$.node_name`",
        ),
        ({**NODE, "cores": 0}, ": expected `float` > 0.0 - at `$.cores`"),
        ("{", " is not JSON: Input data was truncated"),
    ],
)
def test_a_node_file_without_meaning_is_named(tmp_path, content, error):
    written(tmp_path, a=content)
    with pytest.raises(ConfigError) as caught:
        read_nodes(tmp_path)
    assert str(caught.value) == f"node file {tmp_path}/a.json{error}"


# Handler types.


def test_without_files_the_types_are_the_documented_ones(tmp_path):
    assert read_handler_types(tmp_path) == HANDLER_TYPES
    (tmp_path / "handler-0.json").write_text("")
    assert read_handler_types(tmp_path) == HANDLER_TYPES


def test_a_type_file_adds_estimates_and_tasks_to_a_documented_type(tmp_path):
    written(tmp_path, a={"handler_type": 8, "task": "my_faces", "compute_s": 0.02, "nbytes": 300})
    found = read_handler_types(tmp_path)[8]
    assert (found.task, found.compute_s, found.nbytes) == ("my_faces", 0.02, 300.0)
    assert found.params == HANDLER_TYPES[8].params


def test_a_type_file_makes_a_type_of_its_own(tmp_path):
    param = {"type": "float", "default": 1, "least": 0, "most": 2}
    written(
        tmp_path,
        a={"handler_type": 18, "handler_name": "blur", "task": "blur", "params": {"by": param}},
    )
    types = read_handler_types(tmp_path)
    assert (types[18].inputs, types[18].outputs) == (1, 1)
    assert types[18].params["by"].default == 1.0
    document = deepcopy(SERVICE)
    document["handlers"][1].update(handler_type="blur", params={"by": 2})
    assert service_of(document, NODES, types).by_id[1] == HandlerSpec(1, "h1", 18, {"by": 2.0})


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"handler_type": 8, "inputs": 2}, "inputs of the documented type 8 is as it is"),
        ({"handler_type": 18, "task": "t"}, "type 18 has no handler_name"),
        ({"handler_type": 18, "handler_name": "blur"}, "type 18 has no task"),
        (
            {"handler_type": 18, "handler_name": "resize", "task": "t"},
            "handler_name resize is that of type 4",
        ),
        (
            {"handler_type": 18, "handler_name": "blur", "task": "t",
             "params": {"by": {"type": "complex", "default": 1}}},
            "params.by.type is 'complex', expected int, float, bool, str, list, null",
        ),
        (
            {"handler_type": 18, "handler_name": "blur", "task": "t",
             "params": {"by": {"type": "int", "default": 3, "most": 2}}},
            "params.by.default is 3, expected -inf to 2",
        ),
        ({"handler_type": -1}, "expected `int` >= 0 - at `$.handler_type`"),
    ],
)  # fmt: skip
def test_a_type_file_without_meaning_is_named(tmp_path, content, error):
    written(tmp_path, a=content)
    with pytest.raises(ConfigError) as caught:
        read_handler_types(tmp_path)
    assert str(caught.value) == f"handler file {tmp_path}/a.json: {error}"


# Services.


def test_a_service_needs_no_nodes(tmp_path):
    (found,) = read_services(written(tmp_path, a=SERVICE), NODES)
    assert (found.service_id, found.name, found.algorithm) == (3, "faces", "min_delay")
    assert found.handlers == (
        HandlerSpec(0, "h0", 2, {"fps": 20}, 0),
        HandlerSpec(1, "h1", 8, {"scale_factor": 2.0}),
        HandlerSpec(2, "h2", 16),
        HandlerSpec(3, "h3", 3, node_id=0),
    )
    assert found.links == (Link(0, 0, 1, 0), Link(0, 0, 2, 0), Link(1, 0, 2, 1), Link(2, 0, 3, 0))
    assert [spec.handler_id for spec in found.order] == [0, 1, 2, 3]


def test_a_template_without_nodes_is_the_same_service():
    part = {"blueprint": {"handlers": SERVICE["handlers"], "links": SERVICE["links"]}}
    document = {"service_id": 3, "service_name": "faces", "template": [part]}
    assert service_of(document, NODES) == service_of(SERVICE, NODES)


def test_the_algorithm_is_the_services_own_or_the_usual_one(tmp_path):
    def algorithm(document, **options):
        return service_of(document, NODES, **options).algorithm

    tied = deepcopy(SERVICE)
    for each in tied["handlers"]:
        each["node_id"] = 0
    assert algorithm(SERVICE) == "min_delay"
    assert algorithm(SERVICE, algorithm="greedy") == "greedy"
    assert algorithm(tied, algorithm="greedy") == "static"
    assert algorithm({**tied, "algorithm": "min_delay"}) == "min_delay"
    assert algorithm({**SERVICE, "algorithm": "policy:predictive"}) == "policy:predictive"
    (read,) = read_services(written(tmp_path, a=SERVICE), NODES, algorithm="greedy")
    assert read.algorithm == "greedy"


def changed(**fields):
    return {**SERVICE, **fields}


def with_handler(index, **fields):
    handlers = deepcopy(SERVICE["handlers"])
    handlers[index].update(fields)
    return changed(handlers=handlers)


def with_links(*links):
    return changed(links=[*SERVICE["links"], *links])


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (changed(service_id="3"), "expected `int`, got `str` - at `$.service_id`"),
        (changed(colour=1), "object contains unknown field `colour`"),
        (changed(template=[]), "has a template beside handlers or links"),
        (changed(links=None), "has neither a template nor handlers and links"),
        (changed(handlers=[], links=[]), "has 0 handlers, expected 1 to 64"),
        (with_handler(1, handler_id=0), "handler_id 0 is there twice"),
        (with_handler(1, handler_type=18), "handler 1 h1: handler_type 18 is unknown"),
        (with_handler(1, handler_type="x"), "handler 1 h1: handler_type 'x' is unknown"),
        (with_handler(1, node_id=7), "handler 1 h1: node_id 7 is of no node file"),
        (with_handler(2, node_id=1), "handler 2 h2: node 1 n1 has no draw_boxes"),
        (
            with_handler(0, params={"fps": 0}),
            "handler 0 h0: params.fps is 0, expected 1 to 1000",
        ),
        (with_links(link(0, 9)), "links[4].target_handler 9 is no handler"),
        (with_links(link(9, 0)), "links[4].source_handler 9 is no handler"),
        (
            with_links(link(3, 1)),
            "links[4].source_output 0 is not among the 0 outputs of handler 3",
        ),
        (
            with_links(link(0, 2, 2)),
            "links[4].target_input 2 is not among the 2 inputs of handler 2",
        ),
        (with_links(link(0, 2, 1)), "handler 2 h2: input 1 has 2 links, expected 1"),
        (
            changed(links=SERVICE["links"][:2]),
            "handler 2 h2: input 1 has no links, expected 1",
        ),
        (
            changed(
                handlers=[handler(0, 2), handler(1, 16), handler(2, 4), handler(3, 5)],
                links=[link(0, 1), link(1, 2), link(2, 3), link(3, 1, 1)],
            ),
            "links form a cycle: 1 -> 2 -> 3 -> 1",
        ),
        (
            changed(algorithm="best"),
            "algorithm is 'best', expected static, greedy, min_delay, policy or policy:NAME",
        ),
        (
            changed(algorithm="static"),
            "algorithm is static, and handler 1 h1 has no node_id",
        ),
        (changed(links=[link(0, 1)] * 513), "has 513 links, more than 512"),
    ],
)
def test_a_service_that_could_not_run_is_refused(tmp_path, document, error):
    written(tmp_path, a=document)
    with pytest.raises(ConfigError) as caught:
        read_services(tmp_path, NODES)
    assert str(caught.value) == f"service file {tmp_path}/a.json: {error}"
    with pytest.raises(ConfigError) as caught:
        service_of(document, NODES)
    assert str(caught.value) == f"service: {error}"


def test_two_services_of_one_number_are_refused(tmp_path):
    written(tmp_path, a=SERVICE, b=SERVICE)
    with pytest.raises(ConfigError) as caught:
        read_services(tmp_path, NODES)
    assert str(caught.value) == (
        f"service file {tmp_path}/b.json has service_id 3, as {tmp_path}/a.json has"
    )


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nowhere", "folder {path} cannot be read: No such file or directory"),
        ("empty", "folder {path} has no service files"),
    ],
)
def test_a_folder_without_services_is_refused(tmp_path, name, error):
    (tmp_path / "empty").mkdir()
    path = tmp_path / name
    with pytest.raises(ConfigError) as caught:
        read_services(path, NODES)
    assert str(caught.value) == error.format(path=path)


def test_deep_nesting_is_no_service(tmp_path):
    written(tmp_path, a="[" * 100_000)
    with pytest.raises(ConfigError, match=r"^service file \S+a\.json\b"):
        read_services(tmp_path, NODES)


@pytest.mark.skipif(not CONFIG.is_dir(), reason="the examples are in the checkout")
def test_the_examples_are_whole():
    nodes = read_nodes(CONFIG / "nodes")
    types = read_handler_types(CONFIG / "handlers")
    free, tied = read_services(CONFIG / "services", nodes, types)
    assert [spec.node_id for spec in free.order] == [0, None, None, None, None, 2]
    assert free.algorithm == "min_delay"
    assert tied.algorithm == "static"
    assert len(tied.cuts) == 2
