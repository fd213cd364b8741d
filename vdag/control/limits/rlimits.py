"""Limits without control groups: weaker, and only where an operator has asked for them.

Weaker, because the bounds are not what they say: memory is bounded as address space, which counts
what is mapped and never touched; a share of the CPU becomes whole cores, at least one, and a
process may share those with others; the processes of a task share its cores, and divide its
memory evenly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from vdag.control.limits.enforcement import Claim, Limit, Mode
from vdag.errors import LimitsUnavailable

__all__ = ["RlimitEnforcer"]

logger = logging.getLogger(__name__)

#: Added to the niceness of a process with a share of the CPU: cores it shares go to others first.
_NICER = 5
_LOWEST = 19
#: Rounds in which threads that start while others are bound are caught.
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class _Former:
    """How a process was before its first limit."""

    address_space: int
    cpus: frozenset[int]
    niceness: int


class RlimitEnforcer:
    """Limits processes by RLIMIT_AS, CPU affinity and niceness.

    Attributes:
        refusal: None; what a process does not allow is said when it is limited.
    """

    mode: Mode = "rlimit"
    refusal: str | None = None

    def __init__(self) -> None:
        self._total_nbytes = psutil.virtual_memory().total
        self._formers: dict[int, _Former] = {}

    def share(self, task: str, limit: Limit) -> None:
        """Do nothing: what a task shares is bound process by process."""
        if limit.cpu_set_mems is not None:
            raise LimitsUnavailable("cpu_set_mems needs control groups")

    def apply(self, claim: Claim) -> None:
        """Bind a process."""
        if claim.mems() is not None:
            raise LimitsUnavailable("cpu_set_mems needs control groups")
        try:
            former = self._formers.setdefault(claim.pid, _former(claim.pid))
            cpus = self._cpus(claim, former)
            self._set_memory(claim.pid, former, _memory(claim))
            _each_thread(claim.pid, lambda thread: os.sched_setaffinity(thread, cpus))
            shares = (claim.own.cpu_util_limit, claim.shared.cpu_util_limit)
            limited = any(share is not None and share < 1 for share in shares)
            wanted = min(_LOWEST, former.niceness + _NICER) if limited else former.niceness
            _set_niceness(claim.pid, wanted)
        except LimitsUnavailable:
            raise
        except PermissionError as err:
            raise LimitsUnavailable(f"pid {claim.pid} may not be limited: {err.strerror}") from err

    def release(self, pid: int) -> None:
        """Give a process its address space, its cores and, with the right to, its niceness."""
        if (former := self._formers.pop(pid, None)) is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._set_memory(pid, former, 1.0)
            _each_thread(pid, lambda thread: os.sched_setaffinity(thread, former.cpus))
            _set_niceness(pid, former.niceness)

    def applied(self, pid: int) -> Limit:
        """Return address space and cores of a process, as shares of the machine's."""
        soft, _ = resource.prlimit(pid, resource.RLIMIT_AS)
        cpus = sorted(os.sched_getaffinity(pid))
        memory = 1.0 if soft == resource.RLIM_INFINITY else min(1.0, soft / self._total_nbytes)
        return Limit(
            cpu_util_limit=len(cpus) / (os.cpu_count() or 1),
            mem_util_limit=round(memory, 4),
            cpu_set_cpus=tuple(cpus),
            cpu_set_mems=(0,),
            mode="rlimit" if pid in self._formers else "none",
        )

    def close(self) -> None:
        """Let every process go."""
        for pid in list(self._formers):
            try:
                self.release(pid)
            except OSError as err:
                logger.warning("pid %s stays limited: %s", pid, err.strerror)

    def _set_memory(self, pid: int, former: _Former, share: float) -> None:
        # The hard limit stays as it is, for without privilege it could never be raised again.
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        soft = former.address_space if share >= 1 else int(share * self._total_nbytes)
        if hard != resource.RLIM_INFINITY and soft != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))

    def _cpus(self, claim: Claim, former: _Former) -> frozenset[int]:
        """Return the cores of a process: some of those of its task, which are some of its own."""
        asked = claim.cpus()
        allowed = sorted(former.cpus if asked is None else former.cpus & set(asked))
        if not allowed:
            raise LimitsUnavailable(f"pid {claim.pid} may run on none of the cores {asked}")
        # All processes of a task must come to the same cores, other tasks rather to others.
        shared = _some(allowed, claim.shared.cpu_util_limit, claim.task or "")
        return frozenset(_some(shared, claim.own.cpu_util_limit, str(claim.pid)))


def _some(cpus: list[int], share: float | None, key: str) -> list[int]:
    """Return as many cores as a share of all the machine's fills, at least one."""
    if share is None or share >= 1:
        return cpus
    count = min(len(cpus), max(1, int(share * (os.cpu_count() or 1))))
    first = zlib.crc32(key.encode()) % len(cpus)
    return sorted((cpus[first:] + cpus[:first])[:count])


def _memory(claim: Claim) -> float:
    own, shared = claim.own.mem_util_limit or 1.0, claim.shared.mem_util_limit or 1.0
    return min(own, shared / claim.peers) if shared < 1 else own


def _former(pid: int) -> _Former:
    soft, _ = resource.prlimit(pid, resource.RLIMIT_AS)
    cpus = frozenset(os.sched_getaffinity(pid))
    return _Former(soft, cpus, os.getpriority(os.PRIO_PROCESS, pid))


def _each_thread(pid: int, bind: Callable[[int], None]) -> None:
    """Do to every thread what the kernel does to one: later threads inherit it."""
    done: set[int] = set()
    for _ in range(_ROUNDS):
        try:
            threads = {int(name) for name in os.listdir(f"/proc/{pid}/task")} - done
        except FileNotFoundError as err:
            raise ProcessLookupError(err.errno, err.strerror, str(pid)) from err
        if not threads:
            return
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                bind(thread)
        done |= threads


def _set_niceness(pid: int, niceness: int) -> None:
    try:
        _each_thread(pid, lambda thread: os.setpriority(os.PRIO_PROCESS, thread, niceness))
    except PermissionError:
        # Anybody may be nicer; only some may stop being so.
        logger.warning("pid %s keeps its niceness: lowering it needs CAP_SYS_NICE", pid)
