"""Work through a real exchange and real workers, some of which die."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vdag import tasks
from vdag.control.service.execution import WINDOW, Execution
from vdag.control.service.images import Bounds, from_msgpack
from vdag.control.service.schemas import Work
from vdag.errors import ChannelClosed, ImageError, PayloadTooLarge, Saturated, StageError
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

TASKS_FILE = Path(__file__).parents[1] / "worker_tasks.py"
GATE = "VDAG_TEST_GATE"
TIMEOUT_S = 30.0
SIDE = 16
#: One more task: what it is given, and nothing else.
MORE = """
import numpy as np
import vdag

class Shapes:
    signature = vdag.Signature(
        frozenset(), frozenset({"shapes", "batch"}),
        optional=frozenset({"image", "clip", "faces", "bbox"}),
    )
    max_batch = 8

    def __init__(self, options):
        pass

    def process(self, batch):
        return [
            {
                "shapes": {
                    name: [list(np.shape(item)) for item in value]
                    if name in ("clip", "faces") else list(np.shape(value))
                    for name, value in inputs.items()
                },
                "batch": len(batch),
            }
            for inputs in batch
        ]

    def close(self):
        pass

vdag.register("shapes", Shapes)
"""


@dataclass(frozen=True)
class Plain:
    """A picture of one value."""

    value: int
    width: int = SIDE
    height: int = SIDE

    def write(self, out):
        out[:] = self.value


@dataclass(frozen=True)
class Broken(Plain):
    def write(self, out):
        raise ImageError("picture is broken")


@dataclass
class Bench:
    exchange: Exchange
    pool: WorkerPool
    modules: list[Path]

    def open(self, task: str, **settings) -> None:
        self.exchange.open_task(task, policy="fifo", **{"limit": 64, **settings})
        self.pool.add(task)
        self.pool.wait_ready(task, TIMEOUT_S)

    def run(self, body: Callable, **options):
        """Run `body(execution)` in an event loop; afterwards the books must be right."""

        async def main():
            execution = Execution(self.exchange, **options)
            execution.open()
            try:
                return await asyncio.wait_for(body(execution), 2 * TIMEOUT_S)
            finally:
                await execution.close()
                stats = execution.stats()
                done = stats.answered + stats.failed + stats.given_up
                assert (stats.taken, stats.pending) == (done, 0)

        return asyncio.run(main())

    def pids(self, task: str) -> list[int]:
        workers = self.exchange.stats().workers.values()
        return [worker.pid for worker in workers if worker.task == task and worker.pid]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    more = tmp_path / "shapes_task.py"
    more.write_text(MORE)
    with tempfile.TemporaryDirectory(prefix="vt-") as folder:
        classes = [(SIDE * SIDE * 3, 6), (4 * SIDE * SIDE * 3, 2)]
        with Exchange(Path(folder), node="test", classes=classes) as exchange:
            with WorkerPool(exchange, modules=[TASKS_FILE, more]) as pool:
                yield Bench(exchange, pool, [TASKS_FILE, more])
            exchange.check()
            stats = exchange.stats()
            assert (stats.waiting, stats.outstanding) == (0, 0)
            assert (stats.arena.free, stats.arena.leases) == (stats.arena.slots, 0)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch) -> Path:
    path = tmp_path / "gate"
    os.mkfifo(path)
    monkeypatch.setenv(GATE, str(path))
    return path


def number(value: int, task: str = "number") -> Work:
    return Work(task, [Plain(value)])


def test_a_list_is_answered_in_its_order_by_one_worker(bench: Bench):
    bench.open("number", limit=WINDOW)
    values = [n % 251 for n in range(100)]
    answers = bench.run(lambda e: e.run_all([number(n) for n in values], TIMEOUT_S))
    assert [answer.outputs["number"] for answer in answers] == values
    assert all(0 < answer.start_ns <= answer.end_ns for answer in answers)


def test_pictures_clips_faces_and_arrays_arrive_as_they_are(bench: Bench):
    bench.open("shapes")
    boxes = np.zeros((2, 4), np.float32)
    works = [
        Work("shapes", [Plain(1)]),
        Work("shapes", [Plain(1), Plain(2)], is_clip=True),
        Work("shapes", [Plain(1), Plain(2, 8, 4)], is_clip=True),
        Work("shapes", faces=[Plain(1, 3, 5), Plain(2)], fields={"bbox": boxes}),
    ]
    answers = bench.run(lambda e: e.run_all(works, TIMEOUT_S))
    assert [answer.outputs["shapes"] for answer in answers] == [
        {"image": [SIDE, SIDE, 3]},
        {"clip": [[SIDE, SIDE, 3]] * 2},
        {"clip": [[SIDE, SIDE, 3], [4, 8, 3]]},
        {"faces": [[5, 3, 3], [SIDE, SIDE, 3]], "bbox": [2, 4]},
    ]


def test_raw_pixels_of_a_caller_reach_the_task(bench: Bench):
    import msgspec

    bench.open("number")
    value = msgspec.msgpack.encode({"shape": [2, 3, 3], "data": bytes([9]) * 18})
    work = Work("number", [from_msgpack(value, Bounds())])
    assert bench.run(lambda e: e.run(work, TIMEOUT_S)).outputs["number"] == 9


def test_an_error_of_the_task_is_the_callers_and_the_worker_goes_on(bench: Bench):
    bench.open("fragile")

    async def body(execution):
        text = r"^fragile failed on frame 0: ZeroDivisionError: three$"
        with pytest.raises(StageError, match=text):
            await execution.run(number(3, "fragile"), TIMEOUT_S)
        return await execution.run(number(4, "fragile"), TIMEOUT_S)

    assert bench.run(body).outputs["number"] == 4


def test_a_list_fails_as_a_whole_if_one_of_it_fails(bench: Bench):
    bench.open("fragile")
    works = [number(n, "fragile") for n in range(6)]
    with pytest.raises(StageError, match="ZeroDivisionError: three"):
        bench.run(lambda e: e.run_all(works, TIMEOUT_S))


def test_work_of_a_worker_that_is_killed_is_done_by_the_next(bench: Bench, gate: Path):
    bench.open("gated")
    (pid,) = bench.pids("gated")

    async def body(execution):
        waiting = asyncio.ensure_future(execution.run(number(0, "gated"), TIMEOUT_S))
        # A writer gets through when a worker has the gate open for reading: it is at work.
        writer = await asyncio.to_thread(os.open, gate, os.O_WRONLY)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(
            bench.pool.wait_until, lambda c: c["gated"].restarts == 1, TIMEOUT_S
        )
        os.close(writer)
        await asyncio.to_thread(lambda: os.close(os.open(gate, os.O_WRONLY)))
        return await waiting

    assert bench.run(body).outputs["number"] == 0
    assert bench.pids("gated") != [pid]


def test_work_that_two_workers_die_over_is_an_error(bench: Bench):
    bench.open("deadly")
    text = r"^deadly failed on frame 0: two workers died over it: worker deadly-\d+: killed by"
    with pytest.raises(StageError, match=text):
        bench.run(lambda e: e.run(number(3, "deadly"), TIMEOUT_S))


def test_work_that_is_not_done_in_time_is_given_up(bench: Bench, gate: Path):
    bench.open("gated")

    async def body(execution):
        with pytest.raises(Saturated, match=r"^gated has not answered within 0\.2 s$"):
            await execution.run(number(0, "gated"), 0.2)
        await asyncio.to_thread(lambda: os.close(os.open(gate, os.O_WRONLY)))
        # Its late answer comes before that to the next: one worker, one after the other.
        await execution.run(number(1, "gated"), TIMEOUT_S)
        return execution.stats()

    stats = bench.run(body)
    assert (stats.given_up, stats.answered, stats.late) == (1, 1, 1)


def test_more_than_the_queue_takes_is_refused_at_once(bench: Bench, gate: Path):
    bench.open("gated", limit=1)

    async def body(execution):
        first = asyncio.ensure_future(execution.run(number(0, "gated"), TIMEOUT_S))
        writer = await asyncio.to_thread(os.open, gate, os.O_WRONLY)
        later = [
            asyncio.ensure_future(execution.run(number(n, "gated"), TIMEOUT_S)) for n in range(1, 6)
        ]
        _, waiting = await asyncio.wait(later, return_when=asyncio.FIRST_COMPLETED)
        os.close(writer)
        results = await asyncio.gather(first, *later, return_exceptions=True)
        return waiting, results

    waiting, results = bench.run(body)
    assert waiting
    errors = [result for result in results if isinstance(result, BaseException)]
    assert errors
    assert {str(error) for error in errors} == {"gated has too much to do: full"}
    assert {type(error) for error in errors} == {Saturated}


def test_more_than_may_be_under_way_is_refused(bench: Bench, gate: Path):
    bench.open("gated")

    async def body(execution):
        first = asyncio.ensure_future(execution.run(number(0, "gated"), TIMEOUT_S))
        writer = await asyncio.to_thread(os.open, gate, os.O_WRONLY)
        with pytest.raises(Saturated, match=r"^1 requests are under way already$"):
            await execution.run(number(1, "gated"), TIMEOUT_S)
        os.close(writer)
        return await first

    assert bench.run(body, max_in_flight=1).outputs["number"] == 0


def test_a_broken_picture_takes_no_slot(bench: Bench):
    bench.open("number")

    async def body(execution):
        for _ in range(10):
            with pytest.raises(ImageError, match=r"^picture is broken$"):
                await execution.run(Work("number", [Broken(1)]), TIMEOUT_S)
        return await execution.run(number(5), TIMEOUT_S)

    assert bench.run(body).outputs["number"] == 5


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Work("number", [Plain(1, 500, 500)]), r"^1 pictures of 500 x 500 do not fit: "),
        (Work("shapes", faces=[Plain(1, 4000, 1500)]), r"^what goes with the pictures is too "),
    ],
)
def test_what_does_not_fit_is_refused(bench: Bench, work: Work, message: str):
    bench.open(work.task)
    with pytest.raises(PayloadTooLarge, match=message):
        bench.run(lambda e: e.run(work, TIMEOUT_S))


def test_closing_answers_who_waits(bench: Bench, gate: Path):
    bench.open("gated")

    async def body(execution):
        waiting = asyncio.ensure_future(execution.run(number(0, "gated"), TIMEOUT_S))
        writer = await asyncio.to_thread(os.open, gate, os.O_WRONLY)
        await execution.close()
        with pytest.raises(ChannelClosed, match=re.escape("the service is closed")):
            await waiting
        with pytest.raises(ChannelClosed, match=re.escape("the service is closed")):
            await execution.run(number(1, "gated"), TIMEOUT_S)
        os.close(writer)

    bench.run(body)


def test_a_task_that_closes_answers_who_waits(bench: Bench, gate: Path):
    bench.open("gated")

    async def body(execution):
        first = asyncio.ensure_future(execution.run(number(0, "gated"), TIMEOUT_S))
        writer = await asyncio.to_thread(os.open, gate, os.O_WRONLY)
        later = [
            asyncio.ensure_future(execution.run(number(n, "gated"), TIMEOUT_S)) for n in range(1, 5)
        ]
        # Some are lent to the worker in advance; what waits in the queue is answered at once.
        await asyncio.to_thread(wait_for_queue, bench.exchange)
        await asyncio.to_thread(bench.exchange.close_task, "gated")
        done, _ = await asyncio.wait(later, return_when=asyncio.FIRST_COMPLETED)
        os.close(writer)
        await asyncio.gather(*later, return_exceptions=True)
        return (await first).outputs["number"], {str(task.exception()) for task in done}

    assert bench.run(body) == (0, {"gated is not served any more: closed"})


def wait_for_queue(exchange: Exchange) -> None:
    """Return when a frame waits; every look is answered by the exchange's own thread."""
    while not exchange.stats().waiting:
        pass


def test_the_tasks_of_this_file_are_for_workers_alone():
    assert "shapes" not in tasks.names()
