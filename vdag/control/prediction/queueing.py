"""Waiting at the workers of a task: M/G/c, approximated.

Frames of several queries meet at the `c` workers of a task on a node. The mean wait of M/M/c is
that of Sakasegawa (1977), `rho ** (sqrt(2 (c + 1)) - 1) / (c (1 - rho)) * s`, and the step from
there to other arrivals and services is that of Allen and Cunneen: times `(ca2 + cs2) / 2`, the
squared coefficients of variation of the time between frames and of the time of a frame. A camera
that is alone at the workers comes in even steps, many cameras together come as they like; hence
`ca2` is the share that others have of the work.

The wait of those that wait at all is nearly exponential, which gives its variance. All is plain
arithmetic, so that the same lines do for numbers and for arrays of them.

A worker that takes batches has the frames that came during one in the next. How large they get
follows from the load. If a frame of the best batch takes the share `q` of what it takes alone, each
further frame of a batch adds at most `q`; where as many come as go, a batch takes `(1 - q) / (1 -
rho)` times as long as a frame alone. Below 1 there are no batches. A frame waits as if frames were
worked on one by one, but no longer than for half of the batch that is under way and, as full ones
leave some behind, what it would wait at their load.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_BUSY", "Z95", "gather", "wait_at"]

#: Beyond this the formulas have no meaning: the queue would grow for as long as it may.
MAX_BUSY = 0.98
#: Squared variation of the frames of one camera; decoding and earlier tasks shake them a little.
PACED = 0.05
#: Standard deviations above the mean of what 95 % do not exceed, of a normal distribution.
Z95 = 1.6449

Number = TypeVar("Number", float, "NDArray[np.float64]")


def wait_at(
    service_s: Number, service_var_s2: Number, workers: Number, own: Number, others: Number
) -> tuple[Number, Number]:
    """Return mean and variance of the wait.

    Args:
        service_s: mean seconds of a frame, above 0.
        service_var_s2: its variance.
        workers: at least 1.
        own: workers that this query keeps busy.
        others: workers that other queries keep busy; together at most `MAX_BUSY * workers`.
    """
    busy = own + others
    rho = busy / workers
    ca2 = PACED + (1 - PACED) * others / (busy + 1e-12)
    cs2 = service_var_s2 / (service_s * service_s)
    share = 0.5 * (ca2 + cs2)
    waits = rho ** ((2 * (workers + 1)) ** 0.5 - 1)
    drain_s = service_s / (workers * (1 - rho))
    mean_s = share * waits * drain_s
    return mean_s, mean_s * (2 * share * drain_s - mean_s)


def gather(
    service_s: float,
    service_var_s2: float,
    workers: float,
    own: float,
    others: float,
    busy_share: float,
) -> tuple[float, float, float]:
    """Return mean and variance of the wait where batches may form, and how much longer they take.

    Args:
        service_s: mean seconds of a frame alone; the others as of `wait_at`.
        service_var_s2: its variance.
        workers: at least 1.
        own: workers that this query keeps busy, above 0, with frames in the best batches.
        others: likewise other queries.
        busy_share: what a frame there takes of a worker over what one alone takes; 1: no batches.
    """
    busy = own + others
    mean_s, var_s2 = wait_at(service_s, service_var_s2, workers, own, others)
    if busy_share >= 1.0:
        return mean_s, var_s2, 1.0
    stretch = max((1 - busy_share) / (1 - busy / workers), 1.0)
    batch_s = service_s * stretch
    more = min(1 / busy_share, MAX_BUSY * workers / (busy + 1e-12))
    single_s, single_var_s2 = wait_at(service_s, service_var_s2, workers, own * more, others * more)
    # A frame may come at any moment of the batch under way.
    mean_s, var_s2 = mean_s + 0.5 * batch_s, var_s2 + batch_s * batch_s / 12
    if single_s < mean_s:
        mean_s, var_s2 = single_s, single_var_s2
    return mean_s, var_s2, stretch
