"""`Lane`: the questions for one policy, in a row, and the process that answers them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vdag.control.advisers.advice import Advised, NoAdvice, Refused
from vdag.control.advisers.counsel import Counsel
from vdag.control.advisers.knowledge import Library
from vdag.control.scheduling.instructions import AskPolicy
from vdag.errors import ConfigError, FrameFormatError

__all__ = ["Lane", "LaneSettings", "Lost"]

logger = logging.getLogger(__name__)

#: A process that ends again and again is started ever more rarely, from this to that.
FIRST_PAUSE_NS = 250_000_000
MAX_PAUSE_NS = 30_000_000_000
#: Between looks at a process that was killed.
REAP_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """Times in nanoseconds; see `Advisers`."""

    timeout_ns: int
    start_timeout_ns: int
    idle_ns: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A question that got no answer.

    Attributes:
        reason: why.
        is_culprit: the process has ended over it.
    """

    reason: str
    is_culprit: bool = False


Outcome = Advised | NoAdvice | Lost


class Lane:
    """One policy's questions. The process is started for the first one, and ended when idle.

    Args:
        policy: its name.
        settings: see there.
        library: where the profile is found, if the policy takes it.
    """

    def __init__(self, policy: str, settings: LaneSettings, library: Library) -> None:
        self._policy = policy
        self._settings = settings
        self._library = library
        self._waiting: dict[str, tuple[AskPolicy, int]] = {}
        self._counsel: Counsel | None = None
        self._dying: list[Counsel] = []
        self._endings = 0
        self._closed_until_ns = 0
        self._reason = ""

    @property
    def waiting(self) -> int:
        """Questions that no process works on yet."""
        return len(self._waiting)

    @property
    def has_process(self) -> bool:
        """Whether a process runs."""
        return self._counsel is not None

    def is_over(self, now_ns: int) -> bool:
        """Whether there is nothing left in it to keep."""
        if self._waiting or self._counsel is not None or self._dying:
            return False
        return not self._endings or now_ns >= self._closed_until_ns + MAX_PAUSE_NS

    def add(self, order: AskPolicy, now_ns: int) -> None:
        """Take a question, in place of one about the same query that waits."""
        self._waiting.pop(order.query_id, None)
        self._waiting[order.query_id] = (order, now_ns)

    def prepare(self, now_ns: int) -> None:
        """Have the process started although there is no question yet."""
        if self._counsel is None and not self._waiting:
            deque(self._start(now_ns), maxlen=0)  # nothing waits, so nothing is lost

    def serve(self, now_ns: int) -> Iterator[tuple[AskPolicy, Outcome]]:
        """Do what can be done now; yield each question that is through."""
        self._dying = [counsel for counsel in self._dying if not counsel.has_ended()]
        for counsel in self._dying:
            counsel.idle_since_ns = now_ns  # to be looked at again after a while
        if self._counsel is not None:
            yield from self._attend(self._counsel, now_ns)
        yield from self._expire(now_ns)
        if self._counsel is None and self._waiting:
            yield from self._start(now_ns)
        yield from self._hand_over(now_ns)

    def fds(self) -> list[tuple[int, int]]:
        """Return the file descriptors to poll, each with poll(2)'s events."""
        return self._counsel.fds() if self._counsel is not None else []

    def next_due_ns(self) -> int | None:
        """Return when to call `serve` even if no descriptor is ready, None for never."""
        due = []
        if self._waiting:
            due.append(next(iter(self._waiting.values()))[1] + self._settings.timeout_ns)
        if self._dying:
            due.append(self._dying[-1].idle_since_ns + REAP_NS)
        counsel = self._counsel
        if counsel is None:
            if self._endings:
                due.append(self._closed_until_ns + MAX_PAUSE_NS)
        elif counsel.busy_since_ns is not None:
            due.append(counsel.busy_since_ns + self._limit_ns(counsel))
        else:
            due.append(counsel.idle_since_ns + self._settings.idle_ns)
        return min(due, default=None)

    def close(self) -> None:
        """End the process and wait until it is gone; what waits is forgotten."""
        self._waiting.clear()
        if self._counsel is not None:
            self._dying.append(self._counsel)
            self._counsel = None
        for counsel in self._dying:
            counsel.close()
        for counsel in self._dying:
            counsel.reap()
        self._dying.clear()

    def _attend(self, counsel: Counsel, now_ns: int) -> Iterator[tuple[AskPolicy, Outcome]]:
        """Hear what the process has to say, and see whether it is well."""
        has_ended = counsel.has_ended()  # before the pipes are read: then they are read to the end
        try:
            for reply in counsel.listen(now_ns):
                if isinstance(reply, Refused):
                    yield from self._give_up(counsel, reply.reason, now_ns)
                    return
                order, counsel.question = counsel.question, None
                assert order is not None, "an answer has the number of a question"
                self._endings = 0
                yield order, reply
        except FrameFormatError as err:
            yield from self._give_up(counsel, f"its process said {err}", now_ns)
            return
        counsel.flush()
        if has_ended:
            yield from self._give_up(counsel, f"its process ended: {counsel.ending()}", now_ns)
        elif counsel.busy_since_ns is None:
            if now_ns - counsel.idle_since_ns >= self._settings.idle_ns and not self._waiting:
                self._dismiss(counsel, now_ns)
        elif now_ns - counsel.busy_since_ns >= (limit_ns := self._limit_ns(counsel)):
            what = "no answer" if counsel.is_loaded else "not loaded"
            reason = f"{what} within {limit_ns / 1e9:g} s, its process was killed"
            yield from self._give_up(counsel, reason, now_ns)

    def _limit_ns(self, counsel: Counsel) -> int:
        settings = self._settings
        return settings.timeout_ns if counsel.is_loaded else settings.start_timeout_ns

    def _give_up(
        self, counsel: Counsel, reason: str, now_ns: int
    ) -> Iterator[tuple[AskPolicy, Outcome]]:
        """End the process, and pause before the next one if it is not the first to end."""
        logger.warning("policy %s: %s", self._policy, reason)
        order, is_loaded = counsel.question, counsel.is_loaded
        self._dismiss(counsel, now_ns)
        self._reason = reason
        # A process that has answered may be replaced at once: others wait behind the culprit.
        self._endings += 1 if is_loaded else 2
        self._closed_until_ns = now_ns + self._pause_ns()
        if order is not None:
            yield order, Lost(reason, is_culprit=True)
        if not is_loaded:
            yield from self._fail_all(reason)
        elif self._closed_until_ns <= now_ns:
            yield from self._start(now_ns)  # to be ready for the next question

    def _pause_ns(self) -> int:
        if self._endings <= 1:
            return 0
        return min(FIRST_PAUSE_NS << min(self._endings - 2, 16), MAX_PAUSE_NS)

    def _dismiss(self, counsel: Counsel, now_ns: int) -> None:
        counsel.close()
        counsel.idle_since_ns = now_ns
        self._counsel = None
        if not counsel.has_ended():
            self._dying.append(counsel)

    def _expire(self, now_ns: int) -> Iterator[tuple[AskPolicy, Outcome]]:
        """Let go of questions that the scheduler no longer waits for either, oldest first."""
        while self._waiting:
            order, since_ns = next(iter(self._waiting.values()))
            if now_ns - since_ns < self._settings.timeout_ns:
                return
            del self._waiting[order.query_id]
            is_loading = self._counsel is not None and not self._counsel.is_loaded
            reason = "it is still being loaded" if is_loading else "its process is too busy"
            yield order, Lost(reason)

    def _start(self, now_ns: int) -> Iterator[tuple[AskPolicy, Outcome]]:
        if now_ns < self._closed_until_ns:
            yield from self._fail_all(f"no process after the last: {self._reason}")
            return
        try:
            self._counsel = Counsel(self._policy, now_ns)
        except OSError as err:
            self._reason = f"cannot start a process: {err.strerror}"
            self._endings += 2
            self._closed_until_ns = now_ns + self._pause_ns()
            yield from self._fail_all(self._reason)

    def _fail_all(self, reason: str) -> Iterator[tuple[AskPolicy, Outcome]]:
        waiting, self._waiting = self._waiting, {}
        for order, _ in waiting.values():
            yield order, Lost(reason)

    def _hand_over(self, now_ns: int) -> Iterator[tuple[AskPolicy, Outcome]]:
        counsel = self._counsel
        if counsel is None or not counsel.is_loaded or counsel.question is not None:
            return
        while self._waiting:
            query_id = next(iter(self._waiting))
            order = self._waiting[query_id][0]
            try:
                is_up_to_date = self._inform(counsel, order, now_ns)
            except ConfigError as err:
                del self._waiting[query_id]
                yield order, Lost(str(err))
                continue
            if is_up_to_date:
                del self._waiting[query_id]
                counsel.ask(order, now_ns)
            return

    def _inform(self, counsel: Counsel, order: AskPolicy, now_ns: int) -> bool:
        """Tell the process of the profile if it lacks that; return whether it can be asked.

        Once before a question: one that changes all the time must not keep it from answering.
        """
        if not counsel.takes_profile or counsel.was_informed:
            return True
        edition, document = self._library.edition(order.question.around.profile)
        if edition == counsel.edition:
            return True
        counsel.inform(edition, document, now_ns)
        return False
