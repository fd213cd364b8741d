"""`SchedulerSettings`: the scheduler's times and bounds."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vdag.errors import ConfigError

__all__ = ["SchedulerSettings"]

_NS = 1_000_000_000
#: Longer than any of these has a meaning for.
MAX_S = 3600.0


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Times in seconds, above 0 to an hour.

    Attributes:
        period_s: between two looks at a query whose runtime goes on coming.
        alarm_s: likewise at the least where the runtime says that something has happened.
        policy_timeout_s: for the answer to a question.
        node_timeout_s: after which a silent node is lost. The re-placing of its tasks starts then,
            so nodes should report several times within it.
        pull_timeout_s: likewise for nodes that ask for their plans, every 4 s or so.
        push_period_s: after which a plan is repeated to a node that never asks.
        remembered: queries that are over and still known, at least 1.

    Raises:
        ConfigError: a value is out of range.
    """

    period_s: float = 2.0
    alarm_s: float = 0.5
    policy_timeout_s: float = 1.0
    node_timeout_s: float = 2.5
    pull_timeout_s: float = 12.0
    push_period_s: float = 3.0
    remembered: int = 1000

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name != "remembered" and not 0 < value <= MAX_S:
                raise ConfigError(f"{each.name} {value:g} is not above 0 to {MAX_S:g}")
        if self.remembered < 1:
            raise ConfigError(f"remembered {self.remembered} is not at least 1")

    @property
    def period_ns(self) -> int:
        """`period_s` in nanoseconds."""
        return round(self.period_s * _NS)

    @property
    def alarm_ns(self) -> int:
        """`alarm_s` in nanoseconds."""
        return round(self.alarm_s * _NS)

    @property
    def policy_timeout_ns(self) -> int:
        """`policy_timeout_s` in nanoseconds."""
        return round(self.policy_timeout_s * _NS)

    @property
    def push_period_ns(self) -> int:
        """`push_period_s` in nanoseconds."""
        return round(self.push_period_s * _NS)

    def silence_ns(self, dialect: str) -> int:
        """Return how long a node of a dialect may be silent, in nanoseconds."""
        return round((self.pull_timeout_s if dialect == "pull" else self.node_timeout_s) * _NS)
