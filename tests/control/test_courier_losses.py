"""What nodes have for the records while an answer, the controller or the database is away."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest
from channel_kit import cloud, quick, until
from courier_kit import EVENTS, Reporting, packets, submit
from database_kit import Server
from sqlalchemy import text

from vdag.control.agent import courier as courier_module
from vdag.control.controller import Controller
from vdag.control.records import Store

pytestmark = pytest.mark.slow  # as a whole


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


def test_what_a_node_has_left_is_said_before_it_ends(controller, start_node, store):
    node = start_node()
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


def test_what_there_is_no_room_for_is_counted(controller, start_node, store, monkeypatch):
    """Nobody takes what jobs note: the oldest are lost, and all else is recorded once."""
    node = start_node()
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
