"""Limits on real processes by the weaker means: resource limits and whole cores."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from limits_kit import CORES, EATER, MIB, PREFIX, TOTAL, WAITING, Start, eat

from vdag.control.limits import Limit, Limits
from vdag.errors import LimitsUnavailable


@pytest.fixture
def weaker() -> Iterator[Limits]:
    with Limits(PREFIX, mode="rlimit") as limits:
        yield limits


def test_the_weaker_means_bind_address_space_and_whole_cores(weaker: Limits, start: Start):
    child = start(EATER)
    eat(child, 1)
    before = weaker.applied(child.pid)
    share = 1 / (os.cpu_count() or 1)
    # Less than a core becomes one.
    weaker.limit_process(child.pid, Limit(share / 2, 512 * MIB / TOTAL))
    applied = weaker.applied(child.pid)
    assert applied.mode == "rlimit"
    assert applied.cpu_util_limit == share
    assert applied.mem_util_limit == pytest.approx(512 * MIB / TOTAL, abs=1e-4)
    assert applied.cpu_set_cpus is not None
    assert len(applied.cpu_set_cpus) == 1
    assert os.getpriority(os.PRIO_PROCESS, child.pid) > os.getpriority(os.PRIO_PROCESS, 0)
    assert eat(child, 1024 * MIB) == ""  # MemoryError
    assert child.wait(60) == 1
    assert before == Limit(len(CORES) * share, before.mem_util_limit, CORES, (0,))


def test_the_weaker_means_bind_every_thread_and_are_lifted_by_release(weaker: Limits, start: Start):
    child = start(
        "import threading\n"
        "wait = threading.Event()\n"
        "threads = [threading.Thread(target=wait.wait) for _ in range(3)]\n"
        "[thread.start() for thread in threads]\n"
        "print(flush=True); input(); wait.set()"
    )
    assert child.stdout is not None
    child.stdout.readline()
    before = weaker.applied(child.pid)
    threads = [int(name) for name in os.listdir(f"/proc/{child.pid}/task")]
    assert len(threads) == 4
    weaker.limit_process(child.pid, Limit(cpu_set_cpus=CORES[-1:]))
    assert [os.sched_getaffinity(thread) for thread in threads] == [{CORES[-1]}] * 4
    weaker.release(child.pid)
    assert [os.sched_getaffinity(thread) for thread in threads] == [set(CORES)] * 4
    assert weaker.applied(child.pid) == before
    assert weaker.applied(child.pid).mode == "none"


def test_the_weaker_means_divide_the_memory_of_a_task_and_share_its_cores(
    weaker: Limits, start: Start
):
    first, second = start(WAITING), start(WAITING)
    weaker.limit_task("car_detection", [first.pid], Limit(0.01, 0.5))
    assert weaker.applied(first.pid).mem_util_limit == 0.5
    weaker.place(second.pid, "car_detection")
    applied = [weaker.applied(child.pid) for child in (first, second)]
    assert applied[0] == applied[1]
    assert applied[0].mem_util_limit == 0.25
    weaker.close()
    assert weaker.applied(first.pid).mode == "none"
    assert weaker.applied(first.pid).cpu_set_cpus == CORES


def test_the_weaker_means_have_no_memory_nodes(weaker: Limits, start: Start):
    pid = start(WAITING).pid
    with pytest.raises(LimitsUnavailable, match=r"^cpu_set_mems needs control groups$"):
        weaker.limit_process(pid, Limit(cpu_set_mems=(0,)))
