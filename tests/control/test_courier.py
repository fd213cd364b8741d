"""What nodes have for the records, with a real controller: sessions, packets, and when."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from channel_kit import ADDR, SESSION, TASK, TIMEOUT_S, HandNode, NotedJobs, until
from courier_kit import EVENTS, WHOLE_S, packets, submit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from wire_kit import FRAMES, LOOK

from vdag.control import wire
from vdag.control.agent.courier import Glimpse
from vdag.control.controller.chronicle import Chronicle
from vdag.control.controller.membership import Membership
from vdag.control.records import Handler, NewSession, Store
from vdag.control.records.names import FIRST_NUMBER, Cast
from vdag.control.scheduling.events import QueryState

pytestmark = pytest.mark.slow  # as a whole

OTHER = "10.0.0.8:5001"
LANDING = "tcp://10.0.0.8:5020"
FAR_EVENTS = ["start", "end", "sent", "recv", "start", "end", "sent", "recv", "start", "end"]


class RoutedJobs(NotedJobs):
    """Jobs that say where their tasks are."""

    def update_plan(self, job_uid, plan, routes, names) -> None:
        super().update_plan(job_uid, plan, routes, names)
        self.jobs[job_uid] = replace(self.jobs[job_uid], routes=dict(routes))


class FarJobs(RoutedJobs):
    """Jobs that have their task done elsewhere, whatever the plan says."""

    def update_plan(self, job_uid, plan, routes, names) -> None:
        super().update_plan(job_uid, plan, {TASK: LANDING}, names)


def rows(store: Store, statement: str) -> list[tuple[Any, ...]]:
    store.log.sessions()  # all that was said before is there then
    with store._engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


# A session


def test_a_query_has_a_session_from_its_first_moment_to_its_end(controller, start_node, store):
    node = start_node()
    query_id = submit(controller, node)
    until(lambda: controller.query(query_id).state == QueryState.RUNNING)
    (session,) = until(lambda: [s for s in store.log.sessions() if s.state == "running"])
    assert (session.name, session.service, session.query_id) == (query_id, TASK, 1)
    assert session.algorithm == "golden"
    handlers = [(each.handler_id, each.name) for each in store.log.handlers(1)]
    assert handlers == [(0, "video 0"), (1, TASK), (2, "sink")]
    (known,) = store.log.nodes()
    assert (known.node_id, known.name, known.kind) == (FIRST_NUMBER, "gate-3", "edge")
    assert (known.addr, known.port) == ("10.0.0.7", 5001)
    placed = until(lambda: store.log.placements(1))
    assert {(each.handler_id, each.node_id, each.cause) for each in placed} == {
        (handler, FIRST_NUMBER, "plan 1: submitted") for handler in (0, 1, 2)
    }
    controller.stop(query_id).result(TIMEOUT_S)
    (session,) = until(lambda: [s for s in store.log.sessions() if s.state == "stopped"])
    assert session.started_s <= session.stopped_s
    until(lambda: all(each.until_s is not None for each in store.log.placements(1)))


def test_a_job_of_a_moment_leaves_rows_of_every_frame(controller, start_node, store):
    node = start_node()
    query_id = submit(controller, node)
    node.deliver(query_id, 12)
    found = until(lambda: len(all_ := packets(store)) == 12 and all_)
    assert {tuple(row.event for row in each) for each in found.values()} == {tuple(EVENTS)}
    assert {row.node_id for each in found.values() for row in each} == {FIRST_NUMBER}
    until(lambda: node.courier.stats().frames == 12)
    stats = node.courier.stats()
    assert (stats.lost, stats.spool.results, stats.failures) == (0, 0, 0)
    assert store.log.stats().duplicates == 0


def test_frames_name_the_node_that_did_the_task(controller, start_node, store):
    node, _ = start_node(), start_node(node_addr=OTHER, name="gate-4", run="f" * 16)
    query_id = submit(controller, node)
    node.deliver(query_id, 3, {TASK: LANDING})
    found = until(lambda: len(all_ := packets(store)) == 3 and all_)
    nodes = {each.addr: each.node_id for each in store.log.nodes()}
    assert set(nodes) == {"10.0.0.7", "10.0.0.8"}
    home, there = nodes["10.0.0.7"], nodes["10.0.0.8"]
    for each in found.values():
        assert [row.event for row in each] == FAR_EVENTS
        assert [row.node_id for row in each] == [home] * 3 + [there] * 4 + [home] * 3
        assert [row.size for row in each if row.size] == [40_000, 40_000]
        times = [row.timestamp for row in each]
        assert times == sorted(times)
        assert abs(times[-1] - times[0] - WHOLE_S) < 1e-5


def test_a_plan_moves_handlers_when_the_job_follows_it(controller, start_node, store):
    node = start_node(jobs=RoutedJobs())
    start_node(node_addr=OTHER, name="gate-4", run="f" * 16)
    query_id = submit(controller, node)
    until(lambda: store.log.placements(1))
    conf = {"resolution": "360p", "fps": 1, "encoder": "JPEG"}
    mapping = {TASK: {"node_ip": "10.0.0.8", "node_role": "edge"}}
    controller.prefer_plan(query_id, {"video_conf": conf, "flow_mapping": mapping})
    moved = until(lambda: len(all_ := store.log.placements(1)) == 4 and all_)
    by_name = {each.node_id: each.name for each in store.log.nodes()}
    assert [(p.handler_id, by_name[p.node_id]) for p in moved if p.until_s is None] == [
        (0, "gate-3"), (2, "gate-3"), (1, "gate-4")
    ]  # fmt: skip
    (ended,) = [p for p in moved if p.until_s is not None]
    assert (ended.handler_id, by_name[ended.node_id]) == (1, "gate-3")


def test_a_query_that_is_deleted_keeps_what_its_frames_did(controller, start_node, store):
    node = start_node()
    query_id = submit(controller, node)
    node.deliver(query_id, 2)
    until(lambda: len(packets(store)) == 2)
    assert controller.delete(query_id).result(TIMEOUT_S)
    until(lambda: [s.state for s in store.log.sessions()] == ["deleted"])
    node.deliver(query_id, 2)  # they come too late
    until(lambda: node.courier.stats().frames == 4)
    assert len(packets(store)) == 2


def test_frames_of_an_adopted_query_are_those_of_that_session(controller, start_node, store):
    node = start_node()
    query_id = submit(controller, node)
    names = ("capture", "encode", TASK, "render")
    mine = NewSession("mine", "a service", [Handler(n, name) for n, name in enumerate(names)])
    number = store.log.add_session(mine).result(TIMEOUT_S)
    store.journal.adopt(1, Cast(number, 0, {TASK: 2}, 3))
    node.deliver(query_id, 2)
    found = until(lambda: len(all_ := packets(store, number)) == 2 and all_)
    assert [row.handler_id for row in found[0]] == [0, 0, 2, 2, 3, 3]
    assert [session.session_id for session in store.log.sessions()] == [number]
    controller.stop(query_id).result(TIMEOUT_S)
    until(lambda: controller.query(query_id).state == QueryState.ENDED)
    assert [session.state for session in store.log.sessions()] == ["created"]


# Clocks


@pytest.mark.parametrize("shift_ns", [0, 3600 * 10**9, 10**15])
def test_times_are_the_controllers_whatever_the_nodes_clock_says(
    controller, start_node, store, shift_ns
):
    before_s = time.time()
    node = start_node(shift_ns=shift_ns)
    query_id = submit(controller, node)
    node.deliver(query_id, 5)
    found = until(lambda: len(all_ := packets(store)) == 5 and all_)
    slack_s = node.courier.stats().slack_ns / 1e9
    assert slack_s > 0
    for each in found.values():
        assert before_s - slack_s <= each[0].timestamp <= time.time() + slack_s


def test_a_controllers_clock_that_is_set_back_is_followed(controller, start_node, store):
    node = start_node()
    query_id = submit(controller, node)
    node.deliver(query_id, 1)
    until(lambda: len(packets(store)) == 1)
    chronicle = controller._recorder.chronicle
    chronicle.clock = lambda: time.time_ns() - 3600 * 10**9
    until(lambda: node.courier.stats().resets == 1)
    node.deliver(query_id, 1)
    found = until(lambda: len(all_ := packets(store)) == 2 and all_)
    assert abs(found[1][0].timestamp - (time.time() - 3600)) < 60.0
    assert [row.event for row in found[1]] == EVENTS


# Nodes and their workers


def test_nodes_and_their_workers_are_sampled(controller, start_node, store):
    stamps = itertools.count(time.monotonic_ns(), 10**6)
    gpu = {"gpu_id": 0, "gpu_util": 50, "gpu_mem_util": 20, "gpu_clock": 1500, "gpu_power": 43}
    machine = {"timestamp": 0.0, "cpu_util": 5.5, "mem_total": 24152, "mem_util": 6.5,
               "gpu_info": [gpu]}  # fmt: skip

    def look() -> Glimpse:
        return Glimpse(next(stamps), machine, {TASK: (0.25, 0.0625), "unused": (0.5, 0.5)})

    node = start_node(look=look)
    query_id = submit(controller, node)
    until(lambda: controller.query(query_id).state == QueryState.RUNNING)
    until(lambda: rows(store, "SELECT * FROM proc_info"))
    (sample, *_) = rows(
        store,
        "SELECT node_ID, cpu_util, mem_total, mem_util, gpu_util, gpu_mem_util, gpu_clock,"
        " gpu_power FROM sys_info",
    )
    assert sample == (FIRST_NUMBER, 5.5, 24152, 6.5, 50, 20, 1500, 43)
    found = rows(store, "SELECT session_ID, handler_ID, cpu_util, mem_util, node_ID FROM proc_info")
    assert set(found) == {(1, 1, 25.0, 6.25, FIRST_NUMBER)}
    assert rows(store, "SELECT gpu_ID, gpu_util FROM gpu_info")[0] == (0, 50)
    times = [stamp for (stamp,) in rows(store, "SELECT timestamp FROM sys_info")]
    assert all(abs(each - time.time()) < 60 for each in times)
    assert Counter(times).most_common(1)[0][1] == 1


def test_a_node_that_joins_after_a_job_has_gone_there_is_known_by_its_name(
    controller, start_node, store
):
    """As after a restart of the controller, which nodes come back to one after the other."""
    submit(controller, start_node(jobs=FarJobs()))
    until(lambda: store.log.placements(1))
    stamps = itertools.count(time.monotonic_ns(), 10**6)
    start_node(
        node_addr=OTHER, name="gate-4", run="f" * 16,
        look=lambda: Glimpse(next(stamps), {}, {TASK: (0.25, 0.0625)}),
    )  # fmt: skip

    def number() -> int:
        return next((each.node_id for each in store.log.nodes() if each.name == "gate-4"), -1)

    samples = until(lambda: rows(store, "SELECT handler_ID, node_ID FROM proc_info"))
    assert set(samples) == {(1, number())}
    until(
        lambda: (
            [
                placed.node_id
                for placed in store.log.placements(1)
                if placed.handler_id == 1 and placed.until_s is None
            ]
            == [number()]
        )
    )


# Nonsense


def test_frames_that_make_no_sense_are_left_out_and_hold_up_nobody(controller, start_node, store):
    node = start_node()
    query_id = submit(controller, node)
    until(lambda: node.courier.stats().slack_ns)
    for count, ahead_ns in enumerate((0, 3 * 86_400 * 10**9, 0), 1):
        node.deliver(query_id, 1, ahead_ns=ahead_ns)
        until(lambda count=count: node.courier.stats().frames == count)
    assert set(packets(store)) == {0, 2}
    assert controller._recorder.chronicle.stats().malformed == 1


def test_nobody_but_a_member_is_heard(controller):
    with HandNode(controller.channel) as stranger:
        answer = stranger.ask(wire.Log(ADDR, SESSION, 1))
        assert answer == wire.Refused("the node has to join first", must_join=True)
        stranger.join()
        answer = stranger.ask(wire.Log(ADDR, SESSION, 1))
        assert isinstance(answer, wire.Logged)
        assert (answer.number, answer.is_stored, answer.report_s) == (1, True, 0.1)
        assert abs(answer.heard_ns - time.time_ns()) < 60 * 10**9
        assert answer.heard_ns <= answer.answered_ns


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FRAMES, max_size=3), st.lists(LOOK, max_size=2), st.integers(0, 9))
def test_nothing_that_a_member_says_stops_the_controller(store, frames, looks, lost):
    members = Membership()
    member = members.join(wire.Join(ADDR, SESSION, "gate-3", "edge"), "", 0)
    chronicle = Chronicle(store.journal, members)
    done = chronicle.hear(member, wire.Log(ADDR, SESSION, 1, frames, looks, lost))
    assert done is None or chronicle.is_stored(_resolved(done))
    stats = chronicle.stats()
    assert (stats.given_up, stats.lost) == (0, lost)
    assert stats.malformed <= len(frames) + len(looks)


def _resolved(done):
    done.result(TIMEOUT_S)
    return done
