"""Control groups of version 2: one hierarchy, whose controllers are handed down group by group.

A group that hands controllers down holds no processes itself, so the node moves out of its own
group before it hands anything down, into the leaf `node` of what it makes:

    <group of the node>/                    its controllers are handed down
        <prefix>-<pid>-<start>-<n>/         likewise
            node/                           the node, its family, and processes let go
            task.<name>/                    likewise handed down: the limit of a task
                pid.<pid>/                  the limit of one process
            pid.<pid>/
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import psutil

from vdag.control.limits import cgroups
from vdag.control.limits.cgroups import CONTROLLERS, PERIOD_US, Kernel, Place, read
from vdag.control.limits.enforcement import Mode
from vdag.errors import LimitsUnavailable

__all__ = ["Cgroup2"]

logger = logging.getLogger(__name__)

_NODE = "node"
#: Weight of a group unless set, as much as a thread that nobody made nicer, and the largest.
_WEIGHT = 100
_MAX_WEIGHT = 10_000
#: Rounds in which processes that fork while they are moved are caught.
_ROUNDS = 8


class Cgroup2:
    """The groups of one node, below the group the node is in.

    Args:
        place: where this process is.
        prefix: how the root group is called, before what says whose it is.
        kernel: where writes go.
    """

    mode: Mode = "cgroup2"

    def __init__(self, place: Place, prefix: str, kernel: Kernel) -> None:
        self._home = cgroups.home_of(place, prefix)
        self._prefix = prefix
        self._root = self._home / cgroups.name_root(prefix)
        self._kernel = kernel
        self._controllers = [c for c in CONTROLLERS if c in _words(self._home, "controllers")]
        self._enabled: list[str] = []
        # Where processes go that are let go: a group that hands down cannot take them back.
        self._refuge = self._home
        self.has_cpuset = "cpuset" in self._controllers

    def sweep(self) -> None:
        """Remove the groups of nodes that have ended; survivors come to the group they were in."""
        for root in cgroups.roots(self._home, self._prefix):
            self._retire(root, ())

    def open(self) -> None:
        """Make the root group and hand the controllers down to it.

        Raises:
            LimitsUnavailable: others are in the group of this process.
            OSError: the right to do so is missing.
        """
        self._kernel.make(self._root)
        self._kernel.make(self._root / _NODE)
        missing = [c for c in self._controllers if c not in _words(self._home, "subtree_control")]
        try:
            self._hand_down(self._home)
        except OSError as err:
            if err.errno != errno.EBUSY:
                raise
            self._vacate()
            self._hand_down(self._home)
        self._enabled = missing
        self._hand_down(self._root)
        # Otherwise all workers together would weigh as much as one thread beside the group.
        weight = min(_MAX_WEIGHT, _WEIGHT * (os.cpu_count() or 1))
        self._set(self._root / "cpu.weight", str(weight))

    def make(self, group: str) -> None:
        """Make a group and those around it."""
        path = self._root
        for part in PurePosixPath(group).parts:
            if path != self._root:
                self._hand_down(path)
            path /= part
            self._kernel.make(path)

    def limit(self, group: str, share: float | None, nbytes: int | None) -> None:
        """Bind a group; None lifts.

        Raises:
            LimitsUnavailable: the group uses more memory than `nbytes`.
        """
        path = self._root / group
        if nbytes is not None:
            self._check_memory(path, nbytes)
        # Memory that may be swapped out is not bound by memory.max.
        if (path / "memory.swap.max").exists():
            self._set(path / "memory.swap.max", "max" if nbytes is None else "0")
        page = os.sysconf("SC_PAGE_SIZE")
        self._set(path / "memory.max", "max" if nbytes is None else str(-(-nbytes // page) * page))
        quota = "max" if share is None else str(cgroups.quota_us(share))
        self._set(path / "cpu.max", f"{quota} {PERIOD_US}")

    def _check_memory(self, path: Path, nbytes: int) -> None:
        """Refuse a limit that the kernel would enforce by killing at once."""
        lines = (line.split() for line in (read(path / "memory.stat") or "").splitlines())
        used = sum(int(value) for name, value in lines if name in ("anon", "shmem"))
        if used > nbytes:
            raise LimitsUnavailable(f"mem_util_limit of {nbytes} bytes is below the {used} in use")

    def _set(self, file: Path, value: str) -> None:
        # Writing a quota starts its period anew, with all of it unspent: callers that repeat
        # themselves before every frame would lift the limit.
        if read(file) != value:
            self._kernel.write(file, value)

    def move(self, pid: int, group: str) -> None:
        """Move a process into a group.

        Raises:
            ProcessLookupError: it has ended.
        """
        self._kernel.write(self._root / group / "cgroup.procs", str(pid))

    def bind(
        self, pid: int, group: str, cpus: tuple[int, ...] | None, mems: tuple[int, ...] | None
    ) -> None:
        """Bind the group of a process to cores and memory nodes; None lifts.

        Raises:
            OSError: a number is none of this machine.
        """
        if self.has_cpuset:
            for name, numbers in (("cpus", cpus), ("mems", mems)):
                # An empty line means what the group around it has.
                file = self._root / group / f"cpuset.{name}"
                if cgroups.parse_numbers(read(file) or "") != tuple(sorted(numbers or ())):
                    self._kernel.write(file, cgroups.format_numbers(numbers or ()) or "\n")

    def leave(self, pid: int) -> None:
        """Move a process back to the node; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._kernel.write(self._refuge / "cgroup.procs", str(pid))

    def remove(self, group: str) -> None:
        """Remove a group; what is still in it moves back to the node."""
        cgroups.remove(self._kernel, self._root / group, self._refuge)

    def binding(self, places: Mapping[str, Place]) -> tuple[float, int | None]:
        """Return the smallest CPU share, and the fewest bytes, of a group and those around it."""
        share, nbytes = 1.0, []
        for path in places["unified"].upwards():
            quota, _, period = (read(path / "cpu.max") or "max").partition(" ")
            if quota != "max":
                share = min(share, int(quota) / int(period) / (os.cpu_count() or 1))
            if (memory := read(path / "memory.max") or "max") != "max":
                nbytes.append(int(memory))
        return share, min(nbytes, default=None)

    def owns(self, places: Mapping[str, Place]) -> bool:
        """Whether a process is in one of these groups, other than that of the node itself."""
        path = places["unified"].path
        return path.is_relative_to(self._root) and path != self._root / _NODE

    def close(self) -> None:
        """Remove all groups; this process and all survivors are back where they were."""
        if self._root.is_dir():
            self._retire(self._root, self._enabled)
        self._enabled, self._refuge = [], self._home

    def _hand_down(self, group: Path) -> None:
        there = _words(group, "subtree_control")
        if missing := [c for c in self._controllers if c not in there]:
            text = " ".join(f"+{controller}" for controller in missing)
            self._kernel.write(group / "cgroup.subtree_control", text)

    def _keep_back(self, group: Path, controllers: Iterable[str]) -> None:
        there = _words(group, "subtree_control")
        if present := [c for c in controllers if c in there]:
            text = " ".join(f"-{controller}" for controller in present)
            self._kernel.write(group / "cgroup.subtree_control", text)

    def _vacate(self) -> None:
        """Move this process and its family out of their group, into the leaf `node`."""
        self._refuge = self._root / _NODE
        for _ in range(_ROUNDS):
            if not (there := cgroups.members(self._home)):
                return
            family = {os.getpid(), *(p.pid for p in psutil.Process().children(recursive=True))}
            if strangers := set(there) - family:
                raise LimitsUnavailable(
                    f"control group {self._home} holds {len(strangers)} processes of others: "
                    "start the node in a group of its own, under systemd with Delegate=yes"
                )
            cgroups.evacuate(self._kernel, self._home, self._refuge)
        raise LimitsUnavailable(f"control group {self._home} fills faster than it can be left")

    def _retire(self, root: Path, enabled: Iterable[str]) -> None:
        """Undo `open` for a root group: ours, or that of a node that has ended."""
        node = root / _NODE
        try:
            self._kernel.make(node)
            cgroups.clear(self._kernel, root, node, keep=(root, node))
            self._keep_back(root, CONTROLLERS)
            self._keep_back(self._home, enabled)
            self._go_home(node)
        except OSError as err:
            logger.warning("control group %s is left behind: %s", root, err.strerror)
            return
        cgroups.remove(self._kernel, node)
        cgroups.remove(self._kernel, root)

    def _go_home(self, node: Path) -> None:
        try:
            cgroups.evacuate(self._kernel, node, self._home)
        except OSError as err:
            if err.errno != errno.EBUSY:
                raise
            # The group was left by a node that has ended, in order to hand its controllers down.
            self._keep_back(self._home, CONTROLLERS)
            cgroups.evacuate(self._kernel, node, self._home)


def _words(group: Path, file: str) -> list[str]:
    return (read(group / f"cgroup.{file}") or "").split()
