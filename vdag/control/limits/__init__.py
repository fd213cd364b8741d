"""How much of the machine a process, or the processes of a task together, may use.

Limits bind by control groups, of version 1 or 2, nested below the group the node itself is in; or,
where an operator declares it, by the weaker means of `vdag.control.limits.rlimits`.

Put a worker in as it starts (`place`): the kernel keeps memory with the group it was taken in, so
of a process that comes in later only what it takes from then on is bound.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import psutil

from vdag.control.limits.cgroups import Kernel, parse_numbers, read, start_ticks
from vdag.control.limits.enforcement import Claim, Enforcer, Limit, Mode
from vdag.control.limits.groups import GroupEnforcer
from vdag.control.limits.rlimits import RlimitEnforcer
from vdag.errors import ConfigError, LimitsUnavailable

__all__ = ["Limit", "Limits"]

#: A name becomes a component of a path, quoted, with a few bytes before it.
MAX_TASK_NAME_NBYTES = 240

_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,63}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A process in our care; with `ticks` its pid cannot be mistaken for a later one."""

    ticks: int
    task: str | None
    limit: Limit


class Limits:
    """Limits the processes of one node; safe to call from any thread.

    Nothing is made before the first limit. What is left of nodes that have ended is removed at
    once. `close` removes every group and leaves every process unlimited.

    Args:
        root_name: how control groups are called, letters, digits, `_` and `.`; nodes that share
            a machine may share the name.
        mode: `cgroup`, or `rlimit` for limits that are weaker and need no rights.
        proc: where procfs is mounted.
        kernel: where writes to control groups go.

    Raises:
        ConfigError: `root_name` or `mode` has no meaning.
    """

    def __init__(
        self,
        root_name: str = "vdag",
        *,
        mode: Literal["cgroup", "rlimit"] = "cgroup",
        proc: Path = Path("/proc"),
        kernel: Kernel | None = None,
    ) -> None:
        if not _PREFIX.fullmatch(root_name):
            raise ConfigError(f"root_name {root_name!r} is not a name of letters, digits, _ and .")
        if mode not in ("cgroup", "rlimit"):
            raise ConfigError(f"mode {mode!r} is unknown, expected cgroup or rlimit")
        self._lock = threading.Lock()
        self._entries: dict[int, _Entry] = {}
        self._tasks: dict[str, Limit] = {}
        self._enforcer: Enforcer = (
            RlimitEnforcer() if mode == "rlimit" else GroupEnforcer(root_name, proc, kernel)
        )

    def __enter__(self) -> Limits:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def mode(self) -> Mode:
        """What limits are enforced by; `none` where no control groups are to be had."""
        return self._enforcer.mode

    @property
    def refusal(self) -> str | None:
        """Why limits cannot be set, None as long as nothing is known to speak against it."""
        return self._enforcer.refusal

    def place(self, pid: int, task: str) -> None:
        """Put a process of ours under the limit of its task, best before it takes memory.

        Raises:
            ConfigError: the process or the name is none of ours.
            LimitsUnavailable: this machine does not allow limits.
        """
        _check_task(task)
        with self._lock:
            self._sweep()
            entry = replace(self._entry(pid), task=task)
            self._commit({pid: entry}, task, self._tasks.get(task, Limit()))
            self._check_alive(pid)

    def limit_process(self, pid: int, limit: Limit) -> None:
        """Limit one process, within the limit of its task.

        Args:
            pid: a child of this process, or of its children.
            limit: what changes; fields that are None stay as they are, 1.0 lifts.

        Raises:
            ConfigError: a value, the pid or a core is none.
            LimitsUnavailable: the process uses more memory than it would be allowed, or this
                machine does not allow limits. In either case what bound before still binds.
        """
        _check(limit)
        with self._lock:
            self._sweep()
            entry = self._entry(pid)
            entry = replace(entry, limit=entry.limit.merged(limit))
            if self._entries.get(pid) != entry:
                self._commit({pid: entry})
                self._check_alive(pid)

    def limit_task(self, task: str, pids: Iterable[int], limit: Limit) -> None:
        """Limit the processes of a task: together they use no more than `limit`.

        Args:
            task: name of the task; its limit also binds processes that are placed later.
            pids: its processes, as of `limit_process`; others placed before stay in.
            limit: what changes; fields that are None stay as they are, 1.0 lifts.

        Raises:
            ConfigError: as of `limit_process`, or the name of the task has no meaning.
            LimitsUnavailable: as of `limit_process`.
        """
        _check(limit)
        _check_task(task)
        with self._lock:
            self._sweep()
            joined = {pid: replace(self._entry(pid), task=task) for pid in pids}
            former = self._tasks.get(task)
            merged = (former or Limit()).merged(limit)
            # Callers repeat themselves before every frame.
            if merged != former or not joined.items() <= self._entries.items():
                self._commit(joined, task, merged)

    def limit_of(self, task: str) -> Limit:
        """Return what was set for a task, 1.0 where nothing was."""
        limit = self._tasks.get(task, Limit())
        asked = replace(Limit(1.0, 1.0), mode=self.mode)
        return asked.merged(limit)

    def applied(self, pid: int) -> Limit:
        """Return what binds a process at this moment, read from the kernel.

        Limits that others have set around the node count as well. `mode` is `none` for a process
        that is not in our care.

        Raises:
            ConfigError: there is no such process.
        """
        try:
            return self._enforcer.applied(pid)
        except (FileNotFoundError, ProcessLookupError) as err:
            raise ConfigError(f"pid {pid} does not exist") from err

    def release(self, pid: int) -> None:
        """Lift what was set for a process, and take it out of its task's limit.

        Ended processes may be released, and processes that were never limited.
        """
        with self._lock:
            self._forget(pid)

    def close(self) -> None:
        """Release every process and remove every group; further limits make them anew."""
        with self._lock:
            self._entries, self._tasks = {}, {}
            self._enforcer.close()

    def _commit(
        self, changed: dict[int, _Entry], task: str | None = None, shared: Limit | None = None
    ) -> None:
        """Bind what has changed, or leave everything as it was and raise."""
        entries, tasks = self._entries, self._tasks
        self._entries = entries | changed
        if task is not None and shared is not None:
            self._tasks = tasks | {task: shared}
        try:
            self._bind(task, changed)
        except (ConfigError, LimitsUnavailable):
            self._entries, self._tasks = entries, tasks
            for pid in changed.keys() - entries.keys():
                self._enforcer.release(pid)
            with contextlib.suppress(ConfigError, LimitsUnavailable):
                self._bind(task, changed.keys() & entries.keys())
            raise

    def _bind(self, task: str | None, pids: Iterable[int]) -> None:
        """Bind a task with all its processes, or some processes alone, as their entries say."""
        together = dict.fromkeys(pids)
        if task is not None:
            together |= dict.fromkeys(self._of(task))
        claims = [self._claim(pid) for pid in together]
        if any(claim.cpus() == () or claim.mems() == () for claim in claims):
            raise ConfigError("cpu_set of a process and of its task have nothing in common")
        if task is not None:
            self._enforcer.share(task, self._tasks.get(task, Limit()))
        for claim in claims:
            try:
                self._enforcer.apply(claim)
            except ProcessLookupError:
                self._forget(claim.pid)

    def _claim(self, pid: int) -> Claim:
        entry = self._entries[pid]
        if entry.task is None:
            return Claim(pid, None, entry.limit, Limit(), 1)
        shared = self._tasks.get(entry.task, Limit())
        return Claim(pid, entry.task, entry.limit, shared, len(self._of(entry.task)))

    def _of(self, task: str) -> list[int]:
        return [pid for pid, entry in self._entries.items() if entry.task == task]

    def _check_alive(self, pid: int) -> None:
        if pid not in self._entries:
            raise ConfigError(f"pid {pid} does not exist")

    def _forget(self, pid: int) -> None:
        self._entries.pop(pid, None)
        self._enforcer.release(pid)

    def _entry(self, pid: int) -> _Entry:
        """Return the entry of a process, a new one if it is ours and not yet known."""
        if (known := self._entries.get(pid)) is not None:
            return known
        if isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0:
            raise ConfigError(f"pid {pid!r} is not a process id")
        ticks = start_ticks(pid)
        try:
            parents = {process.pid for process in psutil.Process(pid).parents()}
        except psutil.Error:
            ticks, parents = None, set()
        if ticks is None:
            raise ConfigError(f"pid {pid} does not exist")
        if pid == os.getpid():
            raise ConfigError(f"pid {pid} is the node itself, only its workers can be limited")
        if os.getpid() not in parents:
            raise ConfigError(f"pid {pid} is not a process of this node")
        return _Entry(ticks, None, Limit())

    def _sweep(self) -> None:
        """Forget processes that have ended, before somebody else gets their pid."""
        for pid, entry in list(self._entries.items()):
            if start_ticks(pid) != entry.ticks:
                self._forget(pid)


def _check_task(task: str) -> None:
    if not 0 < len(quote(task, safe="")) <= MAX_TASK_NAME_NBYTES:
        raise ConfigError(f"task name {task[:80]!r} has not 1 to {MAX_TASK_NAME_NBYTES} bytes")


def _check(limit: Limit) -> None:
    for name in ("cpu_util_limit", "mem_util_limit"):
        value = getattr(limit, name)
        # Written so that a NaN fails, too.
        if value is not None and not 0 < value <= 1:
            raise ConfigError(f"{name} {value:g} is not above 0 and up to 1")
    _check_numbers("cpu_set_cpus", limit.cpu_set_cpus, "cpu/online")
    _check_numbers("cpu_set_mems", limit.cpu_set_mems, "node/online")


def _check_numbers(name: str, numbers: tuple[int, ...] | None, online: str) -> None:
    if numbers is None:
        return
    if not numbers:
        raise ConfigError(f"{name} is empty")
    # A kernel without NUMA has one memory node and no file that says so.
    text = read(Path("/sys/devices/system") / online) or "0"
    if strange := sorted(set(numbers) - set(parse_numbers(text))):
        raise ConfigError(f"{name} has {strange[0]}, this machine has {text}")
