"""Credit in both directions: who takes frames, and who may send them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict

from vdag.transport.queues import Item

__all__ = ["Promises", "Ready", "Worker"]

#: Frames held, turn, worker. Turns are unique, so that workers are never compared.
Place = tuple[int, int, "Worker"]


class Worker:
    """What the exchange knows of one worker.

    Attributes:
        name: as the exchange calls it.
        task: the task it serves.
        credit: frames it will take beyond those it holds.
        max_batch: most frames it takes at once.
        holds: frames it was handed and has not finished, oldest first; the values mean nothing.
        place: its entry in the list of ready workers while it is there.
        is_retired: gets no more frames.
        is_on_trial: holds a frame that another worker was lost with, and nothing else.
    """

    __slots__ = (
        "credit",
        "holds",
        "is_on_trial",
        "is_retired",
        "max_batch",
        "name",
        "place",
        "task",
    )

    def __init__(self, name: str, task: str) -> None:
        self.name = name
        self.task = task
        self.credit = 0
        self.max_batch = 1
        self.holds: dict[Item, None] = {}
        self.place: Place | None = None
        self.is_retired = False
        self.is_on_trial = False


class Ready:
    """The workers with credit: those that hold the fewest frames first, then the longest ready.

    Attributes:
        places: for reading only. Empty is false.
    """

    __slots__ = ("_turn", "places")

    def __init__(self) -> None:
        self.places: list[Place] = []
        self._turn = 0

    def first(self) -> Worker:
        """Return the worker to be served next; there must be one."""
        return self.places[0][2]

    def names(self) -> set[str]:
        """Return the names of all of them."""
        return {place[2].name for place in self.places}

    def rank(self, worker: Worker, is_ready: bool) -> None:
        """Put a worker where it belongs, or take it out; it keeps its turn if it can."""
        place = worker.place
        if place is not None:
            if is_ready and place[0] == len(worker.holds):
                return
            del self.places[bisect_left(self.places, place)]
            worker.place = None
        if is_ready:
            self._turn += 1
            worker.place = (len(worker.holds), self._turn, worker)
            insort(self.places, worker.place)


class Promises:
    """Places in a bounded queue that were promised to producers who asked for them."""

    __slots__ = ("_asking", "_promised", "total")

    def __init__(self) -> None:
        self.total = 0
        self._promised: dict[str, int] = {}
        self._asking: OrderedDict[str, int] = OrderedDict()

    def ask(self, producer: str, wanted: int) -> None:
        """Remember that the producer wants so many places more."""
        self._asking[producer] = self._asking.get(producer, 0) + wanted

    def spend(self, producer: str) -> bool:
        """Use up one promise; return whether there was one."""
        left = self._promised.get(producer, 0) - 1
        if left < 0:
            return False
        if left:
            self._promised[producer] = left
        else:
            del self._promised[producer]
        self.total -= 1
        return True

    def forget(self, producer: str) -> None:
        """Take back what the producer was promised and what it asked for."""
        self._asking.pop(producer, None)
        self.total -= self._promised.pop(producer, 0)

    def grant(self, free: int) -> dict[str, int]:
        """Promise `free` places to those who ask, one each in turn; return who got how many."""
        granted: dict[str, int] = {}
        while free > 0 and self._asking:
            producer, wanted = self._asking.popitem(last=False)
            if wanted > 1:
                self._asking[producer] = wanted - 1
            granted[producer] = granted.get(producer, 0) + 1
            free -= 1
        for producer, places in granted.items():
            self._promised[producer] = self._promised.get(producer, 0) + places
            self.total += places
        return granted
