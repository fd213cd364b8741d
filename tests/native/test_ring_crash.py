"""Processes that die on an arena, at every point of the protocol and at any time under load."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vdag._native import ring, ring_layout
from vdag.errors import StaleFrame, TransportError

SHM = Path("/dev/shm")
WORKER = [sys.executable, "-W", "error", str(Path(__file__).with_name("ring_worker.py"))]
ROOT = str(Path(__file__).parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}
CLASSES = [(64, 6), (5000, 1)]
CRASHED = 86
CREATING = ("create_unnamed", "create_named")
WORKING = [point for point in ring.CRASH_POINTS if point not in CREATING]


@pytest.fixture
def arena() -> Iterator[ring.Arena]:
    with ring.Arena.create("crash", CLASSES) as arena:
        yield arena


def worker(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*WORKER, *map(str, arguments)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def assert_all_can_be_loaned(arena: ring.Arena) -> None:
    arena.check()
    stats = arena.stats()
    assert (stats.free, stats.leases, stats.processes) == (stats.slots, 0, 1)
    loans = [arena.loan(size.slot_nbytes) for size in stats.classes for _ in range(size.slots)]
    assert sorted(loan.slot for loan in loans if loan is not None) == list(range(stats.slots))


# ---- one death, at a known point ----


@pytest.mark.parametrize("point", WORKING)
def test_a_death_at_any_point_costs_nobody_else_anything(arena: ring.Arena, point: str) -> None:
    kept = arena.put(b"kept", readers=2)
    sent = arena.put(b"sent")
    assert kept is not None
    assert sent is not None
    view = arena.acquire(kept.slot, kept.generation)
    with worker("crash", arena.name, point, sent.slot, sent.generation) as process:
        process.communicate(timeout=60)
    assert process.returncode == CRASHED
    report = arena.reap()
    assert report.processes == 1
    arena.check()
    assert bytes(view) == b"kept"
    assert arena.acquire(kept.slot, kept.generation).share().drop()
    view.release()
    sent.drop()
    assert arena.reap() == ring.ReapReport(processes=0, leases=0, slots=0)
    assert_all_can_be_loaned(arena)


def test_the_points_are_those_of_the_protocol() -> None:
    assert len(WORKING) == 15
    assert set(CREATING) < set(ring.CRASH_POINTS)


@pytest.mark.parametrize("point", ["free_unlisted", "free_listed"])
def test_a_reap_wakes_whom_the_dead_should_have_woken(arena: ring.Arena, point: str) -> None:
    sent = arena.put(b"sent")
    assert sent is not None
    with worker("crash", arena.name, point, sent.slot, sent.generation) as process:
        process.communicate(timeout=60)
    taken = [arena.loan(64) for _ in range(7)]
    loans: list[ring.Loan | None] = []
    waiter = threading.Thread(target=lambda: loans.append(arena.loan(64, 60.0)))
    waiter.start()
    until(lambda: arena.stats().waits == 1)
    arena.reap()
    waiter.join(60)
    assert loans[0] is not None
    assert None in taken


def test_a_zombie_is_dead_and_its_pid_is_not_needed_back(arena: ring.Arena) -> None:
    process = worker("headless", arena.name)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        until(lambda: " Z " in (Path("/proc") / str(process.pid) / "stat").read_text())
        # The main thread is a zombie, but another one holds a loan: it lives.
        assert arena.reap().processes == 0
        assert arena.stats().loaned == 1
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: arena.reap().processes == 1)
        assert (Path("/proc") / str(process.pid)).exists()
    finally:
        end(process)
    assert_all_can_be_loaned(arena)


# ---- the death of an owner ----


def test_a_death_before_the_file_has_a_name_leaves_nothing() -> None:
    with worker("create", "crashing", "create_unnamed") as process:
        process.communicate(timeout=60)
    assert process.returncode == CRASHED
    assert not list(SHM.glob("vdag-crashing-*"))


def test_what_a_dead_owner_left_is_swept_and_what_a_living_one_has_is_not() -> None:
    with worker("create", "crashing", "create_named") as process:
        process.communicate(timeout=60)
    [left] = SHM.glob("vdag-crashing-*")
    with ring.Arena.create("crashing2", CLASSES) as other:
        assert ring.sweep("vdag-crashing") == [left.name]
        assert ring.sweep("vdag-crashing") == []
        assert (SHM / other.name).exists()


def test_a_new_arena_clears_what_the_dead_owner_of_its_name_left() -> None:
    with worker("create", "crashing", "create_named") as process:
        process.communicate(timeout=60)
    [left] = SHM.glob("vdag-crashing-*")
    with ring.Arena.create("crashing", CLASSES) as arena:
        assert [path.name for path in SHM.glob("vdag-crashing-*")] == [arena.name]
    assert not left.exists()


def test_guests_of_a_dead_owner_keep_what_they_see_and_nobody_else_comes() -> None:
    process = worker("create", "crashing", "-")
    assert process.stdout is not None
    name, slot, generation = process.stdout.readline().split()
    with ring.Arena.attach(name) as guest:
        view = guest.acquire(int(slot), int(generation))
        end(process)
        with pytest.raises(TransportError, match=f"^arena {name} has lost its owner$"):
            ring.Arena.attach(name)
        assert ring.sweep("vdag-crashing-") == [name]
        assert bytes(view) == b"pixels"
        view.release()
        with pytest.raises(StaleFrame):
            guest.acquire(int(slot), int(generation))


# ---- many deaths, at any time, under load ----


class Nursery:
    """Producers and consumers of one arena, killed and replaced."""

    def __init__(self, arena: ring.Arena, dice: random.Random) -> None:
        self.arena, self.dice = arena, dice
        self.inbox, self.outbox = os.pipe()
        self.reports_end, reports = os.pipe()
        os.set_blocking(self.reports_end, False)
        fds = (self.inbox, self.outbox, reports)
        self.process = subprocess.Popen(
            [*WORKER, "nursery", *map(str, fds)],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=fds,
        )
        os.close(reports)
        self.workers = [(role, self.spawn(role)) for role in ("producer", "consumer") * 3]

    def spawn(self, role: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{role} {self.arena.name} {self.dice.getrandbits(32)}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def progress(self) -> int:
        with (SHM / self.arena.name).open("rb") as file:
            data = file.read(self.arena.control_nbytes)
        return sum(slot[0] for slot in ring_layout.read(data).slots)

    def kill_one(self) -> None:
        """Let some slots go round, kill somebody, reap at once or later, and replace the dead."""
        goal = self.progress() + self.dice.randrange(60)
        until(lambda: self.progress() >= goal)
        role, pid = self.workers.pop(self.dice.randrange(len(self.workers)))
        os.kill(pid, signal.SIGKILL)
        if self.dice.random() < 0.7:
            self.arena.reap()
        self.workers.append((role, self.spawn(role)))
        if self.arena.stats().processes > 40:
            self.arena.reap()

    def close(self) -> bytes:
        """Kill all; what the consumers reported."""
        for _, pid in self.workers:
            os.kill(pid, signal.SIGKILL)
        self.process.communicate(timeout=60)
        reports = os.read(self.reports_end, 1 << 16)
        for fd in (self.inbox, self.outbox, self.reports_end):
            os.close(fd)
        return reports


def kill_under_load(kills: int, seed: int) -> None:
    classes = [(500, 8), (4096, 8), (60000, 4)]
    with ring.Arena.create("crash", classes) as arena:
        nursery = Nursery(arena, random.Random(seed))
        try:
            for _ in range(kills):
                nursery.kill_one()
            until(lambda: arena.reap().processes >= 0 and arena.stats().processes <= 7)
        finally:
            reports = nursery.close()
        until(lambda: arena.reap().processes == 0 and arena.stats().processes == 1)
        assert set(reports) == {ord(".")}, reports
        assert_all_can_be_loaned(arena)
    assert not (SHM / arena.name).exists()


def test_no_slot_is_lost_or_torn_while_30_processes_are_killed() -> None:
    kill_under_load(30, seed=int(time.time()))


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(4))
def test_no_slot_is_lost_or_torn_while_2000_processes_are_killed(round_: int) -> None:
    kill_under_load(500, seed=round_)
