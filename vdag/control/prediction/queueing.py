"""Waiting at the workers of a task: M/G/c, approximated.

Frames of several queries meet at the `c` workers of a task on a node. The mean wait of M/M/c is
that of Sakasegawa (1977), `rho ** (sqrt(2 (c + 1)) - 1) / (c (1 - rho)) * s`, and the step from
there to other arrivals and services is that of Allen and Cunneen: times `(ca2 + cs2) / 2`, the
squared coefficients of variation of the time between frames and of the time of a frame. A camera
that is alone at the workers comes in even steps, many cameras together come as they like; hence
`ca2` is the share that others have of the work.

The wait of those that wait at all is nearly exponential, which gives its variance. All is plain
arithmetic, so that the same lines do for numbers and for arrays of them.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_BUSY", "Z95", "wait_at"]

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
