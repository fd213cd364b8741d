"""Results handed to a function."""

from __future__ import annotations

from collections.abc import Callable

from vdag.errors import SinkError
from vdag.results import Result
from vdag.sinks.base import Sink

__all__ = ["CallbackSink"]


class CallbackSink(Sink):
    """Calls a function with every result, in the writing thread; see `Sink`.

    Args:
        function: called with the result, whose frame is valid during the call. What it raises
            leaves `write` as it is.
    """

    def __init__(self, function: Callable[[Result], object]) -> None:
        self._function: Callable[[Result], object] | None = function

    def write(self, result: Result) -> None:
        """Call the function.

        Raises:
            SinkError: the sink is closed.
        """
        if self._function is None:
            raise SinkError("callback: is closed")
        self._function(result)

    def close(self) -> None:
        """Call the function no more."""
        self._function = None

    def abort(self) -> None:
        """Call the function no more."""
        self.close()
