"""`Constraint`: what a user asks of a query's results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.errors import PlanError
from vdag.plan.conf import VideoConf
from vdag.plan.fields import expect_number, expect_object

__all__ = ["Constraint"]

#: A bound that is not there.
NONE = -1.0
#: The documents' accuracy levels go from 0 to this.
MAX_ACC_LEVEL = 5


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a user asks of a query's results.

    Attributes:
        delay_s: `(low, high)`, seconds between a frame and its result; -1 for no bound.
        accuracy: 0 to 1, None for none.
        video_conf: how frames have to be taken, so that policies only choose where tasks run; None
            for as they see fit.
        document: the user's own words, for replies and for policies that read more of them.

    Raises:
        PlanError: the bounds are crossed, or the accuracy is out of range.
    """

    delay_s: tuple[float, float] = (NONE, NONE)
    accuracy: float | None = None
    video_conf: VideoConf | None = None
    document: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.delay_s
        if low != NONE and high != NONE and low > high:
            raise PlanError(f"delay of at least {low:g} s and at most {high:g} s has no value")
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise PlanError(f"accuracy {self.accuracy:g} is not between 0 and 1")

    @classmethod
    def from_document(cls, document: Any) -> Constraint:
        """Read the documents' `user_constraint`.

        Args:
            document: `delay`, a number of seconds or `[low, high]`; `accuracy`, 0 to 1, or
                `acc_level`, 0 to 5; `video_conf`, with all that it needs. Negative numbers and null
                mean none; an accuracy above 1 means 1, for old clients send 10. Null altogether is
                no constraint at all.

        Raises:
            PlanError: a field is of the wrong type, or the bounds are crossed.
        """
        given = {} if document is None else expect_object("user_constraint", document)
        accuracy = _bound("accuracy", given.get("accuracy"))
        if accuracy == NONE:
            level = _bound("acc_level", given.get("acc_level"))
            accuracy = level if level == NONE else level / MAX_ACC_LEVEL
        known = None if accuracy == NONE else min(accuracy, 1.0)
        conf = given.get("video_conf")
        fixed = None if conf is None else VideoConf.from_document(conf)
        return cls(_delay(given.get("delay")), known, fixed, dict(given))

    def to_document(self) -> dict[str, Any]:
        """Return the user's own words, or the bounds there are in the documents'."""
        if self.document:
            return dict(self.document)
        low, high = self.delay_s
        bounds = None if low == high == NONE else high if low == NONE else [low, high]
        conf = None if self.video_conf is None else self.video_conf.to_document()
        document = {"delay": bounds, "accuracy": self.accuracy, "video_conf": conf}
        return {name: value for name, value in document.items() if value is not None}


def _bound(name: str, value: Any) -> float:
    """Return a bound that is at least 0, or `NONE`; NaN, which browsers send, means none."""
    number = NONE if value is None else expect_number(name, value)
    return number if math.isfinite(number) and number >= 0 else NONE


def _delay(value: Any) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)):
        return NONE, _bound("delay", value)
    if len(value) != 2:
        raise PlanError(f"delay is a number or [low, high], not a list of {len(value)}")
    return _bound("delay[0]", value[0]), _bound("delay[1]", value[1])
