"""Results that wait: in memory, in files, over a restart; thrown away when there are too many."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag.control import wire
from vdag.control.agent import spool as spool_module
from vdag.control.agent.spool import FrameSpool, Spool
from vdag.control.wire_log import read_columns, write_columns

RUN = "0123456789abcdef"
BATCH = 1 << 16


def result(number: int, nbytes: int = 10) -> wire.Result:
    return wire.Result("GLOBAL_ID_1", RUN, number, b"x" * nbytes)


def drain(spool: Spool) -> list[int]:
    """Send everything."""
    found = []
    while batch := spool.batch(BATCH):
        found += [each.seq for each in batch]
        spool.acknowledge(batch)
    assert spool.is_empty
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of ten results."""
    monkeypatch.setattr(spool_module, "SEGMENT_RESULTS", 10)


def test_results_come_in_the_order_they_went_in(tmp_path: Path):
    spool = Spool(tmp_path)
    assert (spool.batch(BATCH), spool.is_empty) == ([], True)
    for number in range(5):
        spool.add(result(number))
    first = spool.batch(BATCH)
    assert [each.seq for each in first] == [0, 1, 2, 3, 4]
    spool.add(result(5))
    assert spool.batch(BATCH) == first
    spool.acknowledge(first)
    assert drain(spool) == [5]
    assert spool.stats() == spool_module.SpoolStats(0, 0, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_bounded_but_never_empty(tmp_path: Path):
    spool = Spool(tmp_path)
    for number in range(4):
        spool.add(result(number, 1000))
    assert len(spool.batch(1)) == 1
    assert len(spool.batch(2200)) == 2


def test_what_is_too_much_for_memory_goes_into_files_and_comes_back_in_order(tmp_path, small):
    spool = Spool(tmp_path)
    for number in range(95):
        spool.add(result(number))
    stats = spool.stats()
    assert (stats.segments, len(list(tmp_path.iterdir())), stats.results) == (8, 8, 15)
    assert drain(spool) == list(range(95))
    assert list(tmp_path.iterdir()) == []


def test_a_segment_stays_until_all_of_it_is_acknowledged(tmp_path, small):
    spool = Spool(tmp_path)
    for number in range(20):
        spool.add(result(number))
    first = spool.batch(BATCH)
    spool.acknowledge(first)
    (second,) = tmp_path.iterdir()
    batch = spool.batch(BATCH)
    spool.acknowledge(batch[:9])
    assert second.exists()
    assert drain(Spool(tmp_path)) == list(range(10, 20))  # as after a crash: some of it again
    spool.acknowledge(batch[9:])
    assert spool.is_empty


@pytest.mark.parametrize("count", [1, 10, 11, 35, 40])
@pytest.mark.parametrize("sent", [0, 1, 10, 25])
def test_what_waits_at_the_end_is_sent_after_the_next_start(tmp_path, small, count, sent):
    spool = Spool(tmp_path)
    for number in range(count):
        spool.add(result(number))
    gone = 0
    while gone < min(sent, count):
        batch = spool.batch(BATCH)[: sent - gone]
        spool.acknowledge(batch)
        gone += len(batch)
    spool.close()
    again = Spool(tmp_path)
    found = drain(again)
    # What was read back from a file and sent in part is sent again, as a whole.
    assert found == list(range(count - len(found), count))
    assert count - gone <= len(found) <= count - gone + 10
    assert again.stats().dropped == spool.stats().dropped == 0


def test_a_second_end_and_start_lose_nothing_either(tmp_path, small):
    for number in range(3):
        spool = Spool(tmp_path)
        spool.add(result(number))
        spool.batch(BATCH)
        spool.close()
    assert drain(Spool(tmp_path)) == [0, 1, 2]


def test_too_many_results_are_thrown_away_from_the_oldest_segment_on(tmp_path, small):
    spool = Spool(tmp_path, limit_nbytes=2000)
    for number in range(200):
        spool.add(result(number))
    stats = spool.stats()
    found = drain(spool)
    assert stats.dropped > 0
    assert len(found) + stats.dropped == 200
    assert found[:10] == list(range(10))  # the head was in memory
    assert found[10:] == list(range(10 + stats.dropped, 200))


def test_without_a_folder_two_segments_are_kept(small):
    spool = Spool()
    for number in range(55):
        spool.add(result(number))
    assert spool.stats().dropped == 40
    assert drain(spool) == list(range(40, 55))
    spool.add(result(1))
    spool.close()
    assert spool.stats().dropped == 41


@pytest.mark.parametrize("damage", ["cut", "bit", "magic", "empty"])
def test_a_broken_segment_is_left_out_and_said(tmp_path, small, damage, caplog):
    spool = Spool(tmp_path)
    for number in range(40):
        spool.add(result(number))
    path = sorted(tmp_path.iterdir())[1]
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-1] ^= 1
    elif damage == "magic":
        data[0] = 0
    path.write_bytes({"cut": data[:-3], "empty": b""}.get(damage, data))
    assert drain(spool) == [*range(20), *range(30, 40)]
    assert "spooled results are lost: segment" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_counted(tmp_path, small, caplog):
    folder = tmp_path / "gone"
    folder.mkdir()
    spool = Spool(folder)
    folder.rmdir()
    for number in range(30):
        spool.add(result(number))
    assert spool.stats().dropped == 20
    assert "10 results are lost" in caplog.text
    assert drain(spool) == list(range(10))


@settings(max_examples=60)
@given(steps=st.lists(st.integers(1, 25) | st.integers(-25, -1) | st.just(0), max_size=12))
def test_nothing_is_lost_whatever_comes_is_sent_and_restarted(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("spool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "SEGMENT_RESULTS", 7)
        spool, made = Spool(folder), 0
        sent: list[int] = []
        for step in steps:
            if step == 0:
                spool.close()
                spool = Spool(folder)
            elif step > 0:
                for _ in range(step):
                    spool.add(result(made))
                    made += 1
            else:
                batch = spool.batch(BATCH)[:-step]
                sent += [each.seq for each in batch]
                spool.acknowledge(batch)
        sent += drain(spool)
        assert sorted(set(sent)) == list(range(made))
        assert spool.stats().dropped == 0


def test_it_knows_of_which_jobs_results_wait(tmp_path: Path, small):
    spool = Spool(tmp_path)
    for number in range(25):  # in memory, and in segments
        spool.add(result(number))
    other = wire.Result("GLOBAL_ID_2", RUN, 1, b"x")
    spool.add(other)
    assert spool.has("GLOBAL_ID_1", RUN)
    assert spool.has("GLOBAL_ID_2", RUN)
    assert not spool.has("GLOBAL_ID_1", "another run")
    while batch := spool.batch(BATCH):
        assert spool.has("GLOBAL_ID_2", RUN)
        spool.acknowledge(batch)
    assert not spool.has("GLOBAL_ID_1", RUN)
    assert not spool.has("GLOBAL_ID_2", RUN)


def test_what_an_earlier_run_left_is_not_of_the_jobs_of_this_one(tmp_path: Path):
    earlier = Spool(tmp_path)
    earlier.add(result(1))
    earlier.close()
    spool = Spool(tmp_path)
    assert not spool.has("GLOBAL_ID_1", RUN)
    spool.add(wire.Result("GLOBAL_ID_1", "another run", 1, b"x"))
    spool.acknowledge(spool.batch(BATCH))
    assert spool.has("GLOBAL_ID_1", "another run")
    spool.acknowledge(spool.batch(BATCH))
    assert not spool.has("GLOBAL_ID_1", "another run")


def test_results_that_are_thrown_away_are_waited_for_no_more(tmp_path: Path, small):
    spool = Spool(tmp_path, limit_nbytes=1)
    for number in range(40):
        spool.add(result(number))
    drain(spool)
    assert spool.stats().dropped > 0
    assert not spool.has("GLOBAL_ID_1", RUN)


def test_no_job_is_waited_for_because_of_a_broken_segment(tmp_path: Path, small):
    spool = Spool(tmp_path)
    for number in range(25):
        spool.add(result(number))
    for path in tmp_path.iterdir():
        path.write_bytes(b"broken")
    drain(spool)
    assert not spool.has("GLOBAL_ID_1", RUN)


# Frames


def frames(first: int, count: int) -> wire.Frames:
    numbers = range(first, first + count)
    columns = write_columns(numbers, numbers, [1.0] * count, [[0.0] * 3] * count, [[0]] * count)
    return wire.Frames("GLOBAL_ID_1", RUN, [["cars"]], {}, columns)


def sequences(spool: FrameSpool) -> list[int]:
    """Send everything."""
    found: list[int] = []
    while batch := spool.batch(BATCH):
        for each in batch:
            found += read_columns(each).sequences.tolist()
        spool.acknowledge(batch)
    return found


def test_frames_outlive_a_node_and_are_counted_one_by_one(tmp_path: Path):
    spool = FrameSpool(tmp_path)
    for first in (0, 10, 20):
        spool.add(frames(first, 10))
    assert spool.stats().results == 30
    spool.acknowledge(spool.batch(1))
    spool.close()
    again = FrameSpool(tmp_path)
    assert sequences(again) == list(range(10, 30))
    assert (again.is_empty, again.stats().dropped) == (True, 0)


@pytest.mark.usefixtures("small")
def test_frames_that_there_is_no_room_for_are_the_oldest_and_counted(tmp_path: Path):
    spool = FrameSpool(tmp_path, limit_nbytes=10_000)
    for first in range(0, 500, 5):
        spool.add(frames(first, 5))
    dropped = spool.stats().dropped
    left = sequences(spool)
    assert dropped > 0
    assert len(left) + dropped == 500
    assert left[-1] == 499
