"""Where the time of a frame went: between its tasks, in their queues, in their workers; pure.

Each node has a clock of its own, so only times of one node can be compared. What passes between two
moments on the home's clock while a frame is elsewhere is known, and so is what it spent over there
by that node's clock; the rest is the ways between them, in equal shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vdag.results import TaskParts
from vdag.transport.messages import MAX_BATCH

if TYPE_CHECKING:
    from vdag.itinerary import Itinerary

__all__ = ["Times", "parts_of"]

_NS = 1e9


class Times(NamedTuple):
    """When a task was done, by `time.monotonic_ns()` of the host that did it.

    Attributes:
        start_ns: of the batch that the frame was in.
        end_ns: likewise.
        pid: of the worker; 0 for not said.
        arrived_ns: when the frame was in the task's queue; 0 for not said.
        nbytes: of the message by which the frame came to that node; 0 if it did not come by one.
        batch: frames in the batch; 0 for not said, which counts as 1.
    """

    start_ns: int
    end_ns: int
    pid: int = 0
    arrived_ns: int = 0
    nbytes: int = 0
    batch: int = 1

    @property
    def compute_ns(self) -> int:
        """What the batch took."""
        return self.end_ns - self.start_ns

    @property
    def queue_ns(self) -> int:
        """What the frame waited for it."""
        return max(self.start_ns - self.arrived_ns, 0) if self.arrived_ns else 0


@dataclass(slots=True)
class _Stay:
    """Tasks one after the other at one place: when the frame came, and when it left."""

    place: str
    tasks: list[str]
    came_ns: int
    left_ns: int


def parts_of(
    itinerary: Itinerary, times: Mapping[str, Times], capture_ns: int, home_ns: int
) -> tuple[dict[str, TaskParts], float]:
    """Return the parts of each task's time, and the seconds of the way home.

    Args:
        itinerary: of the frame.
        times: of its tasks.
        capture_ns: by the home's clock.
        home_ns: when the last branch was home, by the home's clock.

    Returns:
        Parts of every task that has times. In a graph of one branch they and the way home sum up to
        the whole of `home_ns - capture_ns`.
    """
    parts: dict[str, TaskParts] = {}
    home_s = 0.0
    for route in itinerary.routes:
        hops = [(hop.task, hop.endpoint) for hop in route[:-1] if hop.task in times]
        transfers_ns, way_ns = _transfers(hops, times, itinerary.exchange, capture_ns, home_ns)
        home_s = max(home_s, way_ns / _NS)
        before = itinerary.exchange
        for (task, place), transfer_ns in zip(hops, transfers_ns, strict=True):
            at = times[task]
            # What the frame came with is told by each task there; it came for the first.
            nbytes = max(at.nbytes, 0) if place != before else 0
            before = place
            # Other nodes tell it, and may tell anything.
            batch = min(max(at.batch, 1), MAX_BATCH)
            parts[task] = TaskParts(
                transfer_ns / _NS, at.queue_ns / _NS, at.compute_ns / _NS, at.pid, nbytes, batch
            )
    return parts, home_s


def _transfers(
    hops: Sequence[tuple[str, str]],
    times: Mapping[str, Times],
    here: str,
    capture_ns: int,
    home_ns: int,
) -> tuple[list[float], float]:
    """Return the ways to each task, and the way home, in ns."""
    stays = [_Stay(here, [], capture_ns, capture_ns)]
    inside: list[float] = []
    for task, place in hops:
        at = times[task]
        came_ns = at.arrived_ns or at.start_ns
        if place == stays[-1].place:
            inside.append(max(came_ns - stays[-1].left_ns, 0))
            stays[-1].tasks.append(task)
            stays[-1].left_ns = at.end_ns
        else:
            inside.append(0.0)  # a share of what is left, see below
            stays.append(_Stay(place, [task], came_ns, at.end_ns))
    stays.append(_Stay(here, [], home_ns, home_ns))
    ways = _ways(stays, here)
    transfers, home = iter(inside), ways[-1]
    found = []
    for stay, way in zip(stays[:-1], [0.0, *ways], strict=False):
        for position, _ in enumerate(stay.tasks):
            transfer = next(transfers)
            found.append(transfer + (way if position == 0 and stay is not stays[0] else 0.0))
    return found, home


def _ways(stays: Sequence[_Stay], here: str) -> list[float]:
    """Return the ways between each stay and the next, in ns."""
    ways: list[float] = []
    anchor = 0
    for index in range(1, len(stays)):
        if stays[index].place != here:
            continue
        away = stays[anchor + 1 : index]
        spent_ns = sum(stay.left_ns - stay.came_ns for stay in away)
        left_ns = stays[index].came_ns - stays[anchor].left_ns - spent_ns
        count = index - anchor
        ways.extend([max(left_ns, 0) / count] * count)
        anchor = index
    return ways
