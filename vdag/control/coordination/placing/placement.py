"""What algorithms answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Alternative", "Part", "Placement"]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the longest way through a placement.

    Attributes:
        what: it is.
        handler_id: that waits or computes; of a transfer, the one that gets the packet.
        node_id: where that handler is.
        seconds: of a packet, on average.
    """

    what: Literal["wait", "compute", "transfer"]
    handler_id: int
    node_id: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """What one handler on another node would change.

    Attributes:
        handler_id: that is moved.
        node_id: where to.
        delay_s: of a packet then; infinite if that cannot be.
        why: one line.
    """

    handler_id: int
    node_id: int
    delay_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the handlers of a service go.

    Attributes:
        nodes: node of each handler, by their numbers.
        delay_s: predicted seconds of a packet from the first handler's start to the last one's
            end; infinite if a handler or a link does not keep up.
        parts: of the longest way, in its order; together they are `delay_s`.
        why: one line.
        alternatives: for each handler that is not tied to a node, its next best node.
        algorithm: that was asked.
        bound_s: no placement takes less; equal to `delay_s` if this is proven the best, 0 if
            nothing was proven.
        overloads: what has more to do than it can, one line each.
    """

    nodes: Mapping[int, int]
    delay_s: float
    parts: tuple[Part, ...]
    why: str
    alternatives: tuple[Alternative, ...]
    algorithm: str
    bound_s: float = 0.0
    overloads: tuple[str, ...] = ()
