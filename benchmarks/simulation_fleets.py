"""Policies on random fleets against an oracle that knows the future: one line per policy.

    python benchmarks/simulation_fleets.py --fleets 200 --out fleets.json

Fleet `n` has 2 to 6 nodes and 1 to 8 queries and is drawn by the seed `n`, like all that is random
in it; the oracle and the policies live in the same world. What is done already is read from the
file, so that a run may be broken off and taken up. A table in Markdown is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
from pathlib import Path
from typing import Any

from vdag.control.simulation import simulate
from vdag.control.simulation.fleets import random_scenario
from vdag.control.simulation.oracle import run_oracle
from vdag.control.simulation.standing import compare, limit_cycles

POLICIES = "predictive,pid,cold_start,reference,static,golden"


def run_fleet(task: tuple[int, float, tuple[str, ...]]) -> dict[str, Any]:
    """Return the figures of all policies on one fleet."""
    seed, duration_s, policies = task
    nodes, queries = 2 + seed % 5, 1 + seed % 8
    scenario = random_scenario(seed, nodes, queries, duration_s=duration_s)
    oracle = run_oracle(scenario, seed)
    found: dict[str, Any] = {"seed": seed, "nodes": nodes, "queries": queries}
    found["oracle"] = {"met": oracle.met, "accuracy": oracle.accuracy, "fps": oracle.fps}
    for policy in policies:
        outcome = simulate(scenario, policy, seed)
        standing = compare(scenario, outcome, oracle)
        found[policy] = {
            "met": outcome.met,
            "accuracy": outcome.accuracy,
            "fps": outcome.fps,
            "windows": standing.windows,
            "of_can": standing.met,
            "settled": standing.settled,
            "regret": standing.regret,
            "changes": outcome.plan_changes / queries,
            "cycles": len(limit_cycles(scenario, outcome)),
            "faults": outcome.faults,
            "question_ms": 1e3 * outcome.cost.per_question_s,
        }
    return found


def table(rows: list[dict[str, Any]], policies: tuple[str, ...]) -> str:
    """Return the figures over all fleets, each window counting the same."""
    lines = [
        "| policy | met where the oracle can | 10 s after changes | fleets with >= 99 % "
        "| regret | accuracy | fps | plan changes per query | limit cycles | ms/question |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for policy in policies:
        own = [row[policy] for row in rows if policy in row]
        total = sum(each["windows"] for each in own)

        def mean(name: str, own: Any = own, total: int = total) -> float:
            return sum(each[name] * each["windows"] for each in own) / max(total, 1)

        good = sum(each["of_can"] >= 0.99 for each in own)
        changes = statistics.fmean(each["changes"] for each in own)
        lines.append(
            f"| `{policy}` | {100 * mean('of_can'):.2f} % "
            f"| {100 * mean('settled'):.2f} % | {good} of {len(own)} "
            f"| {100 * mean('regret'):.2f} % | {mean('accuracy'):.3f} | {mean('fps'):.1f} "
            f"| {changes:.1f} | {sum(each['cycles'] for each in own)} "
            f"| {statistics.median(each['question_ms'] for each in own):.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", type=int, default=200)
    parser.add_argument("--policies", default=POLICIES)
    parser.add_argument("--duration", type=float, default=80.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fleets.json"))
    asked = parser.parse_args()
    policies = tuple(asked.policies.split(","))
    rows = json.loads(asked.out.read_text()) if asked.out.exists() else []
    done = {row["seed"] for row in rows}
    tasks = [(seed, asked.duration, policies) for seed in range(asked.fleets) if seed not in done]
    # Not by threads: it is all computing. Fresh processes, as the fork of one with threads is not.
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        for row in pool.imap_unordered(run_fleet, tasks):
            rows.append(row)
            asked.out.write_text(json.dumps(rows))
            print(f"{len(rows)} of {asked.fleets}", file=sys.stderr)
    print(table(sorted(rows, key=lambda row: row["seed"]), policies))
    return 0


if __name__ == "__main__":
    sys.exit(main())
