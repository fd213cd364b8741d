"""An engine that serves at once and becomes TensorRT later.

Engines are built by the real builder of TensorRT for RTX; what runs them is a stand-in, since
nothing here has a GPU: it is given the engine that was built, and computes with ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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
from vdag.engines.tensorrt.builds import Limits
from vdag.engines.tensorrt.cache import EngineCache
from vdag.errors import ConfigError, EngineError, EngineUnavailable

pytestmark = pytest.mark.slow  # as a whole

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has no wheel here")

CARD = zoo.card("blazeface")
SHAPE = (2, 3, 256, 256)
PREPARATION = Preparation("images", (256, 256), native.Normalization(), "letterbox")
#: Far beyond what a build of this model takes, on a machine that does other things too.
SETTLED_S = 240

Open = Callable[..., TensorRTEngine]


@pytest.fixture
def platform(kernels: ctypes.CDLL) -> gpu_kit.HostPlatform:
    return gpu_kit.HostPlatform(kernels)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, kernels: ctypes.CDLL) -> EngineCache:
    """A cache that has the engine, for tests that are not about building it."""
    cache = EngineCache(tmp_path_factory.mktemp("built"))
    spec = EngineSpec(CARD.path, "tensorrt", device="cuda")
    with TensorRTEngine(spec, platform=gpu_kit.HostPlatform(kernels), cache=cache) as engine:
        assert engine.settle(SETTLED_S)
        assert engine.status().problem == ""
    return cache


@pytest.fixture
def open_engine(platform: gpu_kit.HostPlatform, built: EngineCache) -> Iterator[Open]:
    opened: list[TensorRTEngine] = []

    def make(**options: Any) -> TensorRTEngine:
        spec = EngineSpec(CARD.path, "tensorrt", device="cuda")
        opened.append(TensorRTEngine(spec, platform=platform, **{"cache": built, **options}))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()
    assert platform.host.allocated == {}
    assert gpu_kit.builders() == []


def inputs_of(seed: int, batch: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"images": random.normal(size=(batch, *SHAPE[1:])).astype(np.float32)}


def on_the_cpu(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with engines.load(CARD.path, device="cpu") as cpu:
        return cpu.infer(inputs)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-2)


class Gate:
    """A model that may have to wait, fail or lie."""

    def __init__(self, compute: gpu_kit.HostCompute) -> None:
        self._compute = compute
        self.inputs, self.outputs = compute.inputs, compute.outputs
        self.error: str = ""
        self.offset = 0.0

    def enqueue(self, inputs: Any, stream: Any) -> Any:
        if self.error:
            raise EngineError(self.error)
        found = self._compute.enqueue(inputs, stream)
        if self.offset:
            gpu_kit.array_at(found[0])[...] += self.offset
        return found

    def close(self) -> None:
        self._compute.close()


class Gates:
    """All gates of a platform, to be set at once."""

    def __init__(self, platform: gpu_kit.HostPlatform, **settings: Any) -> None:
        self._settings = settings
        self.made: list[Gate] = []
        platform.wrap = self._make

    def _make(self, compute: gpu_kit.HostCompute) -> Gate:
        gate = Gate(compute)
        for name, value in self._settings.items():
            setattr(gate, name, value)
        self.made.append(gate)
        return gate


def held(platform: gpu_kit.HostPlatform) -> threading.Event:
    """Have what is built opened when this event is set, and not before."""
    event, open_now = threading.Event(), platform.open

    def open_then(spec: EngineSpec, data: bytes) -> Any:
        assert event.wait(SETTLED_S)
        return open_now(spec, data)

    platform.open = open_then  # type: ignore[method-assign]
    return event


def test_it_serves_at_once_and_takes_over_when_the_engine_is_built(
    open_engine: Open, platform, tmp_path: Path
):
    cache = EngineCache(tmp_path / "engines")
    may_open = held(platform)
    engine = open_engine(cache=cache)
    first = engine.infer(inputs_of(0))
    assert engine.status().serving == "onnx"
    assert not engine.settle(0)
    may_open.set()
    assert engine.settle(SETTLED_S)
    assert engine.status().serving == "tensorrt"
    assert engine.status().problem == ""
    (entry,) = cache.entries(check=True)
    assert (entry.label, entry.problem) == ("blazeface", "")
    assert len(platform.opened) == 1
    assert_same(engine.infer(inputs_of(0)), first)
    assert engine.stats().calls == 2


def test_what_is_built_is_not_built_again(open_engine: Open, platform, monkeypatch):
    monkeypatch.setattr("vdag.engines.tensorrt.takeover.run_build", None)
    engine = open_engine()
    assert engine.settle(SETTLED_S)
    assert engine.status().serving == "tensorrt"


def test_a_damaged_engine_is_built_again_and_never_opened(
    open_engine: Open, platform, tmp_path: Path, built: EngineCache
):
    cache = EngineCache(tmp_path)
    (entry,) = built.entries()
    content = bytearray(entry.path.read_bytes())
    content[-1] ^= 1
    (tmp_path / entry.path.name).write_bytes(content)
    engine = open_engine(cache=cache)
    assert engine.settle(SETTLED_S)
    assert engine.status().serving == "tensorrt"
    (again,) = cache.entries(check=True)
    assert again.problem == ""
    assert platform.opened[0][-1] != content[-1]


def test_a_build_that_fails_leaves_onnxruntime_and_says_why(
    open_engine: Open, tmp_path: Path, caplog
):
    engine = open_engine(cache=EngineCache(tmp_path), limits=Limits(memory_nbytes=1 << 20))
    assert engine.settle(SETTLED_S)
    assert engine.status().serving == "onnx"
    assert "more than 1 MiB" in engine.status().problem
    assert "blazeface stays with onnxruntime: the build took" in caplog.text
    assert_same(engine.infer(inputs_of(1)), on_the_cpu(inputs_of(1)))


def test_an_engine_that_says_something_else_does_not_take_over(open_engine: Open, platform):
    gates = Gates(platform, offset=0.5)
    engine = open_engine()
    engine.infer(inputs_of(0))
    assert engine.settle(SETTLED_S)
    assert engine.status().serving == "onnx"
    assert engine.status().problem.startswith("tensorrt and onnxruntime differ: output score: ")
    assert gates.made
    assert_same(engine.infer(inputs_of(1)), on_the_cpu(inputs_of(1)))


def test_an_engine_that_does_not_run_does_not_take_over(open_engine: Open, platform):
    Gates(platform, error="out of memory")
    engine = open_engine()
    assert engine.settle(SETTLED_S)
    assert engine.status().problem == "out of memory"
    assert_same(engine.infer(inputs_of(1)), on_the_cpu(inputs_of(1)))


def test_a_failure_later_loses_no_batch(open_engine: Open, platform, caplog):
    gates = Gates(platform)
    engine = open_engine()
    assert engine.settle(SETTLED_S)
    assert engine.status().serving == "tensorrt"
    for gate in gates.made:
        gate.error = "the device is gone"
    assert_same(engine.infer(inputs_of(2)), on_the_cpu(inputs_of(2)))
    assert engine.status().serving == "onnx"
    assert engine.status().problem == "it failed while it served: the device is gone"
    assert_same(engine.infer(inputs_of(3)), on_the_cpu(inputs_of(3)))
    assert caplog.text.count("stays with onnxruntime") == 1


def test_pictures_too_are_not_lost(open_engine: Open, platform):
    gates = Gates(platform)
    engine = open_engine()
    assert engine.settle(SETTLED_S)
    for gate in gates.made:
        gate.error = "the device is gone"
    picture = np.full((90, 120, 3), 77, np.uint8)
    found, placements = engine.infer_pictures([picture], PREPARATION)
    assert len(placements) == 1
    assert engine.status().serving == "onnx"
    again, _ = engine.infer_pictures([picture], PREPARATION)
    assert_same(again, found)


def test_the_swap_loses_no_batch_and_reorders_none(
    open_engine: Open, platform, built: EngineCache, tmp_path: Path
):
    engine = open_engine(cache=EngineCache(tmp_path))
    seen_tensorrt = threading.Event()
    failures: list[BaseException] = []

    def call(worker: int) -> list[int]:
        """Serve numbered batches one after another, some of them after the swap."""
        done, number = [], worker
        try:
            while not (seen_tensorrt.is_set() and len(done) > 5):
                batch = inputs_of(number, batch=1)
                outputs = engine.infer(batch)
                if engine.status().serving == "tensorrt" or engine.settle(0):
                    seen_tensorrt.set()
                if number < 8:
                    assert_same(outputs, on_the_cpu(batch))
                done.append(number)
                number += 2
        except BaseException as err:
            failures.append(err)
            seen_tensorrt.set()
        return done

    with ThreadPoolExecutor(2) as pool:
        served = list(pool.map(call, range(2)))
    assert failures == []
    assert engine.status().serving == "tensorrt"
    for worker, numbers in enumerate(served):
        assert numbers == list(range(worker, worker + 2 * len(numbers), 2))
    assert engine.stats().calls == sum(len(numbers) for numbers in served)


def test_pictures_are_the_same_before_and_after(open_engine: Open, kernels, platform):
    random = np.random.default_rng(4)
    pictures = [random.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(3)]
    engine = open_engine()
    before, placed = engine.infer_pictures(pictures, PREPARATION)
    assert engine.settle(SETTLED_S)
    assert engine.status().serving == "tensorrt"
    after, again = engine.infer_pictures(pictures, PREPARATION)
    assert engine.takes_pictures
    assert placed == again
    assert_same(after, before)


def test_a_batch_beyond_the_profiles_is_cut(open_engine: Open, platform):
    engine = open_engine()
    assert engine.settle(SETTLED_S)
    most = CARD.profiles[0].batch[2]
    batch = inputs_of(5, batch=2 * most + 3)
    opened = len(platform.opened)
    assert_same(engine.infer(batch), on_the_cpu(batch))
    pictures = [np.full((40, 40, 3), level, np.uint8) for level in range(most + 1)]
    found, placements = engine.infer_pictures(pictures, PREPARATION)
    assert len(placements) == len(found["score"]) == most + 1
    assert engine.status().serving == "tensorrt"
    assert len(platform.opened) == opened


def test_a_size_beyond_the_profiles_is_onnxruntime_s(platform, tmp_path: Path):
    card = zoo.card("centerface")
    spec = EngineSpec(card.path, "tensorrt", device="cuda")
    with TensorRTEngine(spec, platform=platform, cache=EngineCache(tmp_path)) as engine:
        assert engine.settle(SETTLED_S)
        assert engine.status().serving == "tensorrt"
        small = {"images": np.zeros((1, 3, 32, 32), np.float32)}
        assert engine.infer(small)["heat"].shape == (1, 1, 8, 8)
        assert engine.status().serving == "tensorrt"


def test_it_is_warmed_up_with_the_shapes_that_it_was_told(open_engine: Open, platform):
    shapes: list[tuple[int, ...]] = []

    class Noting(Gate):
        def enqueue(self, inputs: Any, stream: Any) -> Any:
            shapes.append(inputs[0].shape)
            return super().enqueue(inputs, stream)

    platform.wrap = Noting
    may_open = held(platform)
    engine = open_engine()
    engine.warm_up([{"images": (5, 3, 256, 256)}, {"images": (99, 3, 256, 256)}])
    may_open.set()
    assert engine.settle(SETTLED_S)
    # Once in each of its two lanes; what no profile covers is ONNX Runtime's.
    assert shapes[:2] == [(5, 3, 256, 256)] * 2
    assert (99, 3, 256, 256) not in shapes
    assert engine.stats().calls == 0


def test_closing_ends_a_build(open_engine: Open, tmp_path: Path):
    engine = open_engine(cache=EngineCache(tmp_path))
    engine.infer(inputs_of(0))
    engine.close()
    engine.close()
    assert gpu_kit.builders() == []
    with pytest.raises(EngineError, match="blazeface is closed"):
        engine.infer(inputs_of(0))


def test_a_buffer_stays_the_same_across_the_swap(open_engine: Open):
    engine = open_engine()
    array = engine.buffer("images", SHAPE)
    assert engine.settle(SETTLED_S)
    assert engine.buffer("images", SHAPE) is array
    engine.infer({"images": array})


def test_a_mistake_of_the_caller_is_not_one_of_tensorrt(open_engine: Open):
    engine = open_engine()
    assert engine.settle(SETTLED_S)
    for wrong in ({}, {"images": "text"}, {"images": np.zeros(SHAPE)}):
        with pytest.raises(ConfigError):
            engine.infer(wrong)  # type: ignore[arg-type]
    assert engine.status().serving == "tensorrt"


def test_without_a_gpu_it_says_what_is_missing():
    with pytest.raises(EngineUnavailable):
        engines.load(CARD.path, engine="tensorrt", device="cuda")
    with pytest.raises(EngineUnavailable, match="engine tensorrt runs on no CPU: engine onnx does"):
        engines.load(CARD.path, engine="tensorrt", device="cpu")
    with pytest.raises(EngineUnavailable, match="engine onnx-cuda runs on no CPU"):
        engines.load(CARD.path, engine="onnx-cuda", device="cpu")
