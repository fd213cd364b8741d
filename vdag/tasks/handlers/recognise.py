"""The handler that says who or what each box is, by a model of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from vdag.errors import ConfigError
from vdag.frame import UInt8Image
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.tasks import base
from vdag.tasks.base import Inputs, Task, TaskOptions
from vdag.tasks.handlers.boxes import Box, Region, outputs_of, regions, sort_out
from vdag.tasks.model import Model, choose
from vdag.tasks.params import Param, Value

__all__ = ["Recognise"]

#: What a model says of a picture: a label, None for nothing it knows, and a probability.
Verdict = tuple[str | None, float | None]


class Recognise:
    """Gives each box the label that a model of the user's finds in its crop; its place stays.

    The model is a model card of `decode.kind` `classes`, which says what each number of its output
    stands for; or a task that takes `image` and gives `label` and, if it likes, `prob`, from a
    Python file of the user's.

    Parameters: `task`, the name of such a task; `thresh`, the probability below which a label is
    none; `multiple` and `with_crop` as of detectors.
    """

    signature: ClassVar[Signature] = Signature(
        frozenset(),
        frozenset({"boxes", "crops", "count_result"}),
        optional=frozenset({"image", "boxes", "crops"}),
    )
    params: ClassVar[Mapping[str, Param]] = MappingProxyType(
        {
            "task": Param(""),
            "thresh": Param(0.0, 0.0, 1.0),
            "multiple": Param(True),
            "with_crop": Param(True),
        }
    )
    #: The user's task may not be called by two threads at a time.
    parallel: ClassVar[bool] = False

    def __init__(self, options: TaskOptions) -> None:
        self._params = options.params
        self._model: _Recogniser = _load(options)
        self.max_batch = self._model.max_batch

    @classmethod
    def needs(cls, params: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the user's task that the parameters name, if they name one."""
        task = params.get("task")
        return (str(task),) if task else ()

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Say who or what is in each frame's boxes, or in the frame."""
        looked_at = [regions(inputs, "recognise") for inputs in batch]
        pictures = [region.picture for frame in looked_at for region in frame]
        verdicts = iter(self._model.look(pictures) if pictures else ())
        return [
            self._outputs(
                [(self._named(region, next(verdicts)), region.picture) for region in frame]
            )
            for frame in looked_at
        ]

    def warm_up(self, max_batch: int) -> None:
        """Run the model once, so that no frame pays for its first call."""
        self._model.warm_up(max_batch)

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _named(self, region: Region, verdict: Verdict) -> Box:
        height, width = region.picture.shape[:2]
        whole = Box(label=None, prob=None, x=0, y=0, w=width, h=height)
        label, prob = verdict
        if prob is not None and prob < float(self._params["thresh"]):
            label = None
        at = region.box or whole
        return Box(label=label, prob=prob, x=at["x"], y=at["y"], w=at["w"], h=at["h"])

    def _outputs(self, found: Sequence[tuple[Box, UInt8Image]]) -> Outputs:
        kept = sort_out(found, multiple=bool(self._params["multiple"]))
        return outputs_of(kept, with_crop=bool(self._params["with_crop"]))


class _Recogniser(Protocol):
    """Looks at pictures."""

    max_batch: int

    def look(self, pictures: Sequence[UInt8Image]) -> list[Verdict]: ...

    def warm_up(self, max_batch: int) -> None: ...

    def close(self) -> None: ...


class _Classifier:
    """A model of the user's, by its card."""

    def __init__(self, options: TaskOptions) -> None:
        self._model = Model(choose("recognise", options, "classes"), options)
        self._classes = self._model.card.decode.classes
        self.max_batch = self._model.max_batch

    def look(self, pictures: Sequence[UInt8Image]) -> list[Verdict]:
        return [self._verdict(found.outputs) for found in self._model.run(pictures)]

    def warm_up(self, max_batch: int) -> None:
        self._model.warm_up()

    def close(self) -> None:
        self._model.close()

    def _verdict(self, outputs: Mapping[str, NDArray[Any]]) -> Verdict:
        (scores,) = (np.asarray(values, np.float64).reshape(-1) for values in outputs.values())
        if len(scores) != len(self._classes):
            raise ValueError(
                f"model {self._model.card.name} gives {len(scores)} numbers, "
                f"its card names {len(self._classes)} classes"
            )
        best = int(np.argmax(scores))
        # Probabilities add up to 1 already; whatever else is there is logits.
        if scores.min() < 0 or abs(scores.sum() - 1) > 1e-3:
            scores = np.exp(scores - scores[best])
            scores /= scores.sum()
        prob = float(scores[best])
        return (self._classes[best] if prob >= self._model.card.decode.threshold else None), prob


class _OfTask:
    """A task of the user's."""

    def __init__(self, name: str, options: TaskOptions) -> None:
        signature = base.find(name).signature
        if not signature.inputs <= {"image"} or "label" not in signature.outputs:
            raise ConfigError(
                f"recognise: task {name} takes {', '.join(sorted(signature.inputs)) or 'nothing'} "
                f"and gives {', '.join(sorted(signature.outputs))}, expected image and label"
            )
        self._task: Task = base.load(name, replace(options, params={}))
        self.max_batch = self._task.max_batch

    def look(self, pictures: Sequence[UInt8Image]) -> list[Verdict]:
        found: list[Outputs] = []
        for start in range(0, len(pictures), self.max_batch):
            part = pictures[start : start + self.max_batch]
            found += self._task.process([{"image": picture} for picture in part])
        return [_verdict(outputs) for outputs in found]

    def warm_up(self, max_batch: int) -> None:
        base.warm_up(self._task, max_batch)

    def close(self) -> None:
        self._task.close()


def _load(options: TaskOptions) -> _Recogniser:
    """Load the user's model.

    Raises:
        ConfigError: none is given, or it does not recognise.
        GraphError: there is no such task.
    """
    task = str(options.params["task"])
    if task:
        return _OfTask(task, options)
    if options.card is not None:
        return _Classifier(options)
    raise ConfigError(
        "recognise needs a model of your own: the parameter task names a task of a Python file "
        "that gives a label for an image, or a model card of decode.kind classes"
    )


def _verdict(outputs: Outputs) -> Verdict:
    label, prob = outputs["label"], outputs.get("prob")
    return (None if label is None else str(label)), (None if prob is None else float(prob))
