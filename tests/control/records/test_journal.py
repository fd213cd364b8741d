"""What our own nodes say, in every database: numbers for names, rows of frames, each once."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from vdag.control.records import (
    Cast,
    Entry,
    Handler,
    NewQuery,
    NewSession,
    NodeLook,
    NodePlace,
    NodeRecord,
    NodeSample,
    Passage,
    Report,
    Store,
    Stored,
    packets_of,
)
from vdag.control.records.names import FIRST_NUMBER
from vdag.control.records.opening import open_engine
from vdag.control.records.packets import Stop
from vdag.control.records.transaction import Transaction
from vdag.results import TaskParts

WAIT_S = 60.0
NOW_NS = 1_795_302_130_500_000_000
NOW_S = NOW_NS / 1e9
EDGE = NodePlace("10.0.0.7", 5001, "gate-3", "edge")
CLOUD = NodePlace("10.0.0.1", 5500, "cloud", "cloud")
TASKS = ("cars", "faces")


def session_of(number: int) -> NewSession:
    names = ("video 0", *TASKS, "sink")
    handlers = [Handler(at, name) for at, name in enumerate(names)]
    return NewSession(f"GLOBAL_ID_{number}", "cars > faces", handlers, number, "golden")


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    with Store(place, linger_s=0) as store:
        yield store


@pytest.fixture
def opened(store: Store) -> Store:
    store.journal.open(session_of(1))
    return store


def passage(count: int = 1, *, first: int = 0, number: int = 1, **more) -> Passage:
    """Frames of which each is captured a millisecond after the one before."""
    found = Passage(
        number,
        (TASKS,),
        EDGE,
        {"faces": CLOUD},
        range(first, first + count),
        [NOW_NS + at * 1_000_000 for at in range(first, first + count)],
        [2.0] * count,
        [[0.25, 0.125, 0.5, 0.0625, 0.0, 0.25]] * count,
        [[0, 17875]] * count,
    )
    return replace(found, **more)


def record(store: Store, *passages: Passage) -> Stored:
    return store.journal.record(Entry(passages)).result(WAIT_S)


def rows(place: str, statement: str) -> list[tuple[object, ...]]:
    engine = open_engine(place)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return found


# Frames


def test_rows_of_a_frame_are_those_of_its_way(opened):
    assert record(opened, passage()) == Stored(12, 0, 0)
    nodes = {node.name: node.node_id for node in opened.log.nodes()}
    edge, cloud = nodes["gate-3"], nodes["cloud"]
    parts = {"cars": TaskParts(0.25, 0.125, 0.5), "faces": TaskParts(0.0625, 0.0, 0.25)}
    expected = packets_of(
        parts, captured_s=NOW_S, session_id=1, sequence=0, source=Stop(0, edge),
        tasks={"cars": Stop(1, edge), "faces": Stop(2, cloud)}, sink=Stop(3, edge),
        home_s=2.0 - 1.1875, sizes={"faces": 17875},
    )  # fmt: skip
    key = ("timestamp", "handler_id", "event")
    found = opened.log.packets(1)
    assert sorted(found, key=lambda row: [getattr(row, name) for name in key]) == sorted(
        expected, key=lambda row: [getattr(row, name) for name in key]
    )
    assert found[-1].timestamp == NOW_S + 2.0


def test_frames_that_come_again_are_there_once_also_after_a_restart(place):
    with Store(place) as store:
        store.journal.open(session_of(1))
        assert record(store, passage(10)) == Stored(120, 0, 0)
        assert record(store, passage(10)) == Stored(0, 120, 0)
    with Store(place) as store:
        store.journal.open(session_of(1))
        assert record(store, passage(15, first=5)) == Stored(120, 60, 0)
        assert [session.session_id for session in store.log.sessions()] == [1]
        assert len(store.log.nodes()) == 2


def test_a_frame_that_was_lost_has_the_rows_of_what_is_known(opened):
    unknown = [math.nan] * 3
    lost = passage(wholes_s=[math.nan], lengths_s=[[0.25, 0.125, 0.5, *unknown]])
    assert record(opened, lost).rows == 4
    assert [(row.handler_id, row.event) for row in opened.log.packets(1)] == [
        (0, "start"), (0, "end"), (1, "start"), (1, "end")
    ]  # fmt: skip
    assert (
        record(opened, passage(1, first=1, wholes_s=[math.nan], lengths_s=[unknown * 2])).rows == 2
    )


def test_frames_of_a_query_without_a_session_are_left_out_and_the_rest_is_not(opened):
    assert record(opened, passage(2, number=7), passage(2)) == Stored(24, 0, 0)
    assert record(opened, passage(2, number=7)) == Stored()


def test_a_task_without_a_handler_is_part_of_the_way(store):
    names = ("capture", "faces", "render")
    mine = NewSession("mine", "service", [Handler(10 * at, name) for at, name in enumerate(names)])
    number = store.log.add_session(mine).result(WAIT_S)
    store.journal.adopt(1, Cast(number, 0, {"faces": 10}, 20))
    record(store, passage(1, places={}))
    found = [
        (row.handler_id, row.event, row.timestamp - NOW_S) for row in store.log.packets(number)
    ]
    assert [each[:2] for each in found] == [
        (0, "start"), (0, "end"), (10, "start"), (10, "end"), (20, "start"), (20, "end")
    ]  # fmt: skip
    assert found[2][2] == pytest.approx(0.9375, abs=1e-6)  # on its way, and with the other task


# Sessions


def test_a_query_has_one_session_until_it_is_deleted(opened):
    opened.journal.open(session_of(1))
    opened.journal.set_state(1, "running")
    opened.journal.set_state(1, "stopped", "the video is over")
    (session,) = opened.log.sessions()
    assert (session.session_id, session.state, session.reason) == (
        1,
        "stopped",
        "the video is over",
    )
    opened.journal.set_state(1, "deleted")
    assert record(opened, passage()) == Stored()
    opened.journal.open(session_of(1))  # another query that got the number of the first
    assert record(opened, passage()).rows == 12
    assert {row.session_id for row in opened.log.packets(2)} == {2}
    assert [session.state for session in opened.log.sessions()] == ["deleted", "created"]


def test_handlers_are_where_the_plan_has_them(opened):
    opened.journal.place(1, EDGE, {}, "plan 1")
    opened.log.placements(1)
    opened.journal.place(1, EDGE, {"faces": CLOUD}, "plan 2: node back")
    nodes = {node.node_id: node.name for node in opened.log.nodes()}
    now = [each for each in opened.log.placements(1) if each.until_s is None]
    assert [(each.handler_id, nodes[each.node_id], each.cause) for each in now] == [
        (0, "gate-3", "plan 1"), (1, "gate-3", "plan 1"), (3, "gate-3", "plan 1"),
        (2, "cloud", "plan 2: node back"),
    ]  # fmt: skip
    opened.journal.place(1, None, {}, "stopped")
    assert all(each.until_s is not None for each in opened.log.placements(1))


def test_a_session_of_somebody_elses_is_adopted_in_place_of_the_querys_own(opened):
    opened.journal.place(1, EDGE, {}, "plan 1")
    assert record(opened, passage()).rows == 12  # so early that nobody had adopted it
    mine = NewSession("mine", "service", [Handler(5, "source"), Handler(6, "cars")])
    number = opened.log.add_session(mine).result(WAIT_S)
    opened.journal.adopt(1, Cast(number, 5, {"cars": 6}, None))
    opened.journal.open(session_of(1))
    opened.journal.set_state(1, "running")
    opened.journal.place(1, EDGE, {}, "plan 2")
    (session,) = opened.log.sessions()
    assert (session.session_id, session.state, session.query_id) == (number, "created", 1)
    assert opened.log.placements(1) == opened.log.placements(number) == []
    record(opened, passage())
    assert {row.handler_id for row in opened.log.packets(number)} == {5, 6}
    assert opened.log.packets(1) == []


# Nodes


def test_a_node_that_a_file_numbers_keeps_that_number(store):
    store.log.set_nodes([NodeRecord(4, "gate", "server", EDGE.addr, EDGE.port)])
    store.journal.open(session_of(1))
    record(store, passage())
    nodes = {(node.addr, node.node_id) for node in store.log.nodes()}
    assert nodes == {(EDGE.addr, 4), (CLOUD.addr, FIRST_NUMBER)}


def test_nodes_of_one_address_are_told_apart_by_port_or_name(opened):
    others = [NodePlace(EDGE.addr, 5002), NodePlace(EDGE.addr, 5003, "gate-3"), EDGE]
    for number, home in enumerate(others):
        record(opened, passage(1, first=number, home=home, places={}))
    names = [(node.node_id - FIRST_NUMBER, node.port) for node in opened.log.nodes()]
    assert names == [(0, 5002), (1, 5003)]
    assert {row.node_id for row in opened.log.packets(1, first=2)} == {FIRST_NUMBER + 1}


def test_samples_are_of_the_handlers_of_their_queries(opened, place):
    machine = Report((), [NodeSample(NOW_S, 0, 5.5, 24152, 6.5)])
    look = NodeLook(CLOUD, machine, [(1, "faces", 0.25, 0.5), (7, "faces", 1, 1)], NOW_S)
    done = opened.journal.record(Entry(looks=[look]))
    assert done.result(WAIT_S) == Stored(2, 0, 0)
    assert rows(place, "SELECT node_ID, mem_total FROM sys_info") == [(FIRST_NUMBER, 24152)]
    assert rows(place, "SELECT session_ID, handler_ID, cpu_util, mem_util FROM proc_info") == [
        (1, 2, 25.0, 50.0)
    ]


def test_a_number_that_was_given_in_vain_is_given_again(opened, monkeypatch):
    """What a transaction has looked up is not known any more when it is undone."""
    writer, failed = opened.log._writer, []
    attempt = writer._attempt

    def attempt_twice(batch):
        if not failed:
            failed.append(batch)
            monkeypatch.setattr(Transaction, "finish", fail)
        try:
            return attempt(batch)
        finally:
            monkeypatch.setattr(Transaction, "finish", finish)

    def fail(transaction):
        raise OperationalError("the server has gone away", None, Exception())

    finish = Transaction.finish
    monkeypatch.setattr(writer, "_attempt", attempt_twice)
    assert record(opened, passage()).rows == 12
    assert failed
    assert record(opened, passage(1, first=1)).rows == 12
    assert [node.node_id for node in opened.log.nodes()] == [FIRST_NUMBER, FIRST_NUMBER + 1]


@pytest.mark.slow
def test_frames_of_a_time_when_the_server_was_away_are_there_once(servers, kind):
    if kind == "sqlite":
        pytest.skip("there is no server")
    server = servers.get(kind)
    with server.database() as url, Store(url, linger_s=0) as store:
        store.add_query(NewQuery("n", 1, {"flow": ["a"]}, {})).result(WAIT_S)
        store.journal.open(session_of(1))
        assert record(store, passage(5)).rows == 60
        server.stop(signal.SIGKILL)
        waiting = [store.journal.record(Entry([passage(5, first=5 * at)])) for at in (1, 2, 2)]
        assert not any(each.done() for each in waiting)
        server.start()
        found = [each.result(WAIT_S) for each in waiting]
        assert sum(each.rows for each in found) == 120
        assert sum(each.duplicates for each in found) == 60
        assert len(store.log.packets(1)) == 180
