"""Batches that are longer than an engine's profiles: cut, run in turn, and joined again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.engines.base import Engine, TensorSpec
from vdag.engines.gpu.engine import FromPictures, LaneEngine, in_turn
from vdag.engines.gpu.lanes import Pending
from vdag.engines.gpu.pictures import Preparation

__all__ = ["Arrays", "length_of", "run", "run_pictures"]

Arrays = dict[str, NDArray[Any]]


def length_of(specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]) -> int:
    """Return the length of a batch, 1 for inputs without axes."""
    if not specs or not specs[0].shape:
        return 1
    return int(inputs[specs[0].name].shape[0])


def run(engine: Engine, inputs: Mapping[str, NDArray[Any]], piece: int) -> Arrays:
    """Run a batch in pieces of at most so many, as many at once as the engine has lanes."""
    length = max((len(array) for array in inputs.values() if array.ndim), default=1)
    if length <= piece or not isinstance(engine, LaneEngine):
        return engine.infer(inputs)
    starts = range(0, length, piece)
    cut = [{name: a[start : start + piece] for name, a in inputs.items()} for start in starts]
    return _joined([pending.outputs for pending in in_turn(engine, engine.begin, cut)])


def run_pictures(
    engine: LaneEngine,
    pictures: Sequence[NDArray[np.uint8]],
    preparation: Preparation,
    piece: int,
) -> FromPictures:
    """Likewise for pictures."""
    if len(pictures) <= piece:
        return engine.infer_pictures(pictures, preparation)
    cut = [pictures[start : start + piece] for start in range(0, len(pictures), piece)]

    def begin(part: Sequence[NDArray[np.uint8]]) -> Pending:
        return engine.begin_pictures(part, preparation)

    done = list(in_turn(engine, begin, cut))
    placements = [placement for pending in done for placement in pending.placements]
    return _joined([pending.outputs for pending in done]), placements


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
