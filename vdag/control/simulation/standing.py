"""How a policy stands: against the oracle in the same world, and whether it ever settles."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from vdag.control.simulation.outcome import Outcome, QueryOutcome
from vdag.control.simulation.scenario import Scenario
from vdag.control.simulation.stretches import moments

__all__ = ["Cycle", "Standing", "compare", "limit_cycles"]

#: After a change a policy may try something and go back on it for so long.
SETTLING_S = 10.0
#: A configuration that is taken up so often while nothing changes is one of a cycle.
CYCLE = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """How a policy stands against the oracle.

    Attributes:
        windows: seconds of queries in which the oracle meets the constraint.
        met: share of them in which the policy does.
        regret: by how much its accuracy is below the oracle's in them, in the mean; where it is
            above, that counts as 0.
        settled: as `met`, in windows before which nothing changed for `SETTLING_S`.
        feasible: share of all of the oracle's windows in which it meets the constraint.
        missed: windows, query and second, in which the policy does not.
    """

    windows: int
    met: float
    regret: float
    settled: float
    feasible: float
    missed: tuple[tuple[str, int], ...]


def compare(scenario: Scenario, outcome: Outcome, oracle: Outcome) -> Standing:
    """Hold a policy's outcome against that of the oracle in the same world."""
    changes = moments(scenario)
    can = met = total = settled = settled_met = 0
    regret = 0.0
    missed = []
    for own, best in zip(outcome.queries, oracle.queries, strict=True):
        windows = {int(window.start_s): window for window in own.windows}
        total += len(best.windows)
        for window in best.windows:
            # Before its first plan can be there, no policy has a result.
            mine = windows.get(int(window.start_s))
            if not window.met or (mine is None and window is best.windows[0]):
                continue
            can += 1
            accuracy = 0.0 if mine is None else mine.accuracy
            regret += max(window.accuracy - accuracy, 0.0)
            is_met = mine is not None and mine.met
            # A window that a change falls into is not settled either.
            is_settled = not any(-1.0 < window.start_s - at_s < SETTLING_S for at_s in changes)
            settled += is_settled
            settled_met += is_settled and is_met
            met += is_met
            if not is_met:
                missed.append((own.name, int(window.start_s)))
    return Standing(
        can,
        met / can if can else 1.0,
        regret / can if can else 0.0,
        settled_met / settled if settled else 1.0,
        can / total if total else 0.0,
        tuple(missed),
    )


@dataclass(frozen=True, slots=True)
class Cycle:
    """A query that goes back and forth although nothing changes.

    Attributes:
        query: its name.
        start_s: from when on nothing changed.
        end_s: until when.
        what: the configuration that it comes back to.
        times: how often it took it up.
    """

    query: str
    start_s: float
    end_s: float
    what: str
    times: int


def limit_cycles(scenario: Scenario, outcome: Outcome) -> list[Cycle]:
    """Return the queries that took up one configuration thrice or more while nothing changed."""
    times = [*moments(scenario), scenario.duration_s]
    found: list[Cycle] = []
    for query in outcome.queries:
        for start_s, end_s in itertools.pairwise(times):
            found += _cycles(query, start_s + SETTLING_S, end_s)
    return found


def _cycles(query: QueryOutcome, start_s: float, end_s: float) -> Iterator[Cycle]:
    taken = Counter(change.what for change in query.plans if start_s <= change.at_s < end_s)
    for what, times in taken.items():
        if times >= CYCLE:
            yield Cycle(query.name, start_s, end_s, what, times)
