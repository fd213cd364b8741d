"""Links whose rates change, as policies hear of them: from the nodes' probes to the next plan."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from system_kit import System

CHAIN = ["first", "second"]
#: Plans of 2 frames a second where the way to the server is thin, of 3 where it is wide.
POLICY = """
def by_link(job_uid, dag, resource_info, runtime_info, user_constraint, bandwidth, nodes):
    host = nodes[0]
    server = next((node for node in nodes if node.role == "cloud"), host)
    rate = bandwidth.get(host.node_addr, {}).get(server.node_addr)
    fps = 1 if rate is None else 2 if rate < 20 * 125_000 else 3
    return (
        {"resolution": "native", "fps": fps, "encoder": "JPEG"},
        {task: {"node_addr": host.node_addr} for task in dag["flow"]},
    )
"""


@pytest.fixture
def nothing_is_left() -> None:
    """The nodes are everybody's; what must not be left is looked for by `system`."""


@pytest.fixture
def system(make_hosts, tasks, clips: Path, tmp_path: Path) -> Iterator[System]:
    if shutil.which("tc") is None:
        pytest.skip("tc is not installed")
    path = tmp_path / "by_link.py"
    path.write_text(POLICY)
    hosts = make_hosts(2)
    hosts.thin(1, "100mbit")
    with System(
        hosts,
        tmp_path,
        modules=tasks,
        tasks={"cloud": CHAIN, "edge": CHAIN},
        videos={"edge": {"0": {"path": str(clips / "bikes.mp4"), "loop": True}}},
        cloud={"period_s": 0.5, "policies": [f"{path}:by_link"]},
        edge={"probe_s": 1.0},
    ) as system:
        system.policy = f"{path}:by_link"
        yield system
        system.end_well()


@pytest.mark.slow
def test_plans_follow_a_link_that_no_frame_is_sent_over(system: System):
    query = system.submit("edge", 0, CHAIN, policy=system.policy)
    for fps in (3, 2, 3):
        found = system.wait_newest(
            query, lambda f, fps=fps: f["ext_plan"]["video_conf"]["fps"] == fps
        )
        assert found["ext_runtime"]["data_trans_size"] == {}
        hosts = system.nodes["edge"].hosts
        hosts.thin(1, "10mbit" if fps == 3 else "100mbit")
    system.cloud.post("/query/stop", {"query_id": query})
    system.wait_state(query, "ended")
