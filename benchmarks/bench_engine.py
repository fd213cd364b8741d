"""What an engine adds to ONNX Runtime, and what a camera's inference costs.

`engine.onnx_call`: one call of a model that computes next to nothing, so that what is left is the
way in and out: `OnnxEngine.infer` on its own buffer against `InferenceSession.run`. A ratio below
1 is expected: checks, lock and stats come on top of what both sides do. `engine.onnx_batch` is the
same for 8 pictures of 640x640, where only copies would show. `engine.onnx_overhead` is the price of
the call above in microseconds, against the 50 that a call may cost beyond ONNX Runtime.

`engine.cpu_at_40fps`: CPU time, all threads, for one second of a 40 fps camera through a stack of
convolutions of about 4 ms on 2 threads, against a session with ONNX Runtime's defaults and the
same 2 threads, whose threads spin between frames. `engine.p50_at_40fps` is the latency of the
same inferences. Frames come by the clock, as a camera's do, and a late one is not waited for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from comparison import Comparison, paired
from onnx import TensorProto, helper, numpy_helper

from vdag import engines

FPS = 40
ROUNDS = 7
BUDGET_S = 50e-6


def save(path: Path, nodes: list, shape: list, constants: list) -> str:
    """Write a model from `x` of `shape` to `y`."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, path.stem, values[:1], values[1:], constants)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return str(path)


@pytest.fixture
def relu(tmp_path: Path) -> str:
    """A model that does next to nothing, for any picture."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    return save(tmp_path / "relu.onnx", nodes, ["N", "C", "H", "W"], [])


@pytest.fixture
def convolutions(tmp_path: Path) -> str:
    """Six 3x3 convolutions with 32 channels on 56x56: about 0.17 G multiply-adds."""
    random = np.random.default_rng(7)
    weights = random.normal(0, 0.06, (6, 32, 32, 3, 3)).astype(np.float32)
    names = ["x", "a", "b", "c", "d", "e", "y"]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1, 1, 1, 1])
        for i in range(6)
    ]
    constants = [numpy_helper.from_array(weights[i], f"w{i}") for i in range(6)]
    return save(tmp_path / "convolutions.onnx", nodes, ["N", 32, 56, 56], constants)


def session(model: str, *, threads: int) -> onnxruntime.InferenceSession:
    """Open a session as the documentation of ONNX Runtime does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("engine.onnx_call", (1, 1, 1, 4)), ("engine.onnx_batch", (8, 3, 640, 640))],
)
def bench_call(compare, record, relu, name, shape):
    pixels = np.random.default_rng(7).normal(size=shape).astype(np.float32)
    with engines.load(relu, device="cpu") as engine:
        bare = session(relu, threads=1)
        buffer = engine.buffer("x", shape)
        buffer[:] = pixels

        def ours():
            return engine.infer({"x": buffer})["y"]

        def theirs():
            return bare.run(None, {"x": pixels})[0]

        np.testing.assert_array_equal(ours(), theirs())
        measured = compare(name, subject=("vdag", ours), against=("session.run", theirs), unit="us")
        if name == "engine.onnx_call":
            record(spent(measured))


def spent(call: Comparison) -> Comparison:
    """Turn the calls' ratio into what ours costs beyond theirs, held against the budget."""
    beyond_s = call.p50 * (1 - call.ratio) * 1e-6
    return paired(
        "engine.onnx_overhead",
        "vdag",
        "50 us",
        subject_s=[max(beyond_s, 1e-9)],
        against_s=[BUDGET_S],
        unit="us",
    )


def camera_second(infer: Callable[[], object]) -> tuple[float, float]:
    """Infer at `FPS` for a second; return CPU seconds of the process and the median latency."""
    latencies_s = []
    cpu_s, due_s = time.process_time(), time.perf_counter()
    for _ in range(FPS):
        due_s += 1 / FPS
        time.sleep(max(due_s - time.perf_counter(), 0))
        start_s = time.perf_counter()
        infer()
        latencies_s.append(time.perf_counter() - start_s)
    return time.process_time() - cpu_s, statistics.median(latencies_s)


def bench_camera(record, convolutions):
    pixels = np.random.default_rng(7).normal(size=(1, 32, 56, 56)).astype(np.float32)
    with engines.load(convolutions, device="cpu", threads=2) as engine:
        spinning = session(convolutions, threads=2)
        buffer = engine.buffer("x", pixels.shape)
        buffer[:] = pixels

        def ours():
            return engine.infer({"x": buffer})["y"]

        def theirs():
            return spinning.run(None, {"x": pixels})[0]

        np.testing.assert_allclose(ours(), theirs(), rtol=1e-5)
        rounds = [(camera_second(ours), camera_second(theirs)) for _ in range(ROUNDS)]
    for index, name in enumerate(("engine.cpu_at_40fps", "engine.p50_at_40fps")):
        subject_s = [ours[index] for ours, _ in rounds]
        against_s = [theirs[index] for _, theirs in rounds]
        sides = ("vdag, 2 threads", "session.run, 2 threads")
        record(paired(name, *sides, subject_s=subject_s, against_s=against_s))
