"""`Ledger`: what became of each frame of a query, second by second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from vdag.control.simulation.outcome import Window
from vdag.plan import Constraint, Plan

__all__ = ["Ledger", "is_met", "quantile"]

_NS = 1_000_000_000
#: Bounds hold if they are not exceeded by more than rounding does.
TOLERANCE = 1e-9

#: Plan, rate at which its frames come through, and time in seconds, to what that is worth.
Worth = Callable[[Plan, float, float], float]


@dataclass(slots=True)
class _Second:
    """The frames taken in one second: how many, what became of them, under which plans."""

    taken: int = 0
    dropped: int = 0
    delays: list[float] = field(default_factory=list)
    plans: Counter[int] = field(default_factory=Counter)
    last: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether anything has become of a frame; at the end of a run it may be too early."""
        return bool(self.delays or self.dropped)


class Ledger:
    """The books of one query's frames, by the second in which they were taken.

    A frame counts where it was taken, not where it came home: so a second's figures do not depend
    on how slow the one before was. Seconds count from the first frame; the last one, which is not
    over, is left out.
    """

    def __init__(self) -> None:
        self._begin_ns: int | None = None
        self._seconds: dict[int, _Second] = {}
        self._open: dict[int, _Second] = {}
        self._plans: dict[int, Plan] = {}

    def capture(self, seq: int, now_ns: int, plan: Plan) -> None:
        """Note that a frame was taken, under a plan."""
        if self._begin_ns is None:
            self._begin_ns = now_ns
        index = (now_ns - self._begin_ns) // _NS
        second = self._seconds.get(index)
        if second is None:
            second = self._seconds[index] = _Second()
        second.taken += 1
        second.last = plan.number
        second.plans[plan.number] += 1
        self._plans[plan.number] = plan
        self._open[seq] = second

    def deliver(self, seq: int, delay_s: float) -> None:
        """Note that its result is there."""
        self._open.pop(seq).delays.append(delay_s)

    def drop(self, seq: int) -> None:
        """Note that there will be none."""
        self._open.pop(seq).dropped += 1

    def windows(self, constraint: Constraint, worth: Worth, end_ns: int) -> tuple[Window, ...]:
        """Return the seconds that were over by `end_ns`."""
        if self._begin_ns is None:
            return ()
        over_s = (end_ns - self._begin_ns) / _NS - 1.0
        bound_s = constraint.delay_s[1]
        return tuple(
            self._window(index, second, constraint, worth)
            for index, second in self._seconds.items()
            if index <= over_s and (second.is_settled or 0 <= bound_s < over_s - index)
        )

    def _window(self, index: int, second: _Second, constraint: Constraint, worth: Worth) -> Window:
        assert self._begin_ns is not None, "there is a second"
        start_s = self._begin_ns / _NS + index
        results = len(second.delays)
        delay_p95 = quantile(sorted(second.delays), 0.95) if results else math.inf
        accuracy = 0.0
        if results:
            total = sum(second.plans.values())
            for number, count in second.plans.items():
                plan = self._plans[number]
                fps = plan.video_conf.fps * results / second.taken
                accuracy += count / total * worth(plan, fps, start_s)
        return Window(
            start_s, second.taken, results, second.dropped, delay_p95, accuracy,
            float(results), second.last, is_met(constraint, delay_p95, accuracy),
        )  # fmt: skip


def quantile(ranked: list[float], share: float) -> float:
    """Return the `ceil(share n)`-th smallest of n sorted numbers, of which there is one."""
    return ranked[max(math.ceil(share * len(ranked)) - 1, 0)]


def is_met(constraint: Constraint, delay_p95: float, accuracy: float) -> bool:
    """Whether results keep the upper bound of the delay and that of the accuracy."""
    high = constraint.delay_s[1]
    in_time = high < 0 or delay_p95 <= high + TOLERANCE
    return in_time and (constraint.accuracy is None or accuracy >= constraint.accuracy - TOLERANCE)
