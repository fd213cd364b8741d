"""`Learned`: what earlier packets have taken, of whichever session."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable

import msgspec

from vdag.control.coordination.values import HandlerSpec

__all__ = ["Learned", "like"]

#: Of an average, for each new report.
WEIGHT = 0.3
#: Averages that are remembered.
MAX_LEARNED = 4_096


def like(spec: HandlerSpec) -> str:
    """Return what handlers have in common that take the same time."""
    params = msgspec.json.encode(dict(spec.params), order="sorted").decode()
    return f"{spec.kind} {params}"


class Learned:
    """See above; for one thread. All are running averages, of seconds and bytes."""

    def __init__(self) -> None:
        self._averages: OrderedDict[tuple[Hashable, ...], float] = OrderedDict()

    def add(self, spec: HandlerSpec, node_id: int, seconds: float) -> None:
        """Take in how long packets were at a handler on a node."""
        self._add(("compute", like(spec), node_id), seconds)

    def add_step(self, sender: int, receiver: int, seconds: float) -> None:
        """Take in how long packets took from node to node, without their bytes' own time."""
        self._add(("hop",) if sender == receiver else ("way", sender, receiver), seconds)

    def add_nbytes(self, spec: HandlerSpec, nbytes: float) -> None:
        """Take in the bytes that packets had with them on their way to a handler."""
        self._add(("nbytes", like(spec)), nbytes)

    def at(self, spec: HandlerSpec, node_id: int) -> float | None:
        """Return the seconds at a handler on a node; None if none came there."""
        return self._averages.get(("compute", like(spec), node_id))

    def anywhere(self, spec: HandlerSpec) -> float | None:
        """Return the mean of the seconds at a handler on any node; None likewise."""
        name = like(spec)
        found = [value for key, value in self._averages.items() if key[:2] == ("compute", name)]
        return sum(found) / len(found) if found else None

    def hop_s(self, default_s: float) -> float:
        """Return the seconds from handler to handler on one node."""
        return self._averages.get(("hop",), default_s)

    def way_s(self, sender: int, receiver: int, default_s: float) -> float:
        """Return the seconds from one node to another, beyond those of a hop."""
        found = self._averages.get(("way", sender, receiver))
        if found is None:
            found = self._averages.get(("way", receiver, sender))
        return default_s if found is None else found - self.hop_s(0.0)

    def nbytes(self, spec: HandlerSpec) -> float | None:
        """Return the bytes of packets on their way to a handler; None for not known."""
        return self._averages.get(("nbytes", like(spec)))

    def _add(self, key: tuple[Hashable, ...], value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            return
        before = self._averages.pop(key, value)
        self._averages[key] = before + WEIGHT * (value - before)
        if len(self._averages) > MAX_LEARNED:
            self._averages.popitem(last=False)
