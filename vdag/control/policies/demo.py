"""`demo`: the demonstration scheduler of the documents' system, rebuilt from how it behaves.

A baseline for comparison, not a recommendation. It begins with the configuration whose predicted
delay is nearest to the bound, from either side and whatever its accuracy, by a table of delays at
full rate; then it changes one thing per look: too slow, the resolution goes down, else the rate,
else the last task at the host moves to the cloud; otherwise the other way round. It has no dead
band, so it goes on changing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vdag.control.policies.calling import Answer
from vdag.control.policies.ladders import (
    RESOLUTIONS,
    Setup,
    full_rate_s,
    read_setup,
    total_delay_s,
)
from vdag.errors import PlanError
from vdag.plan import Constraint, Plan

__all__ = ["demo"]


def demo(
    dag_flow: Sequence[str],
    resource_info: Mapping[str, Any],
    last_plan_res: Mapping[str, Any],
    constraint: Constraint,
    previous: Plan | None = None,
) -> Answer:
    """Return the next plan; the older interface, so `resource_info` is flat, servers last.

    Raises:
        PlanError: there is no bound of the delay, without which it cannot do anything.
    """
    bound_s = constraint.delay_s[1]
    if bound_s < 0:
        raise PlanError("user_constraint has no delay")
    addresses = [*resource_info]
    roles = {"host": addresses[0], "cloud": addresses[-1]}
    delay_s = total_delay_s(last_plan_res)
    if previous is None or delay_s is None:
        return _begin(dag_flow, bound_s).answer(roles, "the predicted delay nearest to the bound")
    setup = read_setup(previous, dag_flow)
    if delay_s > bound_s:
        changed = setup.lower_resolution() or setup.slower() or setup.offload()
    else:
        changed = setup.raise_resolution() or setup.faster() or setup.bring_back()
    why = f"{delay_s:.3g} s is {'more' if delay_s > bound_s else 'no more'} than {bound_s:.3g} s"
    return (changed or setup).answer(roles, why)


def _begin(tasks: Sequence[str], bound_s: float) -> Setup:
    """Return the first of the nearest, at the slowest rate: the rate is not in the prediction."""
    best, nearest = Setup(tuple(tasks)), float("inf")
    for resolution in range(len(RESOLUTIONS)):
        for cut in range(1, len(tasks) + 1):
            setup = Setup(tuple(tasks), resolution, 0, cut)
            off = abs(bound_s - full_rate_s(setup))
            if off < nearest:
                best, nearest = setup, off
    return best
