"""The controller: what it answers nodes, how it carries plans out, the desk of its REST side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from channel_kit import (
    ADDR,
    LOOPBACK,
    SESSION,
    TASK,
    TIMEOUT_S,
    HandNode,
    Posted,
    quick,
    submit,
    totals,
    until,
)

from vdag.control import wire
from vdag.control.controller import Controller
from vdag.control.desk import Jobs, NodeJoining
from vdag.control.records import FrameResult, Store
from vdag.control.scheduling.events import DispatchFailed
from vdag.control.scheduling.instructions import StartJob
from vdag.errors import ConfigError, PlanError, Saturated, TransportError
from vdag.plan import Constraint
from vdag.transport.keys import KeyFolder

POLICIES = """
import os, time

def hangs(dag_flow, resource_info, user_constraint):
    time.sleep(3600)

def raises(dag_flow, resource_info, user_constraint):
    raise RuntimeError("no idea")

def dies(dag_flow, resource_info, user_constraint):
    os._exit(9)

def half(job_uid, dag, resource_info, runtime_info, user_constraint):
    conf = {"resolution": "360p", "fps": 5, "encoder": "H264"}
    (ip,) = resource_info["host"]
    return conf, {task: {"node_ip": ip, "node_role": "host", "model_id": 0} for task in dag["flow"]}
"""


@pytest.fixture
def policies(tmp_path: Path) -> str:
    path = tmp_path / "policies.py"
    path.write_text(POLICIES)
    return str(path)


@pytest.fixture
def controller(store: Store, policies: str, request) -> Iterator[Controller]:
    """A controller; its parameter is the silence after which nodes are away."""
    allowed = [f"{policies}:{name}" for name in ("hangs", "raises", "dies", "half")]
    silence_s = getattr(request, "param", 60.0)
    with Controller(store, quick(silence_s=silence_s, policies=allowed)) as controller:
        yield controller
        assert controller.stats().faults == 0


@pytest.fixture
def node(controller: Controller) -> Iterator[HandNode]:
    with HandNode(controller.channel) as node:
        yield node


# Joining


def test_a_node_that_joins_is_known_and_told_of_all_nodes(controller, node):
    joined = node.join(port=5500, state=b'{"device_state":{"cpu_ratio":[1.0]}}')
    assert (joined.report_s, joined.hold_s) == (0.1, 0.2)
    assert joined.view.alive == [ADDR]
    (known,) = until(controller.nodes)
    assert (known.node_addr, known.name, known.is_alive) == (ADDR, "gate-3", True)
    assert known.videos[0].type == "traffic"
    (member,) = controller.members()
    assert (member.place, member.device) == ("10.0.0.7:5500", {"cpu_ratio": [1.0]})
    with HandNode(controller.channel, "10.0.0.8:5001") as other:
        assert other.join().view.alive == [ADDR, "10.0.0.8:5001"]
    news = node.report(1)
    assert [card.node_addr for card in news.view.cards] == [ADDR, "10.0.0.8:5001"]


@pytest.mark.parametrize("message", ["report", "await"])
def test_who_has_not_joined_this_controller_has_to_join_first(controller, node, message):
    def ask() -> object:
        if message == "report":
            return node.report(1)
        return node.ask(wire.Await(ADDR, node.session, node.cloud, 0))

    refused = wire.Refused("the node has to join first", must_join=True)
    assert ask() == refused
    node.join()
    node.session, right = "f" * 16, node.session
    assert ask() == refused
    node.session, node.cloud, cloud = right, "f" * 16, node.cloud
    assert ask() == refused
    node.cloud = cloud
    assert isinstance(ask(), wire.Reported | wire.Orders)
    assert controller.stats().channel.refused == 3


def test_a_name_that_is_none_is_refused(node):
    node.node_addr = "gate-3"
    assert node.join() == wire.Refused("node_addr 'gate-3' is not IP:PORT")


@pytest.mark.parametrize("controller", [2.0], indirect=True)
def test_a_node_that_is_silent_is_away_and_others_are_told(controller, node):
    node.join()
    with HandNode(controller.channel, "10.0.0.8:5001") as other:
        other.join()
        number = 0

        def alive() -> list[str]:
            nonlocal number
            number += 1
            view = other.report(number, view=10_000).view  # a version of another controller's
            return view.alive

        until(lambda: alive() == ["10.0.0.8:5001"])
        expected = {ADDR: False, "10.0.0.8:5001": True}
        until(lambda: {each.node_addr: each.is_alive for each in controller.nodes()} == expected)
        assert node.report(1).must_join
        node.join()
        assert alive() == [ADDR, "10.0.0.8:5001"]


# Reports


def test_a_report_that_comes_twice_is_acted_on_once(controller, node, store):
    node.join()
    query_id = submit(controller)
    start = node.orders()[-1]
    work = [wire.Work(query_id, 2, start.plan.number)]
    results = [node.result(query_id, number) for number in (1, 2, 3)]
    for _ in range(3):
        answer = node.report(1, jobs=work, results=results)
        assert (answer.number, answer.is_stored) == (1, True)
    assert controller.stats().channel.reports == 1
    assert totals(store, query_id) == [1, 2, 3]
    assert store.stats().duplicates == 6
    assert node.report(2, results=[*results[1:], node.result(query_id, 4)]).is_stored
    assert totals(store, query_id) == [1, 2, 3, 4]


def test_drops_are_totals_so_that_telling_them_again_changes_nothing(controller, node, store):
    node.join()
    query_id = submit(controller)
    for number, count in ((1, 3), (2, 5), (3, 5)):
        drops = [wire.Drops(query_id, SESSION, "deadline", count)]
        assert node.report(number, drops=drops).is_stored
    assert store.dropped(query_id) == {"deadline": 5}


def test_what_makes_no_sense_in_a_report_is_left_out(controller, node, store):
    node.join()
    query_id = submit(controller)
    good = node.result(query_id, 2)
    bad = wire.Result(query_id, SESSION, 1, b"[]")
    stranger = node.result("GLOBAL_ID_99", 1)
    runtimes = [wire.Runtime(query_id, 1, b"{"), wire.Runtime(query_id, 1, b'{"delay":0.25}')]
    node.orders()
    assert node.report(1, results=[bad, stranger, good], runtimes=runtimes, state=b"[").is_stored
    assert totals(store, query_id) == [2]
    until(lambda: controller.query(query_id).runtime == {"delay": 0.25})
    stats = controller.stats()
    assert (stats.malformed, stats.channel.malformed) == (1, 2)


def test_results_that_cannot_be_recorded_now_are_not_acknowledged(tmp_path):
    with (
        Store(tmp_path / "records.db", limit=2) as store,
        Controller(store, quick()) as controller,
        HandNode(controller.channel) as node,
    ):
        node.join()
        query_id = submit(controller)
        results = [node.result(query_id, number) for number in range(5)]
        assert not node.report(1, results=results).is_stored
        assert until(lambda: node.report(1, results=results[:1]).is_stored)
        assert totals(store, query_id) == [0]


@pytest.mark.parametrize("body", [b"", b"hello", b"VPLN\x01\x90", b"VPLN\x09\x90", bytes(100_000)])
def test_garbage_is_counted_and_answered_with_the_reason(controller, node, body):
    answer = node.ask(body)
    assert isinstance(answer, wire.Refused)
    assert not answer.must_join
    assert controller.stats().channel.malformed == 1
    assert isinstance(node.join(), wire.Joined)


def test_an_answer_is_no_question(controller, node):
    assert node.ask(wire.Orders()) == wire.Refused("Orders is not for a controller")


# Plans


def test_a_query_becomes_an_order_that_is_repeated_until_its_receipt(controller, node):
    node.join()
    query_id = submit(controller)
    (start,) = node.orders()
    assert (start.number, start.job_uid, start.plan.number) == (1, query_id, 1)
    assert wire.read_document(start.dag)["flow"] == [TASK]
    assert wire.read_document(start.constraint) == {"delay": 0.3}
    assert node.orders() == [start]
    view = controller.query(query_id)
    assert (view.state, view.plan["number"], view.policy) == (1, 1, "golden")
    node.line.ask(
        wire.encode(wire.Await(ADDR, SESSION, node.cloud, 1)), now_ns=1, timeout_s=TIMEOUT_S
    )
    assert controller.stop(query_id).result(TIMEOUT_S)
    assert node.answer().orders == [wire.StopJob(2, query_id, "stopped")]
    assert until(lambda: controller.query(query_id).state == 3)


def test_a_question_for_orders_is_held_back_and_then_answered_with_none(store):
    with Controller(store, quick(hold_s=0.05)) as controller, HandNode(controller.channel) as node:
        node.join()
        assert node.ask(wire.Await(ADDR, SESSION, node.cloud, 0)) == wire.Orders()


def test_tasks_go_to_the_node_that_offers_them_and_the_order_says_how_to_reach_it(controller, node):
    landing = "tcp://10.0.0.8:5020"
    with HandNode(controller.channel, "10.0.0.8:5001") as server:
        server.join(role="cloud", landing=landing)
        node.join(services={}, landing="tcp://10.0.0.7:5020")
        submit(controller)
        (start,) = node.orders()
        assert start.plan.flow_mapping[TASK].node_addr == "10.0.0.8:5001"
        assert (start.routes, start.names) == ({TASK: landing}, {landing: "gate-3"})


def test_a_job_that_its_node_cannot_run_has_failed(controller, node, store):
    node.join()
    query_id = submit(controller)
    node.orders()
    node.report(1, jobs=[wire.Work(query_id, 4, 0, "no such video")])
    view = until(lambda: (v := controller.query(query_id)).state == 4 and v)
    assert view.reason == "no such video"
    assert store.query(query_id).reason == "no such video"


def test_policies_that_hang_raise_or_die_stop_no_other_query(controller, node, policies, store):
    node.join()
    bad = [submit(controller, policy=f"{policies}:{name}") for name in ("hangs", "raises", "dies")]
    good = submit(controller, policy=f"{policies}:half")
    order = until(lambda: [o for o in node.orders() if o.job_uid == good])[0]
    assert order.plan.video_conf.resolution == "360p"
    for query_id, fault in zip(bad, ("no answer", "no idea", "exit status 9"), strict=True):
        until(lambda q=query_id, text=fault: node.orders() and text in store.query(q).fault)
    assert [controller.query(query_id).state for query_id in bad] == [0, 0, 0]


# The desk


def test_a_query_that_can_never_run_is_refused(controller, node):
    with pytest.raises(PlanError, match=r"^node 10\.0\.0\.7:5001 has not joined$"):
        submit(controller)
    node.join()
    with pytest.raises(PlanError, match=r"^node 10\.0\.0\.7:5001 has no video 7$"):
        submit(controller, video_id=7)
    error = "policy 'os:_exit' is unknown, expected one of golden"
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}"):
        submit(controller, policy="os:_exit")


def test_a_constraint_is_changed_shown_and_recorded(controller, node, store):
    node.join()
    query_id = submit(controller)
    constraint = Constraint.from_document({"delay": 1.5, "accuracy": 0.8})
    assert controller.change_constraint(query_id, constraint).result(TIMEOUT_S)
    document = {"delay": 1.5, "accuracy": 0.8}
    assert controller.query(query_id).constraint == document
    assert store.query(query_id).asked.constraint == document
    assert not controller.change_constraint("GLOBAL_ID_9", constraint).result(TIMEOUT_S)


def test_a_plan_from_outside_is_followed_if_it_fits(controller, node):
    node.join()
    query_id = submit(controller)
    (start,) = node.orders()
    mapping = {TASK: {"node_ip": "10.0.0.7", "node_role": "host", "model_id": 0}}
    conf = {"resolution": "360p", "fps": 1, "encoder": "H264"}
    documents = {"video_conf": conf, "flow_mapping": mapping}
    assert controller.prefer_plan(query_id, documents).result(TIMEOUT_S)
    order = until(lambda: [o for o in node.orders(start.number) if o.plan != start.plan])[0]
    assert (order.plan.video_conf.resolution, order.plan.video_conf.fps) == ("360p", 1)
    nowhere = {"video_conf": {"fps": -1}, "flow_mapping": mapping}
    with pytest.raises(PlanError, match=r"^fps"):
        controller.prefer_plan(query_id, nowhere).result(TIMEOUT_S)
    assert not controller.prefer_plan("GLOBAL_ID_9", documents).result(TIMEOUT_S)


def test_a_query_is_deleted_with_all_that_was_recorded(controller, node, store):
    node.join()
    query_id = submit(controller)
    node.report(1, results=[node.result(query_id, 1)])
    assert controller.delete(query_id).result(TIMEOUT_S)
    assert (controller.query(query_id), store.query(query_id)) == (None, None)
    assert node.report(2, results=[node.result(query_id, 2)]).is_stored
    assert totals(store, query_id) == []
    assert not controller.delete(query_id).result(TIMEOUT_S)
    assert not controller.stop(query_id).result(TIMEOUT_S)


def test_a_node_of_another_make_asks_for_its_work_and_posts_what_it_finds(controller, store):
    joining = NodeJoining("10.0.0.9", 5001, 0, "people", "pull")
    assert controller.join(joining).result(TIMEOUT_S) == "10.0.0.9:5001"
    query_id = submit(controller, node_addr="10.0.0.9:5001")
    until(lambda: controller.query(query_id).plan)
    jobs = controller.jobs_for("10.0.0.9:5001", {}).result(TIMEOUT_S)
    assert [view.query_id for view in jobs.new] == [query_id]
    again = controller.jobs_for("10.0.0.9:5001", {}).result(TIMEOUT_S)
    assert ([*again.new], [view.query_id for view in again.planned]) == ([], [query_id])
    assert controller.jobs_for("10.0.0.1:1", {}).result(TIMEOUT_S) == Jobs()
    frame = FrameResult(1, 1.0, b'{"count_result":{"total":4}}')
    controller.report(query_id, [frame], runtime={"delay": 0.5})
    view = until(lambda: (v := controller.query(query_id)).runtime and v)
    assert (view.state, view.runtime) == (2, {"delay": 0.5})
    assert totals(store, query_id) == [4]
    (known,) = controller.nodes()
    assert (known.dialect, known.job_uids) == ("pull", [query_id])
    controller.stop(query_id).result(TIMEOUT_S)
    (known,) = controller.nodes()
    assert list(known.job_uids) == []  # it is shown, but no job any more


def test_a_node_that_is_pushed_to_is_posted_its_jobs_until_it_is_lost(store):
    posted = Posted()
    with Controller(store, quick(), dispatch=posted) as controller:
        controller.join(NodeJoining("10.0.0.9", 5001, 0, "people")).result(TIMEOUT_S)
        query_id = submit(controller, node_addr="10.0.0.9:5001")
        start = until(lambda: posted.orders and posted.orders[0])
        assert (type(start), start.query_id) == (StartJob, query_id)
        controller.tell(DispatchFailed(0, "10.0.0.9:5001", "connection refused"))
        until(lambda: controller.query(query_id).suspended)
        until(lambda: [node.is_alive for node in controller.nodes()] == [False])


def test_too_many_wishes_are_refused(controller, monkeypatch):
    monkeypatch.setattr(controller._inbox, "_limit", 0)
    with pytest.raises(Saturated, match=r"^0 requests wait for the controller$"):
        controller.stop("GLOBAL_ID_1").result(TIMEOUT_S)
    with pytest.raises(Saturated, match=r"^0 requests wait for the controller$"):
        controller.report_runtime("GLOBAL_ID_1", {})


# Start


def test_an_address_that_is_taken_or_open_to_all_is_an_error(controller, store, tmp_path):
    with pytest.raises(TransportError, match=r"cannot be bound: address already in use$"):
        Controller(store, quick(controller.channel))
    with pytest.raises(ConfigError, match=r"is beyond loopback and there are no keys"):
        Controller(store, quick("tcp://0.0.0.0:0"))
    with pytest.raises(ConfigError, match=r"has no keys: make some with"):
        Controller(store, quick(), keys=KeyFolder(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"^policy 'x:y' is unknown"):
        Controller(store, quick(LOOPBACK, policy="x:y"))
