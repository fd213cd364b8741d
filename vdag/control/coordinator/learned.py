"""`Learned`: what earlier packets have taken, of whichever session.

It outlives the coordinator: what has changed is handed to the records now and then, and given back
at the next start. What was tried out counts until the same is measured.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from vdag.control.coordination.values import HandlerSpec
from vdag.control.records import Lesson, Topic

__all__ = ["Learned", "like"]

#: Of an average, for each new report.
WEIGHT = 0.3
#: Averages that are remembered.
MAX_LEARNED = 4_096
#: Characters that are told of a handler; of more, a digest.
MAX_LIKE = 200
#: How many times faster or slower a node is believed to be than another.
MOST_RATIO = 16.0


def like(spec: HandlerSpec) -> str:
    """Return what handlers have in common that take the same time."""
    params = msgspec.json.encode(dict(spec.params), order="sorted").decode()
    name = f"{spec.kind} {params}"
    if len(name) <= MAX_LIKE:
        return name
    return f"{spec.kind} {hashlib.sha256(params.encode()).hexdigest()}"


class Learned:
    """See above; for one thread. All are running averages, of seconds and bytes.

    Args:
        lessons: of before, oldest first.
    """

    def __init__(self, lessons: Iterable[Lesson] = ()) -> None:
        self._averages: OrderedDict[Topic, float] = OrderedDict()
        self._changed: set[Topic] = set()
        for lesson in lessons:
            if lesson.value is not None and _makes_sense(lesson.value):
                self._averages[lesson.topic] = lesson.value
        while len(self._averages) > MAX_LEARNED:
            self._averages.popitem(last=False)

    def add(self, spec: HandlerSpec, node_id: int, seconds: float) -> None:
        """Take in how long packets were at a handler on a node."""
        self._add(Topic("compute", like(spec), node_id), seconds)

    def add_trial(self, spec: HandlerSpec, node_id: int, seconds: float) -> None:
        """Take in how long a handler took on a node when it was tried out."""
        self._add(Topic("trial", like(spec), node_id), seconds)

    def add_step(self, sender: int, receiver: int, seconds: float) -> None:
        """Take in how long packets took from handler to handler, without their bytes' own time."""
        way = Topic("way", "", sender, receiver)
        self._add(Topic("hop", "", sender) if sender == receiver else way, seconds)

    def add_nbytes(self, spec: HandlerSpec, nbytes: float) -> None:
        """Take in the bytes that packets had with them on their way to a handler."""
        self._add(Topic("nbytes", like(spec)), nbytes)

    def at(self, spec: HandlerSpec, node_id: int) -> float | None:
        """Return the seconds at a handler on a node; None if none came there."""
        return self._averages.get(Topic("compute", like(spec), node_id))

    def tried(self, spec: HandlerSpec, node_id: int) -> float | None:
        """Return the seconds at a handler when it was tried on a node; None if it was not."""
        return self._averages.get(Topic("trial", like(spec), node_id))

    def elsewhere(self, spec: HandlerSpec, node_id: int) -> float | None:
        """Return the seconds at a handler as other nodes have it; None if none has.

        The node is taken to be as much slower at it as it is at what it has done like the other.
        """
        name = like(spec)
        for what in ("compute", "trial"):
            found = [
                value * self._slower(node_id, topic.node_id)
                for topic, value in self._averages.items()
                if topic[:2] == (what, name) and topic.node_id != node_id
            ]
            if found:
                return sum(found) / len(found)
        return None

    def hop_s(self, node_id: int, default_s: float) -> float:
        """Return the seconds from handler to handler on a node, else on others."""
        found = self._averages.get(Topic("hop", "", node_id))
        if found is not None:
            return found
        others = [value for topic, value in self._averages.items() if topic.what == "hop"]
        return sum(others) / len(others) if others else default_s

    def way_s(self, sender: int, receiver: int, default_s: float) -> float:
        """Return the seconds from one node to another, in either direction."""
        found = self._averages.get(Topic("way", "", sender, receiver))
        if found is None:
            found = self._averages.get(Topic("way", "", receiver, sender))
        return default_s if found is None else found

    def nbytes(self, spec: HandlerSpec) -> float | None:
        """Return the bytes of packets on their way to a handler; None for not known."""
        return self._averages.get(Topic("nbytes", like(spec)))

    def changes(self) -> list[Lesson]:
        """Return what has changed since the last call; without a value what is forgotten."""
        changed, self._changed = self._changed, set()
        return [Lesson(topic, self._averages.get(topic)) for topic in sorted(changed)]

    def _slower(self, node_id: int, other: int) -> float:
        """Return how many times the seconds of another node a node takes, by what both have done.

        What takes longest says most about it: sums are compared.
        """
        here = there = 0.0
        for topic, value in self._averages.items():
            if topic.what in ("compute", "trial") and topic.node_id == node_id:
                same = self._averages.get(topic._replace(node_id=other))
                if same is not None:
                    here, there = here + value, there + same
        if not (here > 0 and there > 0):
            return 1.0
        return min(max(here / there, 1 / MOST_RATIO), MOST_RATIO)

    def _add(self, topic: Topic, value: float) -> None:
        if not _makes_sense(value):
            return
        before = self._averages.pop(topic, value)
        self._averages[topic] = before + WEIGHT * (value - before)
        self._changed.add(topic)
        if len(self._averages) > MAX_LEARNED:
            forgotten, _ = self._averages.popitem(last=False)
            self._changed.add(forgotten)


def _makes_sense(value: float) -> bool:
    return math.isfinite(value) and value >= 0
