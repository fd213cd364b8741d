"""What nodes have for the records, with a real controller: sessions, packets, and when."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from channel_kit import (
    ADDR,
    SESSION,
    TASK,
    TIMEOUT_S,
    HandNode,
    NodeEnd,
    NotedJobs,
    cloud,
    quick,
    request,
    until,
)
from database_kit import Server, Servers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from wire_kit import FRAMES, LOOK

from vdag.control import wire
from vdag.control.agent import courier as courier_module
from vdag.control.agent.courier import Courier, Glimpse
from vdag.control.agent.framebook import FrameBook
from vdag.control.controller import Controller
from vdag.control.controller.chronicle import Chronicle
from vdag.control.controller.membership import Membership
from vdag.control.records import Handler, NewSession, Packet, Store
from vdag.control.records.names import FIRST_NUMBER, Cast
from vdag.control.scheduling.events import QueryState
from vdag.frame import Frame
from vdag.graph import Graph
from vdag.results import Result, TaskParts

pytestmark = pytest.mark.slow  # as a whole

OTHER = "10.0.0.8:5001"
LANDING = "tcp://10.0.0.8:5020"
PIXELS = np.zeros((2, 2, 3), np.uint8)
PARTS = {TASK: TaskParts(0.25, 0.125, 0.5, 7, 40_000)}
WHOLE_S, HOME_S = 1.0, 0.125
EVENTS = ["start", "end", "start", "end", "start", "end"]
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


class Reporting(NodeEnd):
    """A node whose jobs' frames are recorded, with a clock of its own."""

    def __init__(self, channel: str, **options: Any) -> None:
        self.shift_ns = options.pop("shift_ns", 0)
        frames, look = options.pop("frames", None), options.pop("look", None)
        super().__init__(channel, **options)
        self.book = FrameBook(self.notebook.run)
        self.courier = Courier(
            channel, node_addr=self.node_addr, book=self.book, look=look, spool=frames,
            clock=self.now_ns,
        )  # fmt: skip
        self._seqs = itertools.count()

    def now_ns(self) -> int:
        return time.monotonic_ns() + self.shift_ns

    def deliver(
        self,
        query_id: str,
        count: int,
        routes: dict[str, str] | None = None,
        *,
        ahead_ns: int = 0,
        ends: bool = True,
    ) -> None:
        """Have a job deliver frames, and end."""
        track = self.book.open(query_id, Graph.chain(TASK))
        track.follow(1, routes or {})
        for seq in itertools.islice(self._seqs, count):
            found = Result("cam", seq, seq, None, 2, 2, {}, WHOLE_S, plan=1, parts=PARTS,
                           home_s=HOME_S)  # fmt: skip
            found.frame = Frame(PIXELS, seq=seq, capture_ns=self.now_ns() + ahead_ns)
            track.deliver(found)
        if ends:
            track.end()

    def close(self) -> None:
        self.courier.close()
        super().close()
        self.book.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture
def controller(store: Store) -> Iterator[Controller]:
    with Controller(store, quick()) as controller:
        yield controller
        assert controller.stats().faults == 0


@pytest.fixture
def start(controller: Controller) -> Iterator[Callable[..., Reporting]]:
    with ExitStack() as stack:

        def start(**options: Any) -> Reporting:
            node = stack.enter_context(Reporting(controller.channel, **options))
            until(lambda: node.agent.stats().is_joined)
            return node

        yield start


def submit(controller: Controller, node: NodeEnd) -> str:
    query_id = controller.submit(request(node.node_addr)).result(TIMEOUT_S)
    node.jobs.next("plan")
    return query_id


def packets(store: Store, session_id: int = 1) -> dict[int, list[Packet]]:
    """Return the rows of each frame."""
    found: dict[int, list[Packet]] = {}
    for packet in store.log.packets(session_id):
        found.setdefault(packet.sequence, []).append(packet)
    return found


def rows(store: Store, statement: str) -> list[tuple[Any, ...]]:
    store.log.sessions()  # all that was said before is there then
    with store._engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


# A session


def test_a_query_has_a_session_from_its_first_moment_to_its_end(controller, start, store):
    node = start()
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


def test_a_job_of_a_moment_leaves_rows_of_every_frame(controller, start, store):
    node = start()
    query_id = submit(controller, node)
    node.deliver(query_id, 12)
    found = until(lambda: len(all_ := packets(store)) == 12 and all_)
    assert {tuple(row.event for row in each) for each in found.values()} == {tuple(EVENTS)}
    assert {row.node_id for each in found.values() for row in each} == {FIRST_NUMBER}
    until(lambda: node.courier.stats().frames == 12)
    stats = node.courier.stats()
    assert (stats.lost, stats.spool.results, stats.failures) == (0, 0, 0)
    assert store.log.stats().duplicates == 0


def test_frames_name_the_node_that_did_the_task(controller, start, store):
    node, _ = start(), start(node_addr=OTHER, name="gate-4", run="f" * 16)
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


def test_a_plan_moves_handlers_when_the_job_follows_it(controller, start, store):
    node = start(jobs=RoutedJobs())
    start(node_addr=OTHER, name="gate-4", run="f" * 16)
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


def test_a_query_that_is_deleted_keeps_what_its_frames_did(controller, start, store):
    node = start()
    query_id = submit(controller, node)
    node.deliver(query_id, 2)
    until(lambda: len(packets(store)) == 2)
    assert controller.delete(query_id).result(TIMEOUT_S)
    until(lambda: [s.state for s in store.log.sessions()] == ["deleted"])
    node.deliver(query_id, 2)  # they come too late
    until(lambda: node.courier.stats().frames == 4)
    assert len(packets(store)) == 2


def test_frames_of_an_adopted_query_are_those_of_that_session(controller, start, store):
    node = start()
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
    controller, start, store, shift_ns
):
    before_s = time.time()
    node = start(shift_ns=shift_ns)
    query_id = submit(controller, node)
    node.deliver(query_id, 5)
    found = until(lambda: len(all_ := packets(store)) == 5 and all_)
    slack_s = node.courier.stats().slack_ns / 1e9
    assert slack_s > 0
    for each in found.values():
        assert before_s - slack_s <= each[0].timestamp <= time.time() + slack_s


def test_a_controllers_clock_that_is_set_back_is_followed(controller, start, store):
    node = start()
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


# Losses


def test_an_answer_that_is_lost_doubles_nothing(tmp_path, monkeypatch):
    """The controller is gone when all is recorded, and nobody was told."""
    monkeypatch.setattr(courier_module, "ANSWER_TIMEOUT_S", 0.3)
    with ExitStack() as stack:
        with cloud(tmp_path) as controller:
            channel = controller.channel
            node = stack.enter_context(Reporting(channel, frames=None))
            until(lambda: node.agent.stats().is_joined)
            query_id = submit(controller, node)
            until(lambda: node.courier.stats().slack_ns)
            controller._switchboard._answer = lambda *_: True  # it says nothing any more
            node.deliver(query_id, 20)
            store = controller._store
            until(lambda: len(packets(store)) == 20)
            failures = node.courier.stats().failures
            until(lambda: node.courier.stats().failures >= failures + 2)
            assert node.courier.stats().frames == 0
        with cloud(tmp_path, channel) as later:
            until(lambda: node.courier.stats().frames == 20)
            found = packets(later._store)
            assert {len(each) for each in found.values()} == {len(EVENTS)}
            assert later._store.log.stats().rows == 0
            assert later._store.log.stats().duplicates == 20 * len(EVENTS)
            assert node.courier.stats().lost == 0
        node.close()


def test_frames_wait_for_a_controller_that_is_away_and_arrive_once(tmp_path):
    spool = tmp_path / "frames"
    spool.mkdir()
    with cloud(tmp_path) as controller:
        channel = controller.channel
        with Reporting(channel, frames=spool) as node:
            until(lambda: node.agent.stats().is_joined)
            query_id = submit(controller, node)
            until(lambda: node.courier.stats().slack_ns)
            controller.close()
            node.deliver(query_id, 30)
            until(lambda: node.courier.stats().failures)
    assert list(spool.iterdir()) != []
    stats = node.courier.stats()
    assert (stats.frames, stats.lost) == (0, 0)
    with cloud(tmp_path, channel) as later, Reporting(channel, frames=spool, run="f" * 16) as again:
        until(lambda: again.courier.stats().frames == 30)
        assert len(packets(later._store)) == 30
        assert later._store.log.stats().duplicates == 0


def test_frames_of_a_node_that_was_never_told_the_time_are_counted():
    with Reporting("tcp://127.0.0.1:1") as node:
        node.deliver("GLOBAL_ID_1", 5)
    assert node.courier.stats().lost == 5


def test_what_a_node_has_left_is_said_before_it_ends(controller, start, store):
    node = start()
    query_id = submit(controller, node)
    until(lambda: node.courier.stats().logs)
    node.deliver(query_id, 50, ends=False)
    node.courier.close()
    assert len(packets(store)) == 50
    assert node.courier.stats().spool.nbytes == 0


def kill(server: Server) -> None:
    server.stop(signal.SIGKILL)


def hold(server: Server) -> None:
    server._process.send_signal(signal.SIGSTOP)


def bring_back(server: Server) -> None:
    if server._process is None:
        server.start()
    else:
        server._process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("lose", [kill, hold])
def test_while_the_database_is_away_frames_wait_at_the_node(servers, lose, tmp_path):
    server = servers.get("mariadb")
    spool = tmp_path / "frames"
    spool.mkdir()
    with (
        server.database() as url,
        Store(url) as store,
        Controller(store, quick()) as controller,
        Reporting(controller.channel, frames=spool) as node,
    ):
        until(lambda: node.agent.stats().is_joined)
        query_id = submit(controller, node)
        node.deliver(query_id, 100)
        until(lambda: node.courier.stats().frames == 100)
        lose(server)
        try:
            unstored = controller.stats().channel.unstored
            for _ in range(20):  # nobody waits: neither for the database nor for the courier
                node.deliver(query_id, 100)
            until(lambda: controller.stats().channel.unstored > unstored)
            assert node.courier.stats().frames < 2100
            assert node.courier.stats().spool.results > 0
        finally:
            bring_back(server)
        until(lambda: node.courier.stats().frames == 2100)
        stats = node.courier.stats()
        assert (stats.lost, stats.spool.results) == (0, 0)
        with store._engine.connect() as connection:
            count = "SELECT COUNT(*), COUNT(DISTINCT sequence) FROM packet_info"
            assert tuple(connection.execute(text(count)).one()) == (2100 * len(EVENTS), 2100)


def test_what_there_is_no_room_for_is_counted(controller, start, store, monkeypatch):
    """Nobody takes what jobs note: the oldest are lost, and all else is recorded once."""
    node = start()
    query_id = submit(controller, node)
    until(lambda: node.courier.stats().slack_ns)
    monkeypatch.setattr(node.book, "_limit", 50)
    real = node.book.take
    monkeypatch.setattr(node.book, "take", list)  # the courier is behind
    node.deliver(query_id, 80, ends=False)
    monkeypatch.setattr(node.book, "take", real)
    until(lambda: len(packets(store)) == 50)
    until(lambda: node.courier.stats().frames == 50)
    assert node.courier.stats().lost == 30
    node.deliver(query_id, 1)  # says so with what comes next
    until(lambda: controller._recorder.chronicle.stats().lost == 30)
    until(lambda: set(packets(store)) == set(range(30, 81)))


# Nodes and their workers


def test_nodes_and_their_workers_are_sampled(controller, start, store):
    stamps = itertools.count(time.monotonic_ns(), 10**6)
    gpu = {"gpu_id": 0, "gpu_util": 50, "gpu_mem_util": 20, "gpu_clock": 1500, "gpu_power": 43}
    machine = {"timestamp": 0.0, "cpu_util": 5.5, "mem_total": 24152, "mem_util": 6.5,
               "gpu_info": [gpu]}  # fmt: skip

    def look() -> Glimpse:
        return Glimpse(next(stamps), machine, {TASK: (0.25, 0.0625), "unused": (0.5, 0.5)})

    node = start(look=look)
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
    controller, start, store
):
    """As after a restart of the controller, which nodes come back to one after the other."""
    submit(controller, start(jobs=FarJobs()))
    until(lambda: store.log.placements(1))
    stamps = itertools.count(time.monotonic_ns(), 10**6)
    start(
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


def test_frames_that_make_no_sense_are_left_out_and_hold_up_nobody(controller, start, store):
    node = start()
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
