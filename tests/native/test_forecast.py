"""Forecasts: the compiled one against its specification, and both against what they promise."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from itertools import product
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdag._native import forecast, reference_forecast
from vdag._native.forecast_terms import MAX_PLACEMENTS, SITES, SPOTS, Givens, Goal
from vdag.errors import ConfigError

#: Both do the same operations; what they differ by is the last bit of `exp` and `pow`.
CLOSE = 1e-9


@pytest.fixture(params=["compiled", "reference"])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    name = "forecast" if request.param == "compiled" else "reference_forecast"
    return importlib.import_module(f"vdag._native.{name}")


@dataclass
class Sizes:
    tasks: int = 2
    resolutions: int = 3
    rates: int = 3
    models: int = 2
    nodes: int = 3


def givens_of(sizes: Sizes, seed: int, branches=None, **changes) -> Givens:
    """A world at random; the host is the first node, or none of them."""
    random = np.random.default_rng(seed)
    t, r, f, m, n = (getattr(sizes, name) for name in Sizes.__dataclass_fields__)
    host, batching = int(random.integers(-1, n)), np.random.default_rng((seed, 1))
    spots = {
        "workers": random.integers(1, 4, (t, n)),
        "others": random.uniform(0, 2, (t, n)) * random.integers(0, 2, (t, n)),
        "queries": random.integers(0, 3, (t, n)),
        "log_factor": random.normal(0, 0.5, (t, n)),
        "tail": random.uniform(1, 2, (t, n)) * random.integers(0, 2, (t, n)),
        "work_ratio": random.uniform(0.5, 2, (t, n)),
        "wait_ratio": random.uniform(0.5, 2, (t, n)),
    }
    away = np.arange(n) != host
    sites = {
        "cores_free": np.where(random.random(n) < 0.3, np.inf, random.uniform(0.1, 4, n)),
        "cores_share": random.uniform(0.5, 8, n),
        "speed": np.where(away, random.uniform(2e5, 2e7, n), np.inf),
        "excess_s": random.normal(0, 0.002, n),
        "home_speed": np.where(away, random.uniform(2e5, 2e7, n), np.inf),
        "home_s": random.normal(0.003, 0.002, n),
        "price": np.where(away, random.choice([1.0, 100.0], n), 0.0),
    }
    speeds = random.uniform(2e5, 2e7, (n, n))
    np.fill_diagonal(speeds, np.inf)
    links = speeds, random.normal(0, 0.001, (n, n)), random.uniform(0, 3, (2, n)) * [[1], [1e5]]
    cells, combo = t * r * m * n, range(t)
    where = random.choice(cells, min(4, cells), replace=False)
    fields = {
        "costs": [costs_at(random, batching, t, r, m, node == n - 1) for node in range(n)],
        "corrections": [(int(i), float(random.normal(0, 0.3))) for i in where],
        "spots": np.array([spots[name] for name in SPOTS], dtype=np.float64),
        "sites": np.array([sites[name] for name in SITES]),
        "accuracies": [[np.sort(random.random((r, f)), axis=0) for _ in range(m)] for _ in combo],
        "frames": np.array([np.sort(random.uniform(1e4, 2e5, r)), np.linspace(0.003, 0.01, r)]),
        "fps": np.array([1.0, 5.0, 10.0, 25.0][:f]),
        "combos": np.array([*product(*(range(m) for _ in combo))], dtype=np.intp),
        "branches": branches or (tuple(combo),),
        "objects": math.nan if random.random() < 0.3 else float(random.uniform(0, 20)),
        "spread": 1.6449 * float(random.uniform(0.5, 2)),
        "sent": (2.0, float(random.uniform(0, 1e6))),
        "host": host,
        "now": [int(random.integers(-1, n)) for _ in range(t)],
        "links": lambda: links,
    }  # fmt: skip
    return Givens(**{**fields, **changes})


def costs_at(
    random: np.random.Generator,
    batching: np.random.Generator,
    t: int,
    r: int,
    m: int,
    has_all: bool,
) -> np.ndarray:
    """What a node takes; one at least has all models, others may lack some."""
    lows, highs = (0.002, 0.0, 0.0, 0.0, 0.0), (0.1, 0.004, 0.05, 10.0, 1e4)
    rows = [random.uniform(low, high, (t, r, m)) for low, high in zip(lows, highs, strict=True)]
    is_known = batching.random((t, r, m)) < 0.5
    block = np.stack([*rows, np.where(is_known, batching.uniform(0.01, 1, (t, r, m)), 1.0)])
    if not has_all:
        lacks = np.broadcast_to(random.random((t, 1, m)) < 0.3, (t, r, m))
        block[:, lacks] = np.nan
    return block


BRANCHES = {1: [((0,),)], 2: [((0, 1),), ((0,), (1,))], 3: [((0, 1, 2),), ((0, 2), (1,))]}


@st.composite
def worlds(draw) -> Givens:
    tasks = draw(st.integers(1, 3))
    sizes = Sizes(tasks, *(draw(st.integers(1, most)) for most in (3, 4, 2, 4)))
    branches = draw(st.sampled_from(BRANCHES[tasks]))
    return givens_of(sizes, draw(st.integers(0, 2**32 - 1)), branches)


@st.composite
def goals(draw, givens: Givens, shape: tuple[int, ...]) -> Goal:
    tasks, nodes = givens.combos.shape[1], len(givens.costs)
    seed = draw(st.none() | st.integers(0, 2**32 - 1))
    only = None if seed is None else np.random.default_rng(seed).random(shape) < 0.5
    present = tuple(draw(st.integers(-2, nodes - 1)) for _ in range(tasks))
    return Goal(
        draw(st.sampled_from((0.03, 0.1, 0.3, 1.0, math.inf))),
        draw(st.sampled_from((0.4, 0.8, 2.0))),
        draw(st.sampled_from((0.0, 0.3))),
        draw(st.sampled_from((0.95, 1.0, 1.06, 3.0, math.inf))),
        draw(st.booleans()),
        draw(st.booleans()),
        present,
        only,
    )


def both(givens: Givens):
    return forecast.Forecast(givens), reference_forecast.Forecast(givens)


def same_hit(one, other) -> bool:
    if one is None or other is None:
        return one is other
    return one[:2] == other[:2] and one[2:] == pytest.approx(other[2:], rel=CLOSE)


@settings(max_examples=150, deadline=None)
@given(worlds(), st.data())
def test_every_number_is_that_of_the_specification(givens, data):
    mine, spec = both(givens)
    assert np.array_equal(mine.accuracy, spec.accuracy)
    assert mine.work() == pytest.approx(spec.work(), rel=CLOSE)
    config = tuple(data.draw(st.integers(0, size - 1)) for size in spec.accuracy.shape)
    crowding = data.draw(st.sampled_from((0.9, 1.0, 2.0, math.inf)))
    for free_only in (True, False):
        found = mine.weigh(config, crowding, free_only=free_only)
        wanted = spec.weigh(config, crowding, free_only=free_only)
        assert np.array_equal(found[0], wanted[0])
        assert found[0].dtype == wanted[0].dtype
        for one, other in zip(found[1:], wanted[1:], strict=True):
            assert one == pytest.approx(other, rel=CLOSE)


@settings(max_examples=200, deadline=None)
@given(worlds(), st.data())
def test_the_same_is_found_whatever_was_searched_before(givens, data):
    mine, spec = both(givens)
    for _ in range(data.draw(st.integers(1, 4))):
        goal = data.draw(goals(givens, spec.accuracy.shape))
        barred = data.draw(st.none() | st.sampled_from((2, 3)))
        refuse = None if barred is None else lambda _, placed, by=barred: sum(placed) % by == 0
        found, wanted = mine.search(goal, refuse), spec.search(goal, refuse)
        assert same_hit(found.hit, wanted.hit)
        assert found[1:] == wanted[1:]


@settings(max_examples=100, deadline=None)
@given(worlds(), st.booleans(), st.sampled_from((1e-6, 0.01, 0.1, 1.0)))
def test_the_closest_is_that_of_the_specification(givens, free_only, limit_s):
    found, wanted = (each.closest(limit_s, free_only=free_only) for each in both(givens))
    assert found is not None
    assert wanted is not None
    assert found[0] == pytest.approx(wanted[0], rel=CLOSE)
    assert same_hit(found[1], wanted[1])


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_what_is_found_is_within_the_goal_and_nothing_better_is(givens, data):
    mine, spec = both(givens)
    goal = data.draw(goals(givens, spec.accuracy.shape))._replace(only=None)
    hit = mine.search(goal).hit
    quality = []
    for config in np.ndindex(spec.accuracy.shape):
        placed, _, p95, use = spec.weigh(config, math.inf, free_only=goal.free_only)
        good = (p95 <= goal.limit_s * (1 - CLOSE)) & (use <= goal.crowding * (1 - CLOSE))
        if good.any() and spec.accuracy[config] >= goal.least:
            quality.append(steps_of(spec.accuracy[config], goal.enough))
            if hit is not None and config == hit.config:
                assert hit.placed in {tuple(row) for row in placed.tolist()}
    if hit is None:
        assert quality == []
        return
    assert hit.p95_s <= goal.limit_s
    assert steps_of(spec.accuracy[hit.config], goal.enough) >= max(quality, default=0)


def steps_of(accuracy: float, enough: float) -> int:
    return 101 if accuracy >= enough - 1e-9 else math.floor(accuracy / 0.01 + 1e-9)


@pytest.mark.parametrize("nodes", [5, 12])
@pytest.mark.parametrize("branches", [None, (tuple(range(4)), (4, 5))])
def test_of_many_placements_the_likely_ones_are_looked_at(nodes, branches):
    givens = givens_of(Sizes(6, 2, 2, 2, nodes), nodes, branches)
    givens = givens._replace(costs=[np.nan_to_num(block, nan=0.01) for block in givens.costs])
    mine, spec = both(givens)
    found, wanted = (each.weigh((1, 0, 5), math.inf, free_only=False) for each in (mine, spec))
    assert nodes < len(found[0]) <= 2 * MAX_PLACEMENTS < nodes**6
    assert np.array_equal(found[0], wanted[0])
    assert found[2] == pytest.approx(wanted[2], rel=CLOSE)


def test_the_plan_in_force_is_one_of_the_likely_ones(kernel):
    nodes = [0, 1, 2, 3, 4, 0]
    givens = givens_of(Sizes(6, 1, 1, 1, 5), 7, now=nodes)
    givens = givens._replace(costs=[np.nan_to_num(block, nan=0.01) for block in givens.costs])

    def is_there(given: Givens) -> bool:
        rows = kernel.Forecast(given).weigh((0, 0, 0), math.inf, free_only=False)[0]
        return nodes in rows[-2:].tolist()

    assert is_there(givens)
    assert not is_there(givens._replace(now=[-1] * 6))


def test_what_is_refused_is_asked_of_once_and_not_taken(kernel):
    chosen = kernel.Forecast(givens_of(Sizes(), 3))
    goal = Goal(math.inf, 2.0, 0.0, math.inf, False, True, (-2, -2))
    first, asked = chosen.search(goal).hit, []

    def refuse(config, placed):
        asked.append((config, placed))
        return len(asked) == 1

    second = chosen.search(goal, refuse).hit
    assert asked[0] == (first.config, first.placed)
    assert len(asked) == len(set(asked)) == 2
    assert (second.config, second.placed) == asked[1]


def test_a_model_that_no_node_has_room_for_is_in_no_placement(kernel):
    givens = givens_of(Sizes(1, 1, 1, 1, 2), 1)
    givens.spots[SPOTS.index("others")] = 1e6
    givens.spots[SPOTS.index("queries")] = 0
    chosen = kernel.Forecast(givens._replace(costs=[np.full((6, 1, 1, 1), 0.01)] * 2))
    for found in chosen.weigh((0, 0, 0), 1.0, free_only=True):
        assert len(found) == 0
    goal = Goal(math.inf, 2.0, 0.0, 1.0, True, True, (-2,))
    assert chosen.search(goal) == (None, 0, [])
    assert chosen.place(goal, (0, 0, 0)) == (None, None)


def alone(share: float, fps: float) -> Givens:
    """A task that takes 0.1 s, at one worker that nobody else uses."""
    given = givens_of(Sizes(1, 1, 1, 1, 1), 0, fps=np.array([fps]), host=0, corrections=[])
    block = np.array([0.1, 0.0, 0.0, 0.0, 0.0, share]).reshape(6, 1, 1, 1)
    spots = np.array([1, 0, 0, 0, 0, 1, 1], dtype=np.float64).reshape(7, 1, 1)
    given.sites[:2] = np.inf
    return given._replace(costs=[block], spots=spots)


def test_workers_are_taken_by_frames_of_batches_and_delays_are_those_of_frames_alone(kernel):
    def weigh(share: float, fps: float = 5.0) -> tuple[float, float]:
        found = kernel.Forecast(alone(share, fps))
        _, delay, _, use = found.weigh((0, 0, 0), math.inf, free_only=True)
        assert found.work()[0, 0, 0] == pytest.approx(fps * 0.1 * share)
        return delay[0], use[0]

    delay, use = weigh(1.0)
    assert use == pytest.approx(0.5 / 0.8)
    # 0.3 is what frames under way take.
    assert weigh(0.8) == (delay, pytest.approx(0.4 / 0.8))
    # Beyond what a worker can do frame by frame there are batches.
    slow, use = weigh(0.4, fps=15.0)
    assert use == pytest.approx(15.0 * slow / (0.9 * 2))
    assert slow == pytest.approx(0.15 + 0.15 / 2 + 0.025 * 0.6 * 0.1 / 0.4, abs=0.003)
    assert weigh(0.4, fps=19.0)[0] > slow + 0.1


def test_without_a_placement_in_time_the_fastest_is_told(kernel):
    chosen = kernel.Forecast(givens_of(Sizes(1, 1, 1, 1, 4), 5))
    placed, _, p95, _ = chosen.weigh((0, 0, 0), math.inf, free_only=False)
    goal = Goal(1e-6, 2.0, 0.0, math.inf, False, True, (-2,))
    assert chosen.place(goal, (0, 0, 0)) == (None, tuple(placed[np.argmin(p95)].tolist()))


def test_ways_between_nodes_are_asked_after_once_and_only_if_there_are_any(kernel):
    asked = []
    given = givens_of(Sizes(), 2)
    links = given.links()
    goal = Goal(math.inf, 2.0, 0.0, math.inf, False, True, (-2, -2))
    counted = given._replace(links=lambda: asked.append(1) or links)
    chosen = kernel.Forecast(counted)
    assert asked == []
    for _ in range(3):
        assert chosen.search(goal).hit is not None
    assert asked == [1]
    apart = kernel.Forecast(counted._replace(branches=((0,), (1,))))
    assert apart.search(goal).hit is not None
    assert asked == [1]


def test_an_error_of_who_refuses_or_knows_the_links_comes_through(kernel):
    def fail(*_):
        raise KeyError("lost")

    given = givens_of(Sizes(), 2)
    goal = Goal(math.inf, 2.0, 0.0, math.inf, False, True, (-2, -2))
    with pytest.raises(KeyError, match="lost"):
        kernel.Forecast(given).search(goal, fail)
    with pytest.raises(KeyError, match="lost"):
        kernel.Forecast(given._replace(links=fail)).search(goal)


MISFITS = {
    "costs of node 0 are float64 (6, task, resolution, model)": {"costs": [np.zeros((6, 2))] * 3},
    "costs of node 1 are not (6, 2, 3, 2)": {
        "costs": [np.ones((6, 2, 3, models)) for models in (2, 1, 2)]
    },
    "spots are (7, 2, 3), not (7, 3)": {"spots": np.zeros((7, 3))},
    "sites are float64 (7, 3)": {"sites": np.zeros((7, 3), np.float32)},
    "frames are (2, 3), not (3, 2)": {"frames": np.zeros((3, 2))},
    "accuracies of 1 tasks do not fit 2": {"accuracies": [[np.zeros((3, 3))]]},
    "task 1 has 0 models, not 1 to 2": {"accuracies": [[np.zeros((3, 3))] * 2, []]},
    "accuracies are (3, 3), not (3, 1)": {"accuracies": [[np.zeros((3, 1))], []]},
    "combination 0 has model 2 of task 1": {"combos": np.array([[0, 2]], dtype=np.intp)},
    "branches ((0,),) do not have 2 tasks once each": {"branches": ((0,),)},
    "branches ((0, 1, 1),) do not have 2 tasks once each": {"branches": ((0, 1, 1),)},
    "task 1 is on node 3 of 3": {"now": [0, 3]},
    "host 3 is none of 3 nodes": {"host": 3},
    "correction 36 is none of 36": {"corrections": [(36, 0.5)]},
    "a forecast of sizes (2, 3, 0, 2, 3, 4) is not of 1 to 1024 each": {"fps": np.zeros(0)},
}  # fmt: skip


@pytest.mark.parametrize("message", MISFITS)
def test_what_does_not_fit_is_refused(kernel, message):
    with pytest.raises(ConfigError) as caught:
        kernel.Forecast(givens_of(Sizes(), 0, **MISFITS[message]))
    assert str(caught.value) == message


def test_a_goal_or_a_configuration_that_does_not_fit_is_refused(kernel):
    chosen = kernel.Forecast(givens_of(Sizes(), 0))
    goal = Goal(1.0, 2.0, 0.0, 1.0, False, True, (-2, -2))
    with pytest.raises(ConfigError, match=r"^1 present nodes do not fit 2 tasks$"):
        chosen.search(goal._replace(present=(0,)))
    with pytest.raises(ConfigError, match=r"^only is bool \(3, 3, 4\), not \(3, 3\)$"):
        chosen.search(goal._replace(only=np.ones((3, 3), np.bool_)))
    for ask in (lambda config: chosen.place(goal, config),
                lambda config: chosen.weigh(config, 1.0, free_only=True)):  # fmt: skip
        with pytest.raises(
            ConfigError, match=r"^configuration \(0, 3, 0\) is none of \(3, 3, 4\)$"
        ):
            ask((0, 3, 0))


def test_the_formulas_and_constants_are_those_of_the_model():
    from vdag._native import reference_forecast_tables as mine
    from vdag.control.prediction import predicting, queueing, ways
    from vdag.control.profile import costs, learning

    for module, names in (
        (queueing, {"MAX_BUSY": "MAX_BUSY", "Z95": "Z95", "PACED": "PACED_WORK"}),
        (ways, {n: n for n in ("FULL", "HOP_S", "WAY_S", "JITTER", "MAX_LINK")}),
        (ways, {"PACED": "PACED_LINK"}),
        (predicting, {n: n for n in ("FILLED", "LEAST_WORK_S", "QUEUE_FLOOR_S")}),
        (costs, {n: n for n in ("MIN_COMPUTE_S", "MAX_COMPUTE_S")}),
        (learning, {"MAX_LOG": "MAX_LOG"}),
    ):  # fmt: skip
        for theirs, ours in names.items():
            assert getattr(mine, ours) == getattr(module, theirs), theirs
    args = (np.array([0.1, 0.02]), np.array([1e-4, 1e-5]), np.array([1.0, 3.0]))
    own, others = np.array([0.2, 0.5]), np.array([0.1, 0.9])
    assert np.array_equal(mine.wait_at(*args, own, others), queueing.wait_at(*args, own, others))
    for share in (1.0, 0.4):
        gathered = mine.gather(*args, own, others, np.array([share, share]))
        for i, found in enumerate(zip(*gathered, strict=True)):
            numbers = (float(row[i]) for row in (*args, own, others))
            assert found == queueing.gather(*numbers, share)
    link = np.array([0.01, 0.1]), np.array([0.1, 0.5]), np.array([0.0, 0.3])
    assert np.array_equal(mine.link_time(*link), ways.link_time(*link))
