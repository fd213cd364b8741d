"""`Decisions`: why each query has the plan it has, and what became of it.

One decision per plan: what the policy was told, what it weighed, what it foretold, and next to that
what was measured afterwards. Looks that changed nothing are counted, and the latest is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.control.scheduling.instructions import RecordDecision

__all__ = ["Decisions", "Measured"]

#: Nanoseconds between two times that what was measured is written down.
WRITE_NS = 30_000_000_000
#: What is larger is no measurement.
LARGEST = 1e9

Document = dict[str, Any]
#: Takes the id of a query and the document of its decision, which has the `number` of its plan.
Take = Callable[[str, Document], None]


@dataclass(slots=True)
class Measured:
    """What was measured under one plan, over all its reports.

    Their windows overlap, so that frames cannot be counted, and all reports weigh the same.

    Attributes:
        reports: that had any frames.
        within: reports whose `delay_p95` kept to the bound.
        delay_s: mean over the reports, as of all that follow.
        delay_p95_s: likewise.
        worst_s: the largest `delay_p95`.
        fps: results per second.
        accuracy: latest that was said to be measured, None for never.
    """

    reports: int = 0
    within: int = 0
    delay_s: float = 0.0
    delay_p95_s: float = 0.0
    worst_s: float = 0.0
    fps: float = 0.0
    accuracy: float | None = None

    def add(self, runtime: Mapping[str, Any], bound_s: float) -> None:
        """Count a report; one without a delay says nothing.

        Args:
            runtime: the documents' form.
            bound_s: of the delay, negative for none.
        """
        delay_s = _number(runtime.get("delay"))
        if delay_s is None:
            return
        p95_s = _number(runtime.get("delay_p95"), delay_s)
        self.reports += 1
        self.delay_s += (delay_s - self.delay_s) / self.reports
        self.delay_p95_s += (p95_s - self.delay_p95_s) / self.reports
        self.worst_s = max(self.worst_s, p95_s)
        self.within += bound_s < 0 or p95_s <= bound_s
        self.fps += (_number(runtime.get("fps"), 0.0) - self.fps) / self.reports
        accuracy = _number(runtime.get("accuracy"), -1.0)
        self.accuracy = self.accuracy if accuracy < 0 else accuracy

    def to_document(self) -> Document:
        """Return the numbers under the names of the runtime."""
        document: Document = {
            "reports": self.reports,
            "within": self.within,
            "delay": self.delay_s,
            "delay_p95": self.delay_p95_s,
            "delay_worst": self.worst_s,
            "fps": self.fps,
        }
        return document if self.accuracy is None else {**document, "accuracy": self.accuracy}


@dataclass(slots=True)
class _Entry:
    """The decision that is in force for one query."""

    number: int
    cause: str
    policy: str
    runtime: Mapping[str, Any]
    explanation: Mapping[str, Any]
    looks: int = 0
    latest: Mapping[str, Any] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)
    write_ns: int = 0

    def to_document(self) -> Document:
        return {
            "number": self.number,
            "policy": self.policy,
            "cause": self.cause,
            "runtime": self.runtime,
            "explanation": self.explanation,
            "looks": self.looks,
            "latest": self.latest,
            "measured": self.measured.to_document(),
        }


class Decisions:
    """See above; for one thread.

    Args:
        write: writes a decision down, in place of what was written for the same plan.
        show: shows the decision that is in force.
    """

    def __init__(self, write: Take, show: Take) -> None:
        self._write, self._show = write, show
        self._entries: dict[str, _Entry] = {}

    def take(self, decision: RecordDecision, now_ns: int) -> None:
        """Take note of what a policy has decided."""
        entry = self._entries.get(decision.query_id)
        if entry is not None and entry.number == decision.number and not decision.is_change:
            entry.looks += 1
            entry.latest = decision.explanation
            self._show(decision.query_id, entry.to_document())
            return
        self._put_down(decision.query_id)
        entry = self._entries[decision.query_id] = _Entry(
            decision.number,
            decision.cause,
            decision.policy,
            decision.runtime,
            decision.explanation,
            write_ns=now_ns + WRITE_NS,
        )
        self._write(decision.query_id, entry.to_document())
        self._show(decision.query_id, entry.to_document())

    def measure(
        self, query_id: str, number: int, runtime: Mapping[str, Any], bound_s: float, now_ns: int
    ) -> None:
        """Take note of what a job has measured under the plan of that number."""
        entry = self._entries.get(query_id)
        if entry is None or number != entry.number:
            return
        entry.measured.add(runtime, bound_s)
        self._show(query_id, entry.to_document())
        if now_ns >= entry.write_ns:
            entry.write_ns = now_ns + WRITE_NS
            self._write(query_id, entry.to_document())

    def end(self, query_id: str) -> None:
        """The query is over."""
        self._put_down(query_id)

    def forget(self, query_id: str) -> None:
        """The query is deleted."""
        self._entries.pop(query_id, None)

    def _put_down(self, query_id: str) -> None:
        entry = self._entries.pop(query_id, None)
        if entry is not None:
            self._write(query_id, entry.to_document())


def _number(value: Any, default: Any = None) -> Any:
    """Return a measurement that can be used, in range and no NaN; else the default."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return default
    return float(value) if 0 <= value <= LARGEST else default
