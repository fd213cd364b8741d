"""The worker pool: real processes, killed, hung, added and removed under load."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq
from frames_kit import in_slot

from vdag.errors import ConfigError, EngineError, TransportError
from vdag.graph import Edge, Graph
from vdag.tasks import TaskOptions
from vdag.transport import codec, messages
from vdag.transport.exchange import Exchange
from vdag.transport.poison import PoisonStore
from vdag.workers import Patience, WorkerPool

TIMEOUT_S = 30.0
WIDTH, HEIGHT = 64, 48
SHAPE = (HEIGHT, WIDTH, 3)
NBYTES = HEIGHT * WIDTH * 3
#: What the first sample of a picture makes the task do.
FINE, ONCE, ALWAYS, HANG, CRASH, GATE = range(6)
#: `mood` does what its picture says; `crc` proves what it saw; `sum` looks at the output of `crc`.
TASKS = """
import faulthandler, os, signal, threading, zlib
from pathlib import Path
import vdag
from vdag.engines.begun import Begun

HERE = Path(__file__).parent

class Mood:
    signature = vdag.Signature(frozenset({"image"}), frozenset({"pid"}))
    max_batch = 4

    def __init__(self, options):
        pass

    def process(self, batch):
        for inputs in batch:
            mood = inputs["image"][0, 0, 0]
            if mood == 1:
                try:
                    (HERE / "once").touch(exist_ok=False)
                except FileExistsError:
                    continue
            if mood in (1, 2):
                os.kill(os.getpid(), signal.SIGKILL)
            if mood == 3:
                threading.Event().wait()
            if mood == 4:
                faulthandler._sigsegv()
            if mood == 5:
                (HERE / "gate").read_bytes()
        return [{"pid": os.getpid()} for _ in batch]

    def close(self):
        pass

class Ahead(Mood):
    '''Like `Mood`, with two batches at work.'''

    def begin(self, batch):
        return Begun(lambda: self.process(batch))

vdag.register("mood", Mood)
vdag.register("ahead", Ahead)

@vdag.task(outputs=["crc", "writeable"])
def crc(image):
    return {"crc": zlib.crc32(image.tobytes()), "writeable": bool(image.flags.writeable)}

@vdag.task(outputs=["low"])
def low(number):
    return {"low": number & 0xFF}
"""


class Job:
    """Sends frames and gets them back, as a job does."""

    def __init__(self, exchange: Exchange, context: zmq.Context) -> None:
        self.exchange = exchange
        self.home = context.socket(zmq.PULL)
        self.home.rcvtimeo = int(TIMEOUT_S * 1000)
        self.home.bind(f"ipc://{exchange.folder}/job-1")
        self.push = context.socket(zmq.PUSH)
        self.push.connect(exchange.address)
        self.sent = 0

    def join(self, graph: Graph | None = None) -> Job:
        dag = b"" if graph is None else json.dumps(graph.to_dag()).encode()
        address = f"ipc://{self.exchange.folder}/job-1"
        self.push.send(messages.encode(messages.Join("job", address, dag)))
        return self

    def send(self, pixels: np.ndarray | int, *tasks: str) -> int:
        """Send a picture, or one of a mood; return its number."""
        if isinstance(pixels, int):
            pixels = np.full(SHAPE, pixels, np.uint8)
        ref = self.exchange.arena.put(pixels, 1, TIMEOUT_S)
        assert ref is not None
        header = in_slot(ref, pixels.shape, seq=self.sent, stream=1)
        hops = (*(tasks or ("mood",)), "home")
        route = tuple(codec.Hop(task, self.exchange.address) for task in hops)
        self.push.send(codec.encode(codec.Descriptor(header, "job", "camera", route))[0])
        self.sent += 1
        return self.sent - 1

    def take(self) -> codec.Descriptor | messages.Dropped:
        part = self.home.recv()
        message = messages.decode(part) if messages.is_control(part) else codec.decode([part])
        assert isinstance(message, (codec.Descriptor, messages.Dropped))
        return message

    def take_all(self, count: int) -> dict[int, codec.Descriptor | messages.Dropped]:
        """Take what became of `count` frames, by their number: each exactly once."""
        taken = [self.take() for _ in range(count)]
        found = {t.seq if isinstance(t, messages.Dropped) else t.header.seq: t for t in taken}
        assert len(found) == count
        return found


class Plant:
    """An exchange with a pool, and a job."""

    def __init__(self, folder: Path, patience: Patience) -> None:
        self.folder = folder
        self.exchange = Exchange(
            folder / "node",
            classes=[(NBYTES, 64)],
            poison=PoisonStore(folder / "poison"),
        )
        self.pool = WorkerPool(self.exchange, modules=[folder / "tasks.py"], patience=patience)
        self.context = zmq.Context()
        self.job = Job(self.exchange, self.context)
        for task in ("mood", "ahead", "crc", "low"):
            self.exchange.open_task(task, policy="fifo", limit=64)

    def serve(self, task: str = "mood", count: int = 1, **options) -> None:
        self.pool.add(task, count=count, **options)
        self.pool.wait_ready(task, TIMEOUT_S)

    def counts(self, task: str = "mood"):
        return self.pool.counts()[task]

    def until(self, holds: Callable[[Plant], bool]) -> None:
        """Ask until it is so; each question waits for the exchange's thread."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not holds(self):
            assert time.monotonic() < deadline_s, (self.exchange.stats(), self.pool.counts())
            self.exchange.check()

    def settled(self) -> Counter[str]:
        """Wait until no frame is inside; check the books; return how many were dropped."""
        self.until(lambda plant: plant.exchange.stats().arena.leases == 0)
        stats = self.exchange.stats()
        assert stats.balance == 0
        assert stats.waiting == stats.outstanding == 0
        assert stats.received == self.job.sent
        self.exchange.arena.check()
        return Counter(stats.dropped)

    def close(self) -> None:
        self.pool.close()
        self.exchange.close()
        self.job.push.close(linger=0)
        self.job.home.close(linger=0)
        self.context.term()


@pytest.fixture
def patience() -> Patience:
    return Patience(start_timeout_s=TIMEOUT_S, stop_timeout_s=TIMEOUT_S, backoff_s=0.01)


@pytest.fixture
def plant(tmp_path: Path, patience: Patience) -> Iterator[Plant]:
    fds = psutil.Process().num_fds()
    (tmp_path / "tasks.py").write_text(textwrap.dedent(TASKS), encoding="utf-8")
    plant = Plant(tmp_path, patience)
    try:
        yield plant
    finally:
        plant.close()
    assert not psutil.Process().children()
    assert psutil.Process().num_fds() <= fds
    left = [path.name for path in (tmp_path / "node").iterdir()]
    assert not [name for name in left if name.startswith(("worker", "exchange"))]


def test_frames_reach_workers_as_they_were_put_and_come_home(plant: Plant):
    graph = Graph(
        "SingleFrameGenerator",
        ("crc", "low"),
        {
            "crc": (Edge("image", "SingleFrameGenerator", "image"),),
            "low": (Edge("number", "crc", "crc"),),
        },
    )
    job = plant.job.join(graph)
    plant.serve("crc", count=2)
    plant.serve("low")
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, SHAPE, np.uint8) for _ in range(50)]
    for picture in pictures:
        job.send(picture, "crc", "low")
    for seq, result in job.take_all(50).items():
        expected = zlib.crc32(pictures[seq].tobytes())
        assert result.context["crc"] == {"crc": expected, "writeable": False}
        assert result.context["low"] == {"low": expected & 0xFF}
        assert set(result.context[messages.TIMES]) == {"crc", "low"}
    assert plant.settled() == {}
    assert set(plant.exchange.stats().workers) == {worker.name for worker in plant.pool._posts}


# Workers that die.


def test_frames_of_a_worker_that_is_killed_arrive_after_all(plant: Plant):
    plant.job.join()
    plant.serve()
    for mood in (FINE, ONCE, FINE):
        plant.job.send(mood)
    results = plant.job.take_all(3)
    assert all(isinstance(result, codec.Descriptor) for result in results.values())
    assert plant.settled() == {}
    counts = plant.exchange.stats().tasks["mood"].flow.counts
    assert counts.retried >= 1
    assert plant.counts().restarts == 1


def test_a_frame_that_kills_two_workers_is_poison_and_kept(plant: Plant):
    plant.job.join()
    plant.serve(count=2)
    picture = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)
    picture[0, 0, 0] = ALWAYS
    bad = plant.job.send(picture)
    fine = [plant.job.send(FINE) for _ in range(6)]
    results = plant.job.take_all(7)
    assert all(isinstance(results[seq], codec.Descriptor) for seq in fine)
    notice = results[bad]
    assert isinstance(notice, messages.Dropped)
    assert (notice.reason, notice.task) == ("poison", "mood")
    assert re.fullmatch(r"worker mood-\d+: killed by SIGKILL", notice.detail)
    assert plant.settled() == {"poison": 1}
    (folder,) = PoisonStore(plant.folder / "poison").frames()
    kept = PoisonStore.load(folder)
    assert kept.pixels is not None
    np.testing.assert_array_equal(kept.pixels, picture)
    assert kept.descriptor.header.seq == bad
    assert kept.descriptor.here == codec.Hop("mood", plant.exchange.address)
    assert kept.report.endswith(f"task mood\n{notice.detail}\n")


@pytest.mark.parametrize(("bad", "dropped"), [(ONCE, {}), (ALWAYS, {"poison": 1})])
def test_a_worker_killed_with_two_batches_at_work_loses_no_other_frame(
    plant: Plant, bad: int, dropped: dict[str, int]
):
    plant.job.join()
    plant.serve("ahead")
    seqs = [plant.job.send(bad if number == 20 else FINE, "ahead") for number in range(40)]
    results = plant.job.take_all(40)
    lost = [seq for seq in seqs if not isinstance(results[seq], codec.Descriptor)]
    assert lost == seqs[20:21] * len(dropped)
    assert plant.settled() == dropped
    assert plant.counts("ahead").restarts == 1 + len(dropped)


def test_a_crash_in_native_code_is_told_with_its_stack(plant: Plant):
    plant.job.join()
    plant.serve()
    plant.job.send(CRASH)
    notice = plant.job.take()
    assert isinstance(notice, messages.Dropped)
    assert "killed by SIGSEGV\nFatal Python error: Segmentation fault" in notice.detail
    assert re.search(r'tasks.py", line \d+ in process', notice.detail)
    assert plant.settled() == {"poison": 1}


class TestHang:
    @pytest.fixture
    def patience(self) -> Patience:
        return Patience(
            start_timeout_s=TIMEOUT_S, hang_timeout_s=0.5, stop_timeout_s=TIMEOUT_S, backoff_s=0.01
        )

    def test_a_worker_that_hangs_is_killed_and_its_frame_is_poison_at_last(self, plant: Plant):
        plant.job.join()
        plant.serve()
        bad, fine = plant.job.send(HANG), plant.job.send(FINE)
        results = plant.job.take_all(2)
        assert isinstance(results[fine], codec.Descriptor)
        notice = results[bad]
        assert isinstance(notice, messages.Dropped)
        assert notice.reason == "poison"
        assert re.fullmatch(
            r"worker mood-\d+: no answer within 0.5 s: killed by SIGKILL", notice.detail
        )
        assert plant.settled() == {"poison": 1}
        assert plant.counts().hung == 2

    def test_a_worker_that_hangs_over_its_last_frame_does_not_stay(self, plant: Plant):
        plant.job.join()
        plant.serve()
        plant.job.send(HANG)
        plant.until(lambda plant: plant.exchange.stats().outstanding == 1)
        plant.pool.remove("mood")
        assert plant.pool.wait_until(lambda counts: "mood" not in counts, TIMEOUT_S)
        plant.until(lambda plant: plant.exchange.stats().waiting == 1)


def test_workers_killed_from_outside_under_load_lose_nothing(plant: Plant):
    """Twice each: no frame is lost, and none arrives twice."""
    job = plant.job.join()
    plant.serve(count=2)
    finished: dict[int, object] = {}
    killed: set[int] = set()
    for _ in range(400):
        job.send(FINE)
        message = job.take()
        seq = message.seq if isinstance(message, messages.Dropped) else message.header.seq
        assert seq not in finished
        finished[seq] = message
        if len(finished) % 80 == 40:
            plant.until(lambda plant: plant.counts().serving == 2)
            worker = next(iter(plant.exchange.stats().workers.values()))
            for _ in range(6):
                job.send(FINE)
            os.kill(worker.pid, signal.SIGKILL)
            killed.add(worker.pid)
            for seq, message in job.take_all(6).items():
                assert seq not in finished
                finished[seq] = message
    assert len(killed) == 5
    dropped = plant.settled()
    # A frame can be poison without fault only if both of its workers were killed.
    assert dropped.total() == sum(isinstance(m, messages.Dropped) for m in finished.values())
    assert len(finished) == job.sent
    assert plant.counts().restarts == 5


# Workers that do not start.


def test_a_task_that_cannot_be_imported_is_an_error_with_its_text(plant: Plant):
    (plant.folder / "tasks.py").write_text("import no_such_thing")
    plant.pool.add("mood")
    path = plant.folder / "tasks.py"
    text = f"{path} failed: ModuleNotFoundError: No module named 'no_such_thing'"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        plant.pool.wait_ready("mood", TIMEOUT_S)
    assert plant.pool.wait_until(lambda counts: counts["mood"].restarts >= 3, TIMEOUT_S)
    counts = plant.counts()
    assert (counts.wanted, counts.serving, counts.error) == (1, 0, text)
    (plant.folder / "tasks.py").write_text(textwrap.dedent(TASKS))
    assert plant.pool.wait_until(lambda counts: counts["mood"].serving == 1, TIMEOUT_S)
    assert plant.counts().error == ""


def test_a_model_that_does_not_exist_is_the_error_it_would_be_without_workers(plant: Plant):
    plant.exchange.open_task("face_detection")
    plant.pool.add("face_detection", TaskOptions(model_id=9))
    with pytest.raises(ConfigError, match=r"^face_detection has no model_id 9, expected one of"):
        plant.pool.wait_ready("face_detection", TIMEOUT_S)


def test_a_worker_needs_an_open_task(plant: Plant):
    plant.pool.add("closed")
    with pytest.raises(ConfigError, match=r"^task closed of worker closed-\d+ is not open$"):
        plant.pool.wait_ready("closed", TIMEOUT_S)
    assert plant.pool.remove("closed") == 1
    assert plant.pool.wait_until(lambda counts: "closed" not in counts, TIMEOUT_S)


class TestSlowStart:
    @pytest.fixture
    def patience(self) -> Patience:
        return Patience(start_timeout_s=0.5, stop_timeout_s=TIMEOUT_S, backoff_s=0.01)

    def test_a_worker_that_is_not_ready_in_time_is_killed(self, plant: Plant):
        (plant.folder / "tasks.py").write_text("import threading\nthreading.Event().wait()")
        plant.pool.add("mood")
        with pytest.raises(EngineError, match=r"^worker mood-\d+: not ready within 0.5 s: killed"):
            plant.pool.wait_ready("mood", TIMEOUT_S)


def test_back_off_doubles_until_its_limit(plant: Plant, monkeypatch):
    """The post's own arithmetic, without waiting for it."""
    (plant.folder / "tasks.py").write_text("import no_such_thing")
    plant.pool.add("mood")
    assert plant.pool.wait_until(lambda counts: counts["mood"].restarts >= 1, TIMEOUT_S)
    post = plant.pool._posts[0]
    with plant.pool._changed:
        waits = []
        for _ in range(15):
            post._start_later(EngineError("again"), 0)
            waits.append(post.due_ns)
        start = waits[0]
        assert waits == [min(start << n, 30_000_000_000) for n in range(15)]
        post.due_ns = time.monotonic_ns() + 10**12


# Workers that come and go.


def test_workers_added_and_removed_under_load_lose_nothing(plant: Plant):
    job = plant.job.join()
    plant.serve()
    results = {}

    def exchange_frames(count: int) -> None:
        for _ in range(count):
            job.send(FINE)
            message = job.take()
            assert isinstance(message, codec.Descriptor)
            results[message.header.seq] = message.context["mood"]["pid"]

    for _ in range(24):
        job.send(FINE)
    exchange_frames(50)
    plant.pool.add("mood", count=2)
    exchange_frames(50)
    plant.pool.wait_ready("mood", TIMEOUT_S)
    exchange_frames(100)
    assert plant.pool.remove("mood", 2) == 2
    exchange_frames(100)
    assert plant.pool.wait_until(lambda counts: counts["mood"].leaving == 0, TIMEOUT_S)
    exchange_frames(20)
    for seq, message in job.take_all(24).items():
        results[seq] = message.context["mood"]["pid"]
    assert sorted(results) == list(range(job.sent))
    assert 2 <= len(set(results.values())) <= 3
    assert plant.settled() == {}
    counts = plant.counts()
    assert (counts.wanted, counts.serving, counts.restarts) == (1, 1, 0)


def test_a_removed_worker_finishes_what_it_holds(plant: Plant):
    os.mkfifo(plant.folder / "gate")
    job = plant.job.join()
    plant.serve()
    first = job.send(GATE)
    with (plant.folder / "gate").open("wb"):  # the worker stands at it
        second = job.send(FINE)  # waits at the worker, which has credit for it
        plant.until(lambda plant: plant.exchange.stats().outstanding == 2)
        (worker,) = plant.exchange.stats().workers.values()
        process = psutil.Process(worker.pid)
        plant.pool.remove("mood")
        third = job.send(FINE)
        plant.until(lambda plant: plant.exchange.stats().waiting == 1)
        assert plant.counts().leaving == 1
    assert set(job.take_all(2)) == {first, second}
    assert plant.pool.wait_until(lambda counts: "mood" not in counts, TIMEOUT_S)
    assert not process.is_running()  # nor is it a zombie
    assert plant.exchange.stats().workers == {}
    plant.serve()
    assert set(job.take_all(1)) == {third}
    assert plant.settled() == {}


def test_a_worker_can_be_removed_while_it_starts(plant: Plant):
    (plant.folder / "tasks.py").write_text("import threading\nthreading.Event().wait()")
    plant.pool.add("mood")
    assert plant.pool.wait_until(lambda counts: counts["mood"].starting == 1, TIMEOUT_S)
    assert plant.pool.remove("mood") == 1
    assert plant.pool.wait_until(lambda counts: "mood" not in counts, TIMEOUT_S)


def test_closing_the_pool_returns_what_workers_hold_to_the_exchange(plant: Plant):
    os.mkfifo(plant.folder / "gate")
    job = plant.job.join()
    plant.serve()
    job.send(GATE)
    with (plant.folder / "gate").open("wb"):  # the worker stands at it
        job.send(FINE)
        plant.until(lambda plant: plant.exchange.stats().outstanding == 2)
        closing = threading.Thread(target=plant.pool.close)
        closing.start()
        assert plant.pool.wait_until(lambda counts: counts["mood"].leaving == 1, TIMEOUT_S)
    closing.join()
    assert job.take().header.seq == 0
    stats = plant.exchange.stats()
    assert (stats.home, stats.waiting, stats.workers) == (1, 1, {})
    with pytest.raises(TransportError, match=r"^the worker pool is closed$"):
        plant.pool.add("mood")
    plant.exchange.close()
    notice = job.take()
    assert isinstance(notice, messages.Dropped)
    assert (notice.seq, notice.reason) == (1, "closed")


def test_a_pool_outlives_its_exchange(plant: Plant):
    plant.serve()
    plant.exchange.close()
    plant.pool.close()
    assert not psutil.Process().children()


def test_a_fault_of_the_pool_ends_its_workers_and_is_raised(plant: Plant, monkeypatch, caplog):
    plant.serve()
    monkeypatch.setattr("vdag.workers.post.Post.step", lambda post, now_ns: 1 // 0)
    plant.pool._bell.ring()
    plant.pool._thread.join(TIMEOUT_S)
    assert not psutil.Process().children()
    for call in (lambda: plant.pool.add("mood"), lambda: plant.pool.wait_ready("mood", 1.0)):
        with pytest.raises(TransportError, match=r"^the worker pool has failed$") as info:
            call()
        assert isinstance(info.value.__cause__, ZeroDivisionError)
    assert "are not looked after" in caplog.text


# What is asked for.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "0 workers beside 0 are not 1 to 48 in all"),
        ({"count": 49}, "49 workers beside 0 are not 1 to 48 in all"),
        ({"max_batch": 0}, "max_batch of 0 is not between 1 and 256"),
    ],
)
def test_numbers_out_of_range_are_refused(plant: Plant, options, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        plant.pool.add("mood", **options)


def test_waiting_ends_with_its_time(plant: Plant):
    plant.pool.add("mood")
    with pytest.raises(TransportError, match=r"^workers of mood do not serve within 0 s$"):
        plant.pool.wait_ready("mood", 0.0)


def test_patience_has_limits():
    with pytest.raises(ConfigError, match=r"^hang_timeout_s of 0 is not between 0 and 86400$"):
        Patience(hang_timeout_s=0)
