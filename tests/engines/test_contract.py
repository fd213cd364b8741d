"""What every engine has to do, whatever library is behind it.

Each factory opens `y = 2x + 1`, float32 `(any, 4)`, with the model called `affine` and room for
two buffer shapes. A new engine adds a factory and changes nothing else.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from vdag import engines
from vdag.engines import Engine, EngineSpec, EngineStats, TensorSpec
from vdag.engines.base import ALIGNMENT, MAX_BUFFER_NBYTES
from vdag.errors import ConfigError, EngineError

Array = NDArray[Any]


def _affine_onnx(folder: Path) -> Path:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4])

    nodes = [
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "one"], ["y"]),
    ]
    constants = [
        helper.make_tensor("two", onnx.TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("one", onnx.TensorProto.FLOAT, [], [1.0]),
    ]
    graph = helper.make_graph(nodes, "affine", [value("x")], [value("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "affine.onnx"
    onnx.save(model, path)
    return path


def _open_onnx(device: str) -> Callable[[Path], Engine]:
    def open_engine(folder: Path) -> Engine:
        spec = EngineSpec(_affine_onnx(folder), "onnx", device=device, max_shapes=2)
        return engines.load(spec)

    return open_engine


def _has_cuda() -> bool:
    return any("cuda" in info.devices for info in engines.available() if info.name == "onnx")


FACTORIES = [pytest.param(_open_onnx("cpu"), id="onnx-cpu")]
if _has_cuda():
    FACTORIES.append(pytest.param(_open_onnx("cuda"), id="onnx-cuda", marks=pytest.mark.gpu))


@pytest.fixture(params=FACTORIES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with request.param(tmp_path) as opened:
        yield opened


def _rows(count: int, start: float = 0.0) -> Array:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4) + np.float32(start)


def test_an_engine_says_what_it_takes_and_returns(engine: Engine) -> None:
    assert engine.name == "affine"
    assert engine.inputs == (TensorSpec("x", np.dtype(np.float32), (None, 4)),)
    assert engine.outputs == (TensorSpec("y", np.dtype(np.float32), (None, 4)),)


def test_the_device_is_resolved(engine: Engine) -> None:
    assert engine.device == "cpu" or engine.device.partition(":")[0] == "cuda"
    assert engine.device not in ("auto", "cuda")


@pytest.mark.parametrize("count", [1, 3, 8])
def test_infer_computes_the_model_for_any_batch(engine: Engine, count: int) -> None:
    outputs = engine.infer({"x": _rows(count)})
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], 2 * _rows(count) + 1)
    assert outputs["y"].dtype == np.float32


def test_a_buffer_that_is_filled_again_gives_new_results(engine: Engine) -> None:
    buffer = engine.buffer("x", (2, 4))
    for start in (0.0, 5.0, -3.0):
        buffer[:] = _rows(2, start)
        np.testing.assert_array_equal(engine.infer({"x": buffer})["y"], 2 * _rows(2, start) + 1)


def test_shapes_buffers_and_foreign_arrays_can_alternate(engine: Engine) -> None:
    for start in range(4):
        for count in (1, 2, 3):
            buffer = engine.buffer("x", (count, 4))
            buffer[:] = _rows(count, start)
            for array in (buffer, _rows(count, start + 0.5), buffer):
                expected = 2 * array + 1
                np.testing.assert_array_equal(engine.infer({"x": array})["y"], expected)


def test_outputs_are_never_written_again(engine: Engine) -> None:
    buffer = engine.buffer("x", (2, 4))
    buffer[:] = 1
    first = engine.infer({"x": buffer})["y"]
    buffer[:] = 7
    second = engine.infer({"x": buffer})["y"]
    assert not np.shares_memory(first, second)
    assert (first == 3).all()
    assert (second == 15).all()


def test_outputs_belong_to_the_caller_and_outlive_the_engine(engine: Engine) -> None:
    output = engine.infer({"x": _rows(3)})["y"]
    engine.close()
    gc.collect()
    np.testing.assert_array_equal(output, 2 * _rows(3) + 1)
    output[:] = 0
    assert not output.any()


def test_inputs_are_read_and_not_kept(engine: Engine) -> None:
    class Tracked(np.ndarray[Any, np.dtype[Any]]):
        pass

    array = _rows(2).view(Tracked)
    before = array.copy()
    engine.infer({"x": array})
    np.testing.assert_array_equal(array, before)
    gone = weakref.ref(array)
    del array
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(_rows(3)),
        np.arange(48, dtype=np.float32).reshape(6, 8)[::2, ::2],
        _rows(3)[::-1],
        np.frombuffer(b"\0" + _rows(2).tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 4),
    ],
    ids=["fortran", "strided", "reversed", "unaligned"],
)
def test_arrays_of_any_layout_are_taken(engine: Engine, array: Array) -> None:
    np.testing.assert_array_equal(engine.infer({"x": array})["y"], 2 * array + 1)


def test_read_only_arrays_are_taken(engine: Engine) -> None:
    array = _rows(2)
    array.flags.writeable = False
    np.testing.assert_array_equal(engine.infer({"x": array})["y"], 2 * array + 1)


def test_a_buffer_is_aligned_contiguous_zero_and_writable(engine: Engine) -> None:
    for count in (1, 3, 7):
        buffer = engine.buffer("x", (count, 4))
        assert buffer.shape == (count, 4)
        assert buffer.dtype == np.float32
        assert buffer.ctypes.data % ALIGNMENT == 0
        assert buffer.flags.c_contiguous
        assert buffer.flags.writeable
        assert not buffer.any()


def test_the_same_shape_gives_the_same_buffer_again(engine: Engine) -> None:
    buffer = engine.buffer("x", (2, 4))
    assert engine.buffer("x", [2, 4]) is buffer
    assert engine.buffer("x", (3, 4)) is not buffer


def test_the_buffer_longest_unused_goes_first(engine: Engine) -> None:
    one, two = engine.buffer("x", (1, 4)), engine.buffer("x", (2, 4))
    assert engine.buffer("x", (1, 4)) is one
    engine.buffer("x", (3, 4))
    assert engine.buffer("x", (1, 4)) is one
    assert engine.buffer("x", (2, 4)) is not two


def test_a_buffer_that_was_let_go_can_still_be_passed(engine: Engine) -> None:
    old = engine.buffer("x", (1, 4))
    engine.infer({"x": old})
    for count in (2, 3):
        engine.infer({"x": engine.buffer("x", (count, 4))})
    old[:] = 4
    np.testing.assert_array_equal(engine.infer({"x": old})["y"], np.full((1, 4), 9, np.float32))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("z", (1, 4), "no input 'z'; the inputs are x"),
        ("x", (1, 5), "input 'x' has shape (1, 5), expected (any, 4)"),
        ("x", (0, 4), "input 'x' has shape (0, 4), expected (any, 4)"),
        ("x", (-1, 4), "input 'x' has shape (-1, 4), expected (any, 4)"),
        ("x", (4,), "input 'x' has shape (4,), expected (any, 4)"),
        (
            "x",
            (1 << 40, 4),
            f"input 'x' of shape (1099511627776, 4) takes {1 << 44} bytes, "
            f"which exceeds {MAX_BUFFER_NBYTES}",
        ),
    ],
)
def test_a_buffer_that_cannot_be_is_refused(
    engine: Engine, name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        engine.buffer(name, shape)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "affine misses input x; it takes x"),
        ({"z": _rows(1)}, "affine has no input 'z'; it takes x"),
        ({"x": _rows(1), "z": _rows(1)}, "affine has no input 'z'; it takes x"),
        ({"x": _rows(1).astype(np.float64)}, "input 'x' is float64, expected float32"),
        ({"x": _rows(1).astype(">f4")}, "input 'x' is >f4, expected float32"),
        ({"x": np.ones((2, 5), np.float32)}, "input 'x' has shape (2, 5), expected (any, 4)"),
        ({"x": np.ones((0, 4), np.float32)}, "input 'x' has shape (0, 4), expected (any, 4)"),
        ({"x": [[0.0] * 4]}, "input 'x' is a list, expected a numpy array of float32 (any, 4)"),
        ({"x": None}, "input 'x' is a NoneType, expected a numpy array of float32 (any, 4)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_and_the_engine_stays_usable(
    engine: Engine, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        engine.infer(inputs)
    assert str(caught.value) == message
    assert engine.stats() == EngineStats()
    np.testing.assert_array_equal(engine.infer({"x": _rows(1)})["y"], 2 * _rows(1) + 1)


def test_stats_count_calls_items_and_time(engine: Engine) -> None:
    assert engine.stats() == EngineStats(calls=0, items=0, total_ns=0, max_ns=0)
    for count in (1, 4, 2):
        engine.infer({"x": _rows(count)})
    stats = engine.stats()
    assert (stats.calls, stats.items) == (3, 7)
    assert 0 < stats.max_ns < stats.total_ns <= 3 * stats.max_ns


def test_warm_up_prepares_buffers_and_does_not_count(engine: Engine) -> None:
    engine.warm_up([{"x": (1, 4)}, {"x": (8, 4)}])
    assert engine.stats() == EngineStats()
    np.testing.assert_array_equal(engine.infer({"x": engine.buffer("x", (8, 4))})["y"], 1)


def test_warm_up_refuses_shapes_that_do_not_fit(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"^input 'x' has shape \(1, 3\), expected \(any, 4\)$"):
        engine.warm_up([{"x": (1, 3)}])
    with pytest.raises(ConfigError, match=r"^affine misses input x; it takes x$"):
        engine.warm_up([{}])


def test_several_threads_get_their_own_results(engine: Engine) -> None:
    start = threading.Barrier(4, timeout=30)

    def work(number: int) -> bool:
        start.wait()
        right = True
        for step in range(50):
            rows = _rows(1 + (number + step) % 3, number * 100 + step)
            right &= bool((engine.infer({"x": rows})["y"] == 2 * rows + 1).all())
        return right

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4), timeout=60))
    assert engine.stats().calls == 200


def test_a_closed_engine_refuses_work_and_keeps_its_stats(engine: Engine) -> None:
    buffer = engine.buffer("x", (1, 4))
    engine.infer({"x": buffer})
    engine.close()
    engine.close()
    for use in (
        lambda: engine.infer({"x": buffer}),
        lambda: engine.buffer("x", (1, 4)),
        lambda: engine.warm_up([{"x": (1, 4)}]),
    ):
        with pytest.raises(EngineError, match=r"^affine is closed$"):
            use()
    assert engine.stats().calls == 1
    assert not buffer.any()


def test_leaving_the_context_closes(engine: Engine) -> None:
    with engine as same:
        assert same is engine
    with pytest.raises(EngineError, match=r"^affine is closed$"):
        engine.infer({"x": _rows(1)})
