"""`vdag simulate` and `vdag record`, as people run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vdag.control.simulation.retracing import scenario_of_trace
from vdag.control.simulation.traces import TraceQuota, read_trace

pytestmark = pytest.mark.slow  # as a whole

SCENARIO = """
duration_s = 12

[[nodes]]
name = "edge"
services.face_detection = {}

[[nodes]]
name = "cloud"
role = "cloud"
services.face_detection = {}

[[queries]]
name = "faces"
node = "edge"
tasks = ["face_detection"]
delay_s = 0.5

[queries.plan]
video_conf = {resolution = "480p", fps = 10}
flow_mapping.face_detection = {node_addr = "edge"}
"""
EDGE = "10.0.0.1:5001"
PLACE = {"model_id": 0, "node_role": "host", "node_ip": "10.0.0.1", "node_addr": EDGE}
CONF = {"resolution": "480p", "fps": 10, "encoder": "JPEG"}
DAG = {
    "flow": ["face_detection"],
    "input": {"face_detection": {"image": "SingleFrameGenerator.image"}},
}


def vdag(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vdag", *arguments],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO)
    return path


def test_policies_are_compared_in_a_table_and_a_plot(scenario: Path, tmp_path: Path):
    plot = tmp_path / "plot.svg"
    done = vdag(
        "simulate", str(scenario), "--policy", "static", "--policy", "golden", "--oracle",
        "--plot", str(plot),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    titles, *rows = done.stdout.splitlines()
    assert "met %" in titles
    assert "regret %" in titles
    assert [row.split()[0] for row in rows if row.strip()] == ["static", "golden", "oracle"]
    assert plot.read_text().startswith("<svg")


def test_the_same_seed_prints_the_same_json(scenario: Path):
    def run(seed: str) -> list[dict[str, Any]]:
        done = vdag("simulate", str(scenario), "--policy", "static", "--seed", seed, "--json")
        found = json.loads(done.stdout)
        for outcome in found:
            del outcome["cost"]
        return list(found)

    assert run("1") == run("1")
    assert run("1") != run("2")


def test_a_fleet_is_drawn_and_simulated_as_flows():
    done = vdag(
        "simulate", "--nodes", "6", "--queries", "20", "--duration", "5", "--mode", "fluid",
        "--policy", "golden", "--json",
    )  # fmt: skip
    outcome = json.loads(done.stdout)[0]
    assert len(outcome["queries"]) == 20
    assert outcome["frames"] == 0


def test_it_runs_where_no_web_server_and_no_database_is_installed():
    absent = "fastapi", "starlette", "uvicorn", "sqlalchemy"
    run = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "from vdag.cli import main\n"
        "sys.argv = 'vdag simulate --nodes 2 --queries 1 --duration 3 --json'.split()\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", run], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["policy"] == "predictive"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--mode", "slow"), "vdag: mode 'slow' is unknown, expected one of auto, frames, fluid"),
        (("--nodes", "1"), "vdag: 1 nodes, 4 queries, 3 steps make no fleet"),
        (("/nowhere.toml",), "vdag: cannot read /nowhere.toml: No such file or directory"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: tuple[str, ...], text: str):
    done = vdag("simulate", *arguments)
    assert (done.returncode, done.stderr) == (2, text + "\n")


QUOTA = {
    "cores": 0.5,
    "period_s": 0.1,
    "cpus": 2,
    "at_s": 7.0,
    "used_s": 1.5,
    "workers": {"7": 1.0},
}


class Cloud(BaseHTTPRequestHandler):
    """What a query manager says of a query that runs and then ends."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/query/stream/GLOBAL_ID_1":
            self.stream()
            return
        listed = {
            "query_id": "GLOBAL_ID_1", "node_addr": EDGE, "pipeline": ["face_detection"],
            "user_constraint": {"delay": 0.5}, "policy": "static", "dag": DAG,
        }  # fmt: skip
        plan = {"number": 1, "video_conf": CONF, "flow_mapping": {"face_detection": PLACE}}
        replies: dict[str, Any] = {
            "/query/list": {"queries": [listed]},
            "/query/get_runtime/GLOBAL_ID_1": {"delay": 0.03, "plan_number": 1},
            "/query/get_plan/GLOBAL_ID_1": {**plan, "history": [{**plan, "cause": "submitted"}]},
            "/node/get_all_status": {"data": {EDGE: {"video": {}}}},
            "/get_cluster_info": {
                EDGE.partition(":")[0]: {"device_state": {"cpu_quota": QUOTA}},
                "10.0.0.8": {"device_state": {"cpu_quota": {"cores": "many"}}},
                "10.0.0.9": {"device_state": {}},
            },
        }
        body = json.dumps(replies[path]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self) -> None:
        self.send_response(200)
        self.end_headers()
        for seq in range(30):
            info = {
                "transfer_latency": 0.001, "queue_latency": 0.0, "compute_latency": 0.02,
                "pid": 7,
            }  # fmt: skip
            result = {
                "seq": seq, "plan": 1, "delay": 0.021 + 0.0001 * seq, "obj_n": 2, "obj_size": None,
                "ext_runtime": {"proc_resource_info": {"face_detection": info}},
            }  # fmt: skip
            self.wfile.write(f"event: result\ndata: {json.dumps(result)}\n\n".encode())
        self.wfile.write(b"event: result\ndata: {}\n\n")  # a node that says nothing of it
        self.wfile.write(b'event: end\ndata: {"reason": "over"}\n\n')

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def cloud() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_query_is_recorded_and_simulated(cloud: str, tmp_path: Path):
    path = tmp_path / "trace.json"
    done = vdag("record", "GLOBAL_ID_1", "--cloud", cloud, "--out", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    trace = read_trace(path)
    assert len(trace.frames) == 30
    assert trace.frames[3].tasks["face_detection"].compute == 0.02
    assert [plan.number for plan in trace.plans] == [1]
    assert trace.states[0].nodes == (EDGE,)
    assert trace.dag == DAG
    assert scenario_of_trace(trace).nodes[0].name == EDGE
    again = vdag(
        "simulate", str(path), "--trace", "--policy", "static", "--duration", "5", "--json"
    )
    windows = json.loads(again.stdout)[0]["queries"][0]["windows"]
    assert windows[-1]["delay_p95"] == pytest.approx(0.021, rel=0.1)


def test_quotas_of_nodes_are_recorded_where_the_service_tells_them(cloud: str, tmp_path: Path):
    path = tmp_path / "trace.json"
    done = vdag("record", "GLOBAL_ID_1", "--cloud", cloud, "--service", cloud, "--out", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    trace = read_trace(path)
    address = EDGE.partition(":")[0]
    assert trace.states[0].quotas == {address: TraceQuota(0.5, 0.1, 2, 7.0, 1.5, {"7": 1.0})}
    assert scenario_of_trace(trace).nodes[0].cpu_period_s == 0.1


def test_a_query_that_is_not_there_is_not_recorded(cloud: str, tmp_path: Path):
    done = vdag("record", "GLOBAL_ID_2", "--cloud", cloud, "--out", str(tmp_path / "t.json"))
    assert done.returncode == 2
    assert done.stderr == "vdag: query 'GLOBAL_ID_2' is not among the newest 1000\n"
