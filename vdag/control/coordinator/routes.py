"""The way of a frame through a session on our nodes, as placing has to see it.

A job's graph falls into branches, which go their ways at the same time. Within a branch a frame
visits one task after the other, also where the service forks, and brings along what those to come
need of it. So what takes time are the steps of that way, and not the links of the service.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from vdag.control.coordination.values import Link, Service
from vdag.control.coordinator.graphs import Chart
from vdag.itinerary import branches

__all__ = ["Route", "luggage", "route_of", "routed"]

#: Per branch the handlers in the order of the frame's way; each begins with the one that captures.
Route = Sequence[Sequence[int]]


def route_of(chart: Chart) -> Route:
    """Return the way of a frame."""
    numbers = chart.handlers
    return tuple(
        (chart.capture, *(numbers[task] for task in branch)) for branch in branches(chart.graph)
    )


def routed(service: Service, route: Route) -> Service:
    """Return a service whose links are the steps of the way beside its own."""
    known = {(link.source_handler, link.target_handler) for link in service.links}
    steps = [step for way in route for step in itertools.pairwise(way)]
    more = tuple(
        Link(source, 0, target, 0) for source, target in steps if (source, target) not in known
    )
    return replace(service, links=(*service.links, *more))


def luggage(
    service: Service, route: Route, nbytes: Callable[[int], float]
) -> Mapping[tuple[int, int], float]:
    """Return the bytes that a frame has with it, by the two ends of each step of its way.

    Args:
        service: whose links say who needs what.
        route: the way.
        nbytes: of what a handler gives, by its number.
    """
    found: dict[tuple[int, int], float] = {}
    for way in route:
        place = {number: index for index, number in enumerate(way)}
        for index, step in enumerate(itertools.pairwise(way)):
            carried = {
                link.source_handler
                for link in service.links
                if place.get(link.source_handler, len(way)) <= index
                and place.get(link.target_handler, -1) > index
            }
            found[step] = sum(nbytes(number) for number in carried)
    return found
