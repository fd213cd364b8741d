"""What a session's job says of its packets, by handler, and what is learned from that.

What a policy has foretold of them is read likewise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from vdag.control.coordinator.costs import COPY_S
from vdag.control.coordinator.graphs import Chart
from vdag.control.coordinator.learned import Learned
from vdag.control.coordinator.routes import route_of
from vdag.control.coordinator.values import Deployment
from vdag.control.desk import QueryView

__all__ = ["Parts", "delay_of", "foretold_parts", "learn", "measured_parts", "slowest_way"]

#: Of the time until it was its turn: what a worker that has nothing to do takes to wake up at most.
MOST_WAKE_S = 0.002
#: A queue that is longer than the work is no property of the handler: it has too much to do.
MOST_QUEUE = 1.0


class Parts(NamedTuple):
    """Mean seconds of a packet at a handler, and the bytes that it came with.

    Attributes:
        transfer_s: on its way there.
        queue_s: until it was its turn.
        compute_s: in a worker.
        nbytes: that travelled there; None for none, or not known.
    """

    transfer_s: float
    queue_s: float
    compute_s: float
    nbytes: float | None


def measured_parts(view: QueryView, chart: Chart) -> dict[int, Parts]:
    """Return what a job has measured last, by handler; of those that it says all parts of."""
    result = view.runtime.get("plan_result")
    names = ("transfer_delay", "queue_delay", "process_delay")
    columns = [_numbers(result.get(name)) for name in names] if isinstance(result, Mapping) else []
    sizes = _numbers(view.runtime.get("data_trans_size"))
    found: dict[int, Parts] = {}
    for task, number in chart.handlers.items():
        if columns and all(task in column for column in columns):
            transfer_s, queue_s, compute_s = (column[task] for column in columns)
            found[number] = Parts(transfer_s, queue_s, compute_s, sizes.get(task))
    return found


def foretold_parts(view: QueryView, chart: Chart) -> dict[int, Parts]:
    """Return what a policy has foretold of the plan in force, by handler; empty for nothing."""
    number = None if view.plan is None else view.plan.get("number")
    explanation = _mapping(view.decision.get("explanation"))
    if number is None or view.decision.get("number") != number:
        return {}  # the scheduler has made the plan itself, or the policy is about to be heard
    tasks = _mapping(_mapping(explanation.get("predicted")).get("tasks"))
    found: dict[int, Parts] = {}
    for task, handler in chart.handlers.items():
        parts = _numbers(tasks.get(task))
        if not {"transfer", "queue", "compute"} <= parts.keys():
            return {}
        found[handler] = Parts(parts["transfer"], parts["queue"], parts["compute"], None)
    return found


def slowest_way(found: Mapping[int, Parts], chart: Chart) -> list[int]:
    """Return the handlers behind the capture on the way of a packet that takes longest."""
    ways = [[number for number in way if number != chart.capture] for way in route_of(chart)]
    return max(ways, key=lambda way: sum(sum(found[number][:3]) for number in way))


def delay_of(found: Mapping[int, Parts], chart: Chart) -> float | None:
    """Return the seconds from the capture to the last handler's end; None if one is missing."""
    if found.keys() != chart.tasks.keys():
        return None
    return sum(sum(found[number][:3]) for number in slowest_way(found, chart))


def learn(
    learned: Learned,
    deployment: Deployment,
    found: Mapping[int, Parts],
    bandwidths: Mapping[tuple[int, int], float],
    copied: Mapping[tuple[int, int], float],
) -> None:
    """Take in what a session has measured under its placement.

    Args:
        learned: takes it in.
        deployment: the session.
        found: what it has measured, by handler.
        bandwidths: bytes per second, by sender and receiver.
        copied: bytes, by the two ends of each step of a packet's way.
    """
    chart, placed = deployment.chart, deployment.placement.nodes
    assert chart is not None, "it is on our nodes"
    for way in route_of(chart):
        for before, number in itertools.pairwise(way):
            parts = found.get(number)
            if parts is None:
                continue
            spec, node_id = deployment.service.by_id[number], placed[number]
            wake_s = min(parts.queue_s, MOST_WAKE_S)
            queue_s = min(parts.queue_s - wake_s, MOST_QUEUE * parts.compute_s)
            learned.add(spec, node_id, parts.compute_s + queue_s)
            step_s = parts.transfer_s + wake_s
            if placed[before] == node_id:
                step_s -= COPY_S * copied.get((before, number), 0.0)
            elif parts.nbytes is not None:
                learned.add_nbytes(spec, parts.nbytes)
                bandwidth = bandwidths.get((placed[before], node_id))
                step_s -= parts.nbytes / bandwidth if bandwidth else 0.0
            learned.add_step(placed[before], node_id, max(step_s, 0.0))


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _numbers(found: Any) -> dict[str, float]:
    """Return a document of numbers, without what is none: it comes from a node."""
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name): float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
    }
