"""How long frames wait, in the mean, where rates are known: at workers and at wires.

Used where frames are not simulated one by one: by the world of flows, and by the oracle.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from vdag.control.simulation.cpus import MIN_CORES, Cpu
from vdag.control.simulation.hardware import NodeSpec

__all__ = [
    "Wait",
    "at_wire",
    "at_workers",
    "free_cores",
    "on_node",
    "under_quota",
    "work_under_quota",
]

#: A wait of those that wait at all is nearly exponential: 95 % do not exceed three means.
P95_OF_MEAN = 3.0
#: As of the real edge: how long a frame may wait on a link behind others.
SPARE_S = 0.1
#: Moments of a period, evenly apart, at which work under a quota may begin.
MOMENTS = 20
_NS = 1_000_000_000


class Wait(NamedTuple):
    """Seconds in the mean, and what 95 % do not exceed."""

    mean_s: float
    p95_s: float


def at_workers(service_s: float, workers: int, busy: float, queries: int) -> Wait:
    """Return the wait for one of `workers` that take `service_s` per frame.

    Half of Sakasegawa's M/M/n (1977), which is exact for M/D/1, times the share of the work that is
    not the frame's own stream: a stream alone comes in even steps, and does not wait for itself. It
    is at most a frame of every stream, for newer frames take the places of older ones.

    Args:
        service_s: of a frame.
        workers: at least 1.
        busy: of them, on average, as much as is asked for; may exceed `workers`.
        queries: whose frames these are.
    """
    most_s = max(queries, 1) * service_s / workers
    rho = busy / workers
    if rho >= 1.0:
        return Wait(most_s, most_s)
    others = (queries - 1) / queries if queries > 1 else 0.0
    exponent = (2.0 * (workers + 1)) ** 0.5 - 1.0
    mean_s = others * 0.5 * rho**exponent * service_s / (workers * (1.0 - rho))
    return Wait(min(mean_s, most_s), min(P95_OF_MEAN * mean_s, most_s))


def at_wire(message_s: float, load: float, streams: int) -> Wait:
    """Return the wait for a wire that takes `message_s` per message; as of one worker, paced.

    Args:
        message_s: that a message takes to be sent.
        load: messages' seconds per second, as much as is asked for.
        streams: whose messages these are.
    """
    wait = at_workers(message_s, 1, load, streams)
    most_s = SPARE_S + message_s
    return Wait(min(wait.mean_s, most_s), min(wait.p95_s, most_s))


@lru_cache(maxsize=4096)
def under_quota(work_s: float, cores: float, period_s: float, own_load: float = 0.0) -> Wait:
    """Return how long work takes under a CPU quota that nobody else uses, begun at any moment.

    Args:
        work_s: of one worker, at full speed.
        cores: the quota over its period.
        period_s: of it.
        own_load: cores that the node keeps busy itself.
    """
    period_ns = round(period_s * _NS)
    took = []
    for index in range(MOMENTS):
        cpu = Cpu(cores, own_load=own_load, period_ns=period_ns)
        cpu.advance(round((index + 0.5) / MOMENTS * period_ns), 0)
        took.append(cpu.until_done_ns(1, work_s) / _NS)
    took.sort()
    return Wait(sum(took) / MOMENTS, took[int(0.95 * MOMENTS)])


def on_node(spec: NodeSpec, cores: float, speed: float, work: Wait) -> Wait:
    """Return how long work takes on a node on which nothing else is done.

    Args:
        spec: of the node.
        cores: that it has at present.
        speed: likewise.
        work: mean and 95 % quantile, at speed 1.
    """
    mean_s, p95_s = work.mean_s / speed, work.p95_s / speed
    if spec.cpu_period_s is None:
        slow = max(1.0 / free_cores(spec, cores), 1.0)
        return Wait(mean_s * slow, p95_s * slow)
    # To a hundredth of a millisecond: it is the same again and again.
    rounded_s = max(round(mean_s, 5), 1e-5)
    wait = under_quota(rounded_s, cores, spec.cpu_period_s, spec.own_load)
    return Wait(wait.mean_s, wait.p95_s + p95_s - mean_s)


def free_cores(spec: NodeSpec, cores: float) -> float:
    """Return the cores that a node has for its tasks."""
    return max(cores - spec.own_load, MIN_CORES)


def work_under_quota(took_s: float, cores: float, period_s: float, own_load: float = 0.0) -> float:
    """Return the work that takes so long in the mean: the inverse of `under_quota`."""
    low, high = 0.0, took_s
    for _ in range(30):
        middle = 0.5 * (low + high)
        if under_quota(middle, cores, period_s, own_load).mean_s < took_s:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
