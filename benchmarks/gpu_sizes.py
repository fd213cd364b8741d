"""The part `sizes` of `bench_gpu.py`: batches whose size changes from one to the next.

The same tensors, in batches of random sizes, go through `onnx-cuda` and through ONNX Runtime used
plainly, which keeps cuDNN's plan for the last shape alone. The two take turns, one batch at a time;
before, both have had the largest. *Cold* is a new engine on the same sizes, from its first batch
until all sizes are prepared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from comparison import quantile
from gpu_parts import Report, pictures, preparation_of

from vdag import _native as native
from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.comparison import disagreement
from vdag.engines.gpu.onnx import OnnxCudaEngine

MODELS = (("centerface", 1280), ("nanodet", 960))
LARGEST = 16
#: Turns of each side, and how long one is.
TURNS, TURN_S = 3, 4.0
SETTLED_S = 120.0

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def sizes(report: Report) -> None:
    """Measure both sides on batches of random sizes."""
    figures: dict[str, Any] = {}
    for name, side in MODELS:
        card = zoo.card(name)
        tensor = tensor_of(card, side)
        with OnnxCudaEngine(EngineSpec(card.path, device="cuda:0")) as engine:
            run = by_engine(engine, card)
            figures[name] = line = {"cold": cold(engine, run, tensor)}
            line |= in_turns(report, card, tensor, {"onnx-cuda": run, "plain": by_session(card)})
        ratio = line["onnx-cuda"]["frames_s"] / line["plain"]["frames_s"]
        line["ratio"] = round(ratio, 2)
        for key in ("cold", "onnx-cuda", "plain"):
            report.line(f"{name}, batches of 1 to {LARGEST}, {key}: {line[key]}")
        report.expect(ratio > 1, f"{name}, sizes that change: {ratio:.2f} times plain")
        report.figures["sizes"] = figures


def tensor_of(card: zoo.Card, side: int) -> np.ndarray:
    """Return the largest batch, of pictures of 1080p."""
    frames = pictures(LARGEST, 1080, 1920)
    preparation = preparation_of(card, side, 1920, 1080)
    tensor = np.empty((LARGEST, 3, *preparation.size[::-1]), np.float32)
    native.preprocess.fill_batch(frames, tensor, preparation.norm, mode=preparation.mode)
    return tensor


def by_engine(engine: OnnxCudaEngine, card: zoo.Card) -> Run:
    """Run what `onnx-cuda` does."""
    return lambda tensor: engine.infer({card.input.name: tensor})


def by_session(card: zoo.Card) -> Run:
    """Open a session plainly, but for the search: the default one tries for seconds as well."""
    import onnxruntime

    options = {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    session = onnxruntime.InferenceSession(
        str(card.path),
        providers=[("CUDAExecutionProvider", options), "CPUExecutionProvider"],
    )
    assert "CUDAExecutionProvider" in session.get_providers()
    names = [node.name for node in session.get_outputs()]
    return lambda tensor: dict(
        zip(names, session.run(names, {card.input.name: tensor}), strict=True)
    )


def cold(engine: OnnxCudaEngine, run: Run, tensor: np.ndarray) -> dict[str, float]:
    """Run a new engine until it has prepared all sizes; the first batch is told by itself."""
    start_s = time.perf_counter()
    run(tensor)
    first_s = time.perf_counter() - start_s
    delays, counts = [], counted(1)
    while not engine.settle(0) and time.perf_counter() - start_s < SETTLED_S:
        delays.append(timed(run, tensor[: next(counts)]))
    return {
        "first_ms": round(first_s * 1e3, 1),
        "prepared_s": round(time.perf_counter() - start_s, 1),
        "batches": len(delays),
        "p50_ms": round(quantile(delays, 0.5) * 1e3, 1) if delays else 0.0,
        "max_ms": round(max(delays, default=0.0) * 1e3, 1),
    }


def in_turns(
    report: Report, card: zoo.Card, tensor: np.ndarray, runs: dict[str, Run]
) -> dict[str, dict[str, float]]:
    """Measure in turns; both get the same sizes in the same order, and have to agree."""
    outputs = [run(tensor) for run in runs.values()]
    problem = disagreement(outputs[1], outputs[0], card.agreement)
    report.expect(not problem, f"{card.name}: the same outputs {problem}")
    delays: dict[str, list[tuple[int, float]]] = {key: [] for key in runs}
    for turn in range(TURNS):
        for key, run in runs.items():
            counts, start_s = counted(turn), time.perf_counter()
            while time.perf_counter() - start_s < TURN_S:
                count = next(counts)
                delays[key].append((count, timed(run, tensor[:count])))
    return {key: summary(found) for key, found in delays.items()}


def counted(seed: int) -> Iterator[int]:
    """Yield sizes of batches."""
    random = np.random.default_rng(seed)
    while True:
        yield int(random.integers(1, LARGEST + 1))


def timed(run: Run, tensor: np.ndarray) -> float:
    """Return the seconds of one batch."""
    start_s = time.perf_counter()
    run(tensor)
    return time.perf_counter() - start_s


def summary(found: list[tuple[int, float]]) -> dict[str, float]:
    """Return frames per second, and the delays of batches."""
    times = [seconds for _, seconds in found]
    return {
        "batches": len(found),
        "frames_s": round(sum(count for count, _ in found) / sum(times), 1),
        "p50_ms": round(statistics.median(times) * 1e3, 2),
        "p99_ms": round(quantile(times, 0.99) * 1e3, 2),
        "max_ms": round(max(times) * 1e3, 2),
    }
