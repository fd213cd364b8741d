"""Results handed to a function."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from vdag.errors import SinkError
from vdag.results import Result
from vdag.sinks.base import finish

__all__ = ["CallbackSink"]


class CallbackSink:
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

    def __enter__(self) -> CallbackSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        finish(self, err)
