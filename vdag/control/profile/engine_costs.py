"""`EngineCosts`: what models take on an engine, as costs of the tasks that have them.

It is the model's part of a task alone, without the frame's way to it and what is made of its
outputs: little beside most models, and running queries put it right. `batching` measures all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdag.control.profile import Cost, Profile
from vdag.control.profile.costs import BatchPoint
from vdag.engines.measuring import BatchCost
from vdag.engines.zoo.card import Card, Service
from vdag.errors import ConfigError
from vdag.sampling import RESOLUTIONS
from vdag.tasks import signatures

__all__ = ["EngineCosts"]


class EngineCosts:
    """A profile that measurements of engines go into.

    Args:
        path: of the file; a new one if it is not there. It is written after each model.
        place: where the measurements hold: a node's address or ip, `edge`, `cloud`, or empty.
        size: width and height of the pictures.
        engine: what runs the models, and where, for people.

    Raises:
        ConfigError: the file is no profile.
    """

    def __init__(self, path: Path, place: str, size: tuple[int, int], engine: str = "") -> None:
        self._path, self._place, self._engine = path, place, engine
        self._profile = Profile.load(path) if path.exists() else Profile()
        names = {known: name for name, known in RESOLUTIONS.items()}
        self._resolution = names.get(size, f"{size[0]}x{size[1]}")

    def services(self, card: Card) -> dict[int, list[Service]]:
        """Return the longest sides that a model is run at, and as what.

        Raises:
            ConfigError: no task has it, or one that looks at parts of a frame.
        """
        found: dict[int, list[Service]] = {}
        for service in card.tasks:
            signature = signatures([service.task])[service.task]
            if "image" not in signature.inputs:
                raise ConfigError(
                    f"{service.task} looks at parts of frames: measure it by vdag profile"
                )
            found.setdefault(service.max_side, []).append(service)
        if not found:
            raise ConfigError(f"no task has the model {card.name}, so no profile knows it")
        return found

    def put(self, services: Sequence[Service], costs: Sequence[BatchCost]) -> None:
        """Set what tasks take to what their model takes; what is not about time or memory stays.

        Args:
            services: of the model, at the side that was measured.
            costs: what was, the smallest batch first.

        Raises:
            ConfigError: there is no batch of 1, or the file cannot be written.
        """
        if not costs or costs[0].batch != 1:
            raise ConfigError("a profile needs to know what a batch of 1 takes")
        for service in services:
            cell = service.task, service.model_id, self._resolution, self._place
            known = next((row.cost for row in self._profile.costs() if row[:4] == cell), None)
            cost = _cost(costs, known or Cost(1.0, 1.0))
            self._profile.put_cost(*cell[:3], cost, self._place)
        if self._engine:
            self._profile.about["engine"] = self._engine
        self._profile.save(self._path)


def _cost(costs: Sequence[BatchCost], known: Cost) -> Cost:
    alone = costs[0]
    return Cost(
        alone.mean_s,
        max(alone.p95_s, alone.mean_s),
        mem_nbytes=max(alone.host_nbytes, known.mem_nbytes),
        out_nbytes=known.out_nbytes,
        samples=alone.calls,
        obj_n=known.obj_n,
        batches=tuple(
            BatchPoint(each.batch, each.batch / each.rate, each.host_nbytes, each.device_nbytes)
            for each in costs
        ),
    )
