"""A kernel's control groups of version 2, in a folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from vdag.control.limits import cgroups
from vdag.control.limits.cgroups import Kernel

FILES = {
    "cpu": {"cpu.max": "max 100000", "cpu.weight": "100"},
    "memory": {"memory.max": "max", "memory.swap.max": "max", "memory.stat": "anon 0\nshmem 0"},
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
}


class FakeKernel(Kernel):
    """A hierarchy in a folder, and a procfs beside it.

    Rules, of Documentation/admin-guide/cgroup-v2.rst: a controller is handed down from the group
    around; a group that hands down takes no processes, and one with processes hands nothing down,
    except the root; a controller that is handed on cannot be withdrawn.
    """

    def __init__(self, folder: Path, controllers: str = "cpu io memory cpuset pids") -> None:
        self.proc, self.top = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        mountinfo = f"30 24 0:27 / {self.top} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
        (self.proc / "self/mountinfo").write_text(mountinfo)
        self.top.mkdir()
        self._fill(self.top, controllers)
        self.writes: list[tuple[str, str]] = []
        self.read_only = False

    def delegate(self, *groups: str) -> None:
        """Make groups, each with all controllers, as an init system does."""
        path = self.top
        for name in groups:
            words = (path / "cgroup.controllers").read_text().split()
            self.write(path / "cgroup.subtree_control", " ".join(f"+{word}" for word in words))
            path = path / name
            self.make(path)

    def enter(self, pid: int, group: str) -> None:
        self.write(self.top / group / "cgroup.procs", str(pid))

    def make(self, group: Path) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(group))
        if not group.is_dir():
            group.mkdir()
            self._fill(group, (group.parent / "cgroup.subtree_control").read_text())

    def _fill(self, group: Path, controllers: str) -> None:
        (group / "cgroup.controllers").write_text(controllers)
        (group / "cgroup.subtree_control").write_text("")
        (group / "cgroup.procs").write_text("")
        for controller in controllers.split() if group != self.top else ():
            for name, text in FILES.get(controller, {}).items():
                (group / name).write_text(text)

    def remove(self, group: Path) -> None:
        if not group.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(group))
        if cgroups.members(group) or any(path.is_dir() for path in group.iterdir()):
            raise self._busy(group)
        shutil.rmtree(group)

    def write(self, path: Path, text: str) -> None:
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self.writes.append((str(path.relative_to(self.top)), text))
        if path.name == "cgroup.procs":
            self._move(int(text), path.parent)
        elif path.name == "cgroup.subtree_control":
            for word in text.split():
                (self._hand_down if word[0] == "+" else self._withdraw)(path.parent, word[1:])
        else:
            self._check_value(path.name, text)
            path.write_text(text.strip())

    def _check_value(self, name: str, text: str) -> None:
        if name == "cpu.max":
            match = re.fullmatch(r"(max|\d+) (\d+)", text)
            assert match is not None
            assert match[1] == "max" or int(match[1]) >= 1000
        elif name.startswith("memory."):
            assert text == "max" or int(text) % os.sysconf("SC_PAGE_SIZE") == 0

    def _move(self, pid: int, group: Path) -> None:
        if cgroups.start_ticks(pid) is None:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(group))
        if group != self.top and (group / "cgroup.subtree_control").read_text():
            raise self._busy(group)
        for procs in self.top.rglob("cgroup.procs"):
            pids = [word for word in procs.read_text().split() if word != str(pid)]
            procs.write_text("\n".join([*pids, str(pid)] if procs.parent == group else pids))
        for name in {str(pid), "self"} if pid == os.getpid() else {str(pid)}:
            (self.proc / name).mkdir(exist_ok=True)
            inside = group.relative_to(self.top).as_posix().removeprefix(".")
            (self.proc / name / "cgroup").write_text(f"0::/{inside}\n")

    def _hand_down(self, group: Path, controller: str) -> None:
        if controller not in (group / "cgroup.controllers").read_text().split():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(group))
        if group != self.top and cgroups.members(group):
            raise self._busy(group)
        self._edit(group, controller, True)

    def _withdraw(self, group: Path, controller: str) -> None:
        for child in filter(Path.is_dir, group.iterdir()):
            if controller in (child / "cgroup.subtree_control").read_text().split():
                raise self._busy(group)
        self._edit(group, controller, False)

    def _edit(self, group: Path, controller: str, on: bool) -> None:
        for path in (group / "cgroup.subtree_control", *group.glob("*/cgroup.controllers")):
            words = [word for word in path.read_text().split() if word != controller]
            path.write_text(" ".join([*words, controller] if on else words))
        for child in filter(Path.is_dir, group.iterdir()):
            for name, text in FILES.get(controller, {}).items():
                if on and not (child / name).exists():
                    (child / name).write_text(text)
                elif not on:
                    (child / name).unlink()

    def _busy(self, group: Path) -> OSError:
        return OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(group))

    def tree(self) -> dict[str, list[int]]:
        """Every group with the processes in it."""
        folders = [self.top, *(path for path in self.top.rglob("*") if path.is_dir())]
        return {str(path.relative_to(self.top)): cgroups.members(path) for path in folders}
