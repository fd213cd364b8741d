"""`vdag record` beside a query that runs on two nodes, and the simulation of what it has seen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts_kit import Loopback
from node_kit import ROOT
from system_kit import System

from vdag.control.simulation import simulate
from vdag.control.simulation.retracing import profile_of_trace, scenario_of_trace
from vdag.control.simulation.traces import read_trace

TASKS = ["first", "lone"]
DAG = {
    "generator": "SingleFrameGenerator",
    "flow": TASKS,
    "input": {
        "first": {"image": "SingleFrameGenerator.image"},
        "lone": {"image": "SingleFrameGenerator.image", "seen": "first.seen"},
    },
}
FPS = 8


@pytest.fixture
def nothing_is_left() -> None:
    """What must not be left of the nodes is looked for by `system`."""


@pytest.fixture
def system(tasks: Path, clips: Path, tmp_path: Path) -> Iterator[System]:
    video = {"path": str(clips / "bikes.mp4"), "pace": "realtime", "type": "streets"}
    with System(
        Loopback(2),
        tmp_path,
        modules=tasks,
        tasks={"cloud": TASKS, "edge1": TASKS},
        videos={"edge1": {"0": video}},
    ) as system:
        yield system
        system.end_well()


@pytest.mark.slow
def test_a_running_query_is_recorded_and_simulated(system: System, tmp_path: Path):
    plan = {
        "video_conf": {"resolution": "360p", "fps": FPS, "encoder": "JPEG"},
        "flow_mapping": system.place(first="edge1", lone="cloud"),
    }
    query = system.submit(
        "edge1", 0, TASKS, dag={name: DAG[name] for name in ("flow", "input")},
        policy="static", plan=plan, user_constraint={"delay": 0.5, "accuracy": 0.5},
    )  # fmt: skip
    system.wait_results(query, 1)
    cloud, path = system.nodes["cloud"], tmp_path / "trace.json"
    command = (
        sys.executable, "-m", "vdag", "record", query, "--out", str(path), "--seconds", "4",
        "--cloud", f"http://{cloud.address}:5000", "--token-file", str(tmp_path / "token"),
    )  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    system.cloud.post("/query/stop", {"query_id": query})
    trace = read_trace(path)
    assert (trace.query_id, trace.policy) == (query, "static")
    assert trace.dag == DAG
    assert trace.branches == (tuple(TASKS),)
    assert trace.node_addr == system.nodes["edge1"].node_addr
    assert len(trace.frames) > FPS
    for frame in trace.frames:
        assert frame.tasks.keys() == set(TASKS)
        assert sum(parts.compute for parts in frame.tasks.values()) <= frame.delay
    sizes = [each.runtime["data_trans_size"] for each in trace.runtimes]
    assert any(size.get("lone", 0) > 1000 and "first" not in size for size in sizes)
    scenario = scenario_of_trace(trace)
    assert {node.role for node in scenario.nodes} == {"edge", "cloud"}
    assert len(scenario.links) == 1
    outcome = simulate(scenario, "static", profile=lambda: profile_of_trace(trace))
    (simulated,) = outcome.queries
    assert simulated.books.delivered > FPS
    assert simulated.books.balance == 0
