"""What a task is, and how one becomes known by name.

A task is a class with a `signature`, `process` and `close`, or a function under `@task`. Its class
must be cheap to import: models and libraries load in the constructor.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from vdag.errors import ConfigError, GraphError
from vdag.graph import Signature
from vdag.results import Outputs

__all__ = [
    "Inputs",
    "Task",
    "TaskOptions",
    "load",
    "names",
    "register",
    "signatures",
    "task",
    "warm_up",
]

Inputs = Mapping[str, Any]


@runtime_checkable
class Task(Protocol):
    """A named analysis, working on a batch of frames at a time.

    One thread at a time calls an instance; a pipeline makes several instances to work in parallel,
    unless the class says `parallel = False`.

    A task whose first batches take longer than others may have a method `warm_up(max_batch)`, which
    makes up for that before any frame comes; see the function of that name.

    Attributes:
        signature: the fields it takes and gives.
        max_batch: most frames that `process` takes at once.
    """

    signature: Signature
    max_batch: int

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        """Work on the frames of `batch`.

        Args:
            batch: per frame the fields of the signature: `image` is uint8 `(H, W, 3)` BGR and read
                only, optional fields that nobody produces are left out.

        Returns:
            Per frame, in order, every field of `signature.outputs`; the caller owns the arrays.
        """
        ...

    def close(self) -> None:
        """Free the task's engines; it is not used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task is loaded.

    Attributes:
        model_id: 0 large, 1 medium, 2 small, as far as the task has them.
        device: `auto`, `cpu`, `cuda`, or `cuda:<n>`.
        engine: name of the engine that runs the model.
        threads: threads the engine may use for one call.
        card: a model card of the user's own, used instead of the zoo's models.
    """

    model_id: int = 0
    device: str = "auto"
    engine: str = "onnx"
    threads: int = 1
    card: Path | None = None


class _FunctionTask:
    """A function of one frame as a task."""

    signature: ClassVar[Signature]
    function: ClassVar[Callable[..., Outputs]]
    parallel: ClassVar[bool] = True
    max_batch = 1

    def __init__(self, options: TaskOptions = TaskOptions()) -> None:
        del options  # a function has no model to choose

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        return [type(self).function(**inputs) for inputs in batch]

    def close(self) -> None:
        """Do nothing: a function holds nothing."""


TaskFactory = Callable[[TaskOptions], Task]

#: Name to a class, or to where one is found: imported when its signature is first needed.
_registry: dict[str, str | type[Any]] = {
    "car_detection": "vdag.tasks.objects:CarDetection",
    "face_alignment": "vdag.tasks.pose:FaceAlignment",
    "face_detection": "vdag.tasks.faces:FaceDetection",
    "helmet_detection": "vdag.tasks.helmets:HelmetDetection",
    "yolo": "vdag.tasks.objects:Yolo",
}


def register(name: str, cls: type[Any]) -> None:
    """Make a task known by `name`, to every graph of this process.

    Args:
        name: a Python identifier, as it stands in a graph's flow.
        cls: a class with the attributes of `Task` whose constructor takes a `TaskOptions`.

    Raises:
        ConfigError: the name is taken or no identifier, or the class lacks an attribute.
    """
    if not name.isidentifier():
        raise ConfigError(f"task name {name!r} is not an identifier")
    if name in _registry:
        raise ConfigError(f"task {name} is registered already")
    for attribute in ("signature", "max_batch", "process", "close"):
        if not hasattr(cls, attribute):
            raise ConfigError(f"task {name}: {cls.__name__} has no {attribute}")
    _registry[name] = cls


def task(
    *, outputs: Sequence[str], name: str | None = None, parallel: bool = True
) -> Callable[[Callable[..., Outputs]], Callable[..., Outputs]]:
    """Register the decorated function as a task.

    The function's parameters are the fields it takes, those with a default are optional; it is
    called once per frame and returns a dict with the fields `outputs`.

        @vdag.task(outputs=["brightness"])
        def brightness(image):
            return {"brightness": float(image.mean())}

    Args:
        outputs: fields of the returned dict.
        name: name of the task, by default the function's.
        parallel: whether several threads may call it at once.
    """

    def decorate(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
        parameters = inspect.signature(function).parameters.values()
        required = {p.name for p in parameters if p.default is p.empty}
        optional = {p.name for p in parameters if p.default is not p.empty}
        attributes = {
            "signature": Signature(
                frozenset(required), frozenset(outputs), optional=frozenset(optional)
            ),
            "function": staticmethod(function),
            "parallel": parallel,
            "__doc__": function.__doc__,
        }
        register(name or function.__name__, type(function.__name__, (_FunctionTask,), attributes))
        return function

    return decorate


def names() -> list[str]:
    """Return the names of all known tasks, sorted."""
    return sorted(_registry)


def find(name: str) -> type[Any]:
    """Return the class of the task `name`.

    Raises:
        GraphError: no such task is known.
    """
    entry = _registry.get(name)
    if entry is None:
        raise GraphError(f"unknown task {name!r}: expected one of {', '.join(names())}")
    if isinstance(entry, str):
        module, _, attribute = entry.partition(":")
        cls: type[Any] = getattr(importlib.import_module(module), attribute)
        _registry[name] = entry = cls
    return entry


def signatures() -> dict[str, Signature]:
    """Return the signature of every known task."""
    return {name: find(name).signature for name in names()}


def load(name: str, options: TaskOptions | None = None) -> Task:
    """Load one instance of the task `name`.

    Raises:
        GraphError: no such task is known.
        ConfigError: it has no such model.
        EngineError: its model or engine cannot be loaded.
    """
    loaded: Task = find(name)(options or TaskOptions())
    return loaded


def warm_up(task: Task, max_batch: int) -> None:
    """Have a task do now what would make its first frames late; most tasks have nothing to do.

    Worker processes do this before they say that they serve.

    Args:
        task: just loaded.
        max_batch: most frames that it will be given at once.

    Raises:
        EngineError: its model cannot run; the task may be closed, and nothing else.
    """
    prepare: Callable[[int], None] | None = getattr(task, "warm_up", None)
    if prepare is not None:
        prepare(max_batch)
