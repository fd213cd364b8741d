"""Control groups of version 1: cpu, memory and cpuset are hierarchies of their own."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vdag.control.limits import cgroups
from vdag.control.limits.cgroups import PERIOD_US, Kernel, Place, read
from vdag.control.limits.enforcement import Mode
from vdag.errors import LimitsUnavailable

__all__ = ["Cgroup1"]

_QUOTA = "cpu.cfs_quota_us"
_PERIOD = "cpu.cfs_period_us"
#: Weight of a thread that nobody made nicer, and the largest of a group.
_SHARES = 1024
_MAX_SHARES = 262_144
_MEMORY = "memory.limit_in_bytes"
#: Memory and swap together; only there if the kernel accounts swap.
_MEMORY_AND_SWAP = "memory.memsw.limit_in_bytes"


class Cgroup1:
    """The groups of one node, below the group the node is in, in every hierarchy.

    cpu and memory are nested, so that processes of a task share its limit. cpuset is flat: a
    process gets its cores itself, because there a group must allow all that groups in it allow.

    Args:
        places: where this process is, by controller: cpu and memory at least.
        prefix: how the root group is called, before what says whose it is.
        kernel: where writes go.
    """

    mode: Mode = "cgroup1"

    def __init__(self, places: Mapping[str, Place], prefix: str, kernel: Kernel) -> None:
        self._places = places
        self._homes = {name: cgroups.home_of(place, prefix) for name, place in places.items()}
        self._prefix = prefix
        self._root = cgroups.name_root(prefix)
        self._kernel = kernel
        self.has_cpuset = "cpuset" in places

    def sweep(self) -> None:
        """Remove the groups of nodes that have ended; survivors come to where this process is."""
        for home in self._homes.values():
            for root in cgroups.roots(home, self._prefix):
                cgroups.clear(self._kernel, root, home)

    def open(self) -> None:
        """Make the root groups.

        Raises:
            OSError: the right to do so is missing.
        """
        for controller in ("cpu", "memory"):
            self._kernel.make(self._homes[controller] / self._root)
        # Otherwise all workers together would weigh as much as one thread beside the group.
        weight = min(_MAX_SHARES, _SHARES * (os.cpu_count() or 1))
        self._set(self._path("cpu", "") / "cpu.shares", weight)
        # Before Linux 5.11 a limit did not bind the groups below unless this was set.
        hierarchy = self._path("memory", "") / "memory.use_hierarchy"
        if read(hierarchy) == "0":
            self._kernel.write(hierarchy, "1")

    def make(self, group: str) -> None:
        """Make a group and those around it."""
        for controller in ("cpu", "memory"):
            path = self._homes[controller] / self._root
            for part in PurePosixPath(group).parts:
                path /= part
                self._kernel.make(path)
        # Where the kernel still can (before Linux 6.13), memory moves along with its process.
        with contextlib.suppress(OSError):
            self._kernel.write(self._path("memory", group) / "memory.move_charge_at_immigrate", "3")

    def limit(self, group: str, share: float | None, nbytes: int | None) -> None:
        """Bind a group; None lifts.

        Raises:
            LimitsUnavailable: the group uses more memory than `nbytes`.
        """
        # Memory first: it is the one that can fail, and then nothing has changed.
        self._limit_memory(self._path("memory", group), nbytes)
        self._limit_cpu(self._path("cpu", group), share)

    def _limit_cpu(self, path: Path, share: float | None) -> None:
        around = self._share(Place(path.parent, self._places["cpu"].top))
        quota = -1 if share is None or share >= around else cgroups.quota_us(share)
        for child in path.iterdir():
            # A group may not have more than the one around it; the caller sets it anew.
            inner = int(read(child / _QUOTA) or -1) if child.is_dir() else -1
            if 0 <= quota < inner:
                self._kernel.write(child / _QUOTA, "-1")
        self._set(path / _PERIOD, PERIOD_US)
        self._set(path / _QUOTA, quota)

    def _limit_memory(self, path: Path, nbytes: int | None) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        asked = -1 if nbytes is None else -(-nbytes // page) * page
        files = [path / _MEMORY, path / _MEMORY_AND_SWAP]
        present = int(read(files[0]) or 0)
        # The sum may never be below the part, so the order depends on the direction.
        if asked < 0 or asked > present:
            files.reverse()
        done: list[Path] = []
        try:
            for file in filter(Path.exists, files):
                self._set(file, asked)
                done.append(file)
        except OSError as err:
            for file in reversed(done):
                self._kernel.write(file, str(present))
            if err.errno != errno.EBUSY:
                raise
            used = read(path / "memory.usage_in_bytes")
            raise LimitsUnavailable(
                f"mem_util_limit of {asked} bytes is below the {used} in use"
            ) from err

    def _set(self, file: Path, value: int) -> None:
        # Writing a quota starts its period anew, with all of it unspent: callers that repeat
        # themselves before every frame would lift the limit.
        if read(file) != str(value):
            self._kernel.write(file, str(value))

    def move(self, pid: int, group: str) -> None:
        """Move a process into a group.

        Raises:
            ProcessLookupError: it has ended.
        """
        for controller in ("cpu", "memory"):
            self._kernel.write(self._path(controller, group) / "cgroup.procs", str(pid))

    def bind(
        self, pid: int, group: str, cpus: tuple[int, ...] | None, mems: tuple[int, ...] | None
    ) -> None:
        """Bind a process to cores and memory nodes; None lifts.

        Raises:
            OSError: a number is none that the group of the node may use.
        """
        leaf = self._leaf(group)
        if cpus is None and mems is None:
            if leaf is not None and leaf.is_dir():
                cgroups.remove(self._kernel, leaf, self._homes["cpuset"])
            return
        assert leaf is not None, "the caller checks has_cpuset"
        home = self._homes["cpuset"]
        # A cpuset takes no process before it has cores and nodes, and has none when it is made.
        for path, parts in ((leaf.parent, (None, None)), (leaf, (cpus, mems))):
            self._kernel.make(path)
            for name, part in zip(("cpus", "mems"), parts, strict=True):
                everything = cgroups.parse_numbers(read(home / f"cpuset.{name}") or "0")
                self._set_numbers(path / f"cpuset.{name}", everything if part is None else part)
        if pid not in cgroups.members(leaf):
            self._kernel.write(leaf / "cgroup.procs", str(pid))

    def _set_numbers(self, file: Path, numbers: tuple[int, ...]) -> None:
        if cgroups.parse_numbers(read(file) or "") != numbers:
            self._kernel.write(file, cgroups.format_numbers(numbers))

    def leave(self, pid: int) -> None:
        """Move a process back to where this one is; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            for controller in self._homes:
                # Only where it was moved: the groups of a process may differ between hierarchies.
                if controller != "cpuset" or (self._homes["cpuset"] / self._root).is_dir():
                    self._kernel.write(self._homes[controller] / "cgroup.procs", str(pid))

    def remove(self, group: str) -> None:
        """Remove an empty group."""
        for controller in ("cpu", "memory"):
            cgroups.remove(self._kernel, self._path(controller, group), self._homes[controller])
        if (leaf := self._leaf(group)) is not None:
            cgroups.remove(self._kernel, leaf, self._homes["cpuset"])

    def binding(self, places: Mapping[str, Place]) -> tuple[float, int | None]:
        """Return the smallest CPU share, and the fewest bytes, of groups and those around them."""
        nbytes = [
            int(text)
            for path in places["memory"].upwards()
            if (text := read(path / _MEMORY)) is not None
        ]
        return self._share(places["cpu"]), min(nbytes, default=None)

    def owns(self, places: Mapping[str, Place]) -> bool:
        """Whether a process is in one of these groups."""
        return places["cpu"].path.is_relative_to(self._path("cpu", ""))

    def close(self) -> None:
        """Remove all groups; survivors come back to where this process is."""
        for home in self._homes.values():
            if (root := home / self._root).is_dir():
                cgroups.clear(self._kernel, root, home)

    def _share(self, place: Place) -> float:
        smallest = 1.0
        for path in place.upwards():
            quota, period = read(path / _QUOTA), read(path / _PERIOD)
            if quota is not None and period is not None and int(quota) > 0:
                share = int(quota) / int(period) / (os.cpu_count() or 1)
                smallest = min(smallest, share)
        return smallest

    def _path(self, controller: str, group: str) -> Path:
        return self._homes[controller] / self._root / group

    def _leaf(self, group: str) -> Path | None:
        if not self.has_cpuset:
            return None
        return self._path("cpuset", PurePosixPath(group).name)
