"""`FrameBook`: what became of every frame of a node's jobs, until the `courier` has taken it.

A job notes a frame that leaves it, delivered or lost, from its own threads: a tuple is kept, and
nothing is worked out. The courier makes columns of them, see `wire_log`. What nobody takes is kept
up to a number of frames; beyond it the oldest are lost, and counted.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from vdag.control import wire
from vdag.control.wire_log import MAX_FRAMES, frame_nbytes, write_columns
from vdag.itinerary import branches
from vdag.transport.bell import Bell

if TYPE_CHECKING:
    from vdag.frame import Frame
    from vdag.graph import Graph
    from vdag.results import Result, TaskParts

__all__ = ["FrameBook", "Track", "frames_of"]

#: Frames that wait for the courier, who comes every half a second.
LIMIT = 1 << 16
#: Plans of a job whose routes are known; frames of older ones are not under way any more.
MAX_PLANS = 64
#: Of the columns that travel together: what a link of 1 Mbit/s carries in an eighth of a second.
MAX_COLUMNS_NBYTES = 16 << 10
#: No frame of a job has a larger number.
MAX_SEQUENCE = (1 << 31) - 1

_NOWHERE: Mapping[str, str] = MappingProxyType({})
_UNKNOWN = (math.nan, math.nan, math.nan)


class _Noted(NamedTuple):
    """A frame that has left its job.

    Attributes:
        track: of the job.
        plan: number of the plan it was under.
        sequence: of the frame.
        captured_ns: by the clock of this node.
        whole_s: from then to the end; not a number for a frame that was lost.
        parts: where the time went.
    """

    track: Track
    plan: int
    sequence: int
    captured_ns: int
    whole_s: float
    parts: Mapping[str, TaskParts]


class FrameBook:
    """See above; any thread may note, one thread takes. Closed by `close`.

    Args:
        run: name of what frames are counted in: the session of this daemon.
        limit: frames that wait.

    Attributes:
        bell: rings when what there is should be taken at once.
    """

    def __init__(self, run: str, *, limit: int = LIMIT) -> None:
        self.run = run
        self.bell = Bell()
        self._limit = limit
        self._noted: deque[_Noted] = deque()
        self._lost = 0

    @property
    def lost(self) -> int:
        """Frames that nobody took."""
        return self._lost

    def open(self, job_uid: str, graph: Graph) -> Track:
        """Return where a job notes its frames."""
        return Track(job_uid, tuple(map(tuple, branches(graph))), self._note, self.bell.ring)

    def take(self) -> list[_Noted]:
        """Return what was noted, oldest first."""
        found = []
        # What is noted meanwhile is for the next time: it must not keep the caller for ever.
        for _ in range(len(self._noted)):
            found.append(self._noted.popleft())
        return found

    def close(self) -> None:
        """Ring no more."""
        self.bell.close()

    def _note(self, noted: _Noted) -> None:
        # A deque needs no lock for this. Two threads may both find it full: it is a little less so.
        self._noted.append(noted)
        if len(self._noted) > self._limit:
            try:
                self._noted.popleft()
            except IndexError:  # it has just been taken
                return
            self._lost += 1


class Track:
    """Where a job notes its frames; any thread may call it, and none waits.

    Args:
        job_uid: of the job.
        ways: tasks that are done one after the other, by branch.
        note: keeps what was noted.
        ring: has it taken at once.
    """

    def __init__(
        self,
        job_uid: str,
        ways: tuple[tuple[str, ...], ...],
        note: Callable[[_Noted], None],
        ring: Callable[[], None],
    ) -> None:
        self.job_uid, self.ways = job_uid, ways
        self._note, self._ring = note, ring
        self._routes: OrderedDict[int, Mapping[str, str]] = OrderedDict()

    def follow(self, plan: int, routes: Mapping[str, str]) -> None:
        """Note where the tasks are under a plan: landings, of those that are elsewhere."""
        self._routes[plan] = dict(routes)
        if len(self._routes) > MAX_PLANS:
            self._routes.popitem(last=False)

    def deliver(self, result: Result) -> None:
        """Note a frame that has come home; its pixels are still there."""
        assert result.frame is not None, "nobody has dropped it yet"
        captured_ns = result.frame.capture_ns
        self._note(_Noted(self, result.plan, result.seq, captured_ns, result.delay_s, result.parts))

    def lose(self, frame: Frame, plan: int, parts: Mapping[str, TaskParts]) -> None:
        """Note a frame that was dropped, with what had come home of it; an `OnDrop`."""
        self._note(_Noted(self, plan, frame.seq, frame.capture_ns, math.nan, parts))

    def end(self) -> None:
        """Have what was noted taken at once: the job is over."""
        self._ring()

    def routes(self, plan: int) -> Mapping[str, str]:
        """Return where the tasks were under a plan."""
        return self._routes.get(plan, _NOWHERE)


def frames_of(
    noted: Iterable[_Noted], run: str, there: Callable[[int], int]
) -> Iterator[wire.Frames]:
    """Yield frames as they travel, those together that went the same way.

    Args:
        noted: oldest first.
        run: that they belong to.
        there: returns a time of this node as one since the epoch, in ns.
    """
    groups: dict[tuple[int, int], list[_Noted]] = {}
    for each in noted:
        if each.sequence <= MAX_SEQUENCE:
            groups.setdefault((id(each.track), each.plan), []).append(each)
    for group in groups.values():
        step = min(MAX_FRAMES, MAX_COLUMNS_NBYTES // frame_nbytes(group[0].track.ways))
        for start in range(0, len(group), step):
            yield _frames(group[start : start + step], run, there)


def _frames(group: Sequence[_Noted], run: str, there: Callable[[int], int]) -> wire.Frames:
    track = group[0].track
    tasks = [task for way in track.ways for task in way]
    lengths_s: list[list[float]] = []
    sizes: list[list[int]] = []
    for each in group:
        found = [each.parts.get(task) for task in tasks]
        row: list[float] = []
        for part in found:
            row += _UNKNOWN if part is None else (part.transfer_s, part.queue_s, part.compute_s)
        lengths_s.append(row)
        sizes.append([0 if part is None else part.nbytes for part in found])
    columns = write_columns(
        [each.sequence for each in group],
        [there(each.captured_ns) for each in group],
        [each.whole_s for each in group],
        lengths_s,
        sizes,
    )
    routes = dict(track.routes(group[0].plan))
    return wire.Frames(track.job_uid, run, list(map(list, track.ways)), routes, columns)
