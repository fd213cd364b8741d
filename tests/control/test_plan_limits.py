"""What plans limit the tasks of a node to: who asks, which of them binds, and on real workers."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import pytest

from vdag.control.limits import Limit, Limits
from vdag.control.resources import Sampler
from vdag.control.service.plan_limits import PlanLimits
from vdag.control.service.staff import Staff
from vdag.errors import ConfigError, LimitsUnavailable
from vdag.plan import ResourceLimit
from vdag.tasks import TaskOptions
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

TIMEOUT_S = 30.0
TASK = "number"
HALF, QUARTER = ResourceLimit(0.5), ResourceLimit(0.25, 0.5)
PREFIX = f"vdagplan{os.getpid()}"
TASKS = Path(__file__).parents[1] / "worker_tasks.py"


class Staffing:
    """Whoever limits workers; can be made to refuse, and to wait."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[str, ResourceLimit | None]] = queue.Queue()
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, task: str, limit: ResourceLimit | None) -> None:
        assert self.gate.wait(TIMEOUT_S)
        self.calls.put((task, limit))
        if self.error is not None:
            raise self.error

    def next(self) -> tuple[str, ResourceLimit | None]:
        return self.calls.get(timeout=TIMEOUT_S)


class Desk:
    """Whoever is told what became of it."""

    def __init__(self) -> None:
        self.told: queue.Queue[tuple[str, str]] = queue.Queue()

    def __call__(self, task: str, reason: str) -> None:
        self.told.put((task, reason))

    def next(self) -> tuple[str, str]:
        return self.told.get(timeout=TIMEOUT_S)


@pytest.fixture
def staffing() -> Staffing:
    return Staffing()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def limits(staffing: Staffing) -> Iterator[PlanLimits]:
    with PlanLimits(staffing) as limits:
        yield limits
        staffing.gate.set()


def test_what_the_controller_orders_is_bound_and_lifted(limits, staffing, desk):
    limits.order(TASK, HALF, desk)
    assert staffing.next() == (TASK, HALF)
    assert limits.ordered() == {TASK: HALF}
    limits.order(TASK, None, desk)
    assert staffing.next() == (TASK, None)
    assert limits.ordered() == {}


def test_the_largest_of_all_that_ask_binds(limits, staffing, desk):
    limits.order(TASK, QUARTER, desk)
    assert staffing.next() == (TASK, QUARTER)
    limits.claim("GLOBAL_ID_1", {TASK: ResourceLimit(0.125, 0.75)})
    assert staffing.next() == (TASK, ResourceLimit(0.25, 0.75))
    limits.claim("GLOBAL_ID_2", {TASK: HALF})
    assert staffing.next() == (TASK, ResourceLimit(0.5, 1.0))
    assert limits.ordered() == {TASK: QUARTER}
    limits.leave("GLOBAL_ID_2")
    limits.leave("GLOBAL_ID_2")
    assert staffing.next() == (TASK, ResourceLimit(0.25, 0.75))


def test_a_job_without_a_limit_lifts_those_of_others(limits, staffing):
    limits.claim("GLOBAL_ID_1", {TASK: HALF, "other": HALF})
    assert [staffing.next(), staffing.next()] == [(TASK, HALF), ("other", HALF)]
    limits.claim("GLOBAL_ID_2", {TASK: None})
    assert staffing.next() == (TASK, None)
    limits.claim("GLOBAL_ID_2", {"other": None})
    assert sorted([staffing.next(), staffing.next()]) == [(TASK, HALF), ("other", None)]


def test_only_the_latest_counts_where_the_staff_is_busy(limits, staffing, desk):
    staffing.gate.clear()
    limits.order("busy", HALF, desk)
    for share in (0.25, 0.5, 0.75):
        limits.order(TASK, ResourceLimit(share), desk)
    staffing.gate.set()
    found = [staffing.next() for _ in range(2)]
    assert found == [("busy", HALF), (TASK, ResourceLimit(0.75))]


def test_a_refusal_is_told_once_and_so_is_its_end(limits, staffing, desk):
    staffing.error = LimitsUnavailable("no rights")
    limits.order(TASK, HALF, desk)
    assert desk.next() == (TASK, "no rights")
    limits.order(TASK, QUARTER, desk)
    limits.order("other", HALF, desk)
    assert desk.next() == ("other", "no rights")
    assert limits.ordered() == {TASK: QUARTER, "other": HALF}
    staffing.error = None
    limits.order(TASK, HALF, desk)
    assert desk.next() == (TASK, "")


def test_a_fault_of_the_staff_is_told_and_the_thread_goes_on(limits, staffing, desk, caplog):
    staffing.error = KeyError("lost")
    limits.order(TASK, HALF, desk)
    assert desk.next() == (TASK, "KeyError: 'lost'")
    staffing.error = None
    limits.order("other", HALF, desk)
    while staffing.next() != ("other", HALF):
        pass
    assert f"{TASK} could not be limited" in caplog.text


# With real workers.


class Site:
    """A task with workers, and their staff."""

    def __init__(self, folder: Path, stack: ExitStack, mode: Literal["cgroup", "rlimit"]) -> None:
        exchange = stack.enter_context(Exchange(folder, classes=[(4096, 8)]))
        self.pool = stack.enter_context(WorkerPool(exchange, modules=[TASKS]))
        exchange.open_task(TASK)
        self.pool.add(TASK)
        self.pool.wait_ready(TASK, TIMEOUT_S)
        sampler = stack.enter_context(Sampler(1.0))
        self.limits = stack.enter_context(Limits(PREFIX, mode=mode))
        self.staff = stack.enter_context(
            Staff(exchange, self.pool, sampler, self.limits, options={TASK: TaskOptions()})
        )
        self.staff.refresh()

    def applied(self) -> list[tuple[float | None, float | None]]:
        """What the kernel says of each worker."""
        found = [self.limits.applied(pid) for pid in self.staff.pids(TASK)]
        return [(limit.cpu_util_limit, limit.mem_util_limit) for limit in found]


@pytest.fixture(params=["cgroup", "rlimit"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    tmp_path.chmod(0o700)
    with ExitStack() as stack:
        site = Site(tmp_path, stack, request.param)
        try:
            site.staff.plan_limit(TASK, HALF)
            site.staff.plan_limit(TASK, None)
        except LimitsUnavailable as err:
            assert request.param == "cgroup"
            pytest.skip(str(err))
        yield site


def test_the_limit_of_plans_binds_the_workers_also_those_to_come_until_it_is_lifted(site):
    staff = site.staff
    unlimited = site.applied()
    staff.plan_limit(TASK, QUARTER)
    assert staff.limit_of(TASK) == (0.25, 0.5)
    assert site.applied()[0][1] == pytest.approx(0.5, abs=0.01)
    staff.add(TASK)
    assert len(site.applied()) == 2
    assert all(memory < 0.51 for _, memory in site.applied())
    staff.plan_limit(TASK, None)
    assert staff.limit_of(TASK) == (1.0, 1.0)
    assert site.applied() == unlimited * 2


def test_what_the_operator_has_set_is_the_most_and_comes_back(site):
    staff = site.staff
    staff.limit_task(TASK, Limit(cpu_util_limit=0.5))
    for planned, bound in (
        (ResourceLimit(0.25), (0.25, 1.0)),
        (ResourceLimit(0.75, 0.5), (0.5, 0.5)),
        (None, (0.5, 1.0)),
    ):
        staff.plan_limit(TASK, planned)
        assert staff.limit_of(TASK) == bound
    staff.plan_limit(TASK, ResourceLimit(0.25))
    staff.limit_task(TASK, Limit(cpu_util_limit=1.0))
    assert staff.limit_of(TASK) == (0.25, 1.0)
    staff.plan_limit(TASK, None)
    assert staff.limit_of(TASK) == (1.0, 1.0)


def test_a_limit_that_cannot_be_set_changes_nothing(site):
    staff = site.staff
    if site.limits.mode == "rlimit":
        pytest.skip("the weaker means do not look at what a worker uses already")
    staff.plan_limit(TASK, HALF)
    with pytest.raises((ConfigError, LimitsUnavailable)):  # less than a worker uses already
        staff.plan_limit(TASK, ResourceLimit(0.5, 1e-9))
    assert staff.limit_of(TASK) == (0.5, 1.0)
    staff.plan_limit(TASK, None)
    assert staff.limit_of(TASK) == (1.0, 1.0)


def test_a_task_that_is_not_there_cannot_be_limited_and_need_not_be_lifted(site):
    with pytest.raises(ConfigError, match=r"^task 'boats' is none of number$"):
        site.staff.plan_limit("boats", HALF)
    site.staff.plan_limit("boats", None)


def test_orders_reach_the_workers(site, desk):
    with PlanLimits(site.staff.plan_limit) as limits:
        limits.order("boats", HALF, desk)
        limits.order(TASK, QUARTER, desk)
        assert desk.next() == ("boats", "task 'boats' is none of number")
        deadline_s = time.monotonic() + TIMEOUT_S
        while site.staff.limit_of(TASK) != (0.25, 0.5):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
