"""What batches take: which sizes are tried, what is made of what they took, and where it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from vdag import tasks
from vdag.control.profile import Cost, Profile, batching
from vdag.control.profile.batching import SAMPLES, measure_batches, points_of, sizes_of
from vdag.control.profile.cells import BatchRecord, CellKey, CellRecord, fastest
from vdag.control.profile.costs import BatchPoint
from vdag.control.profile.engine_costs import EngineCosts
from vdag.engines import zoo
from vdag.engines.begun import Begun
from vdag.engines.measuring import BatchCost
from vdag.errors import ConfigError, EngineError
from vdag.graph import Signature

PICTURES = [np.full((6, 4, 3), n, np.uint8) for n in range(SAMPLES)]


class Clock:
    """Time that passes where it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Staged:
    """A task whose batches take 4 ms and 1 ms for each frame; half of it beside another batch."""

    signature: ClassVar[Signature] = Signature(frozenset({"image"}), frozenset({"level"}))
    largest: ClassVar[int] = 1000
    parallel: ClassVar[bool] = True
    clock: ClassVar[Clock]
    seen: ClassVar[list[list[int]]]
    at_work: ClassVar[list[int]]
    pages: ClassVar[list[tuple[int, int]]]

    def __init__(self, options: tasks.TaskOptions) -> None:
        self.max_batch = 16

    def process(self, batch: Any) -> Any:
        return self.begin(batch).result()

    def begin(self, batch: Any) -> Begun[Any]:
        if len(batch) > self.largest:
            raise EngineError("out of memory")
        levels = [int(inputs["image"][0, 0, 0]) for inputs in batch]
        self.seen.append(levels)
        self.at_work.append(len(self.seen))
        whole_s = 0.004 + 0.001 * len(batch)
        self.clock.now_s += whole_s if len(self.at_work) == 1 else whole_s / 2

        def finish() -> Any:
            self.at_work.pop(0)
            return [{"level": level} for level in levels]

        return Begun(finish)

    def lock_pages(self, address: int, nbytes: int) -> bool:
        self.pages.append((address, nbytes))
        return True

    def close(self) -> None:
        assert not self.at_work, "all that was begun is through"


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> type[Staged]:
    clock = Clock()
    monkeypatch.setitem(tasks.base._registry, "staged", Staged)
    monkeypatch.setattr(batching, "time", clock)
    for name, value in (("clock", clock), ("seen", []), ("at_work", []), ("pages", [])):
        monkeypatch.setattr(Staged, name, value, raising=False)
    return Staged


def run(**values: Any) -> tuple[float, list[BatchRecord]]:
    key = CellKey("staged", 0, "360p")
    return measure_batches(key, ("staged",), PICTURES, device="cpu", engine="onnx", **values)


def test_batches_are_measured_one_beside_the_other_and_frames_alone(staged):
    alone_s, records = run()
    assert alone_s == pytest.approx(0.005)
    assert [each.batch for each in records] == [1, 2, 4, 8, 16]
    for each in records:
        # The first of a row has nothing beside it, all others have.
        rounds = max(4, SAMPLES // each.batch)
        whole_s = 0.004 + 0.001 * each.batch
        assert each.seconds == pytest.approx(whole_s * (1 + rounds) / (2 * rounds))
    used = {level for batch in staged.seen for level in batch}
    assert used == set(range(SAMPLES))
    ((address, nbytes),) = staged.pages
    assert address % 4096 == 0
    assert nbytes == SAMPLES * 4096


def test_larger_batches_are_not_tried_where_they_save_nothing(staged, monkeypatch):
    taken = []

    def spacing(task: Any, inputs: Any, size: int) -> float:
        taken.append(size)
        return 0.01 * min(size, 4) if size < 4 else 0.0098 * size

    monkeypatch.setattr(batching, "_spacing", spacing)
    _, records = run()
    assert taken == [1, 2]
    assert [each.batch for each in records] == [1, 2]
    taken.clear()
    _, records = run(sizes=(8, 3, 1, 64))
    assert taken == [1, 3, 8], "those that were asked for are measured, as far as the task goes"


def test_batches_that_do_not_fit_are_left_out_and_said_so(staged, monkeypatch, caplog):
    monkeypatch.setattr(Staged, "largest", 4)
    _, records = run()
    assert [each.batch for each in records] == [1, 2, 4]
    assert "batches of 8 are left out: out of memory" in caplog.text
    monkeypatch.setattr(Staged, "largest", 0)
    with pytest.raises(EngineError, match=r"^out of memory$"):
        run()


def test_a_task_that_takes_a_frame_at_a_time_has_no_batches(staged):
    assert run(sizes=(1,)) == (0.0, [])
    assert staged.seen == []


@pytest.mark.parametrize(
    ("most", "asked", "sizes"),
    [(1, (), (1,)), (6, (), (1, 2, 4)), (32, (), (1, 2, 4, 8, 16, 32)), (8, (9, 5, 5), (5,))],
)
def test_sizes_are_powers_of_two_or_those_asked_for(most, asked, sizes):
    task = Staged(tasks.TaskOptions())
    task.max_batch = most
    assert sizes_of(task, asked) == sizes


def test_batches_are_told_over_what_the_same_frames_take_alone():
    records = [BatchRecord(1, 0.004, 1000, 50), BatchRecord(4, 0.008, 1600, 90)]
    cost = Cost(0.009, 0.01, 0.0005, mem_nbytes=5000, obj_n=2.0)
    # In the worker a frame took 10 ms, twice as long as here.
    assert points_of(0.005, records, cost) == (
        BatchPoint(1, pytest.approx(0.008), 5000, 50),
        BatchPoint(4, pytest.approx(0.016), 5600, 90),
    )
    assert points_of(0.0, [], cost) == ()


def test_of_several_runs_each_size_counts_at_its_fastest():
    key = CellKey("staged", 0, "360p")
    one = CellRecord(key, [0.1], [0], [1], 1, None, 0.005, [BatchRecord(1, 3), BatchRecord(2, 5)])
    two = CellRecord(key, [0.1], [0], [1], 1, None, 0.004, [BatchRecord(1, 4), BatchRecord(2, 4)])
    found = fastest([one, two])
    assert found.alone_s == 0.004
    assert found.batches == [BatchRecord(1, 3), BatchRecord(2, 4)]


# Engines alone.

MEASURED = [
    BatchCost(1, 0.003, 0.004, 500.0, 100, 1000, 20),
    BatchCost(8, 0.012, 0.013, 1000.0, 300, 3000, 20),
]


def test_what_an_engine_takes_goes_into_a_profile_for_each_task_that_has_the_model(tmp_path: Path):
    path = tmp_path / "profile.json"
    known = Profile()
    known.put_cost("face_detection", 0, "720p", Cost(0.2, 0.3, out_nbytes=77, obj_n=3), "edge")
    known.put_cost("face_detection", 0, "720p", Cost(0.1, 0.1), "cloud")
    known.save(path)
    book = EngineCosts(path, "edge", (1280, 720))
    services = book.services(zoo.card("centerface"))
    assert list(services) == [1280, 640]
    for each in services.values():
        book.put(each, MEASURED)
    rows = {(row.model_id, row.place): row.cost for row in Profile.load(path).costs()}
    cost = rows[0, "edge"]
    assert (cost.compute_s, cost.compute_p95_s, cost.samples) == (0.003, 0.004, 20)
    assert (cost.out_nbytes, cost.obj_n) == (77, 3)
    assert cost.batches == (BatchPoint(1, 0.002, 100, 1000), BatchPoint(8, 0.008, 300, 3000))
    assert cost.busy_s == pytest.approx(0.001)
    assert rows[1, "edge"].batches == cost.batches
    assert rows[0, "cloud"].compute_s == 0.1, "what holds elsewhere stays"


def test_a_size_without_a_name_is_a_resolution_too(tmp_path: Path):
    book = EngineCosts(tmp_path / "new.json", "", (640, 400))
    book.put(book.services(zoo.card("blazeface"))[256], MEASURED)
    (row,) = Profile.load(tmp_path / "new.json").costs()
    assert row[:4] == ("face_detection", 2, "640x400", "")


def test_models_that_see_parts_of_frames_are_measured_otherwise(tmp_path: Path):
    book = EngineCosts(tmp_path / "new.json", "", (640, 400))
    with pytest.raises(ConfigError, match=r"^face_alignment looks at parts of frames: measure it"):
        book.services(zoo.card("facemesh"))
    with pytest.raises(ConfigError, match=r"^a profile needs to know what a batch of 1 takes$"):
        book.put(book.services(zoo.card("blazeface"))[256], MEASURED[1:])
    assert not (tmp_path / "new.json").exists()


def test_a_task_is_measured_with_what_the_one_before_it_finds(monkeypatch: pytest.MonkeyPatch):
    class Second(Staged):
        signature = Signature(frozenset({"level"}), frozenset({"out"}), frozenset({"image"}))

        def begin(self, batch: Any) -> Begun[Any]:
            assert all(int(inputs["image"][0, 0, 0]) == inputs["level"] for inputs in batch), (
                "of the same frame"
            )
            return super().begin(batch)

    clock = Clock()
    monkeypatch.setattr(batching, "time", clock)
    for name, value in (("clock", clock), ("seen", []), ("at_work", []), ("pages", [])):
        monkeypatch.setattr(Staged, name, value, raising=False)
    monkeypatch.setitem(tasks.base._registry, "staged", Staged)
    monkeypatch.setitem(tasks.base._registry, "second", Second)
    key = CellKey("second", 0, "360p")
    chain = ("staged", "second")
    alone_s, records = measure_batches(
        key, chain, PICTURES, device="cpu", engine="onnx", sizes=(2,)
    )
    assert alone_s == pytest.approx(0.005)
    assert [each.batch for each in records] == [2]
