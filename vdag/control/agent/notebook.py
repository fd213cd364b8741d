"""`Notebook`: what the jobs of a node have to tell the controller, until it has been told.

Jobs write results into it from their own threads and never wait; the `agent` reads it. Results are
kept in the order they came, up to a number of bytes that no agent that lives lets them reach;
beyond it the oldest are lost and counted. How jobs are, the agent asks them itself; what the
controller has been told of that is noted here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from vdag.control import wire
from vdag.control.scheduling.events import JobInfo
from vdag.transport.bell import Bell

__all__ = ["Notebook"]

#: Of results that the agent has not yet looked at.
LIMIT_NBYTES = 16 << 20
MAX_REASON = 2_000


class Notebook:
    """See above; any thread may note, one thread reads. Closed by `close`.

    Args:
        run: name of what results are counted in: the session of this daemon.
        limit_nbytes: of results that have not been read.

    Attributes:
        bell: rings when something was noted; for the reader to poll.
    """

    def __init__(self, run: str, *, limit_nbytes: int = LIMIT_NBYTES) -> None:
        self.run = run
        self.bell = Bell()
        self._limit_nbytes = limit_nbytes
        self._lock = threading.Lock()
        self._results: deque[wire.Result] = deque()
        self._nbytes = self._lost = 0
        self._failed: dict[str, wire.Work] = {}
        self._told_drops: dict[tuple[str, str], int] = {}
        self._told: dict[str, tuple[int, int, str]] = {}
        self._refusals: dict[str, str] = {}
        self._told_refusals: dict[str, str] = {}
        self._opened: dict[str, wire.Opened] = {}
        self._told_opened: dict[str, wire.Opened] = {}

    @property
    def lost(self) -> int:
        """Results that were thrown away because nobody read them."""
        return self._lost

    # What jobs say: a `jobs.Reporter`.

    def report_result(self, job_uid: str, number: int, document: bytes) -> None:
        """Note a frame's result: the JSON of its frame object, and its number in the job."""
        result = wire.Result(job_uid, self.run, number, document)
        with self._lock:
            self._results.append(result)
            self._nbytes += len(document)
            while self._nbytes > self._limit_nbytes:
                self._nbytes -= len(self._results.popleft().document)
                self._lost += 1
        self.bell.ring()

    def report_state(self, job_uid: str, state: int, reason: str) -> None:
        """Have the agent look at once how the jobs are, for one is in another state."""
        self.bell.ring()

    def report_refusal(self, job_uid: str, state: int, reason: str) -> None:
        """Note that a job could not be started: no `infos` will ever say so."""
        with self._lock:
            self._failed[job_uid] = wire.Work(job_uid, state, 0, reason[:MAX_REASON])
        self.bell.ring()

    def report_limit(self, task: str, reason: str) -> None:
        """Note why a task cannot be limited as ordered; an empty reason says that it is."""
        with self._lock:
            self._refusals[task] = reason[:MAX_REASON]
        self.bell.ring()

    def report_opening(self, task: str, order: int, reason: str, trial_s: float = 0.0) -> None:
        """Note what became of the order to do a task.

        Args:
            task: its name.
            order: number of the order.
            reason: why it is not done; empty for that it is.
            trial_s: what it took of a picture, 0 for it was not tried.
        """
        with self._lock:
            self._opened[task] = wire.Opened(task, order, reason[:MAX_REASON], trial_s)
        self.bell.ring()

    # What the agent reads.

    def take_results(self) -> list[wire.Result]:
        """Return the results that were noted since the last call."""
        with self._lock:
            found, self._results = self._results, deque()
            self._nbytes = 0
        return list(found)

    def works(self, infos: Iterable[JobInfo]) -> list[wire.Work]:
        """Return all jobs, with those that could not be started."""
        with self._lock:
            failed = list(self._failed.values())
        works = [
            wire.Work(
                info.job_uid,
                int(info.state),
                info.plan_number,
                info.reason[:MAX_REASON],
                dict(info.routes),
            )
            for info in infos
        ]
        return [*works, *failed][: wire.MAX_RESULTS]

    def changed(self, works: Sequence[wire.Work]) -> tuple[list[wire.Work], list[wire.Taken]]:
        """Return the jobs that are not as the controller was told, and the plans now followed."""
        changed = [work for work in works if self._told.get(work.job_uid) != _figures(work)]
        taken = [
            wire.Taken(work.job_uid, work.plan)
            for work in changed
            if work.plan and self._told.get(work.job_uid, (0, 0, ""))[1] != work.plan
        ]
        return changed, taken

    def dropped(self, infos: Iterable[JobInfo]) -> list[wire.Drops]:
        """Return the counts of lost frames that have risen since the controller was told."""
        risen = [
            wire.Drops(info.job_uid, self.run, reason, count)
            for info in infos
            for reason, count in info.drops.items()
            if self._told_drops.get((info.job_uid, reason), 0) != count
        ]
        return risen[: wire.MAX_RESULTS]

    def refused(self) -> dict[str, str]:
        """Return why tasks cannot be limited, where the controller was told something else."""
        with self._lock:
            return {
                task: reason
                for task, reason in self._refusals.items()
                if self._told_refusals.get(task, "") != reason
            }

    def opened(self) -> list[wire.Opened]:
        """Return what became of orders to do tasks, where the controller was not told."""
        with self._lock:
            return [
                found
                for task, found in self._opened.items()
                if self._told_opened.get(task) != found
            ][: wire.MAX_RESULTS]

    def told_refused(self, refusals: Mapping[str, str]) -> None:
        """Note that the controller knows why these tasks cannot be limited."""
        self._told_refusals.update(refusals)

    def told_opened(self, opened: Iterable[wire.Opened]) -> None:
        """Note that the controller knows what became of these orders."""
        self._told_opened.update((found.task, found) for found in opened)

    def told(self, works: Sequence[wire.Work], drops: Sequence[wire.Drops] = ()) -> None:
        """Note that the controller knows how these jobs are, and what they lost."""
        self._told.update((work.job_uid, _figures(work)) for work in works)
        self._told_drops.update(((each.job_uid, each.reason), each.count) for each in drops)
        with self._lock:
            for work in works:
                if self._failed.get(work.job_uid) == work:
                    del self._failed[work.job_uid]

    def forget(self) -> None:
        """Note that there is another controller, which knows nothing."""
        self._told.clear()
        self._told_drops.clear()
        self._told_refusals.clear()
        self._told_opened.clear()
        with self._lock:
            self._opened.clear()  # answers to orders of another one

    def keep_only(self, job_uids: Iterable[str]) -> None:
        """Forget what was told of jobs that the node does not have any more."""
        kept = set(job_uids)
        self._told = {uid: told for uid, told in self._told.items() if uid in kept}
        self._told_drops = {key: told for key, told in self._told_drops.items() if key[0] in kept}

    def close(self) -> None:
        """Ring no more."""
        self.bell.close()


def _figures(work: wire.Work) -> tuple[int, int, str]:
    return work.state, work.plan, work.reason
