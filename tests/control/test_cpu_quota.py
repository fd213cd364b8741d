from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vdag.control.resources.quota import CpuQuota, Spending, read_quota

V1 = Path("/sys/fs/cgroup/cpu")


class Groups:
    """A procfs and a hierarchy of control groups, as files, with a process in `/outer/inner`."""

    def __init__(self, folder: Path, version: int) -> None:
        self.proc, self.top = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        kind, options = ("cgroup", "rw,cpu") if version == 1 else ("cgroup2", "rw")
        line = f"30 24 0:27 / {self.top} rw shared:4 - {kind} {kind} {options}\n"
        (self.proc / "self/mountinfo").write_text(line)
        names = "3:cpu:" if version == 1 else "0::"
        (self.proc / "self/cgroup").write_text(f"{names}/outer/inner\n")
        (self.top / "outer/inner").mkdir(parents=True)

    def put(self, group: str, **files: str) -> None:
        for name, text in files.items():
            (self.top / group / name.replace("__", ".")).write_text(text + "\n")


def test_the_tightest_quota_of_version_1_is_found(tmp_path: Path):
    groups = Groups(tmp_path, 1)
    groups.put("", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    groups.put("outer", cpu__cfs_quota_us="25000", cpu__cfs_period_us="50000",
               cpu__stat="nr_periods 70\nnr_throttled 7\nthrottled_time 123")  # fmt: skip
    groups.put("outer/inner", cpu__cfs_quota_us="80000", cpu__cfs_period_us="100000")
    assert read_quota(groups.proc) == CpuQuota(0.5, 0.05, 70, 7)


def test_the_tightest_quota_of_version_2_is_found(tmp_path: Path):
    groups = Groups(tmp_path, 2)
    groups.put("outer", cpu__max="max 100000")
    groups.put("outer/inner", cpu__max="150000 100000", cpu__stat="usage_usec 9\nnr_periods 3")
    assert read_quota(groups.proc) == CpuQuota(1.5, 0.1, 3, 0)


@pytest.mark.parametrize("text", ["max 100000", "", "soon 100000", "50000", "50000 never", "0 0"])
def test_what_binds_nobody_is_no_quota(tmp_path: Path, text: str):
    groups = Groups(tmp_path, 2)
    groups.put("outer/inner", cpu__max=text)
    assert read_quota(groups.proc) is None


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path):
    assert read_quota(tmp_path) is None


def test_what_a_node_has_made_of_its_quota_is_told_in_seconds():
    spending = Spending(CpuQuota(0.5, 0.05, 70, 7), 12.3456, 5.0004, {17: 1.25})
    assert spending.to_dict() == {
        "cores": 0.5,
        "period_s": 0.05,
        "cpus": os.cpu_count(),
        "periods": 70,
        "throttled": 7,
        "at_s": 12.346,
        "used_s": 5.0,
        "workers": {"17": 1.25},
    }


@pytest.mark.skipif(
    os.geteuid() != 0 or not V1.is_dir() or not os.access(V1, os.W_OK),
    reason="only root can make control groups, here of version 1",
)
def test_the_kernel_says_which_quota_binds_a_process():
    group = V1 / f"vdag-quota-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text("50000")
        (group / "cpu.cfs_quota_us").write_text("20000")
        wait = "import sys; print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            (group / "cgroup.procs").write_text(str(child.pid))
            quota = read_quota(pid=child.pid)
            child.communicate(timeout=60)
    finally:
        group.rmdir()
    assert quota is not None
    assert (quota.cores, quota.period_s) == (0.4, 0.05)
