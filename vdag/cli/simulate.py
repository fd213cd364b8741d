"""The command `vdag simulate`: policies side by side, in a world on a virtual clock."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vdag.cli.queries import console
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from vdag.control.profile import Profile
    from vdag.control.simulation import Mode, Outcome, Scenario
    from vdag.control.simulation.standing import Standing

__all__ = ["simulate"]

MODES = ("auto", "frames", "fluid")
#: The policy of queries that name none.
DEFAULT_POLICIES = ["predictive"]


def simulate(
    scenario: Annotated[
        Path | None, typer.Argument(help="A TOML or JSON file; drawn by the seed without one.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="Who plans; several are compared. A name, or FILE.py:NAME."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    nodes: Annotated[int, typer.Option(help="Of a fleet that is drawn.")] = 4,
    queries: Annotated[int, typer.Option(help="Likewise.")] = 4,
    duration: Annotated[
        float | None, typer.Option(help="Simulated seconds, in place of the scenario's.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="auto, frames, or fluid: rates in place of frames.")
    ] = "auto",
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Hold all against one who knows the future.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="The file is a trace of `vdag record`.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Write plots: .svg or .html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Run policies on a simulated fleet, and compare what comes of it."""
    from vdag.control import simulation
    from vdag.control.simulation.oracle import run_oracle
    from vdag.control.simulation.plotting import write_plot
    from vdag.control.simulation.standing import compare

    if mode not in MODES:
        raise ConfigError(f"mode {mode!r} is unknown, expected one of {', '.join(MODES)}")
    world = _world(scenario, trace, seed, nodes, queries, duration)
    known = _known(scenario) if trace and scenario is not None else None
    names = policy or DEFAULT_POLICIES
    outcomes = []
    for name in names:
        _say(f"{world.name}: {name}")
        outcomes.append(simulation.simulate(world, name, seed, mode=_mode(mode), profile=known))
    standings: list[Standing] = []
    if oracle:
        _say(f"{world.name}: oracle")
        best = run_oracle(world, seed, profile=known)
        standings = [compare(world, outcome, best) for outcome in outcomes]
        outcomes.append(best)
    if plot is not None:
        write_plot(outcomes, plot)
    if as_json:
        print(json.dumps([outcome.to_document() for outcome in outcomes]))
        return
    console().print(_table(outcomes, standings))


def _world(
    path: Path | None, trace: bool, seed: int, nodes: int, queries: int, duration: float | None
) -> Scenario:
    import msgspec

    from vdag.control.simulation.fleets import random_scenario
    from vdag.control.simulation.reading import read_scenario
    from vdag.control.simulation.retracing import scenario_of_trace
    from vdag.control.simulation.scenario import MAX_DURATION_S

    if path is None:
        return random_scenario(seed, nodes, queries, duration_s=duration or 120.0)
    world = scenario_of_trace(path) if trace else read_scenario(path)
    if duration is None:
        return world
    if not 0 < duration <= MAX_DURATION_S:
        raise ConfigError(f"duration {duration:g} is not above 0 to {MAX_DURATION_S:g}")
    return msgspec.structs.replace(world, duration_s=duration)


def _known(path: Path) -> Callable[[], Profile]:
    """Return what makes the knowledge base of a trace."""
    from vdag.control.simulation.retracing import profile_of_trace
    from vdag.control.simulation.traces import read_trace

    found = read_trace(path)
    return lambda: profile_of_trace(found)


def _table(outcomes: list[Outcome], standings: list[Standing]) -> Table:
    table = Table(box=None)
    titles = ["policy", "windows", "met %", "accuracy", "fps", "plans", "dropped", "faults"]
    titles += ["of what can be %", "regret %"] if standings else []
    titles += ["ms/round p95", "us/question", "us/change"]
    for title in titles:
        table.add_column(title, justify="left" if title == "policy" else "right")
    for index, outcome in enumerate(outcomes):
        cells = [
            outcome.policy,
            str(outcome.windows),
            f"{100 * outcome.met:.2f}",
            f"{outcome.accuracy:.3f}",
            f"{outcome.fps:.1f}",
            str(outcome.plan_changes),
            str(sum(outcome.dropped.values())),
            str(outcome.faults),
        ]
        if standings:
            standing = standings[index] if index < len(standings) else None
            cells += (
                ["", ""]
                if standing is None
                else [f"{100 * standing.met:.2f}", f"{100 * standing.regret:.2f}"]
            )
        cost = outcome.cost
        cells += (
            [
                f"{1e3 * cost.round_p95_s:.2f}",
                f"{1e6 * cost.per_question_s:.0f}",
                f"{1e6 * cost.per_change_s:.0f}",
            ]
            if cost.questions
            else ["", "", ""]
        )
        table.add_row(*map(Text, cells))
    return table


def _mode(mode: str) -> Mode:
    return "frames" if mode == "frames" else "fluid" if mode == "fluid" else "auto"


def _say(text: str) -> None:
    """Tell people, not programs, what is going on: it may take a while."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
