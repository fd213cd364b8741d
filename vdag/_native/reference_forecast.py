"""How a query would go under all plans, and the best of them, in numpy: what `forecast` must give.

Configurations, that is a resolution, a rate and a model for each task, are ranked by their quality,
which does not depend on nodes. From the best down, each is held against a bound that no placement
of it can beat: all tasks at the host, or one shortest way and the fastest node for each; then
against the shortest path through the nodes. Only what passes is looked at placement by placement. A
placement is a row of node indexes, one per task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vdag._native.forecast_terms import (
    MAX_LOOKS,
    MAX_PLACEMENTS,
    RUNNERS_UP,
    Config,
    Givens,
    Goal,
    Hit,
    Refusal,
    Search,
    check_givens,
    check_goal,
)
from vdag._native.reference_forecast_tables import (
    EPSILON,
    FILLED,
    HOP_S,
    NOTHING,
    WAY_S,
    Numbers,
)
from vdag.errors import ConfigError

__all__ = ["Forecast", "Givens", "Goal", "Hit", "Search"]

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

ACCURACY_STEP = 0.01


class Forecast:
    """How a query would go under each configuration and placement.

    Args:
        givens: see `forecast_terms.Givens`.

    Raises:
        ConfigError: shapes or dtypes do not fit each other.
    """

    def __init__(self, givens: Givens) -> None:
        check_givens(givens)
        self._givens = givens
        with np.errstate(invalid="ignore"):  # models that are not had are NaN
            self._numbers = Numbers(givens)

    @property
    def accuracy(self) -> Array:
        """Accuracy of configurations, float64 `(resolution, rate, combination)`; for reading."""
        return self._numbers.accuracy

    def work(self) -> Array:
        """Return the fewest workers that configurations keep busy; shape as `accuracy`."""
        return self._summed(np.fmin.reduce(self._numbers.own, axis=-1))

    def search(self, goal: Goal, refuse: Refusal | None = None) -> Search:
        """Return the best configuration that has a placement within a goal, and that placement.

        Best is: most steps of accuracy up to what is enough; then the highest rate; then the least
        work. Of placements: fewest moves and least price; then the fastest.

        Args:
            goal: see `forecast_terms.Goal`.
            refuse: placements that shall not be; asked of those that would be taken, in order.
        """
        check_goal(goal, self._givens.combos.shape[1], self.accuracy.shape)
        near: list[tuple[Config, tuple[int, ...]]] = []
        looks = 0
        for config in self._ranked(goal):
            if looks == MAX_LOOKS:
                break
            if not self._reaches(goal, config):
                continue
            looks += 1
            hit, fastest = self.place(goal, config, refuse)
            if hit is not None:
                return Search(hit, looks, near)
            if fastest is not None and len(near) < RUNNERS_UP:
                near.append((config, fastest))
        return Search(None, looks, near)

    def place(
        self, goal: Goal, config: Config, refuse: Refusal | None = None
    ) -> tuple[Hit | None, tuple[int, ...] | None]:
        """Return the best placement of a configuration within a goal; without one, the fastest.

        Returns:
            One of the two, or neither if nothing can run the configuration.
        """
        check_goal(goal, self._givens.combos.shape[1], self.accuracy.shape)
        placed, delay, p95, use = self.weigh(config, goal.crowding, free_only=goal.free_only)
        if not len(placed):
            return None, None
        chosen = np.flatnonzero((p95 <= goal.limit_s) & (use <= goal.crowding + EPSILON))
        present = np.array(goal.present)
        moves = ((placed[chosen] != present) & (present != -2)).sum(axis=1)
        price = self._numbers.sites["price"][placed[chosen]].sum(axis=1)
        keys = (price, moves) if goal.fewest_moves else (moves, price)
        for i in chosen[np.lexsort((p95[chosen], *keys))]:
            row = _row(placed[i])
            if refuse is None or not refuse(config, row):
                return Hit(config, row, float(delay[i]), float(p95[i])), None
        return None, _row(placed[np.argmin(p95)])

    def closest(self, limit_s: float, *, free_only: bool) -> tuple[float, Hit] | None:
        """Return how far what comes closest to a limit and to capacity is off, and what it is.

        How far it is off is the larger of delay over limit and use over share, at the lowest rate.

        Returns:
            None if there is a task that nothing can run.
        """
        best: tuple[float, Hit] | None = None
        bounds = self._bounds(math.inf, free_only=free_only)[:, 0, :] / limit_s
        for index in np.argsort(bounds, axis=None, kind="stable"):
            r, c = divmod(int(index), bounds.shape[1])
            if bounds[r, c] >= (math.inf if best is None else best[0]):
                break
            placed, delay, p95, use = self.weigh((r, 0, c), math.inf, free_only=free_only)
            if len(placed):
                off = np.maximum(p95 / limit_s, use)
                i = int(np.argmin(off))
                if best is None or off[i] < best[0]:
                    hit = Hit((r, 0, c), _row(placed[i]), float(delay[i]), float(p95[i]))
                    best = float(off[i]), hit
        return best

    def weigh(
        self, config: Config, crowding: float, *, free_only: bool
    ) -> tuple[Ints, Array, Array, Array]:
        """Return all placements of a configuration whose tasks each fit, and what they come to.

        Returns:
            Nodes, intp `(placement, task)`; mean and 95th percentile of the delay, and the largest
            ratio of what is taken to what may be, float64 `(placement,)` each. The caller's.
        """
        sizes = self.accuracy.shape
        if not all(0 <= index < size for index, size in zip(config, sizes, strict=True)):
            raise ConfigError(f"configuration {config} is none of {sizes}")
        placed = self._placements(config, crowding, free_only=free_only)
        if not len(placed):
            return placed, np.zeros(0), np.zeros(0), np.zeros(0)
        delay, p95 = self._delays(config, placed)
        use = self._use(config, placed, free_only=free_only)
        return placed, delay, p95, np.maximum(use, self._under_way(config[1], delay))

    # Which configurations.

    def _ranked(self, goal: Goal) -> list[Config]:
        """Return the configurations that may do, best first."""
        accuracy = self.accuracy
        may = accuracy >= goal.least - EPSILON
        if goal.only is not None:
            may &= goal.only
        bounds = self._bounds(goal.crowding, free_only=goal.free_only)
        configs = np.argwhere(may & (bounds <= goal.limit_s * (1 + EPSILON)))
        found = accuracy[tuple(configs.T)]
        steps = np.floor(found / ACCURACY_STEP + EPSILON)
        steps[found >= goal.enough - EPSILON] = math.floor(1 / ACCURACY_STEP) + 1
        order = np.lexsort((self.work()[tuple(configs.T)], -configs[:, 1], -steps))
        return [(int(r), int(f), int(c)) for r, f, c in configs[order]]

    def _summed(self, by_model: Array) -> Array:
        """Return sums over tasks: `(task, resolution, rate, model)` to all configurations."""
        combos = self._numbers.combos
        parts = [part[:, :, combos[:, t]] for t, part in enumerate(by_model)]
        return np.asarray(np.add.reduce(parts))

    def _bounds(self, crowding: float, *, free_only: bool) -> Array:
        """Return a 95th percentile that no placement of a configuration is below."""
        numbers, n = self._numbers, self._givens.host
        fits = numbers.crowding(free_only=free_only) <= crowding + EPSILON
        mean, var = (np.where(fits, each, np.inf) for each in (numbers.mean, numbers.var))
        way, way_var = self._shortest_way(crowding, free_only=free_only)
        spread = self._givens.spread
        worst = np.zeros(self.accuracy.shape)
        for branch in numbers.branches:
            picks = [(t, numbers.combos[:, t]) for t in branch]

            def total(each: Array, picks: list[tuple[int, Ints]] = picks) -> Array:
                return np.asarray(np.add.reduce([each[t][:, :, pick] for t, pick in picks]))

            away = way[:, :, None] + total(mean.min(-1))
            bound = away + spread * np.sqrt(way_var[:, :, None] + total(var.min(-1)))
            if n >= 0:
                here = total(mean[..., n]) + spread * np.sqrt(total(var[..., n]))
                bound = np.minimum(bound, here)
            worst = np.maximum(worst, bound)
        return worst

    def _shortest_way(self, crowding: float, *, free_only: bool) -> tuple[Array, Array]:
        """Return mean and variance of the shortest way from the video to another node."""
        r, f = np.ogrid[: self.accuracy.shape[0], : self.accuracy.shape[1]]
        away = np.isfinite(self._numbers.sites["speed"])
        mean, var, use, share = self._numbers.ways_from_host(r, f, free_only=free_only)
        mean = np.where(away & (use <= share * crowding + EPSILON), mean, np.inf)
        return mean.min(-1), np.where(away, var, np.inf).min(-1)

    def _reaches(self, goal: Goal, config: Config) -> bool:
        """Whether the shortest way of a frame is within a goal.

        Shortest paths, task by task; what several tasks together do to a node or an uplink is left
        out, so that it is a bound from below.
        """
        numbers, (r, f, c) = self._numbers, np.array(config)
        crowding = numbers.crowding(free_only=goal.free_only)
        mean, _, use, share = numbers.ways_from_host(r, f, free_only=goal.free_only)
        first = np.where(use <= share * goal.crowding + EPSILON, mean, np.inf)
        slowest, calmest = 0.0, math.inf
        for branch in numbers.branches:
            var, reached = 0.0, first
            for i, t in enumerate(branch):
                m = numbers.combos[c, t]
                if i:
                    mean, _, use, share = numbers.ways(r, f, free_only=goal.free_only)
                    open_ways = np.where(use <= share * goal.crowding + EPSILON, mean, np.inf)
                    reached = (reached[:, None] + open_ways).min(0)
                fits = crowding[t, r, f, m] <= goal.crowding + EPSILON
                reached = reached + np.where(fits, numbers.mean[t, r, f, m], np.inf)
                var += float(np.fmin.reduce(numbers.var[t, r, f, m]))
            slowest = max(slowest, float((reached + numbers.homes(np.zeros(1))).min()))
            # Of the branches the slowest counts, and that may be any.
            calmest = min(calmest, var)
        bound = slowest + self._givens.spread * math.sqrt(calmest)
        flying = float(self._under_way(int(f), np.array(slowest)))
        return bound <= goal.limit_s * (1 + EPSILON) and flying <= goal.crowding + EPSILON

    def _under_way(self, f: int, delay: Array) -> Array:
        """Return the frames under way, over those that a job has at a time."""
        tasks = self._numbers.combos.shape[1]
        return np.asarray(self._numbers.fps[f] * delay / (FILLED * (tasks + 1)))

    # Which placements.

    def _placements(self, config: Config, crowding: float, *, free_only: bool) -> Ints:
        """Return placements: all there are, or if they are many the likely ones.

        Nodes that have not the model, or are over their share by this task alone, are left out.
        """
        (r, f, c), taken = config, self._numbers.crowding(free_only=free_only)
        able = [
            np.flatnonzero(taken[t, r, f, m] <= crowding + EPSILON)
            for t, m in enumerate(self._numbers.combos[c])
        ]
        if any(not len(nodes) for nodes in able):
            return np.empty((0, len(able)), dtype=np.intp)
        if math.prod(map(len, able)) <= MAX_PLACEMENTS:
            grid = _grid(tuple(map(len, able)))
            return np.stack([nodes[grid[:, t]] for t, nodes in enumerate(able)], axis=1)
        return self._likely(able, config)

    def _likely(self, able: list[Ints], config: Config) -> Ints:
        """Return placements of a graph of many tasks: two nodes at most, cut in one place.

        Where a node cannot do a task, the fastest that can does it.
        """
        mean, (r, f, c) = self._numbers.mean, config
        models = self._numbers.combos[c]
        fastest = np.array(
            [nodes[np.argmin(mean[t, r, f, models[t], nodes])] for t, nodes in enumerate(able)]
        )
        count = mean.shape[-1]
        whole = np.tile(fastest, (count, 1))
        for t, nodes in enumerate(able):
            whole[nodes, t] = nodes
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        cuts = range(1, len(able))
        split = [np.concatenate([whole[a][:k], whole[b][k:]]) for a, b in pairs for k in cuts]
        is_there = all(n in nodes for n, nodes in zip(self._givens.now, able, strict=True))
        now = [np.array(self._givens.now)] if is_there else []
        return np.array([*whole, *split, *now, fastest], dtype=np.intp)[-2 * MAX_PLACEMENTS :]

    def _delays(self, config: Config, placed: Ints) -> tuple[Array, Array]:
        """Return mean and 95th percentile of the delay of placements."""
        numbers, (r, f, c) = self._numbers, np.array(config)
        first, first_var, _, _ = numbers.ways_from_host(r, f, free_only=True)
        delay = p95 = np.zeros(len(placed))
        for branch in numbers.branches:
            mean, var = first[placed[:, branch[0]]], first_var[placed[:, branch[0]]]
            for i, t in enumerate(branch):
                here, m = placed[:, t], numbers.combos[c, t]
                if i:
                    ways, ways_var, _, _ = numbers.ways(r, f, free_only=True)
                    before = placed[:, branch[i - 1]]
                    mean, var = mean + ways[before, here], var + ways_var[before, here]
                mean = mean + numbers.mean[t, r, f, m][here]
                var = var + numbers.var[t, r, f, m][here]
            mean = mean + numbers.homes(numbers.out_nbytes[branch[-1], r, m])[here]
            var = var + np.where(here == self._givens.host, HOP_S**2, WAY_S**2)
            delay = np.maximum(delay, mean)
            p95 = np.maximum(p95, mean + self._givens.spread * np.sqrt(var))
        return delay, p95

    def _use(self, config: Config, placed: Ints, *, free_only: bool) -> Array:
        """Return the largest ratio of what placements take to what they may.

        Uplinks that all ways together could not fill are not looked at.
        """
        numbers, (r, f, c) = self._numbers, config
        taken, worst = numbers.crowding(free_only=free_only), np.zeros(len(placed))
        own = [numbers.own[t, r, f, m][placed[:, t]] for t, m in enumerate(numbers.combos[c])]
        for t, m in enumerate(numbers.combos[c]):
            worst = np.maximum(worst, taken[t, r, f, m][placed[:, t]])
        share = np.maximum(numbers.cores(free_only=free_only), NOTHING)
        busy = _per_node(placed.T, own, len(share))
        worst = np.maximum(worst, (busy / share).max(axis=1))
        return np.asarray(np.maximum(worst, self._links(r, f, placed, free_only=free_only)))

    def _links(self, r: int, f: int, placed: Ints, *, free_only: bool) -> Array:
        """Return the use of the busiest uplink of placements, over what may be used of it."""
        numbers, at = self._numbers, (np.array(r), np.array(f))
        first = np.divide(*numbers.ways_from_host(*at, free_only=free_only)[2:])
        use = np.zeros((1, 1))
        if any(len(branch) > 1 for branch in numbers.branches):
            use = np.divide(*numbers.ways(*at, free_only=free_only)[2:])
        if max(use.max(), first.max()) * placed.shape[1] <= 1.0:
            return np.zeros(len(placed))
        count = len(first)
        # The host has an uplink also if it does no task; it is then one behind all nodes.
        home = self._givens.host if self._givens.host >= 0 else count
        senders, uses = [], []
        for branch in numbers.branches:
            for i, t in enumerate(branch):
                here = placed[:, t]
                before = placed[:, branch[i - 1]] if i else np.full(len(placed), home)
                senders.append(before)
                uses.append(use[before, here] if i else first[here])
        return np.asarray(_per_node(np.stack(senders), uses, count + 1).max(axis=1))


def _per_node(at: Ints, amounts: Sequence[Array], count: int) -> Array:
    """Return sums by node, `(placement, node)`; `at` and `amounts`: of each task or way."""
    size = at.shape[1]
    flat = (at + count * np.arange(size)).ravel()
    sums = np.bincount(flat, np.concatenate(amounts), minlength=size * count)
    return np.asarray(sums, dtype=np.float64).reshape(size, count)


@lru_cache(maxsize=64)
def _grid(counts: tuple[int, ...]) -> Ints:
    return np.array([*product(*map(range, counts))], dtype=np.intp)


def _row(placed: Ints) -> tuple[int, ...]:
    return tuple(int(n) for n in placed)
