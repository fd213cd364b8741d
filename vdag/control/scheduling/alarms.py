"""Alarms: what a report says that should not wait for the next look at its query.

An alarm is raised once: by the first report that has it. As long as it stays, the query is looked
at as any other, so one whose constraint nothing can keep costs no more than the rest.
"""

from __future__ import annotations

import math

from vdag.control.scheduling.cases import Case

__all__ = ["alarm_of"]


def alarm_of(case: Case) -> str:
    """Return what the runtime of a query says of its plan, empty for nothing to hurry for.

    `late`: 95 of 100 results do not keep the delay. `changed`: delays have changed at once.
    """
    bound_s = case.query.constraint.delay_s[1]
    p95_s = case.runtime.get("delay_p95")
    if bound_s >= 0 and isinstance(p95_s, (int, float)) and bound_s < p95_s < math.inf:
        return "late"
    return "changed" if case.runtime.get("changed") is True else ""
