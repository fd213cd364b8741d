"""The role `collector` of a node: alone, and beside its own records."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from node_kit import MAIN, ROOT, TIMEOUT_S, Caller, Running

pytestmark = pytest.mark.slow  # as a whole

NODE = {
    "node_id": 4,
    "node_name": "here",
    "node_type": "server",
    "node_addr": "127.0.0.1",
    "node_port": 9000,
}


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    folder = tmp_path / "nodes"
    folder.mkdir()
    (folder / "node-4.json").write_text(json.dumps(NODE))
    return folder


def settings(nodes: Path, *roles: str) -> list[str]:
    values = {
        "node.roles": json.dumps(list(roles)),
        "node.state": str(nodes.parent / "state"),
        "collector.nodes": str(nodes),
        "collector.port": "0",
        "cloud.port": "0",
        "cloud.live_port": "0",
        "cloud.channel": "tcp://127.0.0.1:0",
    }
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.parametrize("roles", [("collector",), ("cloud", "collector")])
def test_a_report_is_recorded_by_a_node(nodes, roles):
    (nodes.parent / "state").mkdir(mode=0o700)
    node = Running(*settings(nodes, *roles), section="collector")
    caller = Caller(node.urls["collector"])
    packet = {"session_id": 3, "handler_id": 0, "sequence": 2, "event": "send"}
    report = {"packet_info": [{"timestamp": time.time(), **packet}]}
    assert caller.post("/", report).json() == {"result": "Succeeded"}
    assert caller.get("/healthz").json()["rows"]["rows"] == 1
    told = caller.get("/metrics").body.decode().splitlines()
    assert 'vdag_collector_reports_total{outcome="succeeded"} 1.0' in told
    caller.close()
    if "cloud" in roles:
        caller = Caller(node.urls["cloud"])
        told = caller.get("/metrics").body.decode().splitlines()
        assert {"vdag_chronicle_frames_total 0.0", "vdag_records_waiting 0.0"} <= set(told)
        caller.close()
    assert node.stop() == 0
    with closing(sqlite3.connect(nodes.parent / "state" / "records.db")) as database:
        packets = database.execute("SELECT event, node_ID FROM packet_info").fetchall()
        assert packets == [("sent", 4)]
        assert database.execute("SELECT node_name FROM node").fetchall() == [("here",)]


def test_a_folder_that_is_none_is_an_error_in_one_line(tmp_path):
    command = [sys.executable, "-c", MAIN, *settings(tmp_path / "nowhere", "collector")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == 2
    assert ended.stderr == f"vdag-node: collector.nodes {tmp_path / 'nowhere'} is no folder\n"
