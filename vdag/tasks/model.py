"""`Model`: a model of the zoo on an engine, from pictures to its raw outputs.

What every task with a model shares: the pictures of a batch are grouped by the tensor size their
card asks for, written into the engine's own input buffer in one native pass each, and run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from vdag import _native as native
from vdag import engines
from vdag.engines import zoo
from vdag.engines.base import EngineSpec
from vdag.engines.begun import Begun
from vdag.engines.gpu.engine import PictureEngine
from vdag.engines.gpu.pictures import Preparation
from vdag.errors import ConfigError, ModelError
from vdag.frame import UInt8Image
from vdag.tasks.base import TaskOptions

__all__ = ["Found", "Model", "choose"]

#: Beyond this a CPU gains nothing and a GPU little; it bounds the input buffers.
MAX_BATCH = 32
#: Longest side for a user's model of dynamic size whose card gives no limit.
LARGEST_SIDE = 1280
#: Width and height of the picture that a model of dynamic size is warmed up with.
SMALL_PICTURE = (320, 240)


@dataclass(frozen=True, slots=True)
class Found:
    """What a model said of one picture.

    Attributes:
        outputs: name to the picture's part of that output, without the batch axis.
        placement: maps points of the input tensor back to the picture.
        size: width and height of the input tensor.
    """

    outputs: dict[str, NDArray[Any]]
    placement: native.Placement
    size: tuple[int, int]


def choose(task: str, options: TaskOptions, *kinds: str) -> zoo.ModelChoice:
    """Return the model that `options` ask for: a card of the user's own, or one of the zoo.

    Args:
        task: name of the task.
        options: its `card` or, without one, its `model_id`.
        kinds: the ways of decoding that the task knows.

    Raises:
        ConfigError: there is no such model, or it decodes in a way the task does not know.
    """
    if options.card is not None:
        card = zoo.load_card(options.card)
        card.verify()
        side = max((service.max_side for service in card.tasks), default=LARGEST_SIDE)
        choice = zoo.ModelChoice(card, options.model_id, side)
    else:
        choices = zoo.models_for(task)
        if options.model_id not in choices:
            known = ", ".join(str(number) for number in choices)
            raise ConfigError(f"{task} has no model_id {options.model_id}, expected one of {known}")
        choice = choices[options.model_id]
    if choice.card.decode.kind not in kinds:
        raise ConfigError(
            f"{task} cannot use model {choice.card.name}: its decode.kind is "
            f"{choice.card.decode.kind}, expected {' or '.join(kinds)}"
        )
    return choice


class Model:
    """Runs one model; one thread at a time.

    Args:
        choice: the card and the longest side its input may have.
        options: engine, device and threads.

    Raises:
        EngineUnavailable: the engine is not installed.
        ModelError: the file is broken, or is not what its card says.
    """

    def __init__(self, choice: zoo.ModelChoice, options: TaskOptions) -> None:
        self.card = choice.card
        self.max_batch = MAX_BATCH
        self._choice = choice
        spec = choice.card.input
        self._norm = native.Normalization(
            scale=spec.scale,
            mean=spec.mean,
            std=spec.std,
            rgb=spec.colour == "RGB",
            pad=spec.pad,
        )
        self._mode = cast(Literal["letterbox", "stretch"], spec.resize)
        self._threads = options.threads
        self._engine = engines.load(
            EngineSpec(
                choice.card.path,
                options.engine,
                device=options.device,
                threads=options.threads,
                name=choice.card.name,
            )
        )
        known = {tensor.name for tensor in self._engine.inputs}
        if known != {spec.name}:
            self._engine.close()
            raise ModelError(
                f"model {choice.card.file} has the inputs {', '.join(sorted(known))}, "
                f"its card says {spec.name}"
            )

    def run(self, pictures: Sequence[UInt8Image]) -> list[Found]:
        """Run the model on pictures of any sizes, uint8 `(H, W, 3)` BGR, and keep their order."""
        return self.begin(pictures).result()

    def begin(self, pictures: Sequence[UInt8Image]) -> Begun[list[Found]]:
        """Begin what `run` does, as far as the engine can: with pictures of one size, on a GPU."""
        groups = list(self._grouped(pictures))
        if len(groups) != 1 or not self._takes_pictures:
            return Begun.finished(self._run_groups(pictures, groups))
        ((size, _),) = groups
        engine = cast(PictureEngine, self._engine)
        begun = engine.submit_pictures(pictures, self._preparation(size))
        return begun.then(lambda found: list(self._split(*found, size)))

    def _run_groups(
        self, pictures: Sequence[UInt8Image], groups: Iterable[tuple[tuple[int, int], list[int]]]
    ) -> list[Found]:
        found: list[Found | None] = [None] * len(pictures)
        for size, indices in groups:
            for index, item in zip(
                indices, self._run([pictures[i] for i in indices], size), strict=True
            ):
                found[index] = item
        return cast("list[Found]", found)

    def warm_up(self) -> None:
        """Run the engine once, on a small picture of zeros: it allocates and compiles at first use.

        Engines keep the memory of the largest batch that they were ever given, so this one is none.

        Raises:
            EngineError: the engine failed.
        """
        width, height = self._choice.tensor_size(*SMALL_PICTURE)
        self._engine.warm_up([{self.card.input.name: (1, 3, height, width)}])

    def lock_pages(self, address: int, nbytes: int) -> bool:
        """Tell the engine where pictures will lie; see `PictureEngine`."""
        if not self._takes_pictures:
            return False
        return cast(PictureEngine, self._engine).lock_pages(address, nbytes)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _grouped(
        self, pictures: Sequence[UInt8Image]
    ) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Yield tensor size and the pictures that have it, at most `max_batch` at a time."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            groups.setdefault(self._choice.tensor_size(width, height), []).append(index)
        for size, indices in groups.items():
            for start in range(0, len(indices), self.max_batch):
                yield size, indices[start : start + self.max_batch]

    def _run(self, pictures: Sequence[UInt8Image], size: tuple[int, int]) -> Iterator[Found]:
        return self._split(*self._infer(pictures, size), size)

    def _split(
        self,
        outputs: Mapping[str, NDArray[Any]],
        placements: Sequence[native.Placement],
        size: tuple[int, int],
    ) -> Iterator[Found]:
        """Yield each picture's part of the outputs of a batch."""
        for index, placement in enumerate(placements):
            item = {
                output: np.ascontiguousarray(values[index]) for output, values in outputs.items()
            }
            yield Found(item, placement, size)

    def _infer(
        self, pictures: Sequence[UInt8Image], size: tuple[int, int]
    ) -> tuple[dict[str, NDArray[Any]], list[native.Placement]]:
        """Run the model: a GPU makes the tensor itself, of the pictures' bytes."""
        name = self.card.input.name
        if self._takes_pictures:
            engine = cast(PictureEngine, self._engine)
            return engine.infer_pictures(pictures, self._preparation(size))
        width, height = size
        tensor = self._engine.buffer(name, (len(pictures), 3, height, width))
        placements = native.preprocess.fill_batch(
            pictures, tensor, self._norm, mode=self._mode, threads=self._threads
        )
        return self._engine.infer({name: tensor}), placements

    @property
    def _takes_pictures(self) -> bool:
        return bool(getattr(self._engine, "takes_pictures", False))

    def _preparation(self, size: tuple[int, int]) -> Preparation:
        return Preparation(self.card.input.name, size, self._norm, self._mode)
