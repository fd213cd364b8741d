"""Batches: what a worker takes for several frames at once, by how many they are.

The task runs in this process, on a few frames of the clip in memory that a GPU may read by itself,
as those of a node are. What counts is the time from the end of a batch to the end of the next while
there is always a next, for that is what a busy worker takes; a task that can begin the one beside
the other does. All of it is told over what the same frames take one by one and alone, so that it
can be held against what a worker process took.

Sizes double for as long as that saves anything worth its wait.

This module loads engines. Nothing but the command imports it.
"""

from __future__ import annotations

import logging
import mmap
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.control.profile.cells import BatchRecord, CellKey
from vdag.control.profile.costs import MAX_BATCH, MIN_COMPUTE_S, BatchPoint, Cost
from vdag.engines import measuring
from vdag.engines.begun import Begun
from vdag.errors import EngineError
from vdag.tasks import Inputs, Task, TaskOptions, load, signatures, warm_up
from vdag.tasks.overlap import begin, lock_pages

__all__ = ["SAMPLES", "measure_batches", "points_of", "sizes_of"]

logger = logging.getLogger(__name__)

#: Frames that batches are made of.
SAMPLES = 8
#: Batches of each size that are counted, at least.
LEAST_ROUNDS = 4
#: Runs of each, of which the fastest counts.
RUNS = 2
#: Of the time per frame, what the next size has to save for the one after it to be tried.
LEAST_GAIN = 0.03
#: Batches at work at once, as in a worker.
IN_FLIGHT = 2


def sizes_of(task: Task, asked: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the sizes of batches to be measured of a task, ascending.

    Args:
        task: says how many frames it takes at once.
        asked: sizes; those above that are left out. Empty for the powers of two.
    """
    most = min(task.max_batch, MAX_BATCH)
    sizes = asked or [1 << n for n in range(most.bit_length())]
    return tuple(sorted({size for size in sizes if size <= most}))


def measure_batches(
    key: CellKey,
    chain: Sequence[str],
    pictures: Sequence[NDArray[np.uint8]],
    *,
    device: str,
    engine: str,
    sizes: Sequence[int] = (),
) -> tuple[float, list[BatchRecord]]:
    """Run a task on batches.

    Args:
        key: the task and its model.
        chain: it, and before it the task that gives its inputs, if there is one.
        pictures: frames of one size, uint8 `(H, W, 3)` BGR; they are copied.
        device: where models run.
        engine: what runs them.
        sizes: of batches; empty for the powers of two up to what saves nothing more.

    Returns:
        Seconds of a frame alone, and what batches of each size took; none if the task takes but one
        frame at a time.

    Raises:
        VdagError: the task cannot be loaded, or fails on single frames.
    """
    options = TaskOptions(key.model_id, device, engine)
    before = measuring.memory_of(device)
    slots, *pages = _slots(pictures)
    inputs = _inputs(chain, slots, TaskOptions(0, device, engine))
    with closing(load(key.task, options)) as task:
        wanted = sizes_of(task, sizes)
        if task.max_batch == 1 or wanted == (1,):
            return 0.0, []
        warm_up(task, 1)
        lock_pages(task, *pages)
        alone_s = _alone(task, inputs)
        return alone_s, list(_batches(task, inputs, wanted, before, device, stops=not sizes))


def points_of(alone_s: float, records: Sequence[BatchRecord], cost: Cost) -> tuple[BatchPoint, ...]:
    """Return what was measured of batches beside what a worker process took for single frames.

    Args:
        alone_s: what the frames of the batches took one by one.
        records: of the batches, by size.
        cost: of single frames.
    """
    if not records or not alone_s:
        return ()
    least = records[0].mem_nbytes
    return tuple(
        BatchPoint(
            each.batch,
            max(each.seconds / alone_s * cost.mean_s(), MIN_COMPUTE_S),
            cost.mem_nbytes + max(each.mem_nbytes - least, 0),
            each.device_nbytes,
        )
        for each in records
    )


def _slots(pictures: Sequence[NDArray[np.uint8]]) -> tuple[list[NDArray[np.uint8]], int, int]:
    """Put pictures into pages of their own, which go with the last view of them.

    Returns:
        The views, and address and length of the pages.
    """
    shape = pictures[0].shape
    one = -(-pictures[0].nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = np.frombuffer(mmap.mmap(-1, one * len(pictures)), np.uint8)
    slots = []
    for number, picture in enumerate(pictures):
        slot = pages[number * one : number * one + picture.nbytes].reshape(shape)
        slot[:] = picture
        slot.flags.writeable = False
        slots.append(slot)
    return slots, pages.ctypes.data, pages.nbytes


def _inputs(
    chain: Sequence[str], slots: Sequence[NDArray[np.uint8]], options: TaskOptions
) -> list[Inputs]:
    """Return what a task is given of each picture: it, and what the task before has found."""
    given: list[dict[str, Any]] = [{"image": slot} for slot in slots]
    signature = signatures(chain)[chain[-1]]
    if len(chain) > 1:
        with closing(load(chain[0], options)) as before:
            for fields in given:
                fields |= before.process([{"image": fields["image"]}])[0]
    wanted = signature.inputs | signature.optional
    return [{name: fields[name] for name in fields.keys() & wanted} for fields in given]


def _alone(task: Task, inputs: Sequence[Inputs]) -> float:
    """Return the mean seconds of a frame, with nothing else at work."""

    def run() -> None:
        for each in inputs:
            begin(task, [each]).result()

    begin(task, inputs[:1]).result()
    return _fastest(run) / len(inputs)


def _batches(
    task: Task,
    inputs: Sequence[Inputs],
    sizes: Sequence[int],
    before: tuple[int, int],
    device: str,
    *,
    stops: bool,
) -> Iterator[BatchRecord]:
    """Yield what batches take, up to the size that saves nothing more, or that does not fit."""
    best_s = float("inf")
    for size in sizes:
        try:
            seconds = _spacing(task, inputs, size)
        except EngineError as err:
            if size == sizes[0]:
                raise
            logger.warning("batches of %s are left out: %s", size, err)
            return
        host, gpu = measuring.memory_of(device)
        yield BatchRecord(size, seconds, max(host - before[0], 0), max(gpu - before[1], 0))
        if stops and seconds / size > best_s * (1 - LEAST_GAIN):
            return
        best_s = min(best_s, seconds / size)


def _spacing(task: Task, inputs: Sequence[Inputs], size: int) -> float:
    """Return the seconds from the end of a batch to the end of the next."""
    rounds = max(LEAST_ROUNDS, -(-len(inputs) // size))
    batches = [
        [inputs[(number * size + n) % len(inputs)] for n in range(size)] for number in range(rounds)
    ]
    _overlapped(task, batches[:IN_FLIGHT])  # memory is taken, kernels are chosen
    measuring.settle()  # what the engine prepares for this size
    return _fastest(lambda: _overlapped(task, batches)) / rounds


def _fastest(run: Callable[[], None]) -> float:
    """Return the seconds of the fastest of some runs: what else the machine does only adds."""
    times = []
    for _ in range(RUNS):
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return min(times)


def _overlapped(task: Task, batches: Sequence[Sequence[Inputs]]) -> None:
    """Run batches, as many of them at once as a worker does."""
    waiting: deque[Begun[Any]] = deque()
    try:
        for batch in batches:
            waiting.append(begin(task, batch))
            if len(waiting) == IN_FLIGHT:
                waiting.popleft().result()
    finally:
        for begun in waiting:
            begun.wait()
    for begun in waiting:
        begun.result()
