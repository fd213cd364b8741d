"""What a limit is, and the seam behind which something enforces it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal, Protocol

__all__ = ["Claim", "Enforcer", "Limit", "Mode"]

Mode = Literal["none", "cgroup1", "cgroup2", "rlimit"]


@dataclass(frozen=True, slots=True)
class Limit:
    """Upper bounds of what a process, or the processes of a task together, may use.

    When it is set, None leaves a field as it is, and 1.0 lifts it. As `Limits.applied` returns
    it, no field is None.

    Attributes:
        cpu_util_limit: share of the time of ALL cores, above 0 to 1.
        mem_util_limit: share of the machine's memory, above 0 to 1.
        cpu_set_cpus: numbers of the cores it may run on.
        cpu_set_mems: numbers of the memory nodes it may allocate on.
        mode: what enforces it; said by `Limits.applied`, without meaning when it is set.
    """

    cpu_util_limit: float | None = None
    mem_util_limit: float | None = None
    cpu_set_cpus: tuple[int, ...] | None = None
    cpu_set_mems: tuple[int, ...] | None = None
    mode: Mode = field(default="none", compare=False)

    def merged(self, newer: Limit) -> Limit:
        """Return this limit with every field of `newer` that is not None."""
        values = {f.name: getattr(newer, f.name) for f in fields(newer) if f.compare}
        return replace(self, **{name: v for name, v in values.items() if v is not None})


@dataclass(frozen=True, slots=True)
class Claim:
    """All that is asked for one process.

    Attributes:
        pid: of the process.
        task: what it works for, None if it is limited alone.
        own: its own limit.
        shared: the limit of its task, which its processes share.
        peers: processes of the task, this one among them; 1 without a task.
    """

    pid: int
    task: str | None
    own: Limit
    shared: Limit
    peers: int

    def cpus(self) -> tuple[int, ...] | None:
        """Return the cores that both limits allow, None where neither names any."""
        return _both(self.own.cpu_set_cpus, self.shared.cpu_set_cpus)

    def mems(self) -> tuple[int, ...] | None:
        """Return the memory nodes that both limits allow, None where neither names any."""
        return _both(self.own.cpu_set_mems, self.shared.cpu_set_mems)


def _both(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if one is None or other is None:
        return one if other is None else other
    return tuple(sorted(set(one) & set(other)))


class Enforcer(Protocol):
    """Makes limits bind. Called under a lock, with processes that were checked to be ours.

    Every method raises LimitsUnavailable where the machine does not allow what is asked.

    Attributes:
        mode: how.
        refusal: why limits cannot be set, None while nothing speaks against it.
    """

    mode: Mode
    refusal: str | None

    def share(self, task: str, limit: Limit) -> None:
        """Bind what the processes of a task use together."""
        ...

    def apply(self, claim: Claim) -> None:
        """Bind a process, taking it in first if it is new or has changed its task."""
        ...

    def release(self, pid: int) -> None:
        """Let a process go as it came; it may have ended."""
        ...

    def applied(self, pid: int) -> Limit:
        """Return what binds a process at this moment, as the kernel says it."""
        ...

    def close(self) -> None:
        """Let every process go, and remove whatever was made."""
        ...
