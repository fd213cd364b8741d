"""Nodes of other makes after a restart of the cloud: they say only once who they are."""

from __future__ import annotations

from channel_kit import ADDR, TIMEOUT_S, HandNode, Posted, quick, request, until

from vdag.control.controller import Controller
from vdag.control.controller.foreigners import Foreigners
from vdag.control.desk import NodeJoining
from vdag.control.records import ForeignNode
from vdag.control.scheduling.events import DispatchFailed
from vdag.control.scheduling.instructions import StartJob

OLD, NEWER = "10.0.0.9:5001", "[fd00::9]:5001"


def join(controller: Controller, node_addr: str, video_id: int = 0) -> None:
    ip, dialect = ("10.0.0.9", "push") if node_addr == OLD else ("fd00::9", "pull")
    joining = NodeJoining(ip, 5001, video_id, "people", dialect)
    assert controller.join(joining).result(TIMEOUT_S) == node_addr


def submit(controller: Controller, node_addr: str) -> str:
    query_id = controller.submit(request(node_addr=node_addr)).result(TIMEOUT_S)
    until(lambda: controller.query(query_id).plan)
    return query_id


def given(controller: Controller, node_addr: str) -> list[str]:
    jobs = controller.jobs_for(node_addr, {}).result(TIMEOUT_S)
    return [view.query_id for view in jobs.new]


def test_a_node_that_is_pushed_to_is_known_after_a_restart_and_its_jobs_go_on(store):
    with Controller(store, quick(), dispatch=Posted()) as controller:
        for video_id in (0, 3):
            join(controller, OLD, video_id)
        query_id = submit(controller, OLD)
    posted = Posted()
    with Controller(store, quick(), dispatch=posted) as controller:
        (known,) = controller.nodes()
        assert (known.node_addr, known.dialect, known.is_alive) == (OLD, "push", True)
        assert {number: video.type for number, video in known.videos.items()} == {
            0: "people",
            3: "people",
        }
        assert until(lambda: posted.orders)[0].query_id == query_id
        until(lambda: not controller.query(query_id).suspended)
        other = submit(controller, OLD)
        until(lambda: [o for o in posted.orders if type(o) is StartJob and o.query_id == other])


def test_whether_it_is_still_there_an_order_shows(store):
    with Controller(store, quick(), dispatch=Posted()) as controller:
        join(controller, OLD)
        query_id = submit(controller, OLD)
    with Controller(store, quick(), dispatch=Posted()) as controller:
        controller.tell(DispatchFailed(0, OLD, "connection refused"))
        until(lambda: not controller.nodes()[0].is_alive)
        assert controller.query(query_id).suspended
        controller.answers(OLD)
        until(lambda: controller.nodes()[0].is_alive)
        until(lambda: not controller.query(query_id).suspended)


def test_a_node_that_asks_is_given_no_job_twice_after_a_restart(store):
    with Controller(store, quick()) as controller:
        join(controller, NEWER)
        first = submit(controller, NEWER)
        assert given(controller, NEWER) == [first]
        second = submit(controller, NEWER)
    with Controller(store, quick()) as controller:
        (known,) = controller.nodes()
        assert (known.node_addr, known.is_alive) == (NEWER, False)
        assert given(controller, NEWER) == [second]
        until(lambda: controller.nodes()[0].is_alive)
        assert given(controller, NEWER) == []
        planned = controller.jobs_for(NEWER, {}).result(TIMEOUT_S).planned
        assert [view.query_id for view in planned] == [first, second]


def test_a_node_that_registers_again_was_started_anew_and_is_given_its_jobs_again(store):
    with Controller(store, quick()) as controller:
        join(controller, NEWER)
        query_id = submit(controller, NEWER)
        assert given(controller, NEWER) == [query_id]
        join(controller, NEWER, 1)  # its second video: that is no news of the first
        assert given(controller, NEWER) == []
        join(controller, NEWER)
    with Controller(store, quick()) as controller:
        assert given(controller, NEWER) == [query_id]


def test_a_node_that_speaks_the_plan_channel_now_is_recorded_no_more(store):
    with Controller(store, quick()) as controller, HandNode(controller.channel) as node:
        ip, _, port = ADDR.rpartition(":")
        controller.join(NodeJoining(ip, int(port), 0, "people")).result(TIMEOUT_S)
        assert [each.node_addr for each in store.foreigners.all()] == [ADDR]
        node.join()
        until(lambda: controller.nodes()[0].dialect == "channel")
        until(lambda: not store.foreigners.all())
    with Controller(store, quick()) as controller:
        assert controller.nodes() == []


def test_records_that_make_no_sense_are_passed_over(caplog):
    records = [
        ForeignNode("nowhere", "push"),
        ForeignNode("10.0.0.8:5001", "morse"),
        ForeignNode(OLD, "push", {7: "people"}),
    ]
    (node,) = Foreigners().restore(records)
    assert (node.node_addr, node.videos.keys()) == (OLD, {7})
    assert [record.getMessage() for record in caplog.records] == [
        "node nowhere is forgotten: node_addr 'nowhere' is not IP:PORT",
        "node 10.0.0.8:5001 is forgotten: dialect 'morse' is not push or pull",
    ]
