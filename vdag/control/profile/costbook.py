"""`CostBook`: the costs that were measured, by task, model, resolution and place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from vdag.control.profile.costs import Cost, CostTable, check_cost, pixels_of
from vdag.errors import ConfigError

if TYPE_CHECKING:
    from vdag.control.scheduling.events import NodeInfo

__all__ = ["ANY", "CostBook", "CostRow", "granted", "nearest_model", "places_of"]

#: The place of what was measured without saying where.
ANY = ""
MAX_NAME = 256
#: More than tasks, models and places of any fleet.
MAX_TABLES = 100_000
MAX_MODEL_ID = 99


class CostRow(NamedTuple):
    """A measured cost and what of."""

    task: str
    model_id: int
    resolution: str
    place: str
    cost: Cost


def places_of(node: NodeInfo) -> tuple[str, ...]:
    """Return the places that a node is at, the nearest first; a host counts by its machine."""
    return node.node_addr, node.ip, "cloud" if node.role == "cloud" else "edge", ANY


def nearest_model(models: set[int], model_id: int) -> int:
    """Return the known model that is nearest to one, and of two the larger: it takes more."""
    if model_id in models:
        return model_id
    return min(models, key=lambda known: (abs(known - model_id), known))


def granted(task: str, node: NodeInfo) -> float:
    """Return by how much a worker is slowed down by the share of its cores that a node grants.

    A worker's model runs in one thread, so all that counts is whether the share is a whole core.
    """
    service = node.services.get(task)
    ratios = node.resources.get("cpu_ratio")
    if service is None or not isinstance(ratios, (list, tuple)):
        return 1.0
    cores = service.cpu_util_limit * len(ratios)
    return min(1.0 / cores, 1000.0) if 0 < cores < 1 else 1.0


class CostBook:
    """See the module. A place is a node's address, its ip, a role, or `ANY`."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], dict[str, CostTable]] = {}
        self._models: dict[str, set[int]] = {}
        self._at_place: dict[str, dict[tuple[str, int], None]] = {}
        #: What `implied` has found since the last cost came, by places.
        self._implied: dict[tuple[str, ...], float | None] = {}
        self._count = 0

    def __contains__(self, task: object) -> bool:
        return task in self._models

    def __iter__(self) -> Iterator[CostRow]:
        for (task, model_id), places in self._tables.items():
            for place, table in places.items():
                for resolution, cost in table:
                    yield CostRow(task, model_id, resolution, place, cost)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of those about which something is known."""
        return tuple(self._models)

    def put(self, row: CostRow) -> None:
        """Set a cost.

        Raises:
            ConfigError: something of it is out of bounds; nothing has changed.
        """
        where = f"cost of {row.task[:MAX_NAME]}"
        check_cost(where, row.cost)
        pixels_of(row.resolution)
        if not 0 <= row.model_id <= MAX_MODEL_ID:
            raise ConfigError(f"{where}: model_id {row.model_id} is not 0 to {MAX_MODEL_ID}")
        for name in ("task", "place"):
            if len(getattr(row, name)) > MAX_NAME:
                raise ConfigError(f"{where}: name of the {name} exceeds {MAX_NAME} characters")
        places = self._tables.setdefault((row.task, row.model_id), {})
        table = places.get(row.place)
        if table is None:
            if self._count >= MAX_TABLES:
                raise ConfigError(f"{where}: there are {MAX_TABLES} models at places already")
            table = places[row.place] = CostTable()
            self._count += 1
            self._at_place.setdefault(row.place, {})[row.task, row.model_id] = None
        table.put(row.resolution, row.cost)
        self._implied.clear()
        self._models.setdefault(row.task, set()).add(row.model_id)

    def merge(self, row: CostRow) -> None:
        """Take in a cost: the mean with what is there, weighted by samples; errors as `put`."""
        table = self._tables.get((row.task, row.model_id), {}).get(row.place)
        known = None if table is None else table.at(pixels_of(row.resolution))
        self.put(row if known is None else row._replace(cost=known.merged(row.cost)))

    def prior(self, task: str, model_id: int, pixels: int, node: NodeInfo) -> Cost | None:
        """Return what a task takes of a node as far as it was measured; None if it never was.

        If it was not measured on the node itself, but other tasks or models were, the node is taken
        to be as much slower at this as it is at those.
        """
        models = self._models.get(task)
        if not models:
            return None
        tables = self._tables[task, nearest_model(models, model_id)]
        places = places_of(node)
        found = _at(tables, pixels, places) or _elsewhere(tables, pixels)
        if places[0] in tables or places[1] in tables:
            return found
        log = self.implied(node)
        return found if log is None else found.scaled(math.exp(log))

    def has_place(self, node: NodeInfo) -> bool:
        """Whether something was measured on a node itself."""
        return node.node_addr in self._at_place or node.ip in self._at_place

    def implied(self, node: NodeInfo) -> float | None:
        """Return the logarithm of a node's slowdown, from what was measured on it.

        Returns:
            None if nothing was, or nothing that was measured for its role as well.
        """
        if not self.has_place(node):
            return None
        # It is asked for with each cost of a node, and each time it would go through all of them.
        places = places_of(node)
        if places not in self._implied:
            if len(self._implied) >= MAX_TABLES:
                self._implied.clear()
            self._implied[places] = self._find_implied(places)
        return self._implied[places]

    def _find_implied(self, places: tuple[str, ...]) -> float | None:
        own, ip, *others = places
        ratios = []
        for place in (own, ip):
            for key in self._at_place.get(place, ()):
                tables = self._tables[key]
                for resolution, cost in tables[place]:
                    usual = _at(tables, pixels_of(resolution), tuple(others))
                    if usual is not None:
                        ratios.append(math.log(cost.mean_s(1.0) / usual.mean_s(1.0)))
        return sum(ratios) / len(ratios) if ratios else None


def _at(tables: dict[str, CostTable], pixels: int, places: tuple[str, ...]) -> Cost | None:
    """Return the cost at the nearest of some places, None if there is none at any of them."""
    for number, place in enumerate(places):
        table = tables.get(place)
        if table is None:
            continue
        if table.encloses(pixels):
            return table.predict(pixels)
        return _stretched(table, tables, pixels, places[number + 1 :])
    return None


def _stretched(
    table: CostTable, tables: dict[str, CostTable], pixels: int, places: tuple[str, ...]
) -> Cost:
    """Return the cost beyond what a table has: as it grows at places further away, if known."""
    nearest = table.nearest(pixels)
    here = table.predict(nearest)
    there, there_nearest = _at(tables, pixels, places), _at(tables, nearest, places)
    if there is None or there_nearest is None:
        return table.predict(pixels)
    return there.scaled(here.mean_s(1.0) / there_nearest.mean_s(1.0))


def _elsewhere(tables: dict[str, CostTable], pixels: int) -> Cost:
    """Return the cost at whichever place most is known of."""
    return max(tables.values(), key=len).predict(pixels)
