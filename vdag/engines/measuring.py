"""What a model takes on an engine, by the size of the batch: seconds, and memory on both sides."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag import engines
from vdag.engines.base import Engine, EngineSpec
from vdag.engines.begun import Begun
from vdag.engines.gpu.device import device_number, open_device
from vdag.engines.gpu.engine import PictureEngine
from vdag.engines.gpu.pictures import Preparation
from vdag.engines.gpu.preparing import settle
from vdag.errors import ConfigError, EngineUnavailable

__all__ = ["MAX_BATCH", "BatchCost", "measure", "memory_of", "settle"]

MAX_BATCH = 256
MAX_CALLS = 10_000
#: Rounds that are not counted: memory is taken, kernels are chosen.
WARM_UP_ROUNDS = 2
#: Batches at work at once, as in a worker.
IN_FLIGHT = 2


@dataclass(slots=True, frozen=True)
class BatchCost:
    """What batches of one size take.

    Attributes:
        batch: pictures of each.
        mean_s: seconds from a batch's begin to its outputs, with nothing else at work.
        p95_s: what 95 % of batches do not exceed.
        rate: pictures per second, with as many batches at work as a worker has.
        host_nbytes: resident memory of the process beyond what it had without the engine.
        device_nbytes: memory of the GPU likewise; 0 without one.
        calls: batches that were counted.
    """

    batch: int
    mean_s: float
    p95_s: float
    rate: float
    host_nbytes: int
    device_nbytes: int
    calls: int = 1


def measure(
    spec: EngineSpec,
    preparation: Preparation,
    picture: NDArray[np.uint8],
    batches: Sequence[int],
    *,
    calls: int = 20,
) -> Iterator[BatchCost]:
    """Load a model and run it on batches of a picture, the smallest first.

    Engines keep the memory of the largest batch that they were given, so each size is told with
    what the engine has taken so far.

    Args:
        spec: what to load.
        preparation: how the picture becomes the model's input.
        picture: uint8 `(H, W, 3)` BGR.
        batches: sizes.
        calls: of each size, that are counted.

    Raises:
        ConfigError: a number has no meaning, or the model takes no batch of that size.
        EngineError: the model cannot be loaded, or fails.
    """
    for batch in batches:
        if not 1 <= batch <= MAX_BATCH:
            raise ConfigError(f"batch of {batch} is not 1 to {MAX_BATCH}")
    if not 1 <= calls <= MAX_CALLS:
        raise ConfigError(f"calls of {calls} is not 1 to {MAX_CALLS}")
    before = memory_of(spec.device)
    with engines.load(spec) as engine:
        for batch in sorted(set(batches)):
            mean_s, p95_s, rate = _timed(engine, preparation, [picture] * batch, calls)
            host, device = (
                max(now - then, 0) for now, then in zip(memory_of(spec.device), before, strict=True)
            )
            yield BatchCost(batch, mean_s, p95_s, rate, host, device, calls)


def _timed(
    engine: Engine, preparation: Preparation, pictures: list[NDArray[np.uint8]], calls: int
) -> tuple[float, float, float]:
    """Return mean, 95th percentile, and pictures per second."""
    begin = _beginning(engine, preparation, pictures)
    # As many at once as later: an engine takes the memory of each when it comes.
    for _ in range(WARM_UP_ROUNDS):
        _overlapped(begin, IN_FLIGHT)
        settle()  # what the engine prepares for this size
    times = []
    for _ in range(calls):
        start_s = time.perf_counter()
        begin().result()
        times.append(time.perf_counter() - start_s)
    start_s = time.perf_counter()
    _overlapped(begin, calls)
    rate = calls * len(pictures) / (time.perf_counter() - start_s)
    return float(np.mean(times)), float(np.quantile(times, 0.95)), rate


def _overlapped(begin: Callable[[], Begun[Any]], calls: int) -> None:
    """Run batches, as many of them at once as a worker does."""
    waiting: deque[Begun[Any]] = deque()
    for _ in range(calls):
        waiting.append(begin())
        if len(waiting) == IN_FLIGHT:
            waiting.popleft().result()
    for begun in waiting:
        begun.result()


def _beginning(
    engine: Engine, preparation: Preparation, pictures: list[NDArray[np.uint8]]
) -> Callable[[], Begun[Any]]:
    """Return what begins a batch, as `vdag.tasks.model` does."""
    if getattr(engine, "takes_pictures", False):
        gpu = cast(PictureEngine, engine)
        return lambda: gpu.submit_pictures(pictures, preparation)
    width, height = preparation.size
    shape = (len(pictures), 3, height, width)

    def run() -> Begun[Any]:
        tensor = engine.buffer(preparation.name, shape)
        native.preprocess.fill_batch(pictures, tensor, preparation.norm, mode=preparation.mode)
        return Begun.finished(engine.infer({preparation.name: tensor}))

    return run


def memory_of(device: str) -> tuple[int, int]:
    """Return the bytes that this process has, and those that are taken of its GPU; 0 for none.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.
    """
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    host = pages * os.sysconf("SC_PAGE_SIZE")
    if device == "cpu":
        return host, 0
    try:
        opened = open_device(device_number(device))
    except EngineUnavailable:
        return host, 0
    with opened.active():
        return host, opened.nbytes - opened.free_nbytes()
