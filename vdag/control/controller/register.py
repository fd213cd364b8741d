"""`Register`: the queries that the controller has, as it shows them.

One thread writes, any may read: values are immutable and replaced whole. Queries that are over stay
for a while, so that who looks at the moment of the end still sees it; then the records have them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vdag.control.desk import QueryView
from vdag.control.records import ENDED

__all__ = ["Register"]

#: Queries that are over and still shown.
KEPT = 256


class Register:
    """See above."""

    def __init__(self) -> None:
        self._views: dict[str, QueryView] = {}
        self._over: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._views)

    def get(self, query_id: str) -> QueryView | None:
        """Return a query, None if it is not here (any more)."""
        return self._views.get(query_id)

    def all(self) -> list[QueryView]:
        """Return all queries, oldest first."""
        return list(self._views.values())

    def of_node(self, node_addr: str) -> list[QueryView]:
        """Return the queries about a node's videos that are not over, oldest first."""
        return [view for view in self.all() if view.node_addr == node_addr and view.state < ENDED]

    def add(self, view: QueryView) -> None:
        """Show a query, or show it anew."""
        self._views[view.query_id] = view

    def remove(self, query_id: str) -> None:
        """Show a query no more; harmless if it is not shown."""
        self._views.pop(query_id, None)

    def change(self, query_id: str, **changes: Any) -> None:
        """Show a query as it is now; one that is not here is passed over."""
        view = self._views.get(query_id)
        if view is None:
            return
        changed = replace(view, **changes)
        self._views[query_id] = changed
        if view.state < ENDED <= changed.state:
            self._over.append(query_id)
            if len(self._over) > KEPT:
                self._views.pop(self._over.popleft(), None)

    def measure(self, query_id: str, runtime: Mapping[str, Any]) -> None:
        """Show what a query's job has measured; what it does not say this time stays."""
        view = self._views.get(query_id)
        if view is not None:
            self._views[query_id] = replace(view, runtime={**view.runtime, **runtime})
