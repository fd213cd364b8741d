"""`Rooms`: the nodes that offer a task, those with the most room first."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from vdag.control.scheduling.events import NodeInfo
from vdag.control.scheduling.surroundings import NO_LOAD, TaskLoad, share_taken

__all__ = ["LEAST", "Rooms"]

#: A node stays where it is for less: measurements go up and down by that all the time.
LEAST = 0.01
#: A kind of node and a task.
Kind = tuple[bool, str]


class Rooms:
    """Sorted lists of `(share taken, node_addr)`, one per task for servers and one for the others.

    A share is exact when a query comes or goes, and else right to `LEAST`.
    A change costs a binary search and the shift of a list of pointers: microseconds with ten
    thousand nodes, which no tree in Python beats.
    """

    def __init__(self) -> None:
        self._sorted: dict[Kind, list[tuple[float, str]]] = {}
        #: `node_addr` to task to where it stands.
        self._places: dict[str, dict[str, tuple[Kind, float]]] = {}
        self._taken: dict[tuple[str, str], TaskLoad] = {}

    def keep(self, node: NodeInfo) -> None:
        """Take in a node, or what it offers now."""
        self._drop(node.node_addr)
        for task in node.services:
            self._insert(node, task)

    def forget(self, node_addr: str) -> None:
        """A node is gone; what is taken of it is kept, for it may come back."""
        self._drop(node_addr)

    def set_taken(self, node: NodeInfo | None, node_addr: str, task: str, load: TaskLoad) -> None:
        """Note what all queries together take of a task; `node`: None while it is not alive."""
        before = self._taken.get((node_addr, task), NO_LOAD)
        if load.queries:
            self._taken[node_addr, task] = load
        else:
            self._taken.pop((node_addr, task), None)
        place = self._places.get(node_addr, {}).get(task)
        if node is None or place is None:
            return
        moved = abs(share_taken(node, task, load) - place[1])
        if load.queries != before.queries or moved > LEAST:
            self._remove(node_addr, task)
            self._insert(node, task)

    def roomiest(self, task: str, *, servers: bool) -> Iterator[str]:
        """Yield the nodes of one kind that offer a task, least taken first."""
        for _, node_addr in self._sorted.get((servers, task), ()):
            yield node_addr

    def _insert(self, node: NodeInfo, task: str) -> None:
        kind = (node.role == "cloud", task)
        share = share_taken(node, task, self._taken.get((node.node_addr, task), NO_LOAD))
        bisect.insort(self._sorted.setdefault(kind, []), (share, node.node_addr))
        self._places.setdefault(node.node_addr, {})[task] = (kind, share)

    def _remove(self, node_addr: str, task: str) -> None:
        kind, share = self._places[node_addr].pop(task)
        entries = self._sorted[kind]
        del entries[bisect.bisect_left(entries, (share, node_addr))]
        if not entries:
            del self._sorted[kind]

    def _drop(self, node_addr: str) -> None:
        for task in [*self._places.get(node_addr, ())]:
            self._remove(node_addr, task)
        self._places.pop(node_addr, None)
