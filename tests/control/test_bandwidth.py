"""What nodes say of their links, as it reaches the policies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from channel_kit import (
    ADDR,
    LOOPBACK,
    TASK,
    TIMEOUT_S,
    HandNode,
    NodeEnd,
    NotedJobs,
    cloud,
    request,
    until,
)

from vdag.control import wire
from vdag.control.controller import Controller
from vdag.control.controller.foreigners import links_of
from vdag.control.controller.membership import Membership
from vdag.control.desk import NodeJoining
from vdag.control.scheduling.events import JobInfo, QueryState
from vdag.control.scheduling.settings import SchedulerSettings
from vdag.transport.rpc import Replier

SERVER = "10.0.0.99:5500"
#: A plan whose rate tells the MB/s of the fastest link from the query's own node.
POLICY = """
def by_link(job_uid, dag, resource_info, runtime_info, user_constraint, bandwidth, nodes):
    rate = max(bandwidth.get(nodes[0].node_addr, {}).values(), default=29e6)
    conf = {"resolution": "360p", "fps": int(rate / 1e6), "encoder": "JPEG"}
    return conf, {task: {"node_addr": nodes[0].node_addr} for task in dag["flow"]}
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "by_link.py"
    path.write_text(POLICY)
    return f"{path}:by_link"


@pytest.fixture
def controller(tmp_path: Path, policy: str) -> Iterator[Controller]:
    # Nodes are there as long as a test takes, whatever else the machine does.
    patient = SchedulerSettings(period_s=0.2, node_timeout_s=300.0, pull_timeout_s=300.0)
    with cloud(tmp_path, policies=[policy], scheduler=patient) as controller:
        yield controller
        assert controller.stats().faults == 0


@pytest.fixture
def server(controller: Controller) -> Iterator[HandNode]:
    with HandNode(controller.channel, SERVER) as server:
        server.join(role="cloud", port=5500)
        yield server


def fps_of(controller: Controller, node_addr: str, policy: str) -> float:
    """Return the rate of the first plan of a query about a node's video."""
    asked = request(node_addr, policy=policy)
    query_id = controller.submit(asked).result(TIMEOUT_S)
    plan = until(lambda: controller.query(query_id).plan)
    return float(plan["video_conf"]["fps"])


def test_a_node_reports_its_links_with_everything_else(controller, policy):
    links = {SERVER: 7e6}
    with NodeEnd(controller.channel, bandwidth=lambda: links) as node:
        until(lambda: node.agent.stats().reports)
        assert fps_of(controller, ADDR, policy) == 7.0
        links[SERVER] = 3e6
        reports = node.agent.stats().reports
        until(lambda: node.agent.stats().reports >= reports + 2)
        assert fps_of(controller, ADDR, policy) == 3.0


def test_a_report_says_of_which_plan_a_runtime_is_and_how_fast_the_links_are():
    """Frames of the plan before come home while the next one is in force already."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    jobs = NotedJobs()
    for uid in ("job-1", "job-2"):
        jobs.jobs[uid] = JobInfo(uid, 7, QueryState.RUNNING)
    jobs.measured = {"job-1": {"delay": 0.5, "plan_number": 6}, "job-2": {"delay": 0.5}}
    with (
        Replier(LOOPBACK, context=context) as replier,
        NodeEnd(replier.bound, jobs=jobs, bandwidth=lambda: {SERVER: 7e6}),
    ):
        while True:
            assert replier.socket.poll(int(TIMEOUT_S * 1000))
            question = replier.receive()
            assert question is not None
            message = wire.decode(question.body)
            if isinstance(message, wire.Report):
                break
            if isinstance(message, wire.Join):
                joined = wire.Joined("c" * 16, 0.5, 0.2, wire.View(1, [ADDR]))
                replier.reply(question, wire.encode(joined))
    context.term()
    assert {each.job_uid: each.plan for each in message.runtimes} == {"job-1": 6, "job-2": 7}
    assert message.bandwidth == {SERVER: 7e6}


def test_a_node_that_asks_for_its_work_says_how_fast_its_way_to_the_cloud_is(
    controller, server, policy
):
    node_addr = controller.join(NodeJoining("10.0.0.9", 5001, 0, "gate", "pull")).result(TIMEOUT_S)
    controller.jobs_for(node_addr, {"bps": 88e6, "kB/s": 11e3}).result(TIMEOUT_S)
    assert fps_of(controller, node_addr, policy) == 11.0
    query_id = controller.submit(request(node_addr, policy=policy)).result(TIMEOUT_S)
    controller.report(query_id, [], runtime={"delay": 0.1, "bandwidth": {"kB/s": 5000.0}})
    assert fps_of(controller, node_addr, policy) == 5.0


@pytest.mark.parametrize(
    ("bandwidth", "rate"),
    [
        ({"bps": 8e7}, 1e7),
        ({"kbps": 8e4}, 1e7),
        ({"Mbps": 80}, 1e7),
        ({"kB/s": 1e4}, 1e7),
        ({"MB/s": 10.0}, 1e7),
        ({"bps": 0.0, "MB/s": 10.0}, 1e7),
        ({"bps": "fast", "kbps": -1.0, "Mbps": 80}, 1e7),
        ({}, None),
        ({"bps": 0.0}, None),
        ({"bps": float("nan")}, None),
        ({"MB/s": float("inf")}, None),
        ({"furlongs": 3.0}, None),
        (1e6, None),
        (None, None),
    ],
)
def test_a_bandwidth_in_any_of_the_units_is_bytes_per_second_to_the_servers(bandwidth, rate):
    members = Membership()
    for number, role in enumerate(["cloud", "edge", "cloud"]):
        addr = f"10.0.0.{number}:5500"
        members.join(wire.Join(addr, "0" * 16, "n", role, services={TASK: wire.Offer()}), "", 0)
    members.lose(members.get("10.0.0.2:5500"))
    expected = None if rate is None else {"10.0.0.0:5500": pytest.approx(rate)}
    assert links_of(bandwidth, members) == expected
