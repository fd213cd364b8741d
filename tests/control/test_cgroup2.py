"""Control groups of version 2, on a fake kernel that keeps the rules of the real one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cgroup_kit import FakeKernel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdag.control.limits import Limits, cgroups
from vdag.control.limits.enforcement import Limit
from vdag.errors import LimitsUnavailable

TOTAL = psutil.virtual_memory().total
CORES = os.cpu_count() or 1

NODE = "system.slice/node.service"


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    """The node is in a service with everything delegated, and so are its workers."""
    kernel = FakeKernel(tmp_path)
    kernel.delegate("system.slice", "node.service")
    kernel.enter(os.getpid(), NODE)
    return kernel


def start_worker(kernel: FakeKernel, group: str = NODE) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    kernel.enter(child.pid, group)
    return child


@pytest.fixture
def worker(kernel: FakeKernel) -> Iterator[subprocess.Popen[bytes]]:
    child = start_worker(kernel)
    yield child
    child.kill()
    child.communicate()


def root_of(kernel: FakeKernel, group: str = NODE) -> Path:
    (root,) = (kernel.top / group).glob("vdag-*")
    return root


def open_limits(kernel: FakeKernel) -> Limits:
    return Limits(proc=kernel.proc, kernel=kernel)


def test_limits_are_written_where_the_kernel_reads_them(
    kernel: FakeKernel, worker: subprocess.Popen[bytes]
):
    with open_limits(kernel) as limits:
        assert limits.mode == "cgroup2"
        limits.limit_task("car_detection", [worker.pid], Limit(0.5, 0.25, (0,)))
        limits.limit_process(worker.pid, Limit(0.25, 0.5))
        root = root_of(kernel)
        assert (root / "cpu.weight").read_text() == str(100 * CORES)
        task, leaf = root / "task.car_detection", root / f"task.car_detection/pid.{worker.pid}"
        assert (task / "cpu.max").read_text() == f"{50_000 * CORES} 100000"
        assert (leaf / "cpu.max").read_text() == f"{25_000 * CORES} 100000"
        assert int((task / "memory.max").read_text()) == pytest.approx(TOTAL * 0.25, abs=4096)
        assert int((leaf / "memory.max").read_text()) == pytest.approx(TOTAL * 0.5, abs=4096)
        assert (leaf / "memory.swap.max").read_text() == "0"
        assert (leaf / "cpuset.cpus").read_text() == "0"
        assert cgroups.members(leaf) == [worker.pid]
        assert cgroups.members(root / "node") == [os.getpid()]
        applied = limits.applied(worker.pid)
        assert (applied.cpu_util_limit, applied.mem_util_limit) == (0.25, 0.25)
        assert applied.mode == "cgroup2"
        limits.limit_process(worker.pid, Limit(1.0, 1.0))
        assert (leaf / "cpu.max").read_text() == "max 100000"
        assert (leaf / "memory.max").read_text() == "max"
        assert (leaf / "memory.swap.max").read_text() == "max"
        assert limits.applied(worker.pid).cpu_util_limit == 0.5


def test_nothing_changes_before_the_first_limit_and_nothing_has_changed_after_the_last(
    kernel: FakeKernel, worker: subprocess.Popen[bytes]
):
    before = kernel.tree()
    count = len(kernel.writes)
    with open_limits(kernel) as limits:
        limits.applied(worker.pid)
        limits.release(worker.pid)
        assert len(kernel.writes) == count
        limits.limit_process(worker.pid, Limit(0.5))
        assert kernel.tree() != before
    assert kernel.tree() == before
    assert (kernel.top / NODE / "cgroup.subtree_control").read_text() == ""


def test_a_limit_that_is_repeated_is_not_written_again(
    kernel: FakeKernel, worker: subprocess.Popen[bytes]
):
    with open_limits(kernel) as limits:
        limits.limit_task("car_detection", [worker.pid], Limit(0.5))
        limits.limit_process(worker.pid, Limit(0.25))
        count = len(kernel.writes)
        limits.limit_task("car_detection", [worker.pid], Limit(0.5))
        limits.limit_process(worker.pid, Limit(0.25))
        assert len(kernel.writes) == count
        # What is set anew beside it does not start its period anew either.
        limits.limit_process(worker.pid, Limit(mem_util_limit=0.5))
        assert not [path for path, _ in kernel.writes[count:] if path.endswith("cpu.max")]


def test_a_released_process_goes_to_the_node_since_their_group_takes_none(
    kernel: FakeKernel, worker: subprocess.Popen[bytes]
):
    with open_limits(kernel) as limits:
        limits.limit_process(worker.pid, Limit(0.5))
        limits.release(worker.pid)
        root = root_of(kernel)
        assert sorted(cgroups.members(root / "node")) == sorted([os.getpid(), worker.pid])
        assert [path.name for path in root.iterdir() if path.is_dir()] == ["node"]
        assert limits.applied(worker.pid).mode == "none"


def test_the_root_group_hands_down_while_processes_are_in_it(tmp_path: Path):
    kernel = FakeKernel(tmp_path)
    kernel.enter(os.getpid(), "")
    child = start_worker(kernel, "")
    try:
        with open_limits(kernel) as limits:
            limits.limit_process(child.pid, Limit(0.5))
            assert cgroups.members(kernel.top) == [os.getpid()]
            limits.release(child.pid)
            assert cgroups.members(kernel.top) == [os.getpid(), child.pid]
        assert (kernel.top / "cgroup.subtree_control").read_text() == ""
    finally:
        child.kill()
        child.communicate()


def test_controllers_that_were_handed_down_before_stay_so(
    kernel: FakeKernel, tmp_path: Path, worker: subprocess.Popen[bytes]
):
    kernel.enter(os.getpid(), "")
    kernel.enter(worker.pid, "")
    before = (kernel.top / "cgroup.subtree_control").read_text()
    with open_limits(kernel) as limits:
        limits.limit_process(worker.pid, Limit(0.5))
    assert (kernel.top / "cgroup.subtree_control").read_text() == before


def test_processes_of_others_are_not_moved(kernel: FakeKernel, worker: subprocess.Popen[bytes]):
    kernel.enter(os.getppid(), NODE)
    before = kernel.tree()
    message = (
        f"limits are not available: control group {kernel.top / NODE} holds 1 processes of "
        "others: start the node in a group of its own, under systemd with Delegate=yes"
    )
    with open_limits(kernel) as limits:
        with pytest.raises(LimitsUnavailable, match=f"^{re.escape(message)}$"):
            limits.limit_process(worker.pid, Limit(0.5))
        assert kernel.tree() == before
        assert limits.refusal is not None


def test_a_group_without_the_controllers_says_how_to_get_them(
    tmp_path: Path, worker: subprocess.Popen[bytes]
):
    kernel = FakeKernel(tmp_path / "poor", controllers="cpu pids")
    kernel.enter(os.getpid(), "")
    with open_limits(kernel) as limits:
        assert limits.refusal == (
            f"control group {kernel.top} lacks memory: they must be delegated to the node, "
            "under systemd with Delegate=yes"
        )
        with pytest.raises(LimitsUnavailable, match=r"^limits are not available: control group"):
            limits.limit_process(worker.pid, Limit(0.5))


def test_without_the_right_to_make_groups_limits_are_refused(
    kernel: FakeKernel, worker: subprocess.Popen[bytes]
):
    kernel.read_only = True
    before = kernel.tree()
    with open_limits(kernel) as limits:
        with pytest.raises(
            LimitsUnavailable,
            match=r"^limits are not available: \[Errno 30\] Read-only file system",
        ):
            limits.place(worker.pid, "car_detection")
        assert kernel.tree() == before
        kernel.read_only = False  # and once the right is there, they are not
        limits.place(worker.pid, "car_detection")
        assert limits.refusal is None


def test_cores_need_a_controller_that_may_be_missing(
    tmp_path: Path, worker: subprocess.Popen[bytes]
):
    kernel = FakeKernel(tmp_path / "user", controllers="cpu memory pids")
    kernel.enter(os.getpid(), "")
    kernel.enter(worker.pid, "")
    with open_limits(kernel) as limits:
        limits.limit_process(worker.pid, Limit(0.5, 0.5))
        with pytest.raises(
            LimitsUnavailable, match=r"^cpu_set_cpus and cpu_set_mems need the cpuset controller$"
        ):
            limits.limit_task("car_detection", [worker.pid], Limit(0.25, cpu_set_cpus=(0,)))
        # What was done of it before is undone.
        root = root_of(kernel, "")
        assert (root / "task.car_detection/cpu.max").read_text() == "max 100000"
        assert cgroups.members(root / f"pid.{worker.pid}") == [worker.pid]
        assert limits.applied(worker.pid).cpu_util_limit == 0.5


def test_memory_that_is_in_use_is_not_taken_away(
    kernel: FakeKernel, worker: subprocess.Popen[bytes]
):
    with open_limits(kernel) as limits:
        limits.place(worker.pid, "car_detection")
        leaf = root_of(kernel) / f"task.car_detection/pid.{worker.pid}"
        (leaf / "memory.stat").write_text(f"anon {TOTAL // 4}\nfile 0\nshmem {TOTAL // 4}\n")
        with pytest.raises(
            LimitsUnavailable, match=r"^mem_util_limit of \d+ bytes is below the \d+ in use$"
        ):
            limits.limit_process(worker.pid, Limit(0.5, 0.4))
        assert (leaf / "memory.max").read_text() == "max"
        assert (leaf / "cpu.max").read_text() == "max 100000"
        limits.limit_process(worker.pid, Limit(0.5, 0.6))


@pytest.mark.parametrize("survives", [True, False])
def test_what_a_killed_node_left_is_removed_and_its_survivors_are_freed(
    kernel: FakeKernel, worker: subprocess.Popen[bytes], survives: bool
):
    home = kernel.top / NODE
    with open_limits(kernel) as limits:
        limits.limit_task("car_detection", [worker.pid], Limit(0.5))
        root = root_of(kernel)
        # What a killed node leaves: its groups, without itself.
        gone = root.with_name("vdag-4194305-1-0")
        kernel.enter(os.getpid(), "")
        (root / "node/cgroup.procs").write_text("")
        root.rename(gone)
        if survives:
            leaf = f"{NODE}/{gone.name}/task.car_detection/pid.{worker.pid}"
            kernel.enter(worker.pid, leaf)
            # The next node is started by a survivor: it is in the leftovers itself.
            kernel.enter(os.getpid(), f"{NODE}/{gone.name}/node")
        else:
            kernel.enter(worker.pid, "")
            (home / "cgroup.subtree_control").write_text("")
            kernel.enter(os.getpid(), NODE)
    with open_limits(kernel) as limits:
        assert not list(home.glob("vdag-*"))
        if survives:
            assert sorted(cgroups.members(home)) == sorted([os.getpid(), worker.pid])
            limits.limit_process(worker.pid, Limit(0.5))
            assert root_of(kernel).parent == home
    assert not list(home.glob("vdag-*"))


def test_groups_of_living_nodes_are_left_alone(kernel: FakeKernel):
    pid, ticks = os.getppid(), cgroups.start_ticks(os.getppid())
    living = kernel.top / NODE / f"vdag-{pid}-{ticks}-0"
    others = [living, kernel.top / NODE / "vdag-x", kernel.top / NODE / "vdagger-4194305-1-0"]
    for group in others:
        kernel.make(group)
    with open_limits(kernel):
        assert all(group.is_dir() for group in others)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["place", "limit_process", "limit_task", "release", "close", "end"]),
        st.integers(0, 2),
        st.sampled_from(["a", "b"]),
        st.builds(
            Limit,
            st.none() | st.sampled_from([0.1, 0.5, 1.0]),
            st.none() | st.sampled_from([0.5, 1.0]),
            st.none() | st.just((0,)),
        ),
    ),
    max_size=12,
)


@pytest.mark.slow
@given(steps=STEPS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_in_whatever_order_leaves_the_machine_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, str, Limit]]
):
    kernel = FakeKernel(tmp_path_factory.mktemp("machine"))
    kernel.delegate("system.slice", "node.service")
    kernel.enter(os.getpid(), NODE)
    workers = [start_worker(kernel) for _ in range(3)]
    asked: dict[int, Limit] = {}
    try:
        with open_limits(kernel) as limits:
            for verb, index, task, limit in steps:
                pid = workers[index].pid
                if verb == "end":
                    workers[index].send_signal(signal.SIGKILL)
                    workers[index].wait()
                    for procs in kernel.top.rglob("cgroup.procs"):
                        kept = [word for word in procs.read_text().split() if word != str(pid)]
                        procs.write_text("\n".join(kept))
                    asked.pop(pid, None)
                elif workers[index].returncode is not None:
                    continue
                elif verb == "place":
                    limits.place(pid, task)
                elif verb == "limit_process":
                    limits.limit_process(pid, limit)
                    asked[pid] = asked.get(pid, Limit()).merged(limit)
                elif verb == "limit_task":
                    limits.limit_task(task, [pid], limit)
                elif verb == "release":
                    limits.release(pid)
                    asked.pop(pid, None)
                else:
                    limits.close()
                    asked.clear()
                for other, expected in asked.items():
                    applied = limits.applied(other)
                    assert applied.cpu_util_limit is not None
                    assert applied.cpu_util_limit <= (expected.cpu_util_limit or 1.0)
        alive = [child.pid for child in workers if child.returncode is None]
        assert sorted(cgroups.members(kernel.top / NODE)) == sorted([os.getpid(), *alive])
        assert not [path for path in (kernel.top / NODE).iterdir() if path.is_dir()]
    finally:
        for child in workers:
            child.kill()
            child.communicate()
