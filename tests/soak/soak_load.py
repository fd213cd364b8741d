"""A job under full load, in a process that has done nothing else.

    python soak_load.py KIND SECONDS [CLIP]

What its processes used, sample after sample, is printed in the end: one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from soak_chain import until

from vdag import Graph, SingleFrameGenerator, tasks
from vdag.job import Job
from vdag.tasks.modules import load_module
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

SAMPLES = 300
SLOTS, IN_FLIGHT, TIMEOUT_S = 24, 16, 60.0
#: Slots in use when nobody takes results and all work is done: of the frame that waits to leave,
#: and of the next, which waits for room behind it.
RESTING = 2
#: After how many samples the load is let come to rest.
RESTS = (SAMPLES // 3, 2 * SAMPLES // 3, SAMPLES)
#: An engine keeps memory for every number of pictures that it has seen: soon it has seen all.
MAX_BATCH = 2
TASKS = Path(__file__).parents[1] / "worker_tasks.py"


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

    def rest(self) -> None:
        """Take no results until all work is done: then no slot is in use beside `RESTING`.

        Raises:
            AssertionError: more stay in use.
        """
        until(lambda: self.job.stats().frames.in_flight == IN_FLIGHT + 1)
        until(lambda: self.slots() == RESTING)

    def samples(self, duration_s: float) -> Iterator[None]:
        """Take results for so long, and stop now and then to be measured."""
        start_s = time.monotonic()
        taken = 0
        for result in self.job:
            result.drop_frame()
            elapsed_s = time.monotonic() - start_s
            if elapsed_s > duration_s * taken / SAMPLES:
                taken += 1
                yield
            if elapsed_s > duration_s:
                return


def messages(stack: ExitStack) -> Load:
    """Tasks that do next to nothing, in two branches: as many messages as there can be."""
    load_module(TASKS)
    picture = np.zeros((48, 64, 3), np.uint8)
    source = stack.enter_context(SingleFrameGenerator([picture], loop=True))
    return Load(stack, ["number", "add_one", "whereabouts"], source)


def models(stack: ExitStack, clip: Path) -> Load:
    """Faces and their poses in a clip."""
    source = stack.enter_context(SingleFrameGenerator(clip, loop=True))
    return Load(stack, ["face_detection", "face_alignment"], source)


def use(process: psutil.Process) -> tuple[int, int, int]:
    """Return a process's own memory in bytes, its file descriptors, and its threads."""
    with process.oneshot():
        memory = process.memory_info()
        return memory.rss - memory.shared, process.num_fds(), process.num_threads()


def run(kind: str, duration_s: float, clip: Path | None) -> dict[str, Any]:
    """Run one load; return what was used, and what became of the frames."""
    with ExitStack() as stack:
        load = messages(stack) if clip is None else models(stack, clip)
        workers = load.exchange.stats().workers
        names = {os.getpid(): "owner"} | {worker.pid: name for name, worker in workers.items()}
        processes = {pid: psutil.Process(pid) for pid in names}
        used: dict[str, list[tuple[int, int, int]]] = {name: [] for name in names.values()}
        for taken, _ in enumerate(load.samples(duration_s), 1):
            for pid, process in processes.items():
                used[names[pid]].append(use(process))
            if taken in RESTS:
                load.rest()
        load.exchange.check()
        stats = load.job.stats().frames
        load.job.close()
        until(lambda: load.slots() == 0)
        load.exchange.arena.check()
        return {
            "kind": kind,
            "workers": len(workers),
            "tasks": len(load.graph.tasks),
            "restarts": sum(count.restarts for count in load.pool.counts().values()),
            "read": stats.read,
            "delivered": stats.delivered,
            "in_flight": stats.in_flight,
            "elapsed_s": stats.elapsed_s,
            "used": used,
        }


if __name__ == "__main__":
    kind, duration_s, *clip = sys.argv[1:]
    print(json.dumps(run(kind, float(duration_s), Path(clip[0]) if clip else None)))
