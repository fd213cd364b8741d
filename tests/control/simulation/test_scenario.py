from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vdag.control.simulation.fleets import random_scenario
from vdag.control.simulation.reading import (
    read_scenario,
    scenario_from_document,
    write_scenario,
)
from vdag.errors import ConfigError

TOML = """
name = "two nodes"
duration_s = 30

[[nodes]]
name = "edge"
cores = 2
services.face_detection = {workers = 2, models = [0, 2]}

[[nodes]]
name = "cloud"
role = "cloud"
services.face_detection = {}

[[links]]
between = ["edge", "cloud"]
mbit = 100

[[queries]]
name = "faces"
node = "edge"
tasks = ["face_detection"]
delay_s = 0.3
accuracy = 0.9

[queries.plan]
video_conf = {resolution = "480p", fps = 10}
flow_mapping.face_detection = {node_addr = "cloud"}

[[steps]]
at_s = 10
link = ["cloud", "edge"]
mbit = 10
"""


def document(**changes: Any) -> dict[str, Any]:
    """A scenario of one node and one query, with something else in it."""
    known: dict[str, Any] = {
        "nodes": [{"name": "n", "services": {"t": {}}}],
        "queries": [{"name": "q", "node": "n", "tasks": ["t"]}],
    }
    return {**known, **changes}


def test_a_file_is_read_with_all_that_it_says(tmp_path: Path):
    path = tmp_path / "scenario.toml"
    path.write_text(TOML)
    scenario = read_scenario(path)
    edge, cloud = scenario.nodes
    assert (edge.cores, edge.role, cloud.role) == (2.0, "edge", "cloud")
    assert edge.services["face_detection"].models == (0, 2)
    query = scenario.queries[0]
    assert query.constraint.to_document() == {"delay": 0.3, "accuracy": 0.9}
    plan = scenario.plan_of(query, scenario.addresses())
    assert plan is not None
    assert plan.nodes() == {scenario.addresses()["cloud"]}


@pytest.mark.parametrize("seed", range(5))
def test_a_scenario_that_was_written_is_read_as_the_same(tmp_path: Path, seed: int):
    scenario, path = random_scenario(seed, 3, 5), tmp_path / "scenario.json"
    write_scenario(scenario, path)
    assert read_scenario(path) == scenario


def test_a_profile_is_looked_for_beside_the_file(tmp_path: Path):
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps(document(profile="known.json")))
    assert read_scenario(path).profile == str(tmp_path / "known.json")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"nodes": []}, "nodes has none"),
        ({"nodes": [{"name": "n", "cores": 0}]}, "nodes[0].cores: expected float > 0.0"),
        ({"nodes": [{"name": "n", "cpu": 2}]}, "nodes[0]: object contains unknown field cpu"),
        (
            {"nodes": [{"name": "n", "role": "host"}]},
            "nodes[0].role: invalid enum value 'host'",
        ),
        ({"nodes": [{"name": "n"}, {"name": "n"}]}, "node 'n' is there twice"),
        ({"nodes": [{"name": "n", "cores": 0.5, "own_load": 0.5}]},
         "nodes[0]: node 'n': own_load 0.5 leaves nothing of 0.5 cores"),
        ({"nodes": [{"name": "n", "cpu_period_s": 0}]},
         "nodes[0].cpu_period_s: expected float >= 0.001"),
        ({"queries": [{"name": "q", "node": "m", "tasks": ["t"]}]},
         "query 'q' names node 'm', which is none"),
        ({"queries": [{"name": "q", "node": "n", "tasks": ["u"]}]},
         "query 'q': no node offers u"),
        ({"queries": [{"name": "q", "node": "n"}]},
         "queries[0]: query 'q' has tasks or a dag, one of them"),
        ({"queries": [{"name": "q", "node": "n", "tasks": ["t"], "delay_s": "soon"}]},
         "queries[0].delay_s: expected float | null, got str"),
        ({"queries": [{"name": "q", "node": "n", "tasks": ["t"], "leaves_s": 1, "arrives_s": 2}]},
         "queries[0]: query 'q' leaves_s 1 before it arrives"),
        ({"queries": [{"name": "q", "node": "n", "tasks": ["t"],
                       "scene": {"phases": [{"at_s": 1}]}}]},
         "queries[0].scene: phases begin at at_s 0"),
        ({"queries": [{"name": "q", "node": "n", "tasks": ["t"],
                       "scene": {"cuts": [3, 2]}}]},
         "queries[0].scene: cuts do not rise: 2 s comes after 3 s"),
        ({"queries": [{"name": "q", "node": "n", "tasks": ["t"],
                       "plan": {"video_conf": {"resolution": "8p", "fps": 1}}}]},
         "query 'q': plan: resolution '8p' is unknown, expected 360p, 480p, 540p, 630p, 720p, "
         "810p, 900p, 990p, 1080p, WIDTHxHEIGHT or native"),
        ({"steps": [{"at_s": 1}]},
         "steps[0]: step at 1 s names a node or a link, one of them"),
        ({"steps": [{"at_s": 1, "node": "n"}]}, "steps[0]: step at 1 s changes nothing"),
        ({"steps": [{"at_s": 1, "node": "m", "cores": 1}]},
         "step names node 'm', which is none"),
        ({"steps": [{"at_s": 1, "link": ["n", "n"], "mbit": 1}]},
         "step names link n - n, which is none"),
        ({"steps": [{"at_s": 1, "link": ["n", "n"], "cores": 1}]},
         "steps[0]: step at 1 s: a link has no cores, speed or up"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_its_place(changes: dict[str, Any], text: str):
    with pytest.raises(ConfigError) as caught:
        scenario_from_document(document(**changes))
    assert str(caught.value) == text


def test_files_that_are_none_are_refused(tmp_path: Path):
    missing, broken = tmp_path / "missing.toml", tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ConfigError, match=f"^cannot read {missing}: No such file or directory$"):
        read_scenario(missing)
    with pytest.raises(ConfigError, match=f"^{broken} is not JSON: "):
        read_scenario(broken)


def test_a_fleet_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"^1 nodes, 1 queries, 3 steps make no fleet$"):
        random_scenario(0, 1, 1)
