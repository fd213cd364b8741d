"""Reports in every database: once, whole, and also when the database was away meanwhile."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from vdag.control.records import (
    GpuSample,
    Handler,
    HandlerGpu,
    HandlerSample,
    Lesson,
    NewQuery,
    NewSession,
    NodeRecord,
    NodeSample,
    Packet,
    Report,
    Store,
    Stored,
    Topic,
    insertion,
)
from vdag.control.records.opening import open_engine
from vdag.errors import Saturated, VdagError

WAIT_S = 60.0
NOW_S = 1795302130.25
ASKED = NewQuery("n", 1, {"flow": ["a"]}, {})


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    with Store(place, linger_s=0) as store:
        yield store


def packets(count: int, *, first: int = 0, session_id: int = 1) -> list[Packet]:
    """Two events of each packet, at two handlers."""
    return [
        Packet(NOW_S + n + handler / 10, session_id, handler, n, event, None, handler)
        for n in range(first, first + count)
        for handler in (0, 1)
        for event in ("start", "end")
    ]


def record(store: Store, report: Report) -> Stored:
    return store.log.record_awaited(report).result(WAIT_S)


def rows(place: str, statement: str) -> list[tuple[object, ...]]:
    engine = open_engine(place)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return found


WHOLE = Report(
    [
        Packet(NOW_S, 3, 0, 2, "end", None, 1),
        Packet(NOW_S + 0.125, 3, 2, 2, "sent", 17875, 1),
    ],
    [NodeSample(NOW_S, 1, 5.5, 24152, 6.5, 10, 5, 1500, 43)],
    [GpuSample(NOW_S, 1, 0, 10, 5, 1500, 43), GpuSample(NOW_S, 1, 1, 90)],
    [HandlerSample(NOW_S, 3, 0, 0.0, 0.25, 7, 3, 1)],
    [HandlerGpu(NOW_S, 3, 0, 0, 7, 3), HandlerGpu(NOW_S, 3, 0, 1, 8)],
)


def test_a_report_is_recorded_whole(store, place):
    assert record(store, WHOLE) == Stored(len(WHOLE), 0, 0)
    assert store.log.packets(3) == WHOLE.packets
    assert rows(place, "SELECT * FROM sys_info") == [tuple(WHOLE.nodes[0])]
    assert rows(place, "SELECT * FROM gpu_info ORDER BY gpu_ID") == [*map(tuple, WHOLE.gpus)]
    assert rows(place, "SELECT * FROM proc_info") == [tuple(WHOLE.handlers[0])]
    assert rows(place, "SELECT * FROM proc_gpu_info ORDER BY gpu_ID") == [
        *map(tuple, WHOLE.handler_gpus)
    ]


def test_a_report_that_comes_again_is_recorded_once_also_after_a_restart(place):
    with Store(place) as store:
        assert record(store, WHOLE) == Stored(len(WHOLE), 0, 0)
        assert record(store, WHOLE) == Stored(0, len(WHOLE), 0)
    with Store(place) as store:
        # A sender that was not answered adds what is new to what it has sent.
        more = Report([*WHOLE.packets, Packet(NOW_S + 1, 3, 0, 3, "start")])
        assert record(store, more) == Stored(1, 2, 0)
        assert len(store.log.packets(3)) == 3
        stats = store.log.stats()
        assert (stats.rows, stats.duplicates, stats.late, stats.waiting) == (1, 2, 0, 0)


def test_a_row_that_comes_twice_in_a_report_is_recorded_once(store):
    again = [*packets(5), *packets(3)]
    assert record(store, Report(again)) == Stored(20, 12, 0)


def test_a_session_that_starts_anew_keeps_the_rows_of_the_last_time(store):
    first, second = Packet(NOW_S, 1, 0, 0, "start"), Packet(NOW_S + 60, 1, 0, 0, "start")
    assert record(store, Report([first])).rows == 1
    assert record(store, Report([second])).rows == 1
    assert store.log.packets(1) == [first, second]


def test_packets_are_read_by_their_sequence(store):
    record(store, Report(packets(10)))
    record(store, Report(packets(3, session_id=2)))
    assert {packet.sequence for packet in store.log.packets(1, first=4, last=6)} == {4, 5, 6}
    assert [packet.sequence for packet in store.log.packets(1, limit=5)] == [0, 0, 0, 0, 1]
    assert len(store.log.packets(1)) == 40
    assert store.log.packets(9) == []


def test_a_report_that_cannot_be_written_leaves_nothing_and_holds_up_nobody(store, monkeypatch):
    real = insertion.insert_new

    def broken(connection, table, rows):
        if table.name == "sys_info" and rows[0].node_id == 666:
            raise ValueError("no such node")
        return real(connection, table, rows)

    monkeypatch.setattr("vdag.control.records.transaction.insert_new", broken)
    bad = Report(packets(5, session_id=6), [NodeSample(NOW_S, 666)])
    failed = store.log.record_awaited(bad)
    good = store.log.record_awaited(Report(packets(5, session_id=7)))
    with pytest.raises(VdagError, match=r"^cannot be recorded: no such node$"):
        failed.result(WAIT_S)
    assert good.result(WAIT_S) == Stored(20, 0, 0)
    assert store.log.packets(6) == []
    assert len(store.log.packets(7)) == 20
    assert store.log.stats().rows == 20


@pytest.mark.parametrize("statement", ["SELECT nothing FROM node", "SELECT * FROM nothing"])
def test_a_statement_that_never_works_is_not_tried_for_ever(store, kind, statement, monkeypatch):
    if kind == "sqlite" and sys.version_info < (3, 11):
        pytest.skip("this version of Python does not say what SQLite's error was")

    def broken(connection, table, rows):
        connection.execute(text(statement))

    with monkeypatch.context() as patch:
        patch.setattr("vdag.control.records.transaction.insert_new", broken)
        failed = store.log.record_awaited(Report(packets(1)))
        with pytest.raises(VdagError, match=r"^cannot be recorded: .*nothing"):
            failed.result(WAIT_S)
    assert record(store, Report(packets(1))).rows == 4


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_value_that_no_column_takes_is_given_up(store):
    failed = store.log.record_awaited(Report([Packet(NOW_S, 1, 1, 1 << 40, "start")]))
    with pytest.raises(VdagError, match=r"^cannot be recorded: "):
        failed.result(WAIT_S)
    assert record(store, Report(packets(1))).rows == 4


def test_reports_are_refused_when_too_many_rows_wait_and_queries_are_not(tmp_path: Path):
    with Store(tmp_path / "a.sqlite", linger_s=60, events_limit=100) as store:
        store.log.record(Report(packets(25)))
        with pytest.raises(Saturated, match=r"^100 rows wait to be recorded$"):
            store.log.record(Report(packets(1, first=25)))
        assert store.log.stats().refused == 1
        assert store.stats().refused == 0
        assert store.add_query(ASKED).result(WAIT_S) == "GLOBAL_ID_1"
        assert len(store.log.packets(1)) == 100
        store.log.record(Report(packets(1, first=25)))
        store.log.record(Report())
    with Store(tmp_path / "a.sqlite") as store:
        assert len(store.log.packets(1)) == 104


def test_a_query_does_not_wait_for_all_reports_that_came_before_it(tmp_path: Path, monkeypatch):
    """What a transaction takes of reports is bounded, and the rest is behind the query."""
    monkeypatch.setattr("vdag.control.records.writer.MAX_ROWS", 400)
    all_wait, done = threading.Event(), []
    real = insertion.insert_new

    def wait_first(connection, table, rows):
        assert all_wait.wait(WAIT_S)
        return real(connection, table, rows)

    monkeypatch.setattr("vdag.control.records.transaction.insert_new", wait_first)
    with Store(tmp_path / "a.sqlite", linger_s=0) as store:
        for number in range(9):
            future = store.log.record_awaited(Report(packets(100, first=number * 100)))
            future.add_done_callback(lambda _: done.append("report"))
        store.add_query(ASKED).add_done_callback(lambda _: done.append("query"))
        all_wait.set()
        assert len(store.log.packets(1)) == 3600
    assert done.count("report") == 9
    assert done.index("query") <= 1


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
@pytest.mark.parametrize("by", [None, signal.SIGKILL], ids=["stopped", "killed"])
def test_rows_wait_while_the_server_is_away_and_are_there_once_when_it_is_back(
    kind, servers, by, tmp_path
):
    server = servers.get(kind)
    with server.database() as url, Store(url, linger_s=0) as store:
        assert record(store, Report(packets(10))).rows == 40
        server.stop(by)
        try:
            waiting = [
                store.log.record_awaited(Report(packets(10, first=first)))
                for first in range(0, 50, 5)
            ]
            later = store.add_query(ASKED)
        finally:
            server.start()
        assert sum(each.result(WAIT_S).rows for each in waiting) == 180
        assert later.result(WAIT_S) == "GLOBAL_ID_1"
        assert len(store.log.packets(1)) == 220
        assert store.stats().fault == ""
        assert store.log.stats().rows == 220


@pytest.mark.parametrize("kind", ["postgresql"])
def test_what_a_closing_store_could_not_write_may_be_written_another_time(kind, servers):
    server = servers.get(kind)
    with server.database() as url:
        store = Store(url, linger_s=0)
        server.stop()
        try:
            failed = store.log.record_awaited(Report(packets(1)))
            store.close()
            with pytest.raises(Saturated, match=r"^records cannot be written: "):
                failed.result(WAIT_S)
        finally:
            server.start()


class Interrupted(list[Packet]):
    """Rows amid which something happens, the first time that they are looked at."""

    def __init__(self, rows: list[Packet], happen: Callable[[], None]) -> None:
        super().__init__(rows)
        self._happen: Callable[[], None] | None = happen

    def __iter__(self) -> Iterator[Packet]:
        for number, row in enumerate(super().__iter__()):
            if number == len(self) // 2 and self._happen is not None:
                happen, self._happen = self._happen, None
                happen()
            yield row


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_connection_that_is_lost_amid_the_rows_loses_none(place, store, caplog):
    def lose() -> None:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        rows(place, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")

    # More than fits into what the driver and the network hold back.
    lost = Interrupted(packets(20_000), lose)
    assert record(store, Report(lost)) == Stored(80_000, 0, 0)
    assert "records cannot be written: " in caplog.text
    assert len(store.log.packets(1)) == 80_000


def test_two_writers_of_one_database_store_each_row_once(place):
    with Store(place, linger_s=0) as one, Store(place, linger_s=0) as other:
        futures = [
            store.log.record_awaited(Report(packets(20, first=first)))
            for first in range(0, 200, 10)
            for store in (one, other)
        ]
        stored = [future.result(WAIT_S) for future in futures]
        assert sum(each.rows for each in stored) == 840
        assert len(one.log.packets(1)) == 840


def test_sessions_have_numbers_handlers_states_and_times(store):
    blueprint = {"links": [[0, 1]]}
    handlers = (Handler(0, "capture", 2, {"fps": 30}), Handler(1, "render"))
    new = NewSession("门口 ÄÖ 😀", "local_render", handlers, 7, "greedy", blueprint)
    assert store.log.add_session(new).result(WAIT_S) == 1
    assert store.log.add_session(NewSession("other")).result(WAIT_S) == 2
    store.log.set_session_state(1, "running")
    store.log.set_session_state(1, "running", "again")
    store.log.set_session_state(1, "stopped", "user")
    first, second = store.log.sessions()
    assert (first.session_id, first.name, first.service, first.query_id) == (
        1,
        "门口 ÄÖ 😀",
        "local_render",
        7,
    )
    assert (first.algorithm, first.state, first.reason) == ("greedy", "stopped", "user")
    assert first.blueprint == blueprint
    assert 1e9 < first.created_s <= first.started_s <= first.stopped_s
    assert (second.state, second.started_s, second.stopped_s) == ("created", None, None)
    assert store.log.handlers(1) == list(handlers)
    assert store.log.handlers(2) == []
    assert [each.session_id for each in store.log.sessions(limit=1)] == [2]


def test_placements_say_where_a_handler_was_until_when_and_why(store, monkeypatch):
    clock = itertools.count(1000)
    monkeypatch.setattr("vdag.control.records.writer.time.time", lambda: float(next(clock)))
    session_id = store.log.add_session(NewSession("s")).result(WAIT_S)
    for nodes, cause in [
        ({0: 1, 1: 2}, "first"),
        ({0: 1, 1: 2}, "the same again"),
        ({0: 1, 1: 3, 2: 1}, "node 2 is away"),
        ({}, "stopped"),
    ]:
        store.log.place(session_id, nodes, cause)
        store.log.placements(session_id)  # each in a transaction of its own
    found = store.log.placements(session_id)
    assert [(each.handler_id, each.node_id, each.cause) for each in found] == [
        (0, 1, "first"),
        (1, 2, "first"),
        (1, 3, "node 2 is away"),
        (2, 1, "node 2 is away"),
    ]
    capture, before, after, third = found
    assert before.until_s == after.since_s == third.since_s
    assert capture.until_s == after.until_s == third.until_s > before.until_s


def test_nodes_are_replaced_by_their_numbers(store):
    nodes = [
        NodeRecord(0, "client", "client", "192.0.2.1", 9000),
        NodeRecord(2, "b", "server", "x"),
    ]
    store.log.set_nodes(nodes)
    store.log.set_nodes([NodeRecord(2, "cloud", "server", "192.0.2.3", 9001)])
    assert store.log.nodes() == [
        nodes[0],
        NodeRecord(2, "cloud", "server", "192.0.2.3", 9001),
    ]


def test_averages_are_kept_newest_last_and_forgotten(store, place):
    detect, hop = Topic("compute", '8 {"multiple":true}', 2), Topic("hop", "", 1)
    store.log.set_lessons([Lesson(detect, 0.25), Lesson(hop, 0.5)])
    assert {*store.log.lessons()} == {Lesson(detect, 0.25), Lesson(hop, 0.5)}
    store.log.set_lessons([Lesson(detect, 0.125), Lesson(Topic("way", "", 1, 2), 1e-3)])
    found = store.log.lessons()
    assert len(found) == 3
    assert found[0] == Lesson(hop, 0.5)
    assert Lesson(detect, 0.125) in found
    assert len(store.log.lessons(limit=2)) == 2
    assert Lesson(hop, 0.5) not in store.log.lessons(limit=2)
    store.log.set_lessons([Lesson(hop, None), Lesson(Topic("hop", "", 9), None)])
    store.log.set_lessons([])
    with Store(place) as again:
        assert {each.topic for each in again.log.lessons()} == {detect, Topic("way", "", 1, 2)}
