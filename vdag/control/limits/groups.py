"""Limits by control groups, whichever version of them this machine has."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import psutil

from vdag.control.limits import cgroups
from vdag.control.limits.cgroup1 import Cgroup1
from vdag.control.limits.cgroup2 import Cgroup2
from vdag.control.limits.cgroups import Kernel, Place
from vdag.control.limits.enforcement import Claim, Limit, Mode
from vdag.errors import LimitsUnavailable

__all__ = ["GroupEnforcer", "Hierarchy"]

logger = logging.getLogger(__name__)


class Hierarchy(Protocol):
    """One version of control groups; groups are named relative to the root group of the node."""

    mode: Mode
    has_cpuset: bool

    def sweep(self) -> None: ...  # noqa: D102
    def open(self) -> None: ...  # noqa: D102
    def make(self, group: str) -> None: ...  # noqa: D102
    def limit(self, group: str, share: float | None, nbytes: int | None) -> None: ...  # noqa: D102
    def move(self, pid: int, group: str) -> None: ...  # noqa: D102
    def bind(  # noqa: D102
        self, pid: int, group: str, cpus: tuple[int, ...] | None, mems: tuple[int, ...] | None
    ) -> None: ...
    def leave(self, pid: int) -> None: ...  # noqa: D102
    def remove(self, group: str) -> None: ...  # noqa: D102
    def binding(self, places: Mapping[str, Place]) -> tuple[float, int | None]: ...  # noqa: D102
    def owns(self, places: Mapping[str, Place]) -> bool: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class GroupEnforcer:
    """Limits processes by control groups below the group this process is in.

    Groups of nodes that have ended are removed at once; groups of its own are made with the first
    limit, so that a node that limits nothing changes nothing.

    Args:
        prefix: how groups are called.
        proc: where procfs is mounted.
        kernel: where writes go.

    Attributes:
        refusal: why limits cannot be set, None while nothing speaks against it.
    """

    def __init__(self, prefix: str, proc: Path = Path("/proc"), kernel: Kernel | None = None):
        self._proc = proc
        self._total_nbytes = psutil.virtual_memory().total
        self._groups: dict[int, str] = {}
        self._open = False
        self._hierarchy: Hierarchy | None = None
        self.mode: Mode = "none"
        self.refusal: str | None = None
        try:
            self._hierarchy = _choose(proc, prefix, kernel or Kernel())
        except OSError as err:
            self.refusal = str(err)
            return
        self.mode = self._hierarchy.mode
        try:
            self._hierarchy.sweep()
        except OSError as err:
            logger.warning("control groups of an earlier node stay: %s", err)

    def share(self, task: str, limit: Limit) -> None:
        """Bind the group of a task."""
        hierarchy = self._ready()
        group = _task_group(task)
        with _translated(f"task {task!r}"):
            hierarchy.make(group)
            hierarchy.limit(group, *self._amounts(limit))

    def apply(self, claim: Claim) -> None:
        """Bind a process in a group of its own."""
        hierarchy = self._ready()
        cpus, mems = claim.cpus(), claim.mems()
        if (cpus or mems) and not hierarchy.has_cpuset:
            raise LimitsUnavailable("cpu_set_cpus and cpu_set_mems need the cpuset controller")
        parent = f"{_task_group(claim.task)}/" if claim.task is not None else ""
        group = f"{parent}pid.{claim.pid}"
        former = self._groups.setdefault(claim.pid, group)
        with _translated(f"pid {claim.pid}"):
            hierarchy.make(group)
            hierarchy.limit(group, *self._amounts(claim.own))
            hierarchy.move(claim.pid, group)
            self._groups[claim.pid] = group
            if former != group:
                hierarchy.remove(former)
            hierarchy.bind(claim.pid, group, cpus, mems)

    def release(self, pid: int) -> None:
        """Move a process back to where the node is, and remove its group."""
        if (group := self._groups.pop(pid, None)) is not None:
            hierarchy = self._ready()
            hierarchy.leave(pid)
            hierarchy.remove(group)

    def applied(self, pid: int) -> Limit:
        """Return the tightest limits of the groups around a process, ours and all others."""
        places = cgroups.locate(self._proc, pid)
        share, nbytes, mode = 1.0, None, self.mode
        if self._hierarchy is not None:
            share, nbytes = self._hierarchy.binding(places)
            mode = self.mode if self._hierarchy.owns(places) else "none"
        cpus, mems = _allowed(pid)
        memory = 1.0 if nbytes is None else min(1.0, round(nbytes / self._total_nbytes, 4))
        return Limit(round(share, 6), memory, cpus, mems, mode)

    def close(self) -> None:
        """Remove every group; survivors are back where the node is."""
        self._groups.clear()
        if self._hierarchy is not None and self._open:
            self._hierarchy.close()
        self._open = False

    def _ready(self) -> Hierarchy:
        if self._hierarchy is None:
            raise LimitsUnavailable(f"limits are not available: {self.refusal}")
        if not self._open:
            self._start(self._hierarchy)
        return self._hierarchy

    def _start(self, hierarchy: Hierarchy) -> None:
        try:
            hierarchy.open()
        except OSError as err:
            hierarchy.close()
            self.refusal = str(err)
            raise LimitsUnavailable(f"limits are not available: {err}") from err
        self._open, self.refusal = True, None

    def _amounts(self, limit: Limit) -> tuple[float | None, int | None]:
        share, memory = limit.cpu_util_limit, limit.mem_util_limit
        return (
            None if share is None or share >= 1 else share,
            None if memory is None or memory >= 1 else int(memory * self._total_nbytes),
        )


def _choose(proc: Path, prefix: str, kernel: Kernel) -> Hierarchy:
    places = cgroups.locate(proc)
    if "cpu" in places and "memory" in places:
        return Cgroup1({c: places[c] for c in cgroups.CONTROLLERS if c in places}, prefix, kernel)
    if (place := places.get("unified")) is None:
        raise LimitsUnavailable("no control groups are mounted")
    there = (cgroups.read(place.path / "cgroup.controllers") or "").split()
    if missing := [c for c in ("cpu", "memory") if c not in there]:
        raise LimitsUnavailable(
            f"control group {place.path} lacks {' and '.join(missing)}: they must be delegated "
            "to the node, under systemd with Delegate=yes"
        )
    return Cgroup2(place, prefix, kernel)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn what the kernel says no to into our error, but for a process that has ended."""
    try:
        yield
    except (ProcessLookupError, LimitsUnavailable):
        raise
    except OSError as err:
        raise LimitsUnavailable(
            f"limits of {what} were refused: {err.strerror}: {err.filename}"
        ) from err


def _task_group(task: str) -> str:
    # A name from the network becomes one component of a path, whatever is in it.
    return f"task.{quote(task, safe='')}"


def _allowed(pid: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the cores and memory nodes that a process may use."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return (
        cgroups.parse_numbers(fields["Cpus_allowed_list"]),
        cgroups.parse_numbers(fields.get("Mems_allowed_list", "0")),
    )
