"""The flow rule against `queue.Queue`: frames in, frames out, one thread.

The reference is what two stages of a process would have between them: a bounded `queue.Queue`, a
frame put and a frame got. The flow rule does the same and more: a fair order between four streams,
credit, batches, books per stream and reason. So a ratio below 1 is the price of that, paid once
per frame. A frame costs three events with batches of one, and one event and a part of two others
with batches of eight. Making the item is measured too.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from itertools import count

import pytest

from vdag.transport.flow import Deliver, Flow, Item

TASK = "face_detection"
STREAMS = ("front", "back", "left", "right")
WAITING = 32
FRAMES = 64


def through_flow(policy: str, batch: int) -> Callable[[], None]:
    """Return a round of `FRAMES` frames through a queue in which `WAITING` others wait."""
    flow, numbers = Flow(), count()
    flow.open_task(TASK, policy=policy, limit=256)

    def submit() -> None:
        number = next(numbers)
        # `latest` keeps one frame per stream: there, every frame is of another one.
        stream = number % 256 if policy == "latest" else STREAMS[number % 4]
        flow.submit(Item(stream, number, TASK, 10**15 + number, nbytes=6_220_800), number)

    def run() -> None:
        for _ in range(FRAMES // batch):
            for _ in range(batch):
                submit()
            out = flow.worker_ready(TASK, "worker", credit=batch, max_batch=batch, now_ns=0)
            for each in out:
                if isinstance(each, Deliver):
                    flow.worker_done("worker", each.items, 0)

    for _ in range(WAITING):
        submit()
    return run


def through_queue() -> Callable[[], None]:
    waiting: queue.Queue[Item] = queue.Queue(256)
    numbers = count()

    def run() -> None:
        for _ in range(FRAMES):
            waiting.put(Item("front", next(numbers), TASK), timeout=1)
            waiting.get(timeout=1)

    for _ in range(WAITING):
        waiting.put(Item("front", next(numbers), TASK), timeout=1)
    return run


@pytest.mark.parametrize("policy", ["block", "fifo", "latest", "deadline"])
@pytest.mark.parametrize("batch", [1, 8])
def bench_64_frames(compare, policy, batch):
    compare(
        f"flow.{policy}_batch_{batch}",
        subject=("vdag, 64 frames", through_flow(policy, batch)),
        against=("queue.Queue", through_queue()),
        unit="us",
    )
