"""Records in every database: what is written, read, kept, and there again after a restart."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from vdag.control.records import (
    NewQuery,
    PlanRecord,
    Retention,
    Store,
    read_frame,
    read_query_id,
)
from vdag.control.records import (
    store as store_module,
)
from vdag.control.records.opening import open_engine
from vdag.errors import ChannelClosed, Saturated, VdagError

WAIT_S = 20.0
ASKED = NewQuery(
    "127.0.0.1:5001",
    1,
    {"generator": "SingleFrameGenerator", "flow": ["face_detection"], "input": {}},
    {"delay": 0.3, "accuracy": 0.9},
)
DOCUMENTS = {
    "video_conf": {"resolution": "480p", "fps": 30, "encoder": "JPEG"},
    "flow_mapping": {"face_detection": {"model_id": 0, "node_role": "host", "node_ip": "1.2.3.4"}},
    "resource_limit": {},
}


def frames(first: int, last: int):
    """Frame objects with these n_loop, both included."""
    return [
        read_frame({"count_result": {"total": n}, "n_loop": n, "frame_id": float(n), "delay": 0.1})
        for n in range(first, last + 1)
    ]


def numbers(store: Store, query_id: str, **more) -> list[int]:
    found = store.results(query_id, **{"limit": 10_000, **more})
    assert [result.read()["n_loop"] for result in found] == [result.n_loop for result in found]
    return [result.n_loop for result in found]


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    with Store(place, linger_s=0) as store:
        yield store


def submit(store: Store, asked: NewQuery = ASKED) -> str:
    return store.add_query(asked).result(WAIT_S)


def test_ids_go_on_after_a_restart_and_after_the_newest_was_deleted(place):
    with Store(place) as store:
        assert [submit(store) for _ in range(3)] == ["GLOBAL_ID_1", "GLOBAL_ID_2", "GLOBAL_ID_3"]
        assert store.forget("GLOBAL_ID_3").result(WAIT_S) is True
        assert store.forget("GLOBAL_ID_3").result(WAIT_S) is False
    with Store(place) as store:
        assert submit(store) == "GLOBAL_ID_4"


def test_everything_is_there_after_a_restart(place):
    with Store(place) as store:
        query_id = submit(store)
        store.set_state(query_id, 2, suspended=True)
        store.set_constraint(query_id, {"delay": None})
        store.set_fault(query_id, "policy golden raised KeyError: '人脸'")
        store.add_plan(query_id, 1, {"video_conf": {}}, "submitted")
        store.add_plan(query_id, 2, DOCUMENTS, "constraint changed")
        store.add_results(query_id, frames(1, 20))
        store.set_dropped(query_id, {"deadline": 3, "queue full": 1}, run="a")
        store.set_dropped(query_id, {"deadline": 5}, run="a")
        store.set_dropped(query_id, {"deadline": 2}, run="b")
    with Store(place) as store:
        (query,) = store.queries()
        assert query == store.query(query_id)
        assert query.query_id == query_id
        assert query.asked.constraint == {"delay": None}
        assert query.asked.dag == ASKED.dag
        assert (query.state, query.suspended, query.is_over, query.ended_s) == (
            2,
            True,
            False,
            None,
        )
        assert query.fault == "policy golden raised KeyError: '人脸'"
        assert query.plan is not None
        assert (query.plan.number, query.plan.documents, query.next_number) == (2, DOCUMENTS, 3)
        assert [plan.cause for plan in store.plans(query_id)] == ["submitted", "constraint changed"]
        assert numbers(store, query_id) == list(range(1, 21))
        assert store.dropped(query_id) == {"deadline": 7, "queue full": 1}


def test_a_query_ends_once(store):
    query_id = submit(store)
    store.set_state(query_id, 4, "node 127.0.0.1:5001 has no video 9")
    first = store.query(query_id)
    store.set_state(query_id, 4, "again")
    second = store.query(query_id)
    assert first.is_over
    assert first.reason == "node 127.0.0.1:5001 has no video 9"
    assert second.ended_s == first.ended_s >= first.created_s > 1e9


def test_queries_are_listed_oldest_first_by_whether_they_are_over(store):
    for _ in range(5):
        submit(store)
    store.set_state("GLOBAL_ID_2", 3)
    store.set_state("GLOBAL_ID_4", 4)

    def listed(**more):
        return [read_query_id(query.query_id) for query in store.queries(**more)]

    assert listed() == [1, 2, 3, 4, 5]
    assert listed(is_over=True) == [2, 4]
    assert listed(is_over=False) == [1, 3, 5]
    assert listed(limit=2) == [4, 5]
    assert listed(before="GLOBAL_ID_4", limit=2) == [2, 3]


def test_what_was_written_is_read_at_once_though_the_writer_gathers_rows(place):
    with Store(place, linger_s=60) as store:
        query_id = submit(store)
        store.add_results(query_id, frames(1, 3))
        assert numbers(store, query_id) == [1, 2, 3]


def test_who_waits_for_a_commit_finds_what_he_wrote(place):
    with Store(place, linger_s=60) as store:
        query_id = submit(store)
        store.add_results(query_id, frames(1, 3))
        assert store.committed().result(WAIT_S) is None
        assert len(store.results(query_id, is_settled=True)) == 3


def test_the_newest_results_are_returned_or_those_that_follow(store):
    query_id = submit(store)
    assert numbers(store, query_id) == []
    store.add_results(query_id, frames(1, 50))
    assert numbers(store, query_id, limit=11) == list(range(40, 51))
    assert numbers(store, query_id, after=10, limit=3) == [11, 12, 13]
    assert numbers(store, query_id, after=50) == []
    assert numbers(store, "GLOBAL_ID_9") == []


def test_results_are_kept_by_count(place):
    with Store(place, retention=Retention(results=100), linger_s=0) as store:
        query_id, other = submit(store), submit(store)
        store.add_results(other, frames(1, 5))
        for first in range(1, 1000, 7):
            store.add_results(query_id, frames(first, first + 6))
            assert len(numbers(store, query_id)) <= 110
        assert numbers(store, query_id)[-100:] == list(range(902, 1002))
        assert numbers(store, other) == [1, 2, 3, 4, 5]


def test_results_that_are_too_old_go_but_for_the_newest_eleven(place):
    with Store(place) as store:
        query_id = submit(store)
        store.add_results(query_id, frames(1, 30))
        assert len(numbers(store, query_id)) == 30
    with Store(place, retention=Retention(age_s=-1.0)) as store:
        store.set_state(query_id, 3)  # any write looks for them
        assert numbers(store, query_id) == list(range(20, 31))


def test_results_that_are_sent_again_are_left_out_also_after_a_restart(place):
    with Store(place) as store:
        query_id = submit(store)
        store.add_results(query_id, frames(1, 10), run="a")
        store.add_results(query_id, frames(5, 12), run="a")
        assert numbers(store, query_id) == list(range(1, 13))
        assert store.stats().duplicates == 6
    with Store(place) as store:
        store.add_results(query_id, [*frames(11, 14), *frames(13, 14)], run="a")
        assert numbers(store, query_id) == list(range(1, 15))
        assert store.stats().duplicates == 4


def test_results_that_were_trimmed_do_not_come_back(place):
    with Store(place, retention=Retention(results=10), linger_s=0) as store:
        query_id = submit(store)
        store.add_results(query_id, frames(1, 40), run="a")
        assert numbers(store, query_id) == list(range(31, 41))
        store.add_results(query_id, frames(1, 41), run="a")
        assert numbers(store, query_id)[-11:] == list(range(31, 42))


def test_numbers_grow_when_a_job_starts_anew_and_late_results_come_at_the_end(store):
    query_id = submit(store)
    store.add_results(query_id, frames(1, 3), run="a")
    store.add_results(query_id, frames(1, 2), run="b")
    store.add_results(query_id, frames(4, 5), run="a")
    store.add_results(query_id, frames(3, 4), run="b")
    found = store.results(query_id)
    assert [result.n_loop for result in found] == list(range(1, 10))
    assert [result.read()["count_result"]["total"] for result in found] == [
        1, 2, 3, 1, 2, 4, 5, 3, 4,
    ]  # fmt: skip


def test_a_node_that_names_no_runs_has_started_anew_when_its_count_goes_back(place):
    with Store(place) as store:
        query_id = submit(store)
        for batch in (frames(1, 3), frames(3, 3), frames(1, 2)):  # the second is the same again
            store.add_results(query_id, batch)
        assert numbers(store, query_id) == [1, 2, 3, 4, 5]
        assert store.stats().duplicates == 1
    with Store(place) as store:
        store.add_results(query_id, frames(2, 3))
        store.add_results(query_id, frames(1, 1))
        assert numbers(store, query_id) == [1, 2, 3, 4, 5, 6, 7]
        assert [result.read()["frame_id"] for result in store.results(query_id)][-2:] == [3.0, 1.0]


def test_results_without_a_number_are_counted_here(store):
    query_id = submit(store)
    store.add_results(query_id, [read_frame(4), read_frame(None), read_frame(7)])
    assert numbers(store, query_id) == [1, 2, 3]


def test_a_query_is_forgotten_with_all_that_belongs_to_it(store, place):
    query_id, other = submit(store), submit(store)
    for each in (query_id, other):
        store.add_plan(each, 1, DOCUMENTS)
        store.add_results(each, frames(1, 3))
        store.set_dropped(each, {"deadline": 1})
    assert store.forget(query_id).result(WAIT_S) is True
    assert store.query(query_id) is None
    assert (store.plans(query_id), numbers(store, query_id), store.dropped(query_id)) == (
        [],
        [],
        {},
    )
    assert numbers(store, other) == [1, 2, 3]
    engine = open_engine(place)
    with engine.connect() as connection:
        for table in ("plan", "result", "dropped"):
            found = connection.execute(text(f"SELECT DISTINCT query_id FROM {table}")).all()
            assert found == [(2,)]
    engine.dispose()


def test_writes_are_refused_when_too_many_wait(place):
    with Store(place, limit=100, linger_s=60) as store:
        query_id = submit(store)
        store.add_results(query_id, frames(1, 90))
        with pytest.raises(Saturated, match=r"^90 rows wait to be recorded$"):
            store.add_results(query_id, frames(91, 101))
        store.add_results(query_id, frames(91, 100))
        assert store.stats().refused == 1
        assert len(numbers(store, query_id)) == 100


def test_a_closed_store_has_written_all_and_takes_no_more(place):
    store = Store(place, linger_s=60)
    query_id = submit(store)
    store.add_results(query_id, frames(1, 500))
    store.close()
    with pytest.raises(ChannelClosed, match=r"^records are closed$"):
        store.set_state(query_id, 3)
    with Store(place) as store:
        assert len(numbers(store, query_id)) == 500


def test_a_record_that_cannot_be_written_does_not_hold_up_others(store, caplog):
    query_id = submit(store)
    store.add_plan(query_id, 1, {"video_conf": object()})
    store.add_results(query_id, frames(1, 3))
    failed = store.add_query(NewQuery("n", 1, {"flow": object()}, {}))
    with pytest.raises(VdagError, match=r"^cannot be recorded: .*not JSON serializable$"):
        failed.result(WAIT_S)
    assert numbers(store, query_id) == [1, 2, 3]
    assert store.stats().given_up == 2
    assert "a record was given up: " in caplog.text
    assert submit(store) == "GLOBAL_ID_2"


def test_writes_wait_while_the_database_is_locked(path, monkeypatch, caplog):
    monkeypatch.setattr(store_module, "READ_TIMEOUT_S", 0.3)
    with Store(f"sqlite:///{path}?timeout=0.01", linger_s=0) as store:
        query_id = submit(store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.add_results(query_id, frames(1, 3))
        with pytest.raises(Saturated, match=r"^records cannot be written: database is locked$"):
            store.query(query_id)
        assert store.stats().fault == "records cannot be written: database is locked"
        other.execute("COMMIT")
        other.close()
        monkeypatch.setattr(store_module, "READ_TIMEOUT_S", WAIT_S)
        assert numbers(store, query_id) == [1, 2, 3]
        assert store.stats().fault == ""
    assert "records cannot be written: database is locked" in caplog.text


def test_a_follower_is_woken_by_commits_of_its_query_alone(store):
    query_id, other = submit(store), submit(store)
    woken = threading.Semaphore(0)
    with store.following(query_id, woken.release):
        store.add_results(other, frames(1, 1))
        store.results(other)
        assert not woken.acquire(blocking=False)
        store.add_results(query_id, frames(1, 1))
        assert woken.acquire(timeout=WAIT_S)
        assert len(store.results(query_id, is_settled=True)) == 1
        store.set_state(query_id, 3)
        assert woken.acquire(timeout=WAIT_S)
    store.add_results(query_id, frames(2, 2))
    store.results(query_id)
    assert not woken.acquire(blocking=False)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("GLOBAL_ID_1", 1),
        ("GLOBAL_ID_907", 907),
        ("GLOBAL_ID_12.SUB_ID", 12),
        ("GLOBAL_ID_12.SUB_ID_1", 12),
        ("GLOBAL_ID_0", 0),
        ("GLOBAL_ID_01", 0),
        ("GLOBAL_ID_", 0),
        ("GLOBAL_ID_1 ", 0),
        ("GLOBAL_ID_1\n", 0),
        ("GLOBAL_ID_٣", 0),
        ("GLOBAL_ID_" + "9" * 40, 0),
        ("", 0),
    ],
)
def test_an_id_is_read_strictly(written, number):
    assert read_query_id(written) == number


def test_plans_are_kept_by_count(store, monkeypatch):
    query_id = submit(store)
    for number in range(1, 1101):
        store.add_plan(query_id, number, {"video_conf": {"fps": number}})
    plans = store.plans(query_id, limit=2000)
    assert [plan.number for plan in plans] == list(range(101, 1101))
    assert isinstance(plans[0], PlanRecord)
