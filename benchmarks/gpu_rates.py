"""The parts of `bench_gpu.py` that measure: frames per second, delays, and what overlaps."""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from comparison import quantile
from gpu_parts import MODELS, Report, pictures, preparation_of

from vdag import _native as native
from vdag import engines
from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.gpu.lane import Times
from vdag.engines.gpu.onnx import OnnxCudaEngine
from vdag.engines.gpu.pictures import Picture, Preparation

BATCHES = (1, 4, 16, 64)
#: How long one line of the table is measured, after warming up.
MEASURED_S = 1.5
#: The task and case whose ratio is promised.
PROMISE = ("centerface", 16, 2.0)
#: An engine prepares the sizes of its batches within that.
SETTLED_S = 120.0


@dataclass
class Rate:
    """Calls of one way, in seconds, from the begin of a batch to its result."""

    delays_s: list[float]
    elapsed_s: float
    batch: int

    def figures(self) -> dict[str, float]:
        """Return frames per second and the delay of a batch, median and 99th percentile."""
        return {
            "frames_s": round(self.batch * len(self.delays_s) / self.elapsed_s, 1),
            "p50_ms": round(statistics.median(self.delays_s) * 1e3, 3),
            "p99_ms": round(quantile(self.delays_s, 0.99) * 1e3, 3),
        }


def repeated(call: Callable[[], Any], batch: int) -> Rate:
    """Call one after another for a while."""
    for _ in range(3):
        call()
    delays = []
    start = time.perf_counter()
    while (now := time.perf_counter()) - start < MEASURED_S or len(delays) < 5:
        call()
        delays.append(time.perf_counter() - now)
    return Rate(delays, time.perf_counter() - start, batch)


def pipelined(begin: Callable[[], Any], batch: int, depth: int) -> Rate:
    """Begin batches so that `depth` are in flight, for a while."""
    for _ in range(3):
        for pending in [begin() for _ in range(depth)]:
            pending.result()
    waiting: deque[tuple[float, Any]] = deque()
    delays = []
    start = time.perf_counter()
    while time.perf_counter() - start < MEASURED_S or len(delays) < 5:
        waiting.append((time.perf_counter(), begin()))
        if len(waiting) == depth:
            begun, pending = waiting.popleft()
            pending.result()
            delays.append(time.perf_counter() - begun)
    elapsed = time.perf_counter() - start
    while waiting:
        waiting.popleft()[1].result()
    return Rate(delays, elapsed, batch)


def rates(report: Report) -> None:
    """Frames per second of every model, by batch, beside ONNX Runtime used plainly."""
    figures: dict[str, Any] = {}
    for name, side in MODELS:
        card = zoo.card(name)
        width, height = (1920, 1080) if card.input.size == (0, 0) else (400, 400)
        for batch in BATCHES:
            line = rate_line(card, side, pictures(min(batch, 16), height, width), batch)
            best = max(value["frames_s"] for key, value in line.items() if key.startswith("plain"))
            ratio = line["lanes"]["frames_s"] / best
            figures[f"{name} {batch}"] = {**line, "ratio": round(ratio, 2)}
            shown = ", ".join(
                f"{key} {v['frames_s']:.0f}/s p99 {v['p99_ms']:.1f} ms" for key, v in line.items()
            )
            report.line(f"{name} batch {batch}: {shown}; ratio {ratio:.2f}")
            report.figures["rates"] = figures
            if (name, batch) == PROMISE[:2]:
                report.expect(ratio >= PROMISE[2], f"{name} at 1080p, batch {batch}: {ratio:.2f}")


def rate_line(
    card: zoo.Card, side: int, frames: list[np.ndarray], batch: int
) -> dict[str, dict[str, float]]:
    """Measure one model at one batch in all ways."""
    height, width = frames[0].shape[:2]
    preparation = preparation_of(card, side, width, height)
    chosen = [frames[index % len(frames)] for index in range(batch)]
    found = {}
    with OnnxCudaEngine(EngineSpec(card.path, device="cuda:0")) as engine:
        device = engine.lanes.device
        with device.active():
            locked = [page_locked_copy(device, frame) for frame in frames]
        for array in {id(item): item for item in locked}.values():
            hold(engine, array)
        ready = [locked[index % len(locked)] for index in range(batch)]
        prepare(engine, ready, preparation)
        found["lanes"] = pipelined(
            lambda: engine.begin_pictures(ready, preparation), batch, engine.lanes.count
        ).figures()
        found["alone"] = repeated(
            lambda: engine.infer_pictures(ready, preparation), batch
        ).figures()
        found["loose"] = pipelined(
            lambda: engine.begin_pictures(chosen, preparation), batch, engine.lanes.count
        ).figures()
    run = plain_session(card)
    threads = len(os.sched_getaffinity(0))
    tensor = np.ones((batch, 3, *preparation.size[::-1]), np.float32)

    def by_kernel(count: int) -> None:
        native.preprocess.fill_batch(
            chosen, tensor, preparation.norm, mode=preparation.mode, threads=count
        )
        run(tensor)

    found["plain"] = repeated(lambda: by_kernel(1), batch).figures()
    found["plain_threads"] = repeated(lambda: by_kernel(threads), batch).figures()
    found["plain_opencv"] = repeated(lambda: run(blob(chosen, preparation)), batch).figures()
    return found


def endings(report: Report) -> None:
    """Open, run and close engines, each time as soon as the result is there."""
    card = zoo.card("nanodet")
    frames = pictures(2, 720, 1280)
    preparation = preparation_of(card, 640, 1280, 720)
    tensor = np.empty((2, 3, *preparation.size[::-1]), np.float32)
    native.preprocess.fill_batch(frames, tensor, preparation.norm, mode=preparation.mode)
    for name in ("onnx", "onnx-cuda"):
        first_s = []
        for _ in range(10):
            start = time.perf_counter()
            with engines.load(card.path, engine=name, device="cuda:0") as engine:
                engine.infer({card.input.name: tensor})
                first_s.append(time.perf_counter() - start)
        report.figures[f"first_result_{name}_s"] = {
            "first": first_s[0],
            "median": statistics.median(first_s),
        }
        report.line(
            f"ok  {name}: opened and closed 10 times, first result after {first_s[0]:.2f} s"
        )


def page_locked_copy(device: Any, frame: np.ndarray) -> np.ndarray:
    """Return a copy of a frame in page-locked memory, as in a locked slot."""
    copy = device.page_locked(frame.nbytes).reshape(frame.shape)
    copy[:] = frame
    return copy


def prepare(engine: OnnxCudaEngine, frames: Sequence[Picture], preparation: Preparation) -> None:
    """Have the sizes that a batch is cut into prepared in all lanes."""
    engine.infer_pictures(frames, preparation)
    assert engine.settle(SETTLED_S), f"not prepared within {SETTLED_S:g} s"


def hold(engine: OnnxCudaEngine, array: np.ndarray) -> None:
    """Tell the engine of memory that is page-locked already."""
    engine.lanes.pages.add(array.ctypes.data, array.nbytes)


def plain_session(card: zoo.Card) -> Callable[[np.ndarray], Any]:
    """Open a session as the documentation of ONNX Runtime does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(card.path), providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert "CUDAExecutionProvider" in session.get_providers()
    return lambda tensor: session.run(None, {card.input.name: tensor})


def blob(frames: list[np.ndarray], preparation: Preparation) -> np.ndarray:
    """Make the tensor as programs with OpenCV do."""
    norm, (width, height) = preparation.norm, preparation.size
    mean = tuple(float(m) / norm.scale for m in norm.mean)
    pixels = cv2.dnn.blobFromImages(frames, norm.scale, (width, height), mean, swapRB=norm.rgb)
    if set(norm.std) != {1.0}:
        pixels /= np.asarray(norm.std, np.float32).reshape(1, 3, 1, 1)
    return pixels


def overlap(report: Report) -> None:
    """Show from events that the copies of one batch run beside the model of another."""
    card = zoo.card("centerface")
    frames = pictures(16, 1080, 1920)
    preparation = preparation_of(card, 1280, 1920, 1080)
    with OnnxCudaEngine(EngineSpec(card.path, device="cuda:0"), timed=True) as engine:
        with engine.lanes.device.active():
            ready = [page_locked_copy(engine.lanes.device, frame) for frame in frames]
        for array in ready:
            hold(engine, array)
        prepare(engine, ready, preparation)
        alone = run_batches(engine, ready, preparation, count=20, depth=1)
        beside = run_batches(engine, ready, preparation, count=40, depth=2)
    report.line("begun, uploaded, prepared, computed, downloaded in ms, two lanes:")
    zero = beside[10].begun
    for times in beside[10:18]:
        report.line("  " + "  ".join(f"{value - zero:8.3f}" for value in astuple(times)))
    both = summary(beside[4:])
    single = summary(alone[4:])
    report.figures["overlap"] = {"one_in_flight": single, "two_in_flight": both}
    report.line(f"one in flight: {single}")
    report.line(f"two in flight: {both}")
    ends = single["between_batches_ms"], both["between_batches_ms"]
    report.line("a batch ends every {:.2f} ms, with two in flight every {:.2f}".format(*ends))


def run_batches(
    engine: OnnxCudaEngine,
    frames: list[np.ndarray],
    preparation: Preparation,
    *,
    count: int,
    depth: int,
) -> list[Times]:
    """Run batches with so many in flight; return when their parts were done."""
    waiting: deque[Any] = deque()
    found = []
    for _ in range(count):
        waiting.append(engine.begin_pictures(frames, preparation))
        if len(waiting) == depth:
            pending = waiting.popleft()
            pending.result()
            found.append(pending.times)
    for pending in waiting:
        pending.result()
        found.append(pending.times)
    return found


def astuple(times: Times) -> tuple[float, ...]:
    """Return the five times in order."""
    return (times.begun, times.uploaded, times.prepared, times.computed, times.downloaded)


def summary(batches: list[Times]) -> dict[str, float]:
    """Return mean times of the parts, the time between batches, and how much copying was hidden."""
    copying = [(t.begun, t.uploaded) for t in batches] + [
        (t.computed, t.downloaded) for t in batches
    ]
    computing = [(t.uploaded, t.computed) for t in batches]
    hidden = sum(
        max(0.0, min(end, stop) - max(begin, start))
        for begin, end in copying
        for start, stop in computing
    )
    total = sum(end - begin for begin, end in copying)
    ends = [t.downloaded for t in batches]
    return {
        "upload_ms": round(statistics.median(t.uploaded - t.begun for t in batches), 3),
        "prepare_ms": round(statistics.median(t.prepared - t.uploaded for t in batches), 3),
        "compute_ms": round(statistics.median(t.computed - t.prepared for t in batches), 3),
        "download_ms": round(statistics.median(t.downloaded - t.computed for t in batches), 3),
        "between_batches_ms": round((ends[-1] - ends[0]) / (len(ends) - 1), 3),
        "copies_beside_compute": round(hidden / total, 3),
    }
