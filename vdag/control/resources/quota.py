"""The CPU quota that binds this node: so many seconds of its cores in each period, and no more.

Control groups confine by time (CFS bandwidth control, Documentation/scheduler/sched-bwc.rst and
cgroup-v2.rst of Linux): once the processes of a group have used up the quota of a period, all of
them stand still until the next one. That is not a slower core: what needs less than the quota runs
at full speed, and what needs a little more waits for most of a period.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdag.control.limits.cgroups import Place, locate, read

__all__ = ["CpuQuota", "Spending", "read_quota"]


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """The tightest quota that binds a process.

    Attributes:
        cores: the quota over its period.
        period_s: after which there is a new one.
        periods: in which its group did anything, since the group was made.
        throttled: of these, those in which the quota was used up.
    """

    cores: float
    period_s: float
    periods: int = 0
    throttled: int = 0


@dataclass(frozen=True, slots=True)
class Spending:
    """What a node that has a quota has made of it; all of it only grows.

    Attributes:
        quota: that binds it.
        at_s: when it was read, monotonic seconds.
        used_s: CPU seconds of the node's daemon and of the processes that are watched.
        workers: likewise of each of the latter, by their pids.
    """

    quota: CpuQuota
    at_s: float
    used_s: float
    workers: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in `device_state` as `cpu_quota`."""
        quota = self.quota
        return {
            "cores": round(quota.cores, 4),
            "period_s": round(quota.period_s, 6),
            "cpus": os.cpu_count() or 1,
            "periods": quota.periods,
            "throttled": quota.throttled,
            "at_s": round(self.at_s, 3),
            "used_s": round(self.used_s, 3),
            "workers": {str(pid): round(used_s, 3) for pid, used_s in self.workers.items()},
        }


def read_quota(proc: Path = Path("/proc"), pid: int | str = "self") -> CpuQuota | None:
    """Return the tightest quota of the groups that a process is in, of either version.

    Args:
        proc: where procfs is mounted.
        pid: the process.

    Returns:
        None where nothing binds, or control groups cannot be seen.
    """
    try:
        places = locate(proc, pid)
    except (OSError, ValueError):
        return None
    found = [*_of_version_1(places.get("cpu")), *_of_version_2(places.get("unified"))]
    return min(found, key=lambda quota: quota.cores, default=None)


def _of_version_1(place: Place | None) -> Iterator[CpuQuota]:
    for group in place.upwards() if place is not None else ():
        quota, period = read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")
        if quota and period:
            yield from _quota(group, quota, period)


def _of_version_2(place: Place | None) -> Iterator[CpuQuota]:
    for group in place.upwards() if place is not None else ():
        quota, _, period = (read(group / "cpu.max") or "").partition(" ")
        if quota.isdecimal():  # else `max`
            yield from _quota(group, quota, period)


def _quota(group: Path, quota: str, period: str) -> Iterator[CpuQuota]:
    """Yield what two numbers of microseconds mean; nothing for those that bind nobody."""
    try:
        quota_us, period_us = int(quota), int(period)
    except ValueError:
        return
    if quota_us > 0 and period_us > 0:
        stat = _numbers(read(group / "cpu.stat") or "")
        yield CpuQuota(
            quota_us / period_us,
            period_us / 1e6,
            stat.get("nr_periods", 0),
            stat.get("nr_throttled", 0),
        )


def _numbers(text: str) -> dict[str, int]:
    rows = (line.partition(" ") for line in text.splitlines())
    return {name: int(value) for name, _, value in rows if value.isdecimal()}
