"""`Hiring`: which tasks nodes are to do because somebody wants them there, and what came of it.

A node's own tasks are its operator's. Those here are opened at the node while anybody holds them,
by orders of the plan channel. A node that joins anew is told again, and told to close what nobody
holds any more: it says which tasks it has been ordered to do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vdag.control.controller.membership import Membership

__all__ = ["Hiring"]

#: Processes that do one task at one node.
WORKERS = 1
AWAY = "node {} is away"


class Hiring:
    """See above; for one thread.

    Args:
        members: nodes of the plan channel; orders go into their books.

    Attributes:
        spared: tasks that nodes go on with although nobody holds them: somebody is about to.
    """

    def __init__(self, members: Membership) -> None:
        self._members = members
        self._holders: dict[tuple[str, str], set[str]] = {}
        self._orders: dict[tuple[str, str], int] = {}
        self.spared: set[str] = set()

    def hold(
        self,
        node_addr: str,
        tasks: Collection[str],
        holder: str,
        trial: tuple[int, int] | None = None,
    ) -> None:
        """Want tasks done at a node until they are let go; harmless if they are held already.

        Args:
            node_addr: of the node.
            tasks: that it is to do.
            holder: who wants them.
            trial: width and height of a picture that tasks which are opened for it are tried on;
                None for none.
        """
        for task in tasks:
            holders = self._holders.setdefault((node_addr, task), set())
            is_news = not holders or self._has_failed(node_addr, task)
            holders.add(holder)
            if is_news:
                self._order(node_addr, task, WORKERS, trial)

    def trials(self, node_addr: str, tasks: Collection[str]) -> dict[str, float]:
        """Return what tasks took at a node when they were tried, in seconds; of those that were."""
        member = self._members.get(node_addr)
        opened = {} if member is None else member.opened
        found = {task: opened[task].trial_s for task in tasks if task in opened}
        return {task: seconds for task, seconds in found.items() if seconds > 0}

    def let_go(self, holder: str, kept: Mapping[str, Collection[str]] | None = None) -> None:
        """Want no more of what somebody holds, but for the tasks of the nodes in `kept`."""
        kept = kept or {}
        for (node_addr, task), holders in tuple(self._holders.items()):
            if holder in holders and task not in kept.get(node_addr, ()):
                holders.discard(holder)
                if not holders:
                    del self._holders[node_addr, task]
                    self.spared.discard(task)
                    self._order(node_addr, task, 0)

    def held(self, holder: str) -> dict[str, set[str]]:
        """Return what somebody holds: nodes to their tasks."""
        found: dict[str, set[str]] = {}
        for (node_addr, task), holders in self._holders.items():
            if holder in holders:
                found.setdefault(node_addr, set()).add(task)
        return found

    def answer(self, node_addr: str, tasks: Collection[str]) -> str | None:
        """Return why a node does not do tasks that are held; empty if it does, None for not yet."""
        member = self._members.get(node_addr)
        if member is None or not member.is_alive:
            return AWAY.format(node_addr)
        is_open = True
        for task in tasks:
            opened = member.opened.get(task)
            if opened is None or opened.order != self._orders.get((node_addr, task)):
                is_open = False
            elif opened.reason:
                return opened.reason
        return "" if is_open else None

    def renew(self, node_addr: str) -> None:
        """Order again what a node that has just joined is to do."""
        member = self._members.get(node_addr)
        if member is None:
            return
        wanted = {task for name, task in self._holders if name == node_addr}
        for task in sorted(wanted):
            self._order(node_addr, task, WORKERS)
        for task in sorted(member.join.openings.keys() - wanted - self.spared):
            self._order(node_addr, task, 0)

    def _has_failed(self, node_addr: str, task: str) -> bool:
        member = self._members.get(node_addr)
        opened = None if member is None else member.opened.get(task)
        number = self._orders.get((node_addr, task))
        return opened is not None and opened.order == number and bool(opened.reason)

    def _order(
        self, node_addr: str, task: str, workers: int, trial: tuple[int, int] | None = None
    ) -> None:
        member = self._members.get(node_addr)
        if member is None:
            self._orders.pop((node_addr, task), None)
            return
        number = member.orders.open(task, workers, trial)
        if workers:
            self._orders[node_addr, task] = number
        else:
            self._orders.pop((node_addr, task), None)
