"""The simulator: the scheduler and the policies as they are, in a world on a virtual clock.

    scenario -> Control (Scheduler, Policy) <-> World (frames or flows) -> Outcome

`simulate` runs a `Scenario` under a policy. All randomness comes from one seed, so that two runs
are equal to the last bit, in whatever process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from vdag.control.policies import Policy, load
from vdag.control.profile import Profile
from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.control import Control
from vdag.control.simulation.fluid import FluidWorld
from vdag.control.simulation.frames import FrameWorld
from vdag.control.simulation.knowledge import knowledge_of, truth_of
from vdag.control.simulation.outcome import Books, Cost, Outcome, PlanChange, QueryOutcome, Window
from vdag.control.simulation.scenario import Scenario
from vdag.control.simulation.world import World

__all__ = [
    "Books",
    "Cost",
    "Mode",
    "Outcome",
    "PlanChange",
    "QueryOutcome",
    "Scenario",
    "Window",
    "simulate",
]

Mode = Literal["auto", "frames", "fluid"]
#: More queries than this are simulated as flows unless frames are asked for.
MAX_FRAME_QUERIES = 2_000
_NS = 1_000_000_000


def simulate(
    scenario: Scenario,
    policy: str | Policy | Callable[..., Any],
    seed: int = 0,
    *,
    mode: Mode = "auto",
    profile: Callable[[], Profile] | None = None,
) -> Outcome:
    """Run a scenario under a policy.

    Args:
        scenario: what happens.
        policy: who plans all queries: a name as of a query's `policy`, a policy, or a function with
            the documents' signature, which is called in this process.
        seed: of all random numbers.
        mode: `frames` simulates each frame, `fluid` rates per second, `auto` the former for up to
            2,000 queries.
        profile: makes the knowledge base, anew at each call; that of the scenario unless given.

    Raises:
        ConfigError: the policy or the scenario's profile cannot be found or makes no sense.
    """
    planner = _policy(policy)
    agenda = Agenda()
    truth = truth_of(scenario, seed, profile)
    is_fluid = mode == "fluid" or (mode == "auto" and len(scenario.queries) > MAX_FRAME_QUERIES)
    world: World = (FluidWorld if is_fluid else FrameWorld)(scenario, truth, agenda, seed)
    control = Control(scenario, planner, world, agenda, knowledge_of(scenario, profile))
    control.begin()
    agenda.run(round(scenario.duration_s * _NS))
    queries = []
    for query in scenario.queries:
        record, plans = world.record(query.name), tuple(control.plans[query.name])
        queries.append(
            QueryOutcome(
                query.name, record.windows, plans, record.books, control.faults[query.name]
            )
        )
    return Outcome(
        scenario.name, planner.name, seed, scenario.duration_s, tuple(queries),
        world.frames, control.cost(),
    )  # fmt: skip


def _policy(policy: str | Policy | Callable[..., Any]) -> Policy:
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, str):
        return load(policy)
    return Policy(getattr(policy, "__name__", "function"), policy, is_built_in=True)
