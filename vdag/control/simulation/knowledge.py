"""What is known of a scenario's tasks beforehand: by policies, and by the world itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from vdag.control.profile import Cost, Profile
from vdag.control.simulation.machines import node_info
from vdag.control.simulation.scenario import Scenario
from vdag.control.simulation.truth import Truth, synthetic_profile
from vdag.sampling import RESOLUTIONS

__all__ = ["knowledge_of", "truth_of"]

#: Where there are more nodes, each counts as any other of its role until it has taught better.
MAX_SURVEYED = 100

#: Makes a knowledge base, anew at each call.
Maker = Callable[[], Profile]


def knowledge_of(scenario: Scenario, make: Maker | None = None) -> Profile:
    """Return what policies know in the beginning: costs as they would have been measured.

    Up to `MAX_SURVEYED` nodes were measured each; then a node's own speed is known.

    Raises:
        ConfigError: the scenario's profile cannot be read.
    """
    profile = _make(scenario, make)
    if len(scenario.nodes) <= MAX_SURVEYED:
        # All are read before one is written: what is written counts for the others.
        for found in [*_survey(profile, scenario)]:
            profile.put_cost(*found)
    return profile


def truth_of(scenario: Scenario, seed: int, make: Maker | None = None) -> Truth:
    """Return what holds in the scenario's world.

    Raises:
        ConfigError: the scenario's profile cannot be read.
    """
    return Truth(_make(scenario, make), scenario.error, f"{seed} truth")


def _make(scenario: Scenario, make: Maker | None) -> Profile:
    if make is not None:
        return make()
    if scenario.profile:
        return Profile.load(Path(scenario.profile))
    return synthetic_profile(task for node in scenario.nodes for task in node.services)


def _survey(profile: Profile, scenario: Scenario) -> Iterator[tuple[str, int, str, Cost, str]]:
    """Yield task, model, resolution, cost and place of what nodes of other speeds take."""
    models: defaultdict[str, set[int]] = defaultdict(set)
    for task, model_id, _, _, _ in profile.costs():
        models[task].add(model_id)
    addresses = scenario.addresses()
    for spec in scenario.nodes:
        if spec.speed == 1.0:
            continue
        node = node_info(spec, addresses[spec.name])
        for task, service in spec.services.items():
            for model_id in sorted(set(service.models) or models[task]):
                for resolution in RESOLUTIONS:
                    cost = profile.cost(task, model_id, resolution, node)
                    if cost is not None:
                        scaled = cost.scaled(1.0 / spec.speed)
                        yield task, model_id, resolution, scaled, node.node_addr
