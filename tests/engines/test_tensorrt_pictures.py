"""Pictures given to `TensorRTEngine`: from locked pages, several batches at once, across the swap.

The builder is the real one of TensorRT for RTX; what runs engines is the stand-in.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from typing import Any

import gpu_kit
import numpy as np
import pytest

from vdag import _native as native
from vdag import engines
from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.gpu.pictures import Preparation
from vdag.engines.tensorrt import TensorRTEngine
from vdag.engines.tensorrt.cache import EngineCache
from vdag.errors import EngineError

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel here")

CARD = zoo.card("blazeface")
SPEC = EngineSpec(CARD.path, "tensorrt", device="cuda")
PREPARATION = Preparation("images", (256, 256), native.Normalization(), "letterbox")
SETTLED_S = 240


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, kernels: ctypes.CDLL) -> EngineCache:
    """A cache that has the engine."""
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    with TensorRTEngine(SPEC, platform=gpu_kit.HostPlatform(kernels), cache=cache) as engine:
        assert engine.settle(SETTLED_S)
    return cache


class Bench:
    """An engine whose TensorRT is opened when `may_open` is set, and may be told to fail."""

    def __init__(self, kernels: ctypes.CDLL, cache: EngineCache, *, on_device: bool) -> None:
        self.platform = gpu_kit.HostPlatform(kernels, fallback_on_device=on_device)
        self.may_open = threading.Event()
        self.error = ""
        open_now = self.platform.open
        self.platform.wrap = self._wrapped

        def open_then(spec: EngineSpec, data: bytes) -> Any:
            assert self.may_open.wait(SETTLED_S)
            return open_now(spec, data)

        self.platform.open = open_then  # type: ignore[method-assign]
        self.engine = TensorRTEngine(SPEC, platform=self.platform, cache=cache)

    def swap(self) -> None:
        self.may_open.set()
        assert self.engine.settle(SETTLED_S)
        assert self.engine.status().problem == ""

    def _wrapped(self, compute: gpu_kit.HostCompute) -> Any:
        run = compute.enqueue

        def enqueue(inputs: Any, stream: Any) -> Any:
            if self.error:
                raise EngineError(self.error)
            return run(inputs, stream)

        compute.enqueue = enqueue  # type: ignore[method-assign]
        return compute


@pytest.fixture(params=["onnx on the device", "onnx on the CPU"])
def bench(
    request: pytest.FixtureRequest, kernels: ctypes.CDLL, cache: EngineCache
) -> Iterator[Bench]:
    bench = Bench(kernels, cache, on_device=request.param == "onnx on the device")
    yield bench
    bench.may_open.set()
    bench.engine.close()
    assert bench.platform.host.allocated == {}
    assert bench.platform.host.registered == {}


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(count)]


def expected_of(batch: list[np.ndarray]) -> dict[str, np.ndarray]:
    tensor = np.empty((len(batch), 3, 256, 256), np.float32)
    native.preprocess.fill_batch(batch, tensor, mode="letterbox")
    with engines.load(CARD.path, device="cpu") as cpu:
        return cpu.infer({"images": tensor})


def assert_is(found: dict[str, np.ndarray], batch: list[np.ndarray]) -> None:
    for name, values in expected_of(batch).items():
        np.testing.assert_allclose(found[name], values, atol=2e-2)


def test_a_batch_begun_before_the_swap_is_finished_by_whom_it_was_begun(bench: Bench):
    first, second = pictures(1, 1), pictures(2, 2)
    before = bench.engine.submit_pictures(first, PREPARATION)
    swap = threading.Thread(target=bench.swap)
    swap.start()
    # The takeover waits for the batch that ONNX Runtime still has, and new ones go to TensorRT.
    after = bench.engine.submit_pictures(second, PREPARATION)
    assert_is(before.result()[0], first)
    assert_is(after.result()[0], second)
    swap.join(SETTLED_S)
    assert bench.engine.status().serving == "tensorrt"
    assert bench.engine.stats().items == 3


def test_a_batch_that_fails_is_onnxruntime_s_and_its_neighbour_is_not_spoiled(bench: Bench):
    bench.swap()
    first, second = pictures(1, 1), pictures(2, 2)
    begun = bench.engine.submit_pictures(first, PREPARATION)
    bench.error = "the device is gone"
    failed = bench.engine.submit_pictures(second, PREPARATION)
    assert bench.engine.status().serving == "onnx"
    assert_is(begun.result()[0], first)
    assert_is(failed.result()[0], second)


def test_a_batch_that_fails_after_it_was_begun_is_not_lost(bench: Bench, monkeypatch):
    bench.swap()
    batch = pictures(2, 3)
    begun = bench.engine.submit_pictures(batch, PREPARATION)
    lanes = bench.engine._main.engine.lanes
    finish = lanes.finish

    def fail(lane: Any) -> Any:
        finish(lane)
        raise EngineError("cuda:0 failed: unspecified launch failure")

    monkeypatch.setattr(lanes, "finish", fail)
    found, placements = begun.result()
    assert_is(found, batch)
    assert len(placements) == 2
    assert "unspecified launch failure" in bench.engine.status().problem


def test_pages_are_locked_for_whoever_serves(bench: Bench):
    with native.ring.Arena.create("trt", [(1 << 20, 2)]) as arena:
        (picture,) = pictures(1)
        ref = arena.put(picture)
        assert ref is not None
        address, nbytes = arena.mapping
        on_device = bench.platform._fallback_on_device
        assert bench.engine.lock_pages(address, nbytes) is on_device
        bench.swap()
        host = bench.platform.host
        assert host.registered == {address: nbytes}
        with arena.acquire(ref.slot, ref.generation) as view:
            slot = np.frombuffer(view, np.uint8).reshape(picture.shape)
            host.uploads.clear()
            assert_is(bench.engine.infer_pictures([slot], PREPARATION)[0], [picture])
            assert (slot.ctypes.data, slot.nbytes) in host.uploads
            bench.engine.unlock_pages(address)
            bench.engine.unlock_pages(address)
            assert host.registered == {}
            host.uploads.clear()
            bench.engine.infer_pictures([slot], PREPARATION)
            assert (slot.ctypes.data, slot.nbytes) not in host.uploads
            del slot


def test_closing_unlocks_the_pages(kernels: ctypes.CDLL, cache: EngineCache):
    platform = gpu_kit.HostPlatform(kernels, fallback_on_device=True)
    with TensorRTEngine(SPEC, platform=platform, cache=cache) as engine:
        assert engine.lock_pages(1 << 20, 8192)
        assert engine.settle(SETTLED_S)
    assert platform.host.registered == {}
    with pytest.raises(EngineError, match="blazeface is closed"):
        engine.lock_pages(1 << 20, 8192)
