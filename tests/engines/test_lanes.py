"""Engines of lanes, on the stand-in for a GPU: memory, order, ownership, failures."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gpu_kit
import numpy as np
import pytest

from vdag import _native as native
from vdag import engines
from vdag.engines import zoo
from vdag.engines.gpu import lanes as lanes_module
from vdag.engines.gpu.engine import LaneEngine, in_turn
from vdag.engines.gpu.lanes import Lanes
from vdag.engines.gpu.pages import LockedPages
from vdag.engines.gpu.pictures import Preparation
from vdag.errors import ConfigError, EngineError, ImageError

CARD = zoo.card("blazeface")
PREPARATION = Preparation("images", (256, 256), native.Normalization(), "letterbox")


def open_engine(device: gpu_kit.HostDevice, *, wrap: Any = None, **options: Any) -> LaneEngine:
    def compute(stream: object) -> Any:
        made = gpu_kit.HostCompute(CARD.path)
        return wrap(made) if wrap else made

    return LaneEngine("blazeface", Lanes(device, compute, **options))


@pytest.fixture
def engine(host) -> Iterator[LaneEngine]:
    with open_engine(host) as opened:
        yield opened
    assert host.allocated == {}
    assert host.registered == {}


def pictures(count: int, height: int = 90, width: int = 120) -> list[np.ndarray]:
    random = np.random.default_rng(count)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def on_the_cpu(batch: list[np.ndarray]) -> tuple[dict[str, np.ndarray], list[native.Placement]]:
    tensor = np.empty((len(batch), 3, 256, 256), np.float32)
    where = native.preprocess.fill_batch(batch, tensor, mode="letterbox")
    with engines.load(CARD.path, device="cpu") as cpu:
        return cpu.infer({"images": tensor}), where


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-2)


def test_arrays_give_what_the_cpu_gives(engine):
    tensor = np.random.default_rng(1).normal(size=(3, 3, 256, 256)).astype(np.float32)
    with engines.load(CARD.path, device="cpu") as cpu:
        assert_same(engine.infer({"images": tensor}), cpu.infer({"images": tensor}))


def test_pictures_give_what_the_cpu_gives(engine):
    batch = [*pictures(2), *pictures(1, 300, 200), pictures(1)[0][10:40, 20:90]]
    found, placements = engine.infer_pictures(batch, PREPARATION)
    expected, where = on_the_cpu(batch)
    assert placements == where
    assert_same(found, expected)
    assert engine.stats().items == 4


def test_results_stay_when_later_batches_have_run(engine):
    first, _ = engine.infer_pictures(pictures(2), PREPARATION)
    kept = {name: values.copy() for name, values in first.items()}
    for _ in range(5):
        engine.infer_pictures(pictures(3), PREPARATION)
    for name, values in kept.items():
        np.testing.assert_array_equal(first[name], values)


def test_memory_of_results_is_used_again_when_they_are_gone(engine, host):
    for _ in range(3):
        engine.infer_pictures(pictures(2), PREPARATION)
    gc.collect()
    taken = len(host.locked)
    for _ in range(5):
        engine.infer_pictures(pictures(2), PREPARATION)
    assert len(host.locked) == taken


def test_results_outlive_their_engine(host):
    with open_engine(host) as engine:
        found, _ = engine.infer_pictures(pictures(2), PREPARATION)
        kept = {name: values.copy() for name, values in found.items()}
    for name, values in kept.items():
        np.testing.assert_array_equal(found[name], values)


def test_two_batches_are_in_flight_and_keep_their_own(engine):
    batches = [pictures(1), pictures(2)]
    begun = [engine.begin_pictures(batch, PREPARATION) for batch in batches]
    for pending, batch in reversed(list(zip(begun, batches, strict=True))):
        assert_same(pending.result(), on_the_cpu(batch)[0])


def test_what_was_submitted_is_counted_when_its_result_is_taken(engine):
    begun = [engine.submit_pictures(pictures(count), PREPARATION) for count in (1, 2)]
    assert engine.stats().calls == 0
    for count, each in zip((1, 2), begun, strict=True):
        found, placements = each.result()
        assert len(placements) == len(found["score"]) == count
    assert (engine.stats().calls, engine.stats().items) == (2, 3)


def test_who_came_first_for_a_lane_gets_it_first(engine):
    held = [engine.begin_pictures(pictures(1), PREPARATION) for _ in range(2)]
    order: list[int] = []
    threads = []
    for number in range(4):

        def call(number: int = number) -> None:
            with engine.lanes._taken() as lane:
                order.append(number)
            engine.lanes._release(lane)

        threads.append(threading.Thread(target=call))
        threads[-1].start()
        wait_until(lambda number=number: len(engine.lanes._queue) == number + 1)
    for pending in held:
        pending.result()
    for thread in threads:
        thread.join(30)
    assert order == [0, 1, 2, 3]


def test_a_result_is_taken_once(engine):
    pending = engine.begin_pictures(pictures(1), PREPARATION)
    pending.result()
    with pytest.raises(EngineError, match="the result of this batch was taken before"):
        pending.result()


def test_parts_come_back_in_order(engine):
    parts = [pictures(count) for count in (1, 2, 3, 4, 5)]
    done = in_turn(engine, lambda part: engine.begin_pictures(part, PREPARATION), parts)
    assert [len(finished.placements) for finished in done] == [1, 2, 3, 4, 5]


def test_parts_that_are_not_asked_for_leave_no_lane_taken(engine):
    parts = in_turn(engine, lambda n: engine.begin_pictures(pictures(n), PREPARATION), [1, 1, 1, 1])
    next(parts)
    parts.close()
    engine.warm_up([{"images": (1, 3, 256, 256)}])  # wants all lanes


def test_several_threads_get_their_own_results(engine):
    batches = [pictures(count, 60 + count) for count in range(1, 7)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda batch: engine.infer_pictures(batch, PREPARATION)[0], batches)
        for batch, outputs in zip(batches, found, strict=True):
            assert_same(outputs, on_the_cpu(batch)[0])


def test_a_caller_that_takes_no_results_is_told(engine, monkeypatch):
    monkeypatch.setattr(lanes_module, "LANE_TIMEOUT_S", 0.05)
    held = [engine.begin_pictures(pictures(1), PREPARATION) for _ in range(2)]
    with pytest.raises(EngineError, match=r"no lane became free within 0.05 s"):
        engine.begin_pictures(pictures(1), PREPARATION)
    for pending in held:
        pending.result()
    engine.infer_pictures(pictures(1), PREPARATION)


def test_a_batch_that_waits_for_a_lane_gets_it(engine):
    held = [engine.begin_pictures(pictures(1), PREPARATION) for _ in range(2)]
    done = threading.Event()

    def late() -> None:
        engine.infer_pictures(pictures(1), PREPARATION)
        done.set()

    thread = threading.Thread(target=late)
    thread.start()
    for pending in held:
        pending.result()
    assert done.wait(30)
    thread.join()


def wait_until(holds: Any) -> None:
    deadline_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.001)


class Failing:
    """A model that fails on the batches that it is told to."""

    def __init__(self, compute: gpu_kit.HostCompute, failures: list[Exception]) -> None:
        self._compute, self._failures = compute, failures
        self.inputs, self.outputs = compute.inputs, compute.outputs
        self.close = compute.close

    def enqueue(self, inputs: Any, stream: Any) -> Any:
        if self._failures:
            raise self._failures.pop()
        return self._compute.enqueue(inputs, stream)


def test_a_failed_batch_leaves_its_lane_free(host):
    failures: list[Exception] = [EngineError("no"), EngineError("no"), EngineError("no")]
    with open_engine(host, wrap=lambda compute: Failing(compute, failures)) as engine:
        for _ in range(3):
            with pytest.raises(EngineError, match="no"):
                engine.infer_pictures(pictures(1), PREPARATION)
        for pending in [engine.begin_pictures(pictures(1), PREPARATION) for _ in range(2)]:
            pending.result()


def test_a_lane_that_cannot_be_made_leaves_nothing(host):
    made: list[gpu_kit.HostCompute] = []

    def compute(stream: object) -> gpu_kit.HostCompute:
        if made:
            raise EngineError("no memory")
        made.append(gpu_kit.HostCompute(CARD.path))
        return made[0]

    with pytest.raises(EngineError, match="no memory"):
        Lanes(host, compute)
    assert made[0].is_closed
    assert host.allocated == {}


def test_a_picture_in_locked_pages_is_not_copied_on_the_host(engine, host):
    with native.ring.Arena.create("lanes", [(1 << 20, 2)]) as arena:
        batch = pictures(1)
        ref = arena.put(batch[0])
        assert ref is not None
        with arena.acquire(ref.slot, ref.generation) as view:
            slot = np.frombuffer(view, np.uint8).reshape(batch[0].shape)
            start = slot.ctypes.data // 4096 * 4096
            assert engine.lock_pages(start, 1 << 16)
            host.uploads.clear()
            found, _ = engine.infer_pictures([slot], PREPARATION)
            assert (slot.ctypes.data, slot.nbytes) in host.uploads
            assert_same(found, on_the_cpu(batch)[0])
            engine.unlock_pages(start)
            host.uploads.clear()
            engine.infer_pictures([slot], PREPARATION)
            assert (slot.ctypes.data, slot.nbytes) not in host.uploads
            del slot


def test_engines_of_a_process_lock_the_same_pages_once(host):
    with open_engine(host) as first:
        assert first.lock_pages(1 << 20, 8192)
        with open_engine(host) as second:
            assert second.lock_pages(1 << 20, 8192)
            assert host.registered == {1 << 20: 8192}
            first.unlock_pages(1 << 20)
            assert host.registered == {1 << 20: 8192}
        assert host.registered == {}
        first.unlock_pages(1 << 20)


def test_an_engine_that_is_closed_leaves_no_page_locked(host):
    with open_engine(host) as engine:
        engine.lock_pages(1 << 20, 8192)
    assert host.registered == {}


def test_memory_that_cannot_be_locked_is_copied_and_said_once(engine, host, caplog):
    host.refusal = "not supported"
    assert not engine.lock_pages(4096, 4096)
    assert not engine.lock_pages(4096, 4096)
    assert [record.getMessage() for record in caplog.records] == [
        "shared memory is not page-locked: not supported"
    ]
    assert_same(engine.infer_pictures(pictures(1), PREPARATION)[0], on_the_cpu(pictures(1))[0])


def test_locked_ranges_do_not_overlap(host):
    pages = LockedPages(host)
    assert pages.lock(8192, 8192)
    for address, nbytes in ((4096, 8192), (8192, 4096), (12288, 4096), (4096, 65536)):
        with pytest.raises(ConfigError, match="is locked already"):
            pages.lock(address, nbytes)
    assert pages.lock(4096, 4096)
    with pytest.raises(ConfigError, match=r"memory of 10 bytes at 0x7 is not whole pages"):
        pages.lock(7, 10)
    pages.close()
    assert host.registered == {}


def test_where_memory_is_shared_with_the_host_no_picture_is_copied_to_the_device(kernels):
    device = gpu_kit.HostDevice(kernels, integrated=True)
    with open_engine(device) as engine:
        batch = pictures(3)
        found, _ = engine.infer_pictures(batch, PREPARATION)
        assert_same(found, on_the_cpu(batch)[0])
        # What goes up is the table of the pictures: 40 bytes for each.
        assert [nbytes for _, nbytes in device.uploads] == [120]


def test_times_are_taken_where_they_are_wanted(host):
    with open_engine(host, timed=True) as engine:
        pending = engine.begin_pictures(pictures(1), PREPARATION)
        pending.result()
        times = pending.times
    assert times is not None
    assert times.begun < times.uploaded < times.prepared < times.computed < times.downloaded


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({}, "blazeface misses input images; it takes images"),
        ({"x": np.zeros(1)}, "blazeface has no input 'x'; it takes images"),
        (
            {"images": np.zeros((1, 3, 256, 256))},
            "input 'images' is float64, expected float32",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(engine, inputs, problem):
    with pytest.raises(ConfigError) as caught:
        engine.infer(inputs)
    assert str(caught.value) == problem


def test_pictures_for_another_input_or_size_are_refused(engine):
    other = Preparation("x", (256, 256), native.Normalization(), "stretch")
    with pytest.raises(ConfigError, match="blazeface has no input 'x'; it takes images"):
        engine.infer_pictures(pictures(1), other)
    small = Preparation("images", (64, 64), native.Normalization(), "stretch")
    with pytest.raises(ConfigError, match=r"has shape \(1, 3, 64, 64\), expected"):
        engine.infer_pictures(pictures(1), small)
    with pytest.raises(ImageError, match=r"pictures\[0\] has samples of float32, not uint8"):
        engine.infer_pictures([np.zeros((4, 4, 3), np.float32)], PREPARATION)
    engine.infer_pictures(pictures(1), PREPARATION)


def test_a_buffer_is_page_locked_and_kept(engine, host):
    array = engine.buffer("images", (1, 3, 256, 256))
    assert engine.buffer("images", (1, 3, 256, 256)) is array
    assert (array.ctypes.data, array.nbytes) in host.locked
    assert not array.any()


def test_a_closed_engine_says_so(host):
    engine = open_engine(host)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="blazeface is closed"):
        engine.infer({})
    with pytest.raises(EngineError, match="the lanes are closed"):
        engine.lanes.begin_arrays({})
