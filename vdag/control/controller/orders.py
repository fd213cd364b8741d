"""`OrderBook`: what a node has been told to do and has not yet taken the receipt of. A pure rule.

Orders are numbered from 1 on and repeated until a receipt comes, so that none is lost and each is
carried out once. At most one waits per job, and per task to be limited or to be done, the latest: a
node that comes back after a while finds how things stand, not how they came about.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from vdag.control import wire
from vdag.plan import Plan, ResourceLimit

__all__ = ["OrderBook"]

#: One answer carries at most this many bytes of orders; the others follow at once.
BATCH_NBYTES = 256 << 10
_OF_A_PLAN = ("plan", "routes", "names")


class OrderBook:
    """See above; for one thread."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[tuple[str, str], wire.Order] = {}  # by subject, numbers rising
        self._nbytes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def last(self) -> int:
        """Number of the latest order, 0 before the first."""
        return self._last

    def start(self, job: wire.StartJob) -> None:
        """Order a job to be started; its number is given to it here.

        Raises:
            FrameFormatError: such an order cannot travel; what waited before still does.
        """
        self._put(msgspec.structs.replace(job, number=self._last + 1))

    def replan(
        self,
        job_uid: str,
        plan: Plan,
        routes: Mapping[str, str],
        names: Mapping[str, str],
        lost: Collection[str] = (),
        *,
        constraint: bytes = b"",
    ) -> None:
        """Order a job to follow another plan; see `wire.SendPlan`.

        Raises:
            FrameFormatError: as of `start`.
        """
        before = self._waiting.get(("job", job_uid))
        if isinstance(before, wire.SendPlan):
            lost = {*before.lost, *lost}.difference(routes.values())
        order = wire.SendPlan(
            self._last + 1, job_uid, plan, dict(routes), dict(names), sorted(lost), constraint
        )
        if isinstance(before, wire.StartJob):
            changes = {field: getattr(order, field) for field in ("number", *_OF_A_PLAN)}
            if constraint:
                changes["constraint"] = constraint
            self._put(msgspec.structs.replace(before, **changes))
        elif not isinstance(before, wire.StopJob):
            self._put(order)

    def stop(self, job_uid: str, reason: str) -> None:
        """Order a job to be ended."""
        self._put(wire.StopJob(self._last + 1, job_uid, reason[:4096]))

    def limit(self, task: str, limit: ResourceLimit | None) -> None:
        """Order a task to be limited, or to be so no more."""
        self._put(wire.LimitTask(self._last + 1, task, limit))

    def open(self, task: str, workers: int, trial: tuple[int, int] | None = None) -> int:
        """Order a task to be done by so many workers, none for not any more; return the number.

        Args:
            task: its name.
            workers: how many.
            trial: width and height of a picture that they try it on; None for none.
        """
        self._put(wire.OpenTask(self._last + 1, task, workers, trial))
        return self._last

    def has_job(self, job_uid: str) -> bool:
        """Say whether an order about a job waits, or is not known to have been carried out."""
        return ("job", job_uid) in self._waiting

    def receipt(self, last: int) -> None:
        """Forget the orders that a node has, which are all up to this number."""
        done = [key for key, order in self._waiting.items() if order.number <= last]
        for key in done:
            del self._nbytes[self._waiting.pop(key).number]

    def batch(self) -> list[wire.Order]:
        """Return the orders to send now, oldest first; empty if none waits."""
        found: list[wire.Order] = []
        nbytes = 0
        for order in self._waiting.values():
            nbytes += self._nbytes[order.number]
            if (found and nbytes > BATCH_NBYTES) or len(found) == wire.MAX_RESULTS:
                break
            found.append(order)
        return found

    def _put(self, order: wire.Order) -> None:
        nbytes = len(wire.encode(wire.Orders([order])))
        key = _subject(order)
        before = self._waiting.pop(key, None)
        if before is not None:
            del self._nbytes[before.number]
        self._waiting[key] = order
        self._nbytes[order.number] = nbytes
        self._last = order.number


def _subject(order: wire.Order) -> tuple[str, str]:
    """Return what an order is about: a later one takes its place."""
    if isinstance(order, wire.LimitTask):
        return "limit", order.task
    if isinstance(order, wire.OpenTask):
        return "open", order.task
    return "job", order.job_uid
