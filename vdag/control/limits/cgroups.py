"""Control groups: where processes are, whose groups are left over, and how groups are emptied.

What versions 1 and 2 have in common; their files are described in Linux's
Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, their mounts in proc(5) and cgroups(7).
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = [
    "CONTROLLERS",
    "PERIOD_US",
    "Kernel",
    "Place",
    "clear",
    "evacuate",
    "format_numbers",
    "home_of",
    "is_dead",
    "locate",
    "members",
    "name_root",
    "parse_numbers",
    "quota_us",
    "read",
    "remove",
    "roots",
    "start_ticks",
]

logger = logging.getLogger(__name__)

CONTROLLERS = ("cpu", "memory", "cpuset")
#: The kernel's own default; shorter ones stall less long and cost more.
PERIOD_US = 100_000
#: The kernel takes no smaller quota.
MIN_QUOTA_US = 1_000
#: A group whose last process is just ending cannot be removed yet.
REMOVE_TIMEOUT_S = 1.0

_ROOT = re.compile(r"(?P<prefix>.+)-(?P<pid>\d+)-(?P<ticks>\d+)-\d+")
_OCTAL = re.compile(r"\\([0-7]{3})")
_serial = itertools.count()


class Kernel:
    """Writes to the kernel, and raises its OSError; a test puts its own in this place."""

    def write(self, path: Path, text: str) -> None:
        """Write to an existing file, in one call as control files want it."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)

    def make(self, group: Path) -> None:
        """Make a group; one that exists already is taken as it is."""
        group.mkdir(exist_ok=True)

    def remove(self, group: Path) -> None:
        """Remove a group, which must have neither processes nor groups."""
        group.rmdir()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process is in one hierarchy.

    Attributes:
        path: the directory of its group.
        top: where the hierarchy is mounted: the outermost group that can be seen.
    """

    path: Path
    top: Path

    def upwards(self) -> Iterator[Path]:
        """Yield the group and those around it, innermost first."""
        yield self.path
        for parent in self.path.parents:
            if self.path == self.top or not parent.is_relative_to(self.top):
                return
            yield parent


def locate(proc: Path, pid: int | str = "self") -> dict[str, Place]:
    """Return the group of a process in every hierarchy that is mounted and visible.

    Args:
        proc: where procfs is mounted.
        pid: the process.

    Returns:
        By name of the controller for version 1, and `unified` for version 2.

    Raises:
        OSError: the process has ended, or there is no procfs.
    """
    groups: dict[str, str] = {}
    for line in (proc / str(pid) / "cgroup").read_text("utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(",") if controllers else ["unified"], group)
    places: dict[str, Place] = {}
    for names, root, top in _mounts(proc / "self" / "mountinfo"):
        for name in names & groups.keys() - places.keys():
            inside = _inside(groups[name], root)
            if inside is not None:
                places[name] = Place(top / inside, top)
    return places


def _mounts(mountinfo: Path) -> Iterator[tuple[set[str], str, Path]]:
    """Yield (controllers, group that is the root of the mount, mount point) of every hierarchy."""
    for line in mountinfo.read_text("utf-8").splitlines():
        mount, _, source = line.partition(" - ")
        kind, options = source.split(" ")[0], source.rpartition(" ")[2]
        root, top = (_OCTAL.sub(lambda m: chr(int(m[1], 8)), f) for f in mount.split(" ")[3:5])
        if kind == "cgroup":
            yield set(CONTROLLERS) & set(options.split(",")), root, Path(top)
        elif kind == "cgroup2":
            yield {"unified"}, root, Path(top)


def _inside(group: str, root: str) -> PurePosixPath | None:
    """Return a group relative to the root of a mount, None if it cannot be seen through it."""
    path = PurePosixPath(group)
    if ".." in path.parts or not path.is_relative_to(root):
        return None
    return path.relative_to(root)


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, None if it has ended.

    Field 22 of `/proc/<pid>/stat`; with the pid it names a process for good.
    """
    try:
        # The name of the program, field 2, is in brackets and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def name_root(prefix: str) -> str:
    """Return a name for the groups of this process that says who owns them."""
    return f"{prefix}-{os.getpid()}-{start_ticks(os.getpid())}-{next(_serial)}"


def is_dead(name: str, prefix: str) -> bool:
    """Whether a group bears a name of `name_root` whose owner has ended."""
    match = _ROOT.fullmatch(name)
    if match is None or match["prefix"] != prefix:
        return False
    return start_ticks(int(match["pid"])) != int(match["ticks"])


def home_of(place: Place, prefix: str) -> Path:
    """Return the group of a process, or the one around the leftovers that it still lives in."""
    home = place.path
    for path in place.upwards():
        if is_dead(path.name, prefix):
            home = path.parent
    return home


def roots(home: Path, prefix: str) -> list[Path]:
    """Return the groups in `home` whose owner has ended."""
    return [group for group in home.glob(f"{prefix}-*") if is_dead(group.name, prefix)]


def read(path: Path) -> str | None:
    """Return the text of a control file, None if it is not there."""
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return None


def members(group: Path) -> list[int]:
    """Return the processes of a group, without those of the groups in it."""
    # 0 is a process of another pid namespace; written back it would mean the writer.
    return [int(word) for word in (read(group / "cgroup.procs") or "").split() if word != "0"]


def evacuate(kernel: Kernel, group: Path, refuge: Path) -> None:
    """Move every process of a group elsewhere.

    Raises:
        OSError: `refuge` takes no processes.
    """
    for pid in members(group):
        try:
            kernel.write(refuge / "cgroup.procs", str(pid))
        except ProcessLookupError:
            continue


def remove(kernel: Kernel, group: Path, refuge: Path | None = None) -> None:
    """Remove a group, moving its processes to `refuge` before; log what the kernel refuses."""
    deadline_ns = time.monotonic_ns() + int(REMOVE_TIMEOUT_S * 1e9)
    while True:
        try:
            if refuge is not None:
                evacuate(kernel, group, refuge)
            kernel.remove(group)
            return
        except FileNotFoundError:
            return
        except OSError as err:
            if err.errno != errno.EBUSY or time.monotonic_ns() > deadline_ns:
                logger.warning("control group %s is left behind: %s", group, err.strerror)
                return
        time.sleep(0.005)


def clear(kernel: Kernel, root: Path, refuge: Path, keep: Iterable[Path] = ()) -> None:
    """Remove a group and all groups in it, except `keep`; survivors move to `refuge`."""
    for folder, _, _ in os.walk(root, topdown=False):
        if (group := Path(folder)) not in keep:
            remove(kernel, group, refuge)


def quota_us(share: float) -> int:
    """Return the quota per `PERIOD_US` that is a share of all cores."""
    return max(MIN_QUOTA_US, round(share * (os.cpu_count() or 1) * PERIOD_US))


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of the kernel's list format, such as `0-3,8`."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def format_numbers(numbers: Iterable[int]) -> str:
    """Return numbers in the kernel's list format."""
    return ",".join(map(str, sorted(numbers)))
