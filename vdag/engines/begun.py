"""`Begun`: work that has begun and whose result is still to be taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from vdag.errors import EngineError

__all__ = ["Begun"]

Value = TypeVar("Value")
Other = TypeVar("Other")


class Begun(Generic[Value]):
    """Work that goes on elsewhere, as on a GPU, while its caller does something else.

    Whoever began it takes the result, once, also if nobody wants it any more: until then the
    memory that the work takes is not free. One thread at a time.

    Args:
        finish: waits and returns the result, or raises; called once.

    Attributes:
        is_finished: there is nothing left to wait for.
    """

    __slots__ = ("_finish", "is_finished")

    def __init__(self, finish: Callable[[], Value]) -> None:
        self._finish: Callable[[], Value] | None = finish
        self.is_finished = False

    @classmethod
    def finished(cls, value: Value) -> Begun[Value]:
        """Return what was done at once."""
        begun = cls(lambda: value)
        begun.is_finished = True
        return begun

    def wait(self) -> None:
        """Have it finished and its memory free; what it came to is kept for `result`."""
        if self.is_finished:
            return
        try:
            value = self.result()
        except Exception as err:
            self._finish = _raising(err)
        else:
            self._finish = lambda: value

    def result(self) -> Value:
        """Wait for it and return what it came to.

        Raises:
            EngineError: it was taken before.
            Exception: what the work has failed with.
        """
        finish, self._finish = self._finish, None
        if finish is None:
            raise EngineError("the result of this batch was taken before")
        self.is_finished = True
        return finish()

    def then(self, function: Callable[[Value], Other]) -> Begun[Other]:
        """Return this work and what is done with its result when that is taken."""
        following = Begun(lambda: function(self.result()))
        following.is_finished = self.is_finished
        return following


def _raising(error: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail
