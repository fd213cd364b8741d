"""Limits on real processes, by whatever this machine has for that."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from limits_kit import CORES, EATER, MIB, PREFIX, TOTAL, WAITING, Start, eat

from vdag.control.limits import Limit, Limits, cgroups
from vdag.errors import ConfigError, LimitsUnavailable

ROOT = str(Path(__file__).parents[2])
OWNER = [sys.executable, str(Path(__file__).with_name("limits_owner.py"))]

BUSY = "while True: pass"


def groups() -> list[Path]:
    """Every control group that a test has made and not removed."""
    places = cgroups.locate(Path("/proc"))
    return [group for place in places.values() for group in place.path.rglob(f"{PREFIX}-*")]


def cpu_share(pid: int, seconds: float) -> float:
    """The share of all cores that a process uses from now on."""
    process = psutil.Process(pid)
    before, since_s = process.cpu_times(), time.perf_counter()
    time.sleep(seconds)  # what is measured is an interval, not an event
    after, until_s = process.cpu_times(), time.perf_counter()
    spent_s = after.user + after.system - before.user - before.system
    return spent_s / (until_s - since_s) / (os.cpu_count() or 1)


@pytest.fixture
def limits(start: Start) -> Iterator[Limits]:
    with Limits(PREFIX) as limits:
        try:
            limits.place(start(WAITING).pid, "probe")
        except LimitsUnavailable as err:
            pytest.skip(str(err))
        yield limits
    assert groups() == []


@pytest.mark.slow
def test_a_busy_process_uses_the_share_of_all_cores_it_is_given_and_no_more_than_that(
    limits: Limits, start: Start
):
    pid = start(BUSY).pid
    limits.limit_process(pid, Limit(cpu_util_limit=0.25))
    assert limits.applied(pid) == Limit(0.25, 1.0, CORES, (0,))
    assert limits.applied(pid).mode == limits.mode
    assert cpu_share(pid, 2) == pytest.approx(0.25, abs=0.05)
    limits.limit_process(pid, Limit(cpu_util_limit=1.0))
    assert limits.applied(pid).cpu_util_limit == 1.0
    if len(CORES) <= 2:  # one thread is more than 0.3 of them
        # Others may keep the cores busy for a while; under a limit it would never be more.
        assert any(cpu_share(pid, 1) > 0.3 for _ in range(20))


@pytest.mark.slow
def test_processes_of_a_task_share_its_limit(limits: Limits, start: Start):
    pids = [start(BUSY).pid, start(BUSY).pid]
    limits.limit_task("car_detection", pids, Limit(cpu_util_limit=0.25))
    assert [limits.applied(pid).cpu_util_limit for pid in pids] == [0.25, 0.25]
    first = psutil.Process(pids[0]).cpu_times()
    second = cpu_share(pids[1], 2)
    spent = psutil.Process(pids[0]).cpu_times()
    both = second + (spent.user - first.user) / 2 / (os.cpu_count() or 1)
    assert both == pytest.approx(0.25, abs=0.06)


@pytest.mark.slow
def test_a_limit_set_before_every_frame_still_binds(limits: Limits, start: Start):
    pid = start(BUSY).pid
    limits.limit_task("car_detection", [pid], Limit(cpu_util_limit=0.1))
    memory = itertools.cycle((0.8, 0.9))
    before, since_s = psutil.Process(pid).cpu_times(), time.perf_counter()
    while time.perf_counter() < since_s + 1.5:
        limits.limit_task("car_detection", [pid], Limit(0.1, next(memory)))
        time.sleep(0.005)
    after = psutil.Process(pid).cpu_times()
    share = (after.user - before.user) / 1.5 / (os.cpu_count() or 1)
    assert share < 0.15


def test_a_process_that_takes_more_memory_than_its_limit_is_ended(limits: Limits, start: Start):
    child = start(EATER)
    limits.limit_process(child.pid, Limit(mem_util_limit=128 * MIB / TOTAL))
    assert eat(child, 32 * MIB) == str(32 * MIB)
    assert eat(child, 512 * MIB) == ""
    assert child.wait(60) in (-signal.SIGKILL, 1)


def test_a_limit_below_what_is_in_use_is_refused_and_the_former_one_still_binds(
    limits: Limits, start: Start
):
    child = start(EATER)
    limits.place(child.pid, "face_alignment")
    limits.limit_process(child.pid, Limit(mem_util_limit=0.9))
    former = limits.applied(child.pid)
    assert eat(child, 128 * MIB) == str(128 * MIB)
    with pytest.raises(
        LimitsUnavailable, match=r"^mem_util_limit of \d+ bytes is below the \d+ in use$"
    ):
        limits.limit_process(child.pid, Limit(0.5, 32 * MIB / TOTAL, (CORES[0],)))
    assert limits.applied(child.pid) == former
    assert eat(child, 1) == "1"


def test_the_tighter_of_two_limits_binds_in_whichever_order_they_come(limits: Limits, start: Start):
    pid = start(WAITING).pid
    limits.limit_process(pid, Limit(0.5, 0.3))
    limits.limit_task("car_detection", [pid], Limit(0.25, 0.6))
    assert limits.applied(pid) == Limit(0.25, 0.3, CORES, (0,))
    limits.limit_process(pid, Limit(0.75))
    assert limits.applied(pid) == Limit(0.25, 0.3, CORES, (0,))
    limits.limit_task("car_detection", [], Limit(1.0))
    assert limits.applied(pid) == Limit(0.75, 0.3, CORES, (0,))
    limits.limit_process(pid, Limit(1.0, 1.0))
    assert limits.applied(pid) == Limit(1.0, 0.6, CORES, (0,))
    assert limits.limit_of("car_detection") == Limit(1.0, 0.6)
    assert limits.limit_of("helmet_detection") == Limit(1.0, 1.0)


def test_a_task_may_be_narrowed_below_its_processes_and_widened_again(limits: Limits, start: Start):
    pid = start(WAITING).pid
    limits.place(pid, "car_detection")
    limits.limit_process(pid, Limit(0.5, 0.5))
    for share, binding in ((0.25, 0.25), (0.75, 0.5), (0.1, 0.1), (1.0, 0.5)):
        limits.limit_task("car_detection", [], Limit(share, share))
        assert limits.applied(pid) == Limit(binding, binding, CORES, (0,))


def test_fields_that_are_not_given_stay_as_they_are(limits: Limits, start: Start):
    pid = start(WAITING).pid
    limits.limit_process(pid, Limit(cpu_util_limit=0.5))
    limits.limit_process(pid, Limit(mem_util_limit=0.5))
    assert limits.applied(pid) == Limit(0.5, 0.5, CORES, (0,))


def test_a_process_runs_on_the_cores_it_is_given_and_keeps_them_in_another_task(
    limits: Limits, start: Start
):
    pid = start(WAITING).pid
    limits.limit_process(pid, Limit(cpu_set_cpus=CORES[-1:], cpu_set_mems=(0,)))
    assert os.sched_getaffinity(pid) == {CORES[-1]}
    limits.place(pid, "car_detection")
    assert os.sched_getaffinity(pid) == {CORES[-1]}
    limits.limit_process(pid, Limit(cpu_set_cpus=CORES))
    assert os.sched_getaffinity(pid) == set(CORES)
    limits.release(pid)
    assert os.sched_getaffinity(pid) == set(CORES)


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_cores_that_a_process_and_its_task_do_not_share_are_refused(limits: Limits, start: Start):
    pid = start(WAITING).pid
    limits.limit_process(pid, Limit(cpu_set_cpus=CORES[:1]))
    with pytest.raises(
        ConfigError, match=r"^cpu_set of a process and of its task have nothing in common$"
    ):
        limits.limit_task("car_detection", [pid], Limit(cpu_set_cpus=CORES[1:]))
    assert limits.limit_of("car_detection") == Limit(1.0, 1.0)
    assert limits.applied(pid).cpu_set_cpus == CORES[:1]


def test_a_released_process_is_where_it_was(limits: Limits, start: Start):
    child = start(WAITING)
    before = cgroups.locate(Path("/proc"), child.pid)
    limits.limit_task("car_detection", [child.pid], Limit(0.5, 0.5, CORES[:1]))
    assert limits.applied(child.pid).mode == limits.mode
    limits.release(child.pid)
    limits.release(child.pid)
    assert limits.applied(child.pid).mode == "none"
    if limits.mode == "cgroup1":
        assert cgroups.locate(Path("/proc"), child.pid) == before


def test_close_lets_the_living_go_and_removes_the_groups(start: Start, limits: Limits):
    child = start(WAITING)
    before = cgroups.locate(Path("/proc"), child.pid)
    limits.limit_task("car_detection", [child.pid], Limit(0.5, 0.5, CORES[:1]))
    assert groups()
    limits.close()
    assert groups() == []
    assert cgroups.locate(Path("/proc"), child.pid) == before
    assert limits.applied(child.pid) == Limit(1.0, 1.0, CORES, (0,))
    limits.limit_process(child.pid, Limit(0.5))  # and it can be used again
    assert limits.applied(child.pid).cpu_util_limit == 0.5


def test_groups_of_ended_processes_are_removed_with_the_next_call(limits: Limits, start: Start):
    child = start(WAITING)
    limits.limit_process(child.pid, Limit(0.5))
    child.communicate("\n")
    limits.limit_task("car_detection", [], Limit(0.5))
    assert not [g for root in groups() for g in root.rglob(f"pid.{child.pid}")]
    with pytest.raises(ConfigError, match=rf"^pid {child.pid} does not exist$"):
        limits.applied(child.pid)


def test_names_of_tasks_cannot_leave_their_folder(limits: Limits, start: Start):
    pid = start(WAITING).pid
    limits.limit_task("../../x/面", [pid], Limit(0.5))
    assert limits.applied(pid).cpu_util_limit == 0.5
    inside = cgroups.locate(Path("/proc"), pid)
    path = (inside.get("cpu") or inside["unified"]).path
    assert path.parent.name == "task...%2F..%2Fx%2F%E9%9D%A2"


def test_a_node_that_was_killed_leaves_nothing_after_the_next_start(limits: Limits):
    environment = {**os.environ, "PYTHONPATH": ROOT}
    command = [*OWNER, PREFIX]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        survivor = int(owner.stdout.readline())
        try:
            assert limits.applied(survivor).cpu_util_limit == 0.5
            owner.kill()
            owner.wait(60)
            ours = {group for group in groups() if f"-{os.getpid()}-" in group.name}
            assert set(groups()) > ours
            with Limits(PREFIX):
                assert set(groups()) == ours
            assert limits.applied(survivor) == Limit(1.0, 1.0, CORES, (0,))
        finally:
            with suppress(ProcessLookupError):
                os.kill(survivor, signal.SIGKILL)
            owner.kill()


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (Limit(cpu_util_limit=0.0), "cpu_util_limit 0 is not above 0 and up to 1"),
        (Limit(cpu_util_limit=1.01), "cpu_util_limit 1.01 is not above 0 and up to 1"),
        (Limit(cpu_util_limit=float("nan")), "cpu_util_limit nan is not above 0 and up to 1"),
        (Limit(mem_util_limit=-0.5), "mem_util_limit -0.5 is not above 0 and up to 1"),
        (Limit(cpu_set_cpus=()), "cpu_set_cpus is empty"),
        (Limit(cpu_set_cpus=(0, 4096)), "cpu_set_cpus has 4096, this machine has {cpus}"),
        (Limit(cpu_set_mems=(-1,)), "cpu_set_mems has -1, this machine has {mems}"),
    ],
)
@pytest.mark.parametrize("mode", ["cgroup", "rlimit"])
def test_values_without_meaning_are_refused(mode: str, limit: Limit, message: str, start: Start):
    system = Path("/sys/devices/system")
    text = message.format(
        cpus=cgroups.read(system / "cpu/online"), mems=cgroups.read(system / "node/online") or "0"
    )
    pid = start(WAITING).pid
    with Limits(PREFIX, mode=mode) as limits:  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
            limits.limit_process(pid, limit)
        with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
            limits.limit_task("car_detection", [pid], limit)
        assert groups() == []


@pytest.mark.parametrize("mode", ["cgroup", "rlimit"])
def test_only_processes_of_this_node_can_be_limited(mode: str):
    strangers = [  # no mapping: the parent may be process 1, which is equal to True
        (2**22 + 1, f"pid {2**22 + 1} does not exist"),
        (0, "pid 0 is not a process id"),
        (True, "pid True is not a process id"),
        (os.getppid(), f"pid {os.getppid()} is not a process of this node"),
        (os.getpid(), f"pid {os.getpid()} is the node itself, only its workers can be limited"),
    ]
    with Limits(PREFIX, mode=mode) as limits:  # type: ignore[arg-type]
        for pid, message in strangers:
            with pytest.raises(ConfigError, match=f"^{message}$"):
                limits.limit_process(pid, Limit(0.5))
        with pytest.raises(ConfigError, match=rf"^pid {2**22 + 1} does not exist$"):
            limits.applied(2**22 + 1)


@pytest.mark.parametrize("name", ["", "x" * 241, "ö" * 41])
def test_a_task_needs_a_name_of_bounded_length(name: str):
    with (
        Limits(PREFIX) as limits,
        pytest.raises(ConfigError, match=rf"^task name '{name[:80]}' has not 1 to 240 bytes$"),
    ):
        limits.limit_task(name, [], Limit(0.5))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a-1", "9a"])
def test_a_root_name_that_is_no_name_is_refused(name: str):
    message = re.escape(f"root_name {name!r} is not a name of letters, digits, _ and .")
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Limits(name)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match=r"^mode 'magic' is unknown, expected cgroup or rlimit$"):
        Limits(mode="magic")  # type: ignore[arg-type]


def test_without_control_groups_limits_are_refused_and_nothing_is_limited(
    tmp_path: Path, start: Start
):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/\n")
    (tmp_path / "self/mountinfo").write_text("22 1 0:21 / /proc rw - proc proc rw\n")
    pid = start(WAITING).pid
    (tmp_path / str(pid)).symlink_to("self")
    with Limits(PREFIX, proc=tmp_path) as limits:
        assert limits.mode == "none"
        assert limits.refusal == "no control groups are mounted"
        message = r"^limits are not available: no control groups are mounted$"
        with pytest.raises(LimitsUnavailable, match=message):
            limits.limit_process(pid, Limit(0.5))
        with pytest.raises(LimitsUnavailable, match=message):
            limits.limit_task("car_detection", [pid], Limit(0.5))
        assert limits.limit_of("car_detection") == Limit(1.0, 1.0)
        assert limits.applied(pid) == Limit(1.0, 1.0, CORES, (0,))
