"""Workers that die, hang or do not start, and what becomes of their frames."""

from __future__ import annotations

import os
import re
import signal
import textwrap
import time

import numpy as np
import pytest
from pool_kit import ALWAYS, CRASH, FINE, HANG, ONCE, SHAPE, TASKS, TIMEOUT_S, Plant

from vdag.errors import ConfigError, EngineError
from vdag.tasks import TaskOptions
from vdag.transport import codec, messages
from vdag.transport.poison import PoisonStore
from vdag.workers import Patience

pytestmark = pytest.mark.slow  # as a whole

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
