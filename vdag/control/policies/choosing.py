"""Choosing: what is searched for, one aim after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vdag.control.policies.explaining import Weighed
from vdag.control.prediction import (
    Aim,
    Found,
    Outlook,
    Refuse,
    Tables,
    search,
    search_closest,
)
from vdag.plan import Plan

__all__ = ["BEYOND", "NEVER_ENOUGH", "ROOMY", "Choice", "best", "better", "is_there", "surer"]

#: Share of the bound that a plan may be predicted to take which is better than what was asked for.
BEYOND = 0.8
#: Shares of the bound, and of what may be taken, for a plan that is needed: most room first.
NEEDED = ((0.8, 1.0), (0.9, 1.0), (1.0, 1.0))
#: The last resort before less is given than was asked for.
TIGHT = (1.0, 1.06)
#: Of what is free, what a plan takes which is better than what was asked for.
ROOMY = 0.95
#: Share of the bound for a plan that is as accurate as was asked for more surely than the present.
SURE = 0.9
#: An accuracy that no plan has.
NEVER_ENOUGH = 2.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found, and why it.

    Attributes:
        found: the candidate and its prediction.
        why: in words.
        keeps_delay: it is predicted to.
        weighed: what would have been better but will not do.
    """

    found: Found
    why: str
    keeps_delay: bool
    weighed: list[Weighed] = field(default_factory=list)


def best(
    tables: Tables, present: Mapping[str, str] | None = None, refuse: Refuse | None = None
) -> Choice:
    """Return what a query needs now: the best there is, with as much room as there is for it.

    Beyond what was asked for goes only what others have left free; what was asked for may take the
    fair share.

    Args:
        tables: of the question.
        present: the placement so far; as few tasks as possible move.
        refuse: see `Aim`.
    """
    outlook = tables.outlook
    limit_s, asked = outlook.bound_s, outlook.asked
    aim = Aim(limit_s, present=dict(present or {}), refuse=refuse)
    found = better(tables, aim.present, refuse, fewest_moves=True)
    if found is not None:
        return Choice(found, "the best that there is room for", True)
    shared = tables.taking(free_only=False)
    enough = NEVER_ENOUGH if outlook.wanted is None else outlook.wanted
    for least in (0.0,) if asked is None else (enough, asked, 0.0):
        # Rather a little more than is planned for than less accuracy than was asked for.
        for share, crowding in (*NEEDED, TIGHT) if least == asked else NEEDED:
            aim = Aim(share * limit_s, enough, least, crowding, aim.present, refuse=refuse)
            found = search(shared, aim)
            if found is not None:
                met = asked is None or found.accuracy >= asked
                why = "meets what was asked for" if met else "as accurate as the delay allows"
                return Choice(found, why, True, [(each, "") for each in found.runners_up])
    found = search_closest(shared, Aim(limit_s, enough, present=dict(present or {})))
    why = "nothing keeps the constraint; this comes closest"
    return Choice(found, why, False, [(each, "") for each in found.runners_up])


def better(
    tables: Tables,
    present: Mapping[str, str],
    refuse: Refuse | None,
    *,
    fewest_moves: bool = False,
    only: NDArray[np.bool_] | None = None,
) -> Found | None:
    """Return the best of those that have ample room and what was asked for, None for none."""
    outlook = tables.outlook
    aim = Aim(
        BEYOND * outlook.bound_s,
        NEVER_ENOUGH,
        0.0 if outlook.wanted is None or only is not None else outlook.wanted,
        ROOMY,
        dict(present),
        fewest_moves,
        refuse,
        only,
    )
    return search(tables.taking(free_only=True), aim)


def surer(
    tables: Tables,
    present: Mapping[str, str],
    refuse: Refuse | None,
    only: NDArray[np.bool_] | None = None,
) -> Found | None:
    """Return what is more surely as accurate as was asked for, within the fair share; or None."""
    outlook = tables.outlook
    assert outlook.wanted is not None, "an accuracy was asked for"
    limit_s, wanted = SURE * outlook.bound_s, outlook.wanted
    aim = Aim(limit_s, wanted, wanted, 1.0, dict(present), refuse=refuse, only=only)
    return search(tables.taking(free_only=False), aim)


def is_there(plan: Plan, outlook: Outlook) -> bool:
    """Whether every node of a plan is alive and offers its task, of this graph."""
    if set(plan.flow_mapping) != set(outlook.tasks):
        return False
    host = outlook.question.around.host
    for task, placement in plan.flow_mapping.items():
        node = outlook.question.around.get(placement.node_addr)
        if node is None or not node.offers(task, placement.model_id):
            return False
        away = node.node_addr != host.node_addr
        if away and not node.landing and host.dialect == "channel":
            return False
    return True
