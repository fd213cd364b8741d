"""The documents' handler types as tasks, and their services as graphs.

`kinds` knows the types, `wiring` makes a graph of a service; each other module has a few handlers.
They are found by name, as all tasks are, and load nothing before they are made.
"""

from __future__ import annotations

from vdag.tasks.handlers.kinds import task_of
from vdag.tasks.handlers.wiring import HandlerSpec, LinkSpec, Wiring, graph_of

__all__ = ["HandlerSpec", "LinkSpec", "Wiring", "graph_of", "task_of"]
