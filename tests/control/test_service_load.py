"""A running node under load: its workers are limited, added, taken away and killed.

The tasks are this file's own, so that a worker is busy, or takes its time, on any machine.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from node_kit import Caller, Running

from vdag.control.limits import cgroups

CORES = os.cpu_count() or 1
#: Processes that could keep half of the machine busy.
HALF = max(1, CORES // 2)
SHARE, TOLERANCE, MEASURED_S = 0.25, 0.03, 10.0
#: Looks at a machine that others may be keeping busy, and the share of it that shows they do not.
TRIES, MIN_IDLE = 6, 0.05
WAIT_S = 60.0
#: Requests that are answered before and after a worker was added.
COUNT = 60
TASKS = """
import time
import vdag

@vdag.task(outputs=["spun"])
def spin(seconds):
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        pass
    return {"spun": seconds}

@vdag.task(outputs=["waited"])
def wait(seconds):
    time.sleep(seconds)  # as for a device that does the work
    return {"waited": seconds}
"""
SPIN, WAIT = ("/execute_task/spin", {"seconds": 0.1}), ("/execute_task/wait", {"seconds": 0.02})


class Load:
    """Callers that ask one after the other, until the block ends; then all replies must be good."""

    def __init__(self, url: str, request: tuple[str, dict[str, Any]], callers: int) -> None:
        self._url, self._request = url, request
        self._is_over = threading.Event()
        self._answered = threading.Condition()
        self.replies: list[tuple[int, Any]] = []
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(callers)]

    def wait(self, count: int) -> float:
        """Wait for so many more replies; return how many there were per second."""
        start_s = time.monotonic()
        with self._answered:
            wanted = len(self.replies) + count
            done = self._answered.wait_for(
                lambda: self.errors or len(self.replies) >= wanted, WAIT_S
            )
        assert done
        assert not self.errors
        return count / (time.monotonic() - start_s)

    def pids(self, count: int) -> set[int]:
        """Return who has answered the last so many requests."""
        return {body["proc_resource_info"]["pid"] for _, body in self.replies[-count:]}

    def _run(self) -> None:
        caller = Caller(self._url)
        try:
            while not self._is_over.is_set():
                reply = caller.post(*self._request)
                with self._answered:
                    self.replies.append((reply.status, reply.json()))
                    self._answered.notify_all()
        except BaseException as err:
            with self._answered:
                self.errors.append(err)
                self._answered.notify_all()
        finally:
            caller.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        assert self.errors == []
        assert [reply for reply in self.replies if reply[0] != 200] == []


def open_node(folder: Path, *settings: str) -> Running:
    path = folder / "load_tasks.py"
    path.write_text(TASKS)
    flags = (f'service.modules=["{path}"]', "service.slots=[[64, 64, 4]]", *settings)
    return Running(*(word for flag in flags for word in ("--set", flag)))


@pytest.fixture
def call() -> Iterator[Callable[[Running], Caller]]:
    callers = []

    def connect(node: Running) -> Caller:
        callers.append(Caller(node.url))
        return callers[-1]

    yield connect
    for caller in callers:
        caller.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started = []

    def start(*settings: str) -> Running:
        started.append(open_node(tmp_path, *settings))
        return started[-1]

    yield start
    for node in started:
        if node.process.poll() is None:
            assert node.stop() == 0, "".join(node.log)


def workers_of(node: Running) -> list[int]:
    return [process.pid for process in psutil.Process(node.process.pid).children(recursive=True)]


def cpu_shares(pids: set[int], seconds: float) -> tuple[float, float]:
    """The shares of all cores that processes use from now on, and that nobody uses."""
    processes = [psutil.Process(pid) for pid in pids]

    def read() -> tuple[float, float, float]:
        spent_s = sum(sum(process.cpu_times()[:2]) for process in processes)
        return spent_s, psutil.cpu_times().idle, time.perf_counter()

    before = read()
    time.sleep(seconds)  # what is measured is an interval, not an event
    spent_s, idle_s, taken_s = (now - then for now, then in zip(read(), before, strict=True))
    return spent_s / taken_s / CORES, idle_s / taken_s / CORES


def assert_uses(pids: set[int], seconds: float, least: float, most: float) -> None:
    """Measure; where others keep the machine busy, until they leave as much as is wanted."""
    for _ in range(TRIES):
        used, idle = cpu_shares(pids, seconds)
        assert used <= most
        if used >= least:
            return
        assert idle < MIN_IDLE, f"{used:.3f} of all cores are used, {idle:.3f} are idle"
    pytest.skip("others keep every core of this machine busy")


def groups_of(pid: int) -> list[Path]:
    """The control groups that a node has made."""
    places = cgroups.locate(Path("/proc"))
    return [group for place in places.values() for group in place.path.rglob(f"vdag-{pid}*")]


def segments_of(pid: int) -> list[Path]:
    return [path for path in Path("/dev/shm").glob("vdag*") if owner_of(path) == pid]


def owner_of(segment: Path) -> int:
    """The pid that `vdag._native.ring_layout` keeps in a segment."""
    try:
        with segment.open("rb") as file:
            return int.from_bytes(file.read(56)[48:], "little") & ((1 << 22) - 1)
    except FileNotFoundError:
        return 0


def limit(caller: Caller, share: float) -> None:
    reply = caller.post("/limit_task_resource", {"task_name": "spin", "cpu_util_limit": share})
    if reply.status == 409:
        pytest.skip(reply.json()["error"])
    assert (reply.status, reply.json()["cpu_util_limit"]) == (200, share)


@pytest.mark.slow
def test_a_busy_task_uses_the_share_of_all_cores_it_is_given_until_that_is_lifted(nodes, call):
    node = nodes(f"service.tasks.spin={{workers={HALF}}}", "service.deadline_s=60")
    caller = call(node)
    with Load(node.url, SPIN, 6 * HALF) as load:
        load.wait(6 * HALF)
        pids = set(caller.post("/add_work_process", {"task_name": "spin"}).json()["pids"])
        limit(caller, SHARE)
        assert_uses(pids, MEASURED_S, SHARE - TOLERANCE, SHARE + TOLERANCE)
        assert load.replies[-1][1]["proc_resource_info"]["cpu_util_limit"] == SHARE
        limit(call(node), 1.0)  # the first connection was idle for too long
        assert_uses(pids, MEASURED_S / 2, SHARE + 2 * TOLERANCE, 1.0)


@pytest.mark.slow
def test_a_worker_more_answers_more_and_a_worker_less_fails_no_request(nodes, call):
    node = nodes("service.tasks.wait={}")
    caller = call(node)
    with Load(node.url, WAIT, 6) as load:
        load.wait(6)
        alone = load.wait(COUNT)
        (first,) = load.pids(COUNT)
        added = caller.post("/add_work_process", {"task_name": "wait"}).json()
        assert (added["n_process"], len(added["pids"])) == (2, 2)
        load.wait(6)
        together = load.wait(COUNT)
        assert load.pids(COUNT) == set(added["pids"])
        assert together > 1.3 * alone
        less = caller.post("/decrease_work_process", {"task_name": "wait"}).json()
        assert less["n_process"] == 1
        (gone,) = set(added["pids"]) - {first}
        with suppress(psutil.NoSuchProcess):
            psutil.Process(gone).wait(WAIT_S)
        load.wait(COUNT)
        assert load.pids(COUNT - 12) == {first}


@pytest.mark.slow
def test_whichever_worker_is_killed_every_request_is_answered_and_nothing_is_left(nodes, call):
    node = nodes("service.tasks.spin={workers=2}", "service.tasks.wait={workers=2}")
    pid = node.process.pid
    caller = call(node)
    caller.post("/limit_task_resource", {"task_name": "spin", "cpu_util_limit": 0.9})
    killed = workers_of(node)
    assert len(killed) == 4
    with Load(node.url, WAIT, 4) as waiting, Load(node.url, SPIN, 4) as spinning:
        for worker in list(killed):
            for load in (waiting, spinning):
                load.wait(8)
            os.kill(worker, signal.SIGKILL)
            deadline_s = time.monotonic() + WAIT_S
            while worker in workers_of(node) or len(workers_of(node)) < 4:
                assert time.monotonic() < deadline_s
            while caller.get("/readyz").status != 200:
                assert time.monotonic() < deadline_s
        for load in (waiting, spinning):
            load.wait(8)
        later = workers_of(node)
    assert not set(later) & set(killed)
    assert node.stop() == 0, "".join(node.log)
    assert [worker for worker in (*killed, *later) if psutil.pid_exists(worker)] == []
    assert segments_of(pid) == []
    assert groups_of(pid) == []
