"""The oracle: plans by one who knows the future and what tasks really cost, run in the same world.

Between two moments at which something changes, the world is the same; so the oracle plans each
such stretch for itself, exactly at its beginning, for all queries together, and its plans hold at
once. How good it is, is not believed but simulated: a constraint counts as one that can be met in a
window if it was met there under the oracle's plans.

It searches resolutions, rates, models and nodes, in two passes over the queries. First
each gets what keeps its constraint with the smallest share of what there is; those with the least
choice come first. Then each in turn gets the best accuracy for which there is still room. No
query's gain may cost another its constraint. That is greedy, and so a bound from below: what the
oracle can is possible, and perhaps a little more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

from vdag.control.profile import Profile
from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.frames import FrameWorld
from vdag.control.simulation.knowledge import truth_of
from vdag.control.simulation.outcome import Outcome, PlanChange, QueryOutcome
from vdag.control.simulation.scenario import QuerySpec, Scenario
from vdag.control.simulation.stretches import Choice, Stretch, stretches
from vdag.plan import Placement, Plan, VideoConf
from vdag.sampling import RESOLUTIONS

__all__ = ["plan_stretch", "run_oracle"]

_NS = 1_000_000_000
RATES = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
#: H.264 takes far less of a link; what it costs in accuracy, and when frames of it are left out, is
#: not in the world's numbers, so it would look better than it is.
ENCODER = "JPEG"
MODELS = (0, 1, 2)
#: Nodes that are tried beside the query's own.
MAX_SERVERS, MAX_EDGES = 3, 2
#: What the oracle adds to accuracies, and takes off bounds of delays, for what it does not foresee.
ACCURACY_MARGIN, DELAY_MARGIN = 0.002, 0.92


def run_oracle(
    scenario: Scenario, seed: int = 0, *, profile: Callable[[], Profile] | None = None
) -> Outcome:
    """Run a scenario frame by frame under the oracle's plans.

    Args:
        scenario: what happens.
        seed: as of `simulate`, for the same world.
        profile: likewise.
    """
    agenda = Agenda()
    truth = truth_of(scenario, seed, profile)
    world = FrameWorld(scenario, truth, agenda, seed)
    plans: dict[str, list[PlanChange]] = {query.name: [] for query in scenario.queries}
    for step in scenario.steps:
        agenda.at(round(step.at_s * _NS), world.change, step)
    for stretch in stretches(scenario, truth):
        for query, choice in plan_stretch(stretch).items():
            plan = _plan(stretch, query, choice, len(plans[query]) + 1)
            plans[query].append(PlanChange.of(stretch.start_s, plan))
            agenda.at(round(stretch.start_s * _NS), world.start, query, plan)
    for spec in scenario.queries:
        if spec.leaves_s is not None:
            agenda.at(round(spec.leaves_s * _NS), world.stop, spec.name, "left")
    agenda.run(round(scenario.duration_s * _NS))
    queries = []
    for spec in scenario.queries:
        record = world.record(spec.name)
        queries.append(
            QueryOutcome(spec.name, record.windows, tuple(plans[spec.name]), record.books)
        )
    return Outcome(scenario.name, "oracle", seed, scenario.duration_s, tuple(queries), world.frames)


def plan_stretch(stretch: Stretch) -> dict[str, Choice]:
    """Return what each query of a stretch shall do; one that cannot keep its constraint, too."""
    options = {
        query.name: stretch.remembered(query, partial(_sorted_options, stretch, query))
        for query in stretch.queries
    }
    # Those with the least choice first: the others can make way.
    order = sorted(stretch.queries, key=lambda query: (_freedom(query, options), query.name))
    for query in order:
        wanted = min((query.accuracy or 0.0) + ACCURACY_MARGIN, 1.0)
        enough = [choice for choice in options[query.name] if choice.accuracy >= wanted]
        cheapest = _cheapest(stretch, query, enough)
        if cheapest is not None:
            stretch.assign(query, cheapest)
    hopeless = [query for query in order if query.name not in stretch.chosen]
    for query in order:
        if query.name in stretch.chosen:
            _improve(stretch, query, options[query.name])
    for query in hopeless:
        _improve(stretch, query, options[query.name])
        if query.name not in stretch.chosen:
            stretch.assign(query, _least(stretch, query, options[query.name]))
    return dict(stretch.chosen)


def _improve(stretch: Stretch, query: QuerySpec, options: list[Choice]) -> None:
    """Give a query the best accuracy that there is room for, at the smallest share."""
    present = stretch.chosen.get(query.name)
    best_accuracy = -1.0 if present is None else present.accuracy
    for accuracy, group in itertools.groupby(reversed(options), key=lambda each: each.accuracy):
        if accuracy <= best_accuracy:
            return
        found = _cheapest(stretch, query, list(group))
        if found is not None:
            stretch.assign(query, found)
            return


def _cheapest(stretch: Stretch, query: QuerySpec, options: list[Choice]) -> Choice | None:
    """Return what takes the smallest share of what fits; None if nothing does."""
    ranked = sorted((stretch.share(query, choice), choice) for choice in options)
    return next((choice for _, choice in ranked if stretch.fits(query, choice, DELAY_MARGIN)), None)


def _least(stretch: Stretch, query: QuerySpec, options: list[Choice]) -> Choice:
    return min(options, key=lambda choice: (stretch.share(query, choice), choice))


def _freedom(query: QuerySpec, options: dict[str, list[Choice]]) -> float:
    """Return how much choice a query has: by its delay, and by what is accurate enough."""
    wanted = query.accuracy or 0.0
    enough = sum(choice.accuracy >= wanted for choice in options[query.name])
    return enough * (query.delay_s or 1e9)


def _sorted_options(stretch: Stretch, query: QuerySpec) -> list[Choice]:
    return sorted(_options(stretch, query))


def _options(stretch: Stretch, query: QuerySpec) -> Iterator[Choice]:
    video, tasks = query.video, query.graph.tasks
    sizes = [
        name
        for name, (width, height) in RESOLUTIONS.items()
        if width <= video.width and height <= video.height
    ] or ["360p"]
    rates = sorted({min(rate, video.fps) for rate in RATES})
    places = list(_places(stretch, query))
    for models in itertools.product(MODELS, repeat=len(tasks)):
        able = [each for each in places if stretch.offers(each, tasks, models)]
        for resolution, fps in itertools.product(sizes, rates):
            accuracy = round(stretch.accuracy(query, resolution, fps, models), 4)
            for nodes in able:
                yield Choice(accuracy, resolution, fps, ENCODER, models, nodes)


def _places(stretch: Stretch, query: QuerySpec) -> Iterator[tuple[str, ...]]:
    """Yield where the tasks may be done: each on the query's own node, a server or another edge."""
    tasks = query.graph.tasks
    nodes = stretch.near(query, MAX_SERVERS, MAX_EDGES)
    if len(tasks) <= 2:
        yield from itertools.product(nodes, repeat=len(tasks))
        return
    # Of longer chains a first part stays, and the rest goes to one other node.
    for first, second in itertools.product(nodes, repeat=2):
        for cut in range(1, len(tasks) + 1):
            yield (first,) * cut + (second,) * (len(tasks) - cut)


def _plan(stretch: Stretch, query: str, choice: Choice, number: int) -> Plan:
    spec = stretch.spec(query)
    mapping = {
        task: Placement(addr.rpartition(":")[0], "", model_id, addr)
        for task, model_id, addr in zip(spec.graph.tasks, choice.models, choice.nodes, strict=True)
    }
    conf = VideoConf(choice.resolution, choice.fps, choice.encoder)
    return Plan(number, conf, mapping)
