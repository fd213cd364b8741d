"""What simulating costs, and what scheduling costs in a simulation of up to 10,000 nodes.

`frames` is how many frames of two tasks are simulated in a second of CPU time: queues, workers,
links, books and run-time contexts included. `round` is what the scheduler and the policy take for
one query in a round in which all are asked about, in the fluid world, at 100, 1,000 and 10,000
nodes; CPU time, held against the budget of 1 ms.
"""

from __future__ import annotations

import time

import pytest
from comparison import Comparison

from vdag.control.simulation import Outcome, simulate
from vdag.control.simulation.fleets import random_scenario

FRAMES_ASKED, BUDGET_S = 1_000.0, 0.001
#: Queries in every fleet: the cost of one shall not depend on how many nodes there are.
QUERIES = 300
DURATION_S = 7.0


def cpu_s(run: object) -> tuple[Outcome, float]:
    start_s = time.thread_time()
    outcome = run()
    return outcome, time.thread_time() - start_s


def bench_frames(record):
    scenario = random_scenario(1, 5, 10, duration_s=30.0)
    outcome, took_s = cpu_s(lambda: simulate(scenario, "static", 1, mode="frames"))
    rate = outcome.frames / took_s
    assert all(query.books.balance == 0 for query in outcome.queries)
    each_ms = 1e3 / rate
    record(
        Comparison(
            "simulation.frames", "vdag, per frame", "1,000 frames a second",
            round(rate / FRAMES_ASKED, 1), round(each_ms, 4), round(each_ms, 4), "ms",
            outcome.frames,
        )
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["golden", "predictive"])
@pytest.mark.parametrize("nodes", [100, 1_000, 10_000])
def bench_round(record, nodes, policy):
    scenario = random_scenario(2, nodes, QUERIES, duration_s=DURATION_S, steps=0)
    outcome = simulate(scenario, policy, 2, mode="fluid")
    cost = outcome.cost
    assert outcome.faults == 0
    assert cost.questions >= QUERIES
    policy_s = cost.policy_s / cost.questions
    record(
        Comparison(
            f"simulation.round_{policy}_{nodes}", "vdag, per query", "a budget of 1 ms",
            round(BUDGET_S / cost.per_question_s, 2), round(1e3 * cost.per_question_s, 4),
            round(1e3 * policy_s, 4), "ms", cost.questions,
        )
    )  # fmt: skip
