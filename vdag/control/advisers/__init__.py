"""`Advisers`: has policies answer questions, and survives them.

Policies of ours are called at once. A user's policy runs in a process of its own, an `adviser`,
which is killed when it takes too long and started anew for the next question. Nothing here waits:
the controller's thread polls `fds`, calls `serve` when one of them is ready or `next_due_ns` has
come, and hands what comes back to the scheduler.

A process does one question at a time, so it is known which one ended it. The query of that question
is a suspect: its further questions go to a second process of the same policy, until one is
answered there. So a query on which its policy hangs delays the others once, not every time.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace

from vdag.control.advisers.advice import MAX_REASON, Advised, NoAdvice
from vdag.control.advisers.knowledge import Library
from vdag.control.advisers.lane import Lane, LaneSettings
from vdag.control.policies import BUILT_IN, Answer
from vdag.control.scheduling.events import PlanProposed, PolicyFailed
from vdag.control.scheduling.instructions import AskPolicy
from vdag.errors import ConfigError, PlanError

__all__ = ["Advisers", "AdvisersStats"]

logger = logging.getLogger(__name__)

#: Queries that are remembered as suspects; beyond, the oldest gets another chance.
MAX_SUSPECTS = 1024
MAX_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class AdvisersStats:
    """The books.

    Attributes:
        processes: that run now.
        waiting: questions for users' policies that no process works on yet.
        answered: questions that got a plan, of any kind.
        failed: questions that got none.
        ended: processes that hung, crashed or talked nonsense.
    """

    processes: int
    waiting: int
    answered: int
    failed: int
    ended: int


class Advisers:
    """The processes of users' policies; for one thread, which must outlive them.

    Args:
        timeout_s: for an answer, from when a process has the question. A little less than the
            scheduler's `policy_timeout_s`: then it is told why, and not only that, there is none.
        start_timeout_s: for a process to load its policy, whatever that imports, or the profile.
        idle_s: after which a process without questions is ended.
        max_processes: at any time.

    Raises:
        ConfigError: a time is not above 0 to an hour, or `max_processes` is not at least 1.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 0.9,
        start_timeout_s: float = 30.0,
        idle_s: float = 60.0,
        max_processes: int = 16,
    ) -> None:
        times = {"timeout_s": timeout_s, "start_timeout_s": start_timeout_s, "idle_s": idle_s}
        for name, value in times.items():
            if not 0 < value <= MAX_TIMEOUT_S:
                raise ConfigError(f"{name} {value:g} is not above 0 to {MAX_TIMEOUT_S:g}")
        if max_processes < 1:
            raise ConfigError(f"max_processes {max_processes} is not at least 1")
        self._settings = LaneSettings(*(round(value * 1e9) for value in times.values()))
        self._max_processes = max_processes
        self._library = Library()
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._suspects: dict[str, None] = {}
        self._counts: Counter[str] = Counter()

    def ask(self, order: AskPolicy, now_ns: int) -> list[PlanProposed | PolicyFailed]:
        """Take a question; return its answer if that is there already, and others that are.

        A question about a query replaces one that waits: only the last round counts.
        """
        if order.policy in BUILT_IN:
            return [self._counted(self._call(order, now_ns))]
        lane = self._lane(order.policy, order.query_id in self._suspects)
        if lane is None:
            reason = f"{self._max_processes} other policies are at work"
            return [self._counted(PolicyFailed(now_ns, order.query_id, order.round, reason))]
        question = replace(order.question, around=order.question.around.snapshot())
        lane.add(replace(order, question=question), now_ns)
        return self._served(lane, now_ns)

    def prepare(self, policy: str, now_ns: int) -> None:
        """Have a policy loaded, so that its first question does not wait for that."""
        lane = None if policy in BUILT_IN else self._lane(policy, False)
        if lane is not None:
            lane.prepare(now_ns)

    def serve(self, now_ns: int) -> list[PlanProposed | PolicyFailed]:
        """Do what can be done now, and return the answers that have come."""
        found = [event for lane in [*self._lanes.values()] for event in self._served(lane, now_ns)]
        self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.is_over(now_ns)}
        return found

    def fds(self) -> list[tuple[int, int]]:
        """Return the file descriptors to poll, each with poll(2)'s events."""
        return [fd for lane in self._lanes.values() for fd in lane.fds()]

    def next_due_ns(self) -> int | None:
        """Return when to call `serve` even if no descriptor is ready, None for never."""
        due = [lane.next_due_ns() for lane in self._lanes.values()]
        return min((due_ns for due_ns in due if due_ns is not None), default=None)

    def stats(self) -> AdvisersStats:
        """Return the books."""
        return AdvisersStats(
            processes=sum(lane.has_process for lane in self._lanes.values()),
            waiting=sum(lane.waiting for lane in self._lanes.values()),
            answered=self._counts["answered"],
            failed=self._counts["failed"],
            ended=self._counts["ended"],
        )

    def close(self) -> None:
        """End all processes and wait until they are gone. May be called again."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()

    def _lane(self, policy: str, is_suspect: bool) -> Lane | None:
        lane = self._lanes.get((policy, is_suspect))
        if lane is None and len(self._lanes) < self._max_processes:
            lane = self._lanes[policy, is_suspect] = Lane(policy, self._settings, self._library)
        return lane

    def _served(self, lane: Lane, now_ns: int) -> list[PlanProposed | PolicyFailed]:
        found: list[PlanProposed | PolicyFailed] = []
        for order, outcome in lane.serve(now_ns):
            if isinstance(outcome, (Advised, NoAdvice)):
                self._suspects.pop(order.query_id, None)
            elif outcome.is_culprit:
                self._counts["ended"] += 1
                self._suspect(order.query_id)
            if isinstance(outcome, Advised):
                answer = Answer(*(getattr(outcome, name) for name in Answer._fields))
                found.append(PlanProposed(now_ns, order.query_id, order.round, *answer))
            else:
                found.append(PolicyFailed(now_ns, order.query_id, order.round, outcome.reason))
        for event in found:
            self._counted(event)
        return found

    def _suspect(self, query_id: str) -> None:
        self._suspects[query_id] = None
        if len(self._suspects) > MAX_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]

    def _counted(self, event: PlanProposed | PolicyFailed) -> PlanProposed | PolicyFailed:
        self._counts["answered" if isinstance(event, PlanProposed) else "failed"] += 1
        return event

    @staticmethod
    def _call(order: AskPolicy, now_ns: int) -> PlanProposed | PolicyFailed:
        try:
            answer = BUILT_IN[order.policy].answer(order.question)
        except PlanError as err:
            return PolicyFailed(now_ns, order.query_id, order.round, str(err))
        except Exception as err:  # a fault of ours, but no reason to stop the others
            logger.exception("policy %s has failed on %s", order.policy, order.query_id)
            reason = f"{type(err).__name__}: {err}"[:MAX_REASON]
            return PolicyFailed(now_ns, order.query_id, order.round, reason)
        return PlanProposed(now_ns, order.query_id, order.round, *answer)
