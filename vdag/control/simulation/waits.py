"""How long frames wait, in the mean, where rates are known: at workers and at wires.

Used where frames are not simulated one by one: by the world of flows, and by the oracle.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Wait", "at_wire", "at_workers"]

#: A wait of those that wait at all is nearly exponential: 95 % do not exceed three means.
P95_OF_MEAN = 3.0
#: As of the real edge: how long a frame may wait on a link behind others.
SPARE_S = 0.1


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
