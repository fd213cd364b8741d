from __future__ import annotations

from typing import Any

import pytest

from vdag.control.simulation import Books, Outcome, PlanChange, QueryOutcome, Window, simulate
from vdag.control.simulation.fleets import random_scenario
from vdag.control.simulation.oracle import run_oracle
from vdag.control.simulation.scenario import (
    LinkSpec,
    NodeSpec,
    QuerySpec,
    Scenario,
    ServiceSpec,
    Step,
)
from vdag.control.simulation.standing import compare, limit_cycles

SERVICE = {"face_detection": ServiceSpec(workers=2, models=(0, 1, 2))}


def one(*steps: Step, cores: float = 2, mbit: float = 100, **query: Any) -> Scenario:
    """An edge and a server, and a query of one task."""
    known: dict[str, Any] = {"delay_s": 0.3, "accuracy": 0.8}
    return Scenario(
        duration_s=20.0,
        nodes=(
            NodeSpec(name="edge", cores=cores, services=SERVICE),
            NodeSpec(name="cloud", role="cloud", cores=8, services=SERVICE),
        ),
        links=(LinkSpec(between=("edge", "cloud"), mbit=mbit, latency_ms=2),),
        queries=(
            QuerySpec(name="q", node="edge", tasks=("face_detection",), **{**known, **query}),
        ),
        steps=steps,
    )


def test_the_oracle_keeps_what_can_be_kept_and_changes_its_plan_at_once():
    outcome = run_oracle(one(Step(at_s=10, node="edge", cores=0.1), mbit=50))
    query = outcome.queries[0]
    # A frame that is at work when the cores are taken away may be late; no other is.
    assert {int(window.start_s) for window in query.windows if not window.met} <= {9}
    assert [change.at_s for change in query.plans] == [0.0, 10.0]


def test_what_cannot_be_kept_is_not_claimed():
    outcome = run_oracle(one(delay_s=0.001))
    assert outcome.met == 0.0
    assert outcome.queries[0].windows
    assert compare(one(), outcome, outcome).windows == 0


@pytest.mark.parametrize("seed", [0, 4])
def test_the_oracle_is_at_least_as_good_as_others_on_random_fleets(seed: int):
    scenario = random_scenario(seed, 3, 4, duration_s=40.0)
    oracle = run_oracle(scenario, seed)
    for policy in ("golden", "static"):
        outcome = simulate(scenario, policy, seed)
        assert oracle.met >= outcome.met
        standing = compare(scenario, outcome, oracle)
        assert 0 <= standing.met <= 1
        assert 0 <= standing.regret <= 1
        assert len(standing.missed) == round((1 - standing.met) * standing.windows)
    assert compare(scenario, oracle, oracle).regret == 0.0


def test_the_oracle_is_the_same_each_time():
    scenario = random_scenario(2, 3, 3, duration_s=20.0)
    assert run_oracle(scenario, 2) == run_oracle(scenario, 2)


def outcome_of(*plans: tuple[float, str]) -> Outcome:
    changes = tuple(PlanChange(at_s, index, what) for index, (at_s, what) in enumerate(plans))
    query = QueryOutcome("q", (), changes, Books())
    return Outcome("s", "p", 0, 60.0, (query,))


def test_going_back_and_forth_while_nothing_changes_is_a_cycle():
    scenario = one(Step(at_s=30, node="edge", cores=1))
    back_and_forth = [(10.0 + index, "ab"[index % 2]) for index in range(6)]
    found = limit_cycles(scenario, outcome_of(*back_and_forth))
    assert {(cycle.what, cycle.times) for cycle in found} == {("a", 3), ("b", 3)}


def test_changes_of_the_world_and_right_after_them_are_no_cycle():
    scenario = one(Step(at_s=15, node="edge", cores=1))
    found = limit_cycles(
        scenario,
        outcome_of((1, "a"), (2, "b"), (3, "a"), (4, "b"), (12, "a"), (16, "b"), (17, "a")),
    )
    assert found == []


def window(start_s: float, *, met: bool, accuracy: float) -> Window:
    return Window(start_s, 10, 10, 0, 0.1, accuracy, 10.0, 1, met)


def test_only_windows_that_the_oracle_keeps_count_and_better_makes_up_for_nothing():
    def of(*windows: Window) -> Outcome:
        return Outcome("s", "p", 0, 9.0, (QueryOutcome("q", windows, (), Books()),))

    best = of(
        window(0.1, met=True, accuracy=0.9),
        window(1.1, met=True, accuracy=0.9),
        window(2.1, met=False, accuracy=0.9),
        window(3.1, met=True, accuracy=0.9),
    )
    own = of(
        window(0.4, met=True, accuracy=1.0),
        window(1.4, met=False, accuracy=0.5),
        window(2.4, met=False, accuracy=0.1),
    )
    standing = compare(one(), own, best)
    assert (standing.windows, standing.missed) == (3, (("q", 1), ("q", 3)))
    assert standing.met == pytest.approx(1 / 3)
    assert standing.regret == pytest.approx((0.0 + 0.4 + 0.9) / 3)
    assert standing.feasible == 0.75
