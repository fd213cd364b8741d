"""Full load for a long time: memory, file descriptors, threads and slots stay where they are.

`VDAG_SOAK_S` says for how many seconds each load lasts: 60 if it is not set; the long form is 1800.
What was measured is printed: the first and the last of it, and the growth that counts.
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pytest
from soak_chain import until

from vdag import Graph, SingleFrameGenerator, tasks
from vdag.job import Job
from vdag.tasks.modules import load_module
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

DURATION_S = float(os.environ.get("VDAG_SOAK_S", "60"))
SAMPLES = 300
#: The latest of them: what leaked is in all of these.
TAIL = 20
#: More than what the memory of a process may grow by from the second third to the last: what
#: Python keeps for later, such as 2,000 tuples of each length, takes its time to fill.
GROWTH_NBYTES = {"messages": 1 << 20, "models": 2 << 20}
SLOTS, IN_FLIGHT, TIMEOUT_S = 24, 16, 60.0
#: An engine keeps memory for every number of pictures that it has seen: soon it has seen all.
MAX_BATCH = 4
TASKS = Path(__file__).parents[1] / "worker_tasks.py"


@dataclass
class Trace:
    """What one process used, sample after sample; `memory` is its own, in bytes."""

    memory: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def add(self, process: psutil.Process) -> None:
        with process.oneshot():
            memory = process.memory_info()
            self.memory.append(memory.rss - memory.shared)
            self.fds.append(process.num_fds())
            self.threads.append(process.num_threads())

    def growth_nbytes(self) -> float:
        return median(last(self.memory)) - median(middle(self.memory))

    def __str__(self) -> str:
        first, final = self.memory[0] / 2**20, self.memory[-1] / 2**20
        return (
            f"memory {first:.1f} -> {final:.1f} MiB, grows by {self.growth_nbytes() / 1024:.0f} "
            f"KiB, fds {self.fds[0]} -> {self.fds[-1]}, "
            f"threads {self.threads[0]} -> {self.threads[-1]}"
        )


def middle(values: list[int]) -> list[int]:
    return values[len(values) // 3 : 2 * len(values) // 3]


def last(values: list[int]) -> list[int]:
    return values[2 * len(values) // 3 :]


class Load:
    """An exchange, two workers per task, and a job that never ends."""

    def __init__(self, stack: ExitStack, flow: list[str], source: SingleFrameGenerator) -> None:
        graph = Graph.chain(*flow) if len(flow) == 2 else Graph.from_dag(flow)
        self.graph = graph.check(tasks.signatures())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vt-"))
        classes = [(source.width * source.height * 3, SLOTS)]
        self.exchange = stack.enter_context(Exchange(Path(folder), classes=classes))
        self.pool = stack.enter_context(WorkerPool(self.exchange, modules=[TASKS]))
        for task in self.graph.tasks:
            self.exchange.open_task(task, policy="block", limit=IN_FLIGHT)
            self.pool.add(task, count=2, max_batch=MAX_BATCH)
        for task in self.graph.tasks:
            self.pool.wait_ready(task, TIMEOUT_S)
        address, arena = self.exchange.address, self.exchange.arena
        self.job = stack.enter_context(
            Job(self.graph, source, address, arena, max_in_flight=IN_FLIGHT)
        )

    def slots(self) -> int:
        """Return how many slots are in use."""
        arena = self.exchange.stats().arena
        return arena.slots - arena.free

    def samples(self) -> Iterator[None]:
        """Take results for `DURATION_S`, and stop now and then to be measured."""
        start_s = time.monotonic()
        taken = 0
        for result in self.job:
            result.drop_frame()
            elapsed_s = time.monotonic() - start_s
            if elapsed_s > DURATION_S * taken / SAMPLES:
                taken += 1
                yield
            if elapsed_s > DURATION_S:
                return


def messages(stack: ExitStack) -> Load:
    """Tasks that do next to nothing, in two branches: as many messages as there can be."""
    if "number" not in tasks.names():
        load_module(TASKS)
    picture = np.zeros((48, 64, 3), np.uint8)
    source = stack.enter_context(SingleFrameGenerator([picture], loop=True))
    return Load(stack, ["number", "add_one", "whereabouts"], source)


def models(stack: ExitStack, clip: Path) -> Load:
    """Faces and their poses in a clip."""
    source = stack.enter_context(SingleFrameGenerator(clip, loop=True))
    return Load(stack, ["face_detection", "face_alignment"], source)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["messages", "models"])
def test_nothing_grows_under_full_load(kind: str, carphone: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # the time-out of other tests
    with ExitStack() as stack:
        load = messages(stack) if kind == "messages" else models(stack, carphone)
        workers = load.exchange.stats().workers
        names = {os.getpid(): "owner"} | {worker.pid: name for name, worker in workers.items()}
        traces = {psutil.Process(pid): Trace() for pid in names}
        slots: list[int] = []
        for _ in load.samples():
            slots.append(load.slots())
            for process, trace in traces.items():
                trace.add(process)
        load.exchange.check()
        stats = load.job.stats().frames
        assert stats.read == stats.delivered + stats.in_flight
        load.job.close()
        until(lambda: load.slots() == 0)
        load.exchange.arena.check()
        assert len(workers) == 2 * len(load.graph.tasks)
        assert sum(count.restarts for count in load.pool.counts().values()) == 0
    print(f"{kind}: {stats.delivered} frames in {stats.elapsed_s:.0f} s")
    for process, trace in traces.items():
        print(f"{names[process.pid]}: {trace}")
    print(f"slots in use: {median(middle(slots))} -> {median(last(slots))}, at most {max(slots)}")
    for trace in traces.values():
        assert trace.growth_nbytes() < GROWTH_NBYTES[kind]
        # A clip that begins anew takes some of both for a moment.
        assert min(trace.fds[-TAIL:]) <= median(middle(trace.fds))
        assert min(trace.threads[-TAIL:]) <= median(middle(trace.threads))
    assert median(last(slots)) <= median(middle(slots)) + 1
