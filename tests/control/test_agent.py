"""A node's end of the plan channel, with a real controller: queries, orders, the view, keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import zmq
from channel_kit import (
    ADDR,
    LOOPBACK,
    TASK,
    TIMEOUT_S,
    NodeEnd,
    NotedJobs,
    quick,
    submit,
    totals,
    until,
    view,
)

from vdag.control import agent as agent_module
from vdag.control import wire
from vdag.control.agent import Agent, Profile
from vdag.control.agent.notebook import Notebook
from vdag.control.cluster import execute_urls
from vdag.control.controller import Controller
from vdag.control.jobs import Jobs
from vdag.control.scheduling.events import JobInfo, QueryState
from vdag.errors import ConfigError
from vdag.plan import Constraint
from vdag.transport.keys import KeyFolder
from vdag.transport.rpc import Replier

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("impatient")]


@pytest.fixture
def node(controller: Controller) -> Iterator[NodeEnd]:
    with NodeEnd(controller.channel) as node:
        until(controller.nodes)
        yield node


# A query


def test_a_query_runs_from_its_submission_to_its_results_and_its_end(controller, node, store):
    query_id = submit(controller)
    assert node.jobs.next("submit")[1:] == (query_id, (TASK,), {"delay": 0.3})
    _, uid, plan, routes, _ = node.jobs.next("plan")
    assert (uid, plan.number, routes) == (query_id, 1, {})
    until(lambda: controller.query(query_id).state == QueryState.RUNNING)
    node.jobs.measured[query_id] = {"delay": 0.25, "obj_n": 3}
    node.report(query_id, 1, 2, 3)
    node.jobs.jobs[query_id] = replace(node.jobs.jobs[query_id], drops={"deadline": 2})
    until(lambda: totals(store, query_id) == [1, 2, 3])
    until(lambda: controller.query(query_id).runtime == {"delay": 0.25, "obj_n": 3})
    until(lambda: store.dropped(query_id) == {"deadline": 2})
    until(lambda: node.agent.stats().results == 3)
    controller.stop(query_id).result(TIMEOUT_S)
    assert node.jobs.next("stop") == ("stop", query_id, "stopped")
    stats = node.agent.stats()
    assert (stats.orders, stats.failures, stats.spool.results) == (2, 0, 0)


def test_a_changed_constraint_reaches_the_job_with_the_plan_it_has(controller, node):
    query_id = submit(controller)
    number = node.jobs.next("plan")[2].number
    constraint = Constraint.from_document({"delay": 9.0})
    assert controller.change_constraint(query_id, constraint).result(TIMEOUT_S)
    # In an order of its own, or with that to start the job, if its receipt is still to come.
    while node.jobs.calls.get(timeout=TIMEOUT_S)[-1] != {"delay": 9.0}:
        pass
    assert node.jobs.next("plan")[2].number == number
    conf = {"resolution": "360p", "fps": 1, "encoder": "JPEG"}
    mapping = {TASK: {"node_ip": "10.0.0.7", "node_role": "host"}}
    controller.prefer_plan(query_id, {"video_conf": conf, "flow_mapping": mapping})
    assert node.jobs.next("plan")[2].video_conf.resolution == "360p"


def test_a_job_that_cannot_be_started_has_failed_and_says_why(controller, node):
    node.jobs.error = ConfigError("video 0 cannot be opened")
    query_id = submit(controller)
    shown = until(lambda: (v := controller.query(query_id)).state == QueryState.FAILED and v)
    assert shown.reason == "video 0 cannot be opened"


def test_a_fault_of_the_jobs_is_that_jobs_and_nobody_elses(controller, node, caplog):
    node.jobs.error = ZeroDivisionError("by nothing")
    query_id = submit(controller)
    shown = until(lambda: (v := controller.query(query_id)).state == QueryState.FAILED and v)
    assert shown.reason == "ZeroDivisionError: by nothing"
    node.jobs.error = None
    submit(controller)
    node.jobs.next("plan")
    assert node.agent.fault == ""


def test_an_agent_that_failed_says_so(controller, monkeypatch, caplog):
    with NodeEnd(controller.channel) as node:
        until(lambda: node.agent.stats().is_joined)
        monkeypatch.setattr(node.jobs, "infos", lambda: 1 / 0)
        until(lambda: node.agent.fault)
        assert node.agent.fault == "agent failed: ZeroDivisionError('division by zero')"


def test_a_job_is_over_for_users_when_all_it_found_is_recorded(
    controller, node, store, monkeypatch
):
    monkeypatch.setattr(agent_module, "BATCH_NBYTES", 1)  # a result in each report
    query_id = submit(controller)
    node.jobs.next("plan")
    until(lambda: controller.query(query_id).state == QueryState.RUNNING)
    count = 20
    node.report(query_id, *range(1, count + 1))
    node.jobs.jobs[query_id] = JobInfo(query_id, 1, QueryState.ENDED, reason="the video is over")
    node.notebook.report_state(query_id, int(QueryState.ENDED), "the video is over")
    until(lambda: controller.query(query_id).state == QueryState.ENDED)
    assert totals(store, query_id) == list(range(1, count + 1))
    assert controller.query(query_id).reason == "the video is over"


def test_a_job_that_fails_later_says_why(controller, node):
    query_id = submit(controller)
    node.jobs.next("plan")
    until(lambda: controller.query(query_id).state == QueryState.RUNNING)
    reason = "the camera is gone"
    node.jobs.jobs[query_id] = JobInfo(query_id, 1, QueryState.FAILED, reason)
    node.notebook.report_state(query_id, QueryState.FAILED, reason)
    shown = until(lambda: (v := controller.query(query_id)).state == QueryState.FAILED and v)
    assert shown.reason == reason


# Odd controllers and nodes


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"VPLN\x01\x90",
        wire.encode(wire.Orders()),
        wire.encode(wire.Reported(9, True, 1, 1)),
        wire.encode(wire.Refused("not you")),
    ],
)
def test_nonsense_from_a_controller_is_answered_with_patience(answer: bytes):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with Replier(LOOPBACK, context=context) as replier, NodeEnd(replier.bound) as node:
        asked = []
        while len(asked) < 4:
            assert replier.socket.poll(int(TIMEOUT_S * 1000))
            question = replier.receive()
            assert question is not None
            asked.append(time.monotonic())
            assert isinstance(wire.decode(question.body), wire.Join)
            replier.reply(question, answer)
        assert asked[-1] - asked[0] > 3 * 0.05
        until(lambda: node.agent.stats().failures >= 4)
        assert not node.agent.stats().is_joined
    context.term()


def test_orders_that_come_twice_are_carried_out_once_and_in_order():
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    cloud_session = "c" * 16
    orders = [wire.StopJob(number, f"job-{number}", "x") for number in (1, 2, 3)]
    with Replier(LOOPBACK, context=context) as replier, NodeEnd(replier.bound) as node:
        receipts = []
        while len(receipts) < 6:
            assert replier.socket.poll(int(TIMEOUT_S * 1000))
            question = replier.receive()
            message = wire.decode(question.body)
            if isinstance(message, wire.Join):
                answer: wire.Message = wire.Joined(cloud_session, 0.5, 0.2, wire.View(1, [ADDR]))
            elif isinstance(message, wire.Report):
                answer = wire.Reported(message.number, True, 1, 1)
            else:
                receipts.append(message.last_order)
                answer = wire.Orders(orders[: len(receipts)])
            replier.reply(question, wire.encode(answer))
        assert receipts == [0, 1, 2, 3, 3, 3]
        calls = [node.jobs.calls.get(timeout=TIMEOUT_S)[1] for _ in range(3)]
        assert calls == ["job-1", "job-2", "job-3"]
        assert node.jobs.calls.empty()
    context.term()


def test_two_nodes_of_one_name_do_not_fight_without_pause(controller, node):
    with NodeEnd(controller.channel, run="f" * 16) as other:
        until(lambda: node.agent.stats().joins > 2 and other.agent.stats().joins > 2)
        before, start_s = node.agent.stats().joins, time.monotonic()
        until(lambda: node.agent.stats().joins >= before + 3)
        assert time.monotonic() - start_s > 3 * 0.2


# The view, clocks, keys


def test_nodes_know_of_each_other_and_of_those_that_are_gone(controller, node):
    with NodeEnd(controller.channel, node_addr="10.0.0.8:5001", run="f" * 16) as other:
        other.view = view("cloud", address="10.0.0.8")
        places = {"10.0.0.7:5500", "10.0.0.8:5500"}
        for each in (node, other):
            until(lambda c=each.agent.cluster: set(execute_urls(c.nodes(), TASK)) == places)
        assert node.agent.cluster.nodes()[0].place == "10.0.0.7:5500"
        other.view = view("cloud", "helmet_detection", address="10.0.0.8")
        until(lambda: set(execute_urls(node.agent.cluster.nodes(), "helmet_detection")))
    until(lambda: set(execute_urls(node.agent.cluster.nodes(), TASK)) == {"10.0.0.7:5500"})


def test_reports_measure_the_trip_and_the_clock(controller, node):
    stats = until(lambda: (s := node.agent.stats()).round_trip_ns and s)
    assert 0 < stats.round_trip_ns < TIMEOUT_S * 1e9
    assert stats.offset_ns == 0  # it is the same clock
    member = controller._members.get(ADDR)
    until(lambda: member.round_trip_ns)


def test_with_keys_only_trusted_nodes_take_part(store, tmp_path):
    folders = {name: KeyFolder(tmp_path / name) for name in ("cloud", "gate-3", "stranger")}
    public = {name: folder.new(name).public for name, folder in folders.items()}
    folders["cloud"].trust("gate-3", public["gate-3"])
    for name in ("gate-3", "stranger"):
        folders[name].trust("cloud", public["cloud"])
    with (
        Controller(store, quick(), keys=folders["cloud"]) as controller,
        NodeEnd(controller.channel, curve=folders["stranger"].to_connect("cloud")) as stranger,
        NodeEnd(
            controller.channel,
            node_addr="10.0.0.8:5001",
            curve=folders["gate-3"].to_connect("cloud"),
        ) as trusted,
    ):
        until(lambda: trusted.agent.stats().is_joined)
        until(lambda: controller.stats().refused_nodes)
        assert [node.node_addr for node in controller.nodes()] == ["10.0.0.8:5001"]
        assert not stranger.agent.stats().is_joined


def test_a_node_without_jobs_reports_and_refuses_orders(controller):
    notebook = Notebook("e" * 16)
    profile = Profile("10.0.0.9:5001", "server", videos={0: wire.Video("none")})
    with Agent(
        controller.channel,
        profile=profile,
        view=lambda: view("cloud", address="10.0.0.9"),
        notebook=notebook,
    ):
        until(lambda: any(each.node_addr == "10.0.0.9:5001" for each in controller.nodes()))
        query_id = submit(controller, node_addr="10.0.0.9:5001")
        shown = until(lambda: (v := controller.query(query_id)).state == QueryState.FAILED and v)
        assert shown.reason == "this node runs no jobs"
    notebook.close()


def test_results_that_nobody_reads_are_bounded():
    notebook = Notebook("e" * 16, limit_nbytes=100)
    for number in range(30):
        notebook.report_result("GLOBAL_ID_1", number, b"x" * 10)
    assert [each.seq for each in notebook.take_results()] == list(range(20, 30))
    assert (notebook.lost, notebook.take_results()) == (20, [])
    notebook.close()


def test_jobs_is_what_the_node_has():
    """The double of these tests has the methods of the real one."""
    assert {name for name in vars(Jobs) if not name.startswith("_")} <= set(dir(NotedJobs))
