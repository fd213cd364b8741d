"""Old rows are rolled up by the minute, once, and in steps, in every database."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import text

from vdag.control.records import (
    GpuSample,
    HandlerSample,
    NodeSample,
    Packet,
    Report,
    Retention,
    Store,
    Stored,
    ageing,
)
from vdag.control.records.opening import open_engine

WAIT_S = 60.0
#: The begin of a minute.
NOON_S = 1795300020.0 // 60 * 60
DAY_S = 86400.0
RETENTION = Retention(packets_s=DAY_S, samples_s=DAY_S, rollups_s=30 * DAY_S)


class Clock:
    """The time that the writer goes by."""

    now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("vdag.control.records.writer.time.time", clock)
    return clock


@pytest.fixture
def store(place: str, clock: Clock):
    with Store(place, linger_s=0, retention=RETENTION) as store:
        yield store


def record(store: Store, *packets: Packet, **parts: Any) -> Stored:
    return store.log.record_awaited(Report(list(packets), **parts)).result(WAIT_S)


def rows(place: str, statement: str) -> list[tuple[Any, ...]]:
    engine = open_engine(place)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return found


def way(at_s: float, sequence: int, *, busy_s: float = 0.25, session_id: int = 1) -> list[Packet]:
    return [
        Packet(at_s, session_id, 5, sequence, "start"),
        Packet(at_s + busy_s, session_id, 5, sequence, "end"),
        Packet(at_s + busy_s, session_id, 5, sequence, "sent", 1000),
    ]


def let_age(store: Store, clock: Clock, age_s: float) -> None:
    """Let time pass, then write, as often as there is something old."""
    clock.now_s += age_s
    for number in range(100):
        before = store.log.stats().rolled_up
        record(store, Packet(clock.now_s, 99, 0, number, "start"))
        if store.log.stats().rolled_up == before:
            return
        clock.now_s += ageing.REST_S + 1
    raise AssertionError("it never ends")


def test_old_packets_become_one_row_a_minute_handler_and_event(store, place, clock):
    # The last packet of a minute ends in the next one.
    for sequence in range(4):
        record(store, *way(NOON_S + 15 * sequence + 14.875, sequence, busy_s=0.25))
    record(store, *way(NOON_S + 70, 4, busy_s=0.5))
    let_age(store, clock, DAY_S + 300)
    assert store.log.packets(1) == []
    found = rows(
        place,
        "SELECT timestamp, event, until_s, packets, nbytes, ended, busy_s, busy_max_s"
        " FROM packet_rollup WHERE session_ID = 1 ORDER BY timestamp, event",
    )
    assert [(row[0] - NOON_S, row[1], row[2] - NOON_S, row[3]) for row in found] == [
        (14.875, "start", 59.875, 4),
        (15.125, "end", 45.125, 3),
        (15.125, "sent", 45.125, 3),
        (60.125, "end", 70.5, 2),
        (60.125, "sent", 70.5, 2),
        (70.0, "start", 70.0, 1),
    ]
    assert [row[4] for row in found] == [None, None, 3000, None, 2000, None]
    assert [row[5:] for row in found if row[1] == "start"] == [(4, 1.0, 0.25), (1, 0.5, 0.5)]
    assert [row[5] for row in found if row[1] != "start"] == [0, 0, 0, 0]


def test_rows_that_are_not_old_stay(store, clock):
    record(store, *way(NOON_S, 0), *way(NOON_S + 3600, 1))
    let_age(store, clock, DAY_S + 120)
    assert {packet.sequence for packet in store.log.packets(1)} == {1}


@pytest.mark.parametrize("kind", ["sqlite"])
def test_rows_may_stay_for_ever(place, clock):
    with Store(place, linger_s=0, retention=Retention(packets_s=math.inf)) as store:
        record(store, *way(NOON_S, 0), nodes=[NodeSample(NOON_S, 1)])
        let_age(store, clock, 1000 * DAY_S)
        assert len(store.log.packets(1)) == 3
        assert store.log.stats().rolled_up == 2  # the sample, and what was left of it


def test_a_packet_that_never_ended_has_no_time(store, place, clock):
    record(store, Packet(NOON_S, 1, 5, 0, "start"), Packet(NOON_S + 7200, 1, 5, 0, "end"))
    let_age(store, clock, DAY_S + 8000)
    (found,) = rows(place, "SELECT ended, busy_s FROM packet_rollup WHERE event = 'start'"
                    " AND session_ID = 1")  # fmt: skip
    assert found == (0, None)


def test_rows_that_come_when_their_time_was_rolled_up_are_late(store, place, clock):
    packets = way(NOON_S, 0)
    record(store, *packets)
    let_age(store, clock, DAY_S + 120)
    assert record(store, *packets, Packet(clock.now_s, 1, 5, 9, "start")) == Stored(1, 0, 3)
    assert rows(place, "SELECT SUM(packets) FROM packet_rollup WHERE session_ID = 1") == [(3,)]
    assert store.log.stats().late == 3


def test_the_horizon_outlives_a_restart(place, clock):
    with Store(place, retention=RETENTION) as store:
        record(store, *way(NOON_S, 0))
        let_age(store, clock, DAY_S + 120)
    with Store(place, retention=Retention()) as store:
        assert record(store, *way(NOON_S, 0)) == Stored(0, 0, 3)


def test_many_rows_are_taken_in_steps_and_none_is_lost(store, place, clock, monkeypatch):
    monkeypatch.setattr(ageing, "STEP_ROWS", 50)
    everything = [packet for n in range(200) for packet in way(NOON_S + n / 8, n, busy_s=0.125)]
    record(store, *everything)
    before = store.log.stats().rolled_up
    clock.now_s += DAY_S + 120
    record(store, Packet(clock.now_s, 99, 0, 0, "start"))
    # Rows of one moment go together.
    assert 50 <= store.log.stats().rolled_up - before <= 53
    let_age(store, clock, 60)
    found = rows(
        place,
        "SELECT event, SUM(packets), SUM(ended), SUM(busy_s) FROM packet_rollup"
        " WHERE session_ID = 1 GROUP BY event ORDER BY event",
    )
    assert [(event, int(count), int(ended)) for event, count, ended, _ in found] == [
        ("end", 200, 0),
        ("sent", 200, 0),
        ("start", 200, 200),
    ]
    assert math.isclose(found[2][3], 25.0)


def test_old_samples_become_means_and_peaks(store, place, clock):
    samples = [
        NodeSample(NOON_S + n, 1, 10.0 * n, 2048, 50.0, 2 * n, 1, 1500, 40) for n in (1, 2, 3)
    ]
    processes = [HandlerSample(NOON_S + n, 1, 5, 10.0 * n, 1.0) for n in (1, 2)]
    gpus = [GpuSample(NOON_S + n, 1, 0, n) for n in (1, 2)]
    record(store, nodes=samples, handlers=processes, gpus=gpus)
    let_age(store, clock, DAY_S + 120)
    assert rows(
        place, "SELECT samples, cpu_util, cpu_util_max, mem_util, gpu_util, gpu_util_max,"
        " gpu_power, until_s FROM sys_rollup",
    ) == [(3, 20.0, 30.0, 50.0, 4.0, 6, 40.0, NOON_S + 3)]  # fmt: skip
    assert rows(
        place, "SELECT samples, cpu_util, cpu_util_max, gpu_util FROM proc_rollup"
    ) == [(2, 15.0, 20.0, None)]  # fmt: skip
    for table in ("sys_info", "proc_info", "gpu_info"):
        assert rows(place, f"SELECT COUNT(*) FROM {table}") == [(0,)]


def test_what_is_left_goes_too_when_it_is_old(store, place, clock):
    record(store, *way(NOON_S, 0))
    let_age(store, clock, DAY_S + 120)
    assert rows(place, "SELECT COUNT(*) FROM packet_rollup WHERE session_ID = 1") == [(3,)]
    let_age(store, clock, 30 * DAY_S)
    assert rows(place, "SELECT COUNT(*) FROM packet_rollup WHERE session_ID = 1") == [(0,)]


def test_two_processes_roll_up_once(place, clock):
    """Each has its own store; both find the same rows old."""
    with Store(place, linger_s=0, retention=RETENTION) as one:
        record(one, *(packet for n in range(50) for packet in way(NOON_S + n / 8, n)))
        with Store(place, linger_s=0, retention=RETENTION) as other:
            clock.now_s += DAY_S + 120
            futures = [
                store.log.record_awaited(
                    Report([Packet(clock.now_s, 99, number, sequence, "start")])
                )
                for sequence in range(20)
                for number, store in enumerate((one, other))
            ]
            assert sum(future.result(WAIT_S).rows for future in futures) == 40
            late = [store.log.record_awaited(Report(way(NOON_S, 0))) for store in (one, other)]
            assert [future.result(WAIT_S) for future in late] == [Stored(0, 0, 3)] * 2
            rolled_up = [store.log.stats().rolled_up for store in (one, other)]
    assert sum(rolled_up) == 150
    found = rows(
        place,
        "SELECT event, SUM(packets) FROM packet_rollup WHERE session_ID = 1"
        " GROUP BY event ORDER BY event",
    )
    assert [(event, int(count)) for event, count in found] == [
        ("end", 50),
        ("sent", 50),
        ("start", 50),
    ]
