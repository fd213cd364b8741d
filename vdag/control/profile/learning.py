"""`Experience`: what running queries teach about nodes, beside what was measured before.

Per node and task there is a factor by which it is slower than predicted. It follows what is
reported within some tens of frames. Per model and resolution there is a correction, which follows
slowly. A node that loses half of its cores gets slow at everything at once, and fast again
likewise: that is the factor, and it holds for resolutions that were not tried since. What the
profile has wrong about one resolution is the correction, and stays.

Both are logarithms. A report moves the prediction part of the way to what it says: by the half-life
in frames, or by its share of all frames while these are few. It never counts for more than a factor
of four. So one mad report does little, and a lying node spoils the prediction of itself alone, and
that within bounds.

A report of batches is compared with what batches of their size take, where that was measured. Where
it was not, their whole time counts as that of a frame: a node that has too little CPU makes batches
as well, and must not look fast for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vdag.control.profile.costs import (
    MAX_BATCH,
    MAX_COMPUTE_S,
    MAX_SAMPLES,
    MIN_COMPUTE_S,
    Cost,
)

__all__ = ["HALF_LIFE_FRAMES", "Experience", "Learned", "Report", "is_slowdown", "read_report"]

#: Frames after which what was observed before counts half.
HALF_LIFE_FRAMES = 30.0
#: Frames that a prediction without any observation is worth.
PRIOR_FRAMES = 5.0
#: The most that one report counts for.
MAX_STEP = math.log(4.0)
#: Bound of a factor.
MAX_SLOWDOWN = 1000.0
MAX_LOG = math.log(MAX_SLOWDOWN)
#: Share of a step that the slow correction takes, and what it can come to.
SLOW_SHARE = 0.05
MAX_CORRECTION = math.log(4.0)
#: Bound of the 95th percentile over the mean.
MAX_TAIL = 20.0
#: Most objects that a frame is believed to have.
MAX_OBJECTS = 10_000.0
#: Nodes about which something is kept; beyond, the one that was silent for longest is forgotten.
MAX_NODES = 20_000
#: What one node can make us keep: tasks, and corrections of each.
MAX_TASKS, MAX_CORRECTIONS = 64, 256


class Report(NamedTuple):
    """What frames took, in the mean and of 95 %, in seconds; how many; objects of each; batches."""

    mean_s: float
    p95_s: float
    frames: float
    obj_n: float | None
    batch: float = 1.0


def read_report(
    mean_s: object, p95_s: object, frames: object, obj_n: object, batch: object = 1.0
) -> Report | None:
    """Return a report, its percentile at least its mean; None to refuse it.

    Reports come from other machines: not a number, negative and absurd ones are refused.
    """
    numbers = []
    for value, low, high in (
        (mean_s, MIN_COMPUTE_S, MAX_COMPUTE_S),
        (p95_s, 0.0, MAX_COMPUTE_S),
        (frames, 1.0, float(MAX_SAMPLES)),
        (0.0 if obj_n is None else obj_n, 0.0, MAX_OBJECTS),
        (batch, 0.0, float(MAX_BATCH)),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if not low <= value <= high:  # true for not a number
            return None
        numbers.append(float(value))
    mean, p95, count, objects, together = numbers
    objects_or_not = None if obj_n is None else objects
    return Report(mean, max(mean, p95), count, objects_or_not, max(together, 1.0))


def is_slowdown(value: object) -> bool:
    """Whether a value is a factor that a node can be slower or faster by."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 1 / MAX_SLOWDOWN <= value <= MAX_SLOWDOWN


@dataclass(slots=True)
class Learned:
    """What is known of a task on a node.

    Attributes:
        log_factor: logarithm of by how much it is slower than predicted.
        frames: observed, up to a bound.
        tail: 95th percentile over mean; 0 for not observed.
        corrections: further logarithms, by model and pixels.
    """

    log_factor: float = 0.0
    frames: float = 0.0
    tail: float = 0.0
    corrections: dict[tuple[int, int], float] = field(default_factory=dict)

    def copy(self) -> Learned:
        """Return one that does not change with this one."""
        return replace(self, corrections=dict(self.corrections))

    def applied(self, cost: Cost, model_id: int, pixels: int) -> Cost:
        """Return a predicted cost as it is here."""
        log = self.log_factor + self.corrections.get((model_id, pixels), 0.0)
        scaled = cost.scaled(math.exp(_clamp(log, MAX_LOG)))
        if not self.tail:
            return scaled
        excess_s = (self.tail - 1.0) * scaled.mean_s()
        return replace(scaled, compute_p95_s=min(scaled.compute_s + excess_s, MAX_COMPUTE_S))

    def learn(
        self, cost: Cost, model_id: int, pixels: int, report: Report, half_life: float
    ) -> None:
        """Take in a report.

        Args:
            cost: what was measured before, without anything learned.
            model_id: which model.
            pixels: of the frames.
            report: what it says.
            half_life: in frames.
        """
        step = _gain(report.frames, self.frames, half_life)
        predicted = self.applied(cost, model_id, pixels)
        predicted_s = predicted.mean_s(report.obj_n) * predicted.stretch(report.batch)
        error = _clamp(math.log(report.mean_s / predicted_s), MAX_STEP)
        tail = min(report.p95_s / report.mean_s, MAX_TAIL)
        self.tail = self.tail + (tail - self.tail) * step if self.tail else tail
        self.log_factor = _clamp(self.log_factor + (1 - SLOW_SHARE) * step * error, MAX_LOG)
        slow = self.corrections.pop((model_id, pixels), 0.0) + SLOW_SHARE * step * error
        if len(self.corrections) >= MAX_CORRECTIONS:
            del self.corrections[next(iter(self.corrections))]
        self.corrections[model_id, pixels] = _clamp(slow, MAX_CORRECTION)
        self.frames = min(self.frames + report.frames, 4 * half_life)


@dataclass(slots=True)
class _Node:
    """What is known of a node: its tasks, and a slowdown that somebody has told."""

    tasks: dict[str, Learned] = field(default_factory=dict)
    told: float | None = None


class Experience:
    """See the module.

    Args:
        half_life: observed frames after which earlier ones count half.
    """

    def __init__(self, half_life: float = HALF_LIFE_FRAMES) -> None:
        self._half_life = half_life
        self._nodes: dict[str, _Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[tuple[str, str, Learned]]:
        for node_addr, node in self._nodes.items():
            for task, learned in node.tasks.items():
                yield node_addr, task, learned

    def of(self, node_addr: str, task: str) -> Learned | None:
        """Return what is known of a task on a node, None for nothing."""
        node = self._nodes.get(node_addr)
        return None if node is None else node.tasks.get(task)

    def log_factor(self, node_addr: str) -> float | None:
        """Return the logarithm of a node's slowdown at tasks that it was not seen at.

        It is what was told, else the mean of the tasks that it was seen at; None for not known.
        """
        node = self._nodes.get(node_addr)
        if node is None:
            return None
        total = sum(learned.frames for learned in node.tasks.values())
        if node.told is not None or not total:
            return node.told
        return sum(each.log_factor * each.frames for each in node.tasks.values()) / total

    def put(self, node_addr: str, task: str, learned: Learned) -> bool:
        """Set what is known of a task on a node; return whether there is room."""
        node = self._touch(node_addr)
        if task not in node.tasks and len(node.tasks) >= MAX_TASKS:
            return False
        node.tasks[task] = learned
        return True

    def take(
        self,
        node_addr: str,
        task: str,
        *,
        start: float,
        cost: Cost,
        model_id: int,
        pixels: int,
        report: Report,
    ) -> bool:
        """Take in a report; return whether there is room for what it teaches.

        Args:
            node_addr: the node.
            task: what it ran.
            start: logarithm of its slowdown so far, where nothing is known of this task.
            cost: what was measured before.
            model_id: which model.
            pixels: of the frames.
            report: what it says.
        """
        learned = self.of(node_addr, task) or Learned(start)
        if not self.put(node_addr, task, learned):
            return False
        learned.learn(cost, model_id, pixels, report, self._half_life)
        return True

    def tell(self, node_addr: str, slowdown: float) -> None:
        """Set a node's slowdown at tasks that it was not seen at."""
        self._touch(node_addr).told = math.log(slowdown)

    def forget(self, node_addr: str) -> None:
        """Forget a node."""
        self._nodes.pop(node_addr, None)

    def _touch(self, node_addr: str) -> _Node:
        """Return a node as the one heard of last."""
        node = self._nodes.pop(node_addr, None) or _Node()
        if len(self._nodes) >= MAX_NODES:
            del self._nodes[next(iter(self._nodes))]
        self._nodes[node_addr] = node
        return node


def _gain(frames: float, seen: float, half_life: float) -> float:
    """Return how far new frames move what earlier ones said, 0 to 1."""
    kept = math.exp(-math.log(2.0) * frames / half_life)
    return max(1.0 - kept, frames / (frames + seen + PRIOR_FRAMES))


def _clamp(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)
