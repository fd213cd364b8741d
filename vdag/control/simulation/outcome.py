"""`Outcome`: what came of a simulation: windows of a second per query, books, and what it cost."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vdag.plan import Plan

__all__ = ["Books", "Cost", "Outcome", "PlanChange", "QueryOutcome", "Window"]


class Window(NamedTuple):
    """The frames that were taken within one second of a query.

    Attributes:
        start_s: when it began.
        taken: frames that the camera gave to be processed.
        results: of them, those that came home.
        dropped: of them, those that were given up.
        delay_p95: seconds that 95 % of the results did not exceed; infinite without any.
        accuracy: of the results at the rate at which they came, 0 without any.
        fps: results per second.
        plan: number of the plan of the last of the frames.
        met: both bounds of the constraint hold.
    """

    start_s: float
    taken: int
    results: int
    dropped: int
    delay_p95: float
    accuracy: float
    fps: float
    plan: int
    met: bool


class PlanChange(NamedTuple):
    """A plan that came into force.

    Attributes:
        at_s: when.
        number: its number.
        what: all that it asks for, in words.
    """

    at_s: float
    number: int
    what: str

    @classmethod
    def of(cls, at_s: float, plan: Plan) -> PlanChange:
        """Return that a plan came into force at a moment."""
        conf = plan.video_conf
        places = (
            f"{task}={place.model_id}@{place.node_addr}"
            for task, place in plan.flow_mapping.items()
        )
        limits = (f"{task}<{limit.cpu_util_limit:g}" for task, limit in plan.resource_limit.items())
        words = (f"{conf.resolution}/{conf.fps:g}", conf.encoder, *places, *limits)
        return cls(at_s, plan.number, " ".join(words))


@dataclass(frozen=True, slots=True)
class Books:
    """Where the frames of a query are: `taken = delivered + dropped + in_flight`.

    Attributes:
        taken: by its job.
        delivered: with a result.
        dropped: reason to number.
        in_flight: at the end.
    """

    taken: int = 0
    delivered: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    in_flight: int = 0

    @property
    def balance(self) -> int:
        """Frames that are nowhere: 0, or the simulation is wrong."""
        return self.taken - self.delivered - sum(self.dropped.values()) - self.in_flight


@dataclass(frozen=True, slots=True)
class QueryOutcome:
    """What came of one query.

    Attributes:
        name: of it.
        windows: by rising `start_s`; seconds without a frame are not in it.
        plans: its plans, and when each came into force.
        books: its frames.
        faults: questions that its policy had no answer to.
    """

    name: str
    windows: Sequence[Window]
    plans: Sequence[PlanChange]
    books: Books
    faults: int = 0

    @property
    def plan_changes(self) -> int:
        """Plans after the first."""
        return max(len(self.plans) - 1, 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """What scheduling took of the machine that simulates, in CPU seconds.

    Attributes:
        rounds: times that all due questions were asked.
        questions: that were asked.
        changes: plans that came into force.
        scheduler_s: in the scheduler, for queries.
        policy_s: in the policies.
        nodes_s: in the scheduler, for what nodes report of themselves.
        round_p95_s: the seconds that 95 % of the rounds did not exceed.
        round_max_s: of the longest.
    """

    rounds: int = 0
    questions: int = 0
    changes: int = 0
    scheduler_s: float = 0.0
    policy_s: float = 0.0
    nodes_s: float = 0.0
    round_p95_s: float = 0.0
    round_max_s: float = 0.0

    @property
    def per_question_s(self) -> float:
        """What is done for queries, by the questions."""
        return (self.scheduler_s + self.policy_s) / max(self.questions, 1)

    @property
    def per_change_s(self) -> float:
        """What is done for queries, by the plans that it has led to."""
        return (self.scheduler_s + self.policy_s) / max(self.changes, 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a simulation. Of two runs with the same seed all is equal but for `cost`.

    Attributes:
        scenario: its name.
        policy: who planned.
        seed: of the random numbers.
        duration_s: how long it went on.
        queries: in the order of the scenario.
        frames: that were simulated; 0 in the fluid mode.
        cost: of the scheduling.
    """

    scenario: str
    policy: str
    seed: int
    duration_s: float
    queries: Sequence[QueryOutcome]
    frames: int = 0
    cost: Cost = field(default_factory=Cost, compare=False)

    @property
    def windows(self) -> int:
        """All windows of all queries."""
        return sum(len(query.windows) for query in self.queries)

    @property
    def met(self) -> float:
        """Share of the windows in which the constraint holds, 0 to 1."""
        return self._mean(lambda window: float(window.met))

    @property
    def accuracy(self) -> float:
        """Mean over the windows."""
        return self._mean(lambda window: window.accuracy)

    @property
    def fps(self) -> float:
        """Mean results per second of a query."""
        return self._mean(lambda window: window.fps)

    @property
    def plan_changes(self) -> int:
        """Plans after the first of each query."""
        return sum(query.plan_changes for query in self.queries)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Reason to frames."""
        found: dict[str, int] = {}
        for query in self.queries:
            for reason, count in query.books.dropped.items():
                found[reason] = found.get(reason, 0) + count
        return found

    @property
    def faults(self) -> int:
        """Questions that no policy had an answer to."""
        return sum(query.faults for query in self.queries)

    def digest(self) -> str:
        """Return a text that two outcomes share only if they are equal."""
        facts = (self.scenario, self.policy, self.seed, self.duration_s, self.frames)
        text = repr(
            (facts, [(q.name, *map(tuple, (q.windows, q.plans)), q.books) for q in self.queries])
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON has it; an infinite delay is null."""
        return {
            "scenario": self.scenario,
            "policy": self.policy,
            "seed": self.seed,
            "duration_s": self.duration_s,
            "frames": self.frames,
            "met": self.met,
            "accuracy": self.accuracy,
            "fps": self.fps,
            "plan_changes": self.plan_changes,
            "dropped": dict(self.dropped),
            "faults": self.faults,
            "cost": {
                **{name: getattr(self.cost, name) for name in Cost.__slots__},
                "per_question_s": self.cost.per_question_s,
                "per_change_s": self.cost.per_change_s,
            },
            "queries": [_query_document(query) for query in self.queries],
        }

    def _mean(self, value: Any) -> float:
        total, count = 0.0, 0
        for query in self.queries:
            total += sum(map(value, query.windows))
            count += len(query.windows)
        return total / count if count else 0.0


def _query_document(query: QueryOutcome) -> dict[str, Any]:
    return {
        "name": query.name,
        "plan_changes": query.plan_changes,
        "plans": [change._asdict() for change in query.plans],
        "books": {
            "taken": query.books.taken,
            "delivered": query.books.delivered,
            "dropped": dict(query.books.dropped),
            "in_flight": query.books.in_flight,
        },
        "faults": query.faults,
        "windows": [_finite(window) for window in query.windows],
    }


def _finite(window: Window) -> dict[str, Any]:
    document = window._asdict()
    if math.isinf(window.delay_p95):
        document["delay_p95"] = None
    return document
