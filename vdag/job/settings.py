"""What a job may be told at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vdag.errors import ConfigError
from vdag.frame import Frame
from vdag.graph import Graph
from vdag.results import TaskParts

__all__ = ["MAX_IN_FLIGHT", "MAX_LYING", "MAX_PLACES", "MAX_WAIT_S", "OnDrop", "check_settings"]

#: Is told of a frame that is dropped: the frame, the number of its plan, and where its time went as
#: far as that is known. Called under the job's lock: it must return at once, and keep no pixels.
OnDrop = Callable[[Frame, int, Mapping[str, TaskParts]], None]

#: Beyond this the messages about so many frames would not fit the sockets between.
MAX_IN_FLIGHT = 1024
#: Most places that a task's queue can have.
MAX_PLACES = 4096
#: Messages beside those about frames in flight that may come home before anybody looks.
MAX_LYING = 4096
#: Longest wait of the caller or the source after which they look by themselves.
MAX_WAIT_S = 60.0


def check_settings(
    graph: Graph, max_in_flight: int, places: int | None, deadline_s: float | None, on_error: str
) -> None:
    """Check arguments of `Job`.

    Raises:
        ConfigError: one has no meaning; the text names it.
    """
    if on_error not in ("raise", "drop"):
        raise ConfigError(f"on_error is {on_error!r}, expected raise or drop")
    if graph.generator != "SingleFrameGenerator":
        raise ConfigError(f"workers take single frames, not those of a {graph.generator}")
    if not 1 <= max_in_flight <= MAX_IN_FLIGHT:
        raise ConfigError(f"max_in_flight is {max_in_flight}, expected 1 to {MAX_IN_FLIGHT}")
    if places is not None and not max_in_flight <= places <= MAX_PLACES:
        raise ConfigError(f"places is {places}, expected {max_in_flight} to {MAX_PLACES}")
    if deadline_s is not None and deadline_s <= 0:
        raise ConfigError(f"deadline_s is {deadline_s}, expected above 0")
