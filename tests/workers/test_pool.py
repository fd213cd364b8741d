"""The worker pool: frames that reach real processes, which are added and removed under load."""

from __future__ import annotations

import os
import threading
import zlib

import numpy as np
import psutil
import pytest
from pool_kit import FINE, GATE, SHAPE, TIMEOUT_S, Plant

from vdag.errors import ConfigError, TransportError
from vdag.graph import Edge, Graph
from vdag.transport import codec, messages
from vdag.workers import Patience


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
