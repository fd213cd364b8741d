"""Fields of documents: their types, and errors that say where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdag.errors import PlanError

__all__ = ["expect_number", "expect_object", "expect_text", "kind", "told"]


class told:
    """Puts the place in front of the text of a `PlanError` that is raised under it."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, PlanError):
            raise PlanError(f"{self._where}: {error}") from error


def kind(value: Any) -> str:
    """Return what a value is, for an error's text."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def expect_object(name: str, value: Any) -> Mapping[str, Any]:
    """Return `value`, or raise PlanError unless it is an object."""
    if not isinstance(value, Mapping):
        raise PlanError(f"{name} is an object, not {kind(value)}")
    return value


def expect_text(where: str, given: Mapping[str, Any], name: str) -> str:
    """Return a field's text, empty for null; raise PlanError unless it is text."""
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise PlanError(f"{where}.{name} is text, not {kind(value)}")
    return value or ""


def expect_number(name: str, value: Any) -> float:
    """Return `value` as a float, or raise PlanError unless it is a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PlanError(f"{name} is a number, not {kind(value)}")
    try:
        return float(value)
    except OverflowError as err:
        raise PlanError(f"{name} is a number of more than 300 digits") from err
