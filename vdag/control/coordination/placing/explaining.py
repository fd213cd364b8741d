"""Why handlers are where they are, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from vdag.control.coordination.placing.model import Estimate, Model
from vdag.control.coordination.placing.placement import Alternative, Placement
from vdag.control.coordination.values import HandlerSpec

__all__ = ["explained", "milliseconds"]


def explained(
    model: Model, nodes: Mapping[int, int], algorithm: str, how: str, *, bound_s: float = 0.0
) -> Placement:
    """Return a placement with what it comes to and what else there was.

    Args:
        model: of the service.
        nodes: of each handler.
        algorithm: that chose them.
        how: half a line.
        bound_s: see `Placement`.
    """
    estimate = model.estimate(nodes)
    return Placement(
        {each.handler_id: nodes[each.handler_id] for each in model.service.handlers},
        estimate.delay_s,
        estimate.parts,
        f"{algorithm}: {milliseconds(estimate.delay_s)}{_sums(estimate)}, {how}",
        tuple(_alternatives(model, nodes, estimate)),
        algorithm,
        bound_s,
        estimate.overloads,
    )


def milliseconds(seconds: float) -> str:
    """Return a time as people read it."""
    return f"{seconds * 1e3:.1f} ms" if math.isfinite(seconds) else "without end"


def _sums(estimate: Estimate) -> str:
    sums: dict[str, float] = {}
    for part in estimate.parts:
        sums[part.what] = sums.get(part.what, 0.0) + part.seconds
    named = (f"{what} {milliseconds(seconds)}" for what, seconds in sorted(sums.items()))
    return f" ({', '.join(named)})" if sums else ""


def _alternatives(
    model: Model, nodes: Mapping[int, int], estimate: Estimate
) -> Iterator[Alternative]:
    """Yield for each handler that may be elsewhere the best of that, whether or not possible."""
    for spec in model.service.order:
        others = [node for node in model.offered[spec.handler_id] if node != nodes[spec.handler_id]]
        tried = [_alternative(model, nodes, spec, other, estimate) for other in others]
        if tried:
            yield min(tried, key=lambda each: (each.delay_s, each.node_id))


def _alternative(
    model: Model, nodes: Mapping[int, int], spec: HandlerSpec, other: int, present: Estimate
) -> Alternative:
    found = model.estimate({**nodes, spec.handler_id: other})
    here = f"{spec} on {model.name(other)}"
    if found.overloads:
        return Alternative(spec.handler_id, other, math.inf, f"{here}: {found.overloads[0]}")
    more_s = found.delay_s - present.delay_s
    if math.isfinite(more_s):
        change = f", {milliseconds(abs(more_s))} {'more' if more_s >= 0 else 'less'}"
    else:
        change = ""
    why = f"{here}: {milliseconds(found.delay_s)}{change}"
    return Alternative(spec.handler_id, other, found.delay_s, why)
