"""What a round of scheduling costs, from 100 nodes to 10,000 and from 1,000 queries to 100,000.

    python benchmarks/scheduling_rounds.py --out rounds.json --plot rounds.svg

Each size is a fleet that is drawn, ten queries to a node, in the simulator's fluid mode: every node
reports twice a second, every query is looked at every two seconds. A *changed query* is one with
news since it was looked at last; what it costs is all that the scheduler does with its reports, the
question, the policy and its answer. A round is all queries once. It is the time of one core, as
`vdag.control.simulation.control` takes it; the world's own time is not in it.

What is done already is read from the file, so that a run may be broken off and taken up. The last
size takes eight minutes or so and 3 GB, all others together three. With `--duration 4` it is half
of that; of the questions nearly half are then about first plans.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

from vdag.control.simulation import simulate
from vdag.control.simulation.fleets import random_scenario

SIZES = (100, 300, 1_000, 3_000, 10_000)
PER_NODE = 10
BUDGET_MS = 1.0
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 300, 70, 20, 34, 44


def run_size(task: tuple[int, float, str]) -> dict[str, Any]:
    """Return the figures of one size."""
    nodes, duration_s, policy = task
    queries = PER_NODE * nodes
    scenario = random_scenario(nodes, nodes, queries, duration_s=duration_s, steps=0)
    start_s = time.perf_counter()
    outcome = simulate(scenario, policy, nodes, mode="fluid")
    cost = outcome.cost
    return {
        "nodes": nodes,
        "queries": queries,
        "policy": policy,
        "questions": cost.questions,
        "changes": cost.changes,
        "met": outcome.met,
        "scheduler_ms": 1e3 * cost.scheduler_s / cost.questions,
        "policy_ms": 1e3 * cost.policy_s / cost.questions,
        "question_ms": 1e3 * cost.per_question_s,
        "nodes_ms": 1e3 * cost.nodes_s / (nodes * 2 * duration_s),
        "round_s": cost.per_question_s * queries,
        "took_s": time.perf_counter() - start_s,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures, a line for each size."""
    lines = [
        "| nodes | queries | scheduler, ms | policy, ms | per changed query, ms "
        "| a round of all, s | report of a node, ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['nodes']:,} | {row['queries']:,} | {row['scheduler_ms']:.2f} "
        f"| {row['policy_ms']:.2f} | {row['question_ms']:.2f} | {row['round_s']:.1f} "
        f"| {row['nodes_ms']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]]) -> str:
    """Return a plot of what a changed query costs by the number of queries: SVG."""
    top = max(1.2 * BUDGET_MS, *(1.1 * row["question_ms"] for row in rows))
    low, high = (math.log10(row["queries"]) for row in (rows[0], rows[-1]))
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(queries: float) -> float:
        return LEFT + wide * (math.log10(queries) - low) / max(high - low, 1e-9)

    def y(ms: float) -> float:
        return TOP + tall * (1 - ms / top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}"><style>text{{font:12px sans-serif;fill:#333}}</style>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{LEFT}" y="20">CPU time per changed query, ms, by queries (ten to a node)</text>'
        f'<path d="M{LEFT} {TOP}V{TOP + tall}H{WIDTH - RIGHT}" stroke="#999" fill="none"/>'
        f'<path d="M{LEFT} {y(BUDGET_MS):.1f}H{WIDTH - RIGHT}" stroke="#D55E00" '
        'stroke-dasharray="5 4"/>'
        f'<text x="{WIDTH - RIGHT}" y="{y(BUDGET_MS) - 5:.1f}" text-anchor="end">budget</text>'
    ]
    for step in range(0, math.floor(top / 0.2) + 1, 1):
        at = y(0.2 * step)
        parts.append(
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{0.2 * step:.1f}</text>'
        )
    for row in rows:
        at = x(row["queries"])
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{row["queries"]:,}</text>'
        )
    for name, colour, words in (
        ("question_ms", "#0072B2", "all"),
        ("policy_ms", "#009E73", "policy"),
        ("scheduler_ms", "#E69F00", "scheduler"),
    ):
        points = [(x(row["queries"]), y(row[name])) for row in rows]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        parts.append(
            f'<text x="{LEFT + 6}" y="{points[0][1] - 6:.1f}" fill="{colour}">{words}</text>'
        )
    return "".join(parts) + "</svg>\n"


def main() -> int:
    """Run the sizes that are not done yet; print the table, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="nodes of the last size")
    parser.add_argument("--policy", default="predictive")
    parser.add_argument("--duration", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("rounds.json"))
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    rows = json.loads(asked.out.read_text()) if asked.out.exists() else []
    done = {row["nodes"] for row in rows}
    sizes = [size for size in SIZES if size <= asked.largest and size not in done]
    tasks = [(size, asked.duration, asked.policy) for size in sizes]
    # One process for each size, so that no size pays for the memory of another.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(run_size, tasks, chunksize=1):
            rows.append(row)
            asked.out.write_text(json.dumps(rows, indent=1))
            print(json.dumps(row), file=sys.stderr)
    rows.sort(key=lambda row: row["nodes"])
    print(table(rows))
    if asked.plot is not None:
        asked.plot.write_text(draw(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
