"""What a task is, and how one becomes known by name.

A task is a class with a `signature`, `process` and `close`, or a function under `@task`. Its class
must be cheap to import: models and libraries load in the constructor.

A task may have parameters (see `params`), which its name then carries (see `naming`): whoever
has such a name, in whatever process, can find and load the task.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

from vdag.errors import ConfigError, GraphError
from vdag.graph import Signature
from vdag.results import Outputs
from vdag.tasks.naming import base_of, label, parse
from vdag.tasks.params import Param, Value, check

__all__ = [
    "Inputs",
    "Task",
    "TaskOptions",
    "find",
    "handler_names",
    "load",
    "model_task",
    "names",
    "needs",
    "parameters",
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
    makes up for that before any frame comes; see the function of that name. Methods
    `begin` and `lock_pages` are for tasks at work on a GPU; see `overlap`.

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
        device: `auto`, `cpu`, `cuda`, or `cuda:<n>`; for workers also several, `cuda:0,cuda:1`,
            see `WorkerPool.add`.
        engine: name of the engine that runs the model.
        threads: threads the engine may use for one call.
        card: a model card of the user's own, used instead of the zoo's models.
        params: parameters of the task; those in its name go before them. A task that is loaded by
            `load` finds every one of its parameters here, checked.
    """

    model_id: int = 0
    device: str = "auto"
    engine: str = "onnx"
    threads: int = 1
    card: Path | None = None
    params: Mapping[str, Value] = field(default_factory=dict, hash=False)


class _FunctionTask:
    """A function of one frame as a task."""

    signature: ClassVar[Signature]
    function: ClassVar[Callable[..., Outputs]]
    parallel: ClassVar[bool] = True
    params: ClassVar[Mapping[str, Param]] = MappingProxyType({})
    max_batch = 1

    def __init__(self, options: TaskOptions = TaskOptions()) -> None:
        self._params = dict(options.params)

    def process(self, batch: Sequence[Inputs]) -> list[Outputs]:
        return [type(self).function(**inputs, **self._params) for inputs in batch]

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

#: The handler types of the documents, which graphs of services are made of; found by name like the
#: others, but not among `names`, which are the analyses.
_handlers: dict[str, str | type[Any]] = {
    "align": "vdag.tasks.handlers.align:Align",
    "decode": "vdag.tasks.handlers.pictures:Decode",
    "detect_faces": "vdag.tasks.handlers.detect:DetectFaces",
    "detect_objects": "vdag.tasks.handlers.detect:DetectObjects",
    "draw_boxes": "vdag.tasks.handlers.draw:DrawBoxes",
    "draw_labeled_boxes": "vdag.tasks.handlers.draw:DrawLabeledBoxes",
    "encode": "vdag.tasks.handlers.pictures:Encode",
    "recognise": "vdag.tasks.handlers.recognise:Recognise",
    "render": "vdag.tasks.handlers.render:Render",
    "resize": "vdag.tasks.handlers.pictures:Resize",
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
    if name in _registry or name in _handlers:
        raise ConfigError(f"task {name} is registered already")
    if parse(name)[1]:
        raise ConfigError(f"task name {label(name)} carries parameters")
    for attribute in ("signature", "max_batch", "process", "close"):
        if not hasattr(cls, attribute):
            raise ConfigError(f"task {name}: {cls.__name__} has no {attribute}")
    _registry[name] = cls


def task(
    *,
    outputs: Sequence[str],
    name: str | None = None,
    parallel: bool = True,
    params: Mapping[str, Value | Param] = MappingProxyType({}),
) -> Callable[[Callable[..., Outputs]], Callable[..., Outputs]]:
    """Register the decorated function as a task.

    The function's arguments are the fields it takes, those with a default are optional; it is
    called once per frame and returns a dict with the fields `outputs`.

        @vdag.task(outputs=["brightness"])
        def brightness(image):
            return {"brightness": float(image.mean())}

    Args:
        outputs: fields of the returned dict.
        name: name of the task, by default the function's.
        parallel: whether several threads may call it at once.
        params: arguments that are parameters of the task instead, each with its default, or as a
            `Param`; see `vdag.tasks.naming.name_of`.
    """
    declared = {
        key: value if isinstance(value, Param) else Param(value) for key, value in params.items()
    }

    def decorate(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
        arguments = inspect.signature(function).parameters
        if strange := sorted(declared.keys() - arguments.keys()):
            raise ConfigError(f"{function.__name__} has no argument {strange[0]}")
        fields = [each for each in arguments.values() if each.name not in declared]
        required = {each.name for each in fields if each.default is each.empty}
        optional = {each.name for each in fields if each.default is not each.empty}
        attributes = {
            "signature": Signature(
                frozenset(required), frozenset(outputs), optional=frozenset(optional)
            ),
            "function": staticmethod(function),
            "parallel": parallel,
            "params": MappingProxyType(declared),
            "__doc__": function.__doc__,
        }
        register(name or function.__name__, type(function.__name__, (_FunctionTask,), attributes))
        return function

    return decorate


def names() -> list[str]:
    """Return the names of all known tasks, sorted; without those of handler types."""
    return sorted(_registry)


def handler_names() -> list[str]:
    """Return the names of the documents' handler types, sorted."""
    return sorted(_handlers)


def find(name: str) -> type[Any]:
    """Return the class of the task `name`, which may carry parameters.

    Raises:
        GraphError: no such task is known.
        ConfigError: it has not such parameters.
    """
    return _resolve(name)[0]


def signatures(also: Iterable[str] = ()) -> dict[str, Signature]:
    """Return the signature of every known task.

    Args:
        also: names, such as a graph's, of handler types and of tasks with parameters; unknown ones
            are left out.

    Raises:
        ConfigError: a task has not the parameters that its name carries.
    """
    known = {name: find(name).signature for name in names()}
    for name in also:
        if name not in known and _class(base_of(name)) is not None:
            known[name] = find(name).signature
    return known


def parameters(name: str) -> Mapping[str, Param]:
    """Return the parameters that a task has, whether its name carries them or not.

    Raises:
        GraphError: no such task is known.
    """
    declared: Mapping[str, Param] = getattr(find(name), "params", {})
    return declared


def needs(name: str) -> tuple[str, ...]:
    """Return the tasks that a task loads itself, by what its parameters say.

    Raises:
        GraphError: no such task is known.
        ConfigError: it has not such parameters.
    """
    cls, given = _resolve(name)
    ask: Callable[[Mapping[str, Value]], tuple[str, ...]] | None = getattr(cls, "needs", None)
    return () if ask is None else ask(given)


def model_task(name: str) -> str:
    """Return the task whose models a task has: its own name, as a rule, without parameters."""
    base = base_of(name)
    found: str = getattr(_class(base), "model_task", base)
    return found


def load(name: str, options: TaskOptions | None = None) -> Task:
    """Load one instance of the task `name`, which may carry parameters.

    Raises:
        GraphError: no such task is known.
        ConfigError: it has no such model, or not such parameters.
        EngineError: its model or engine cannot be loaded.
    """
    cls, given = _resolve(name)
    options = options or TaskOptions()
    declared = getattr(cls, "params", {})
    merged = {**options.params, **given}
    if declared or merged:
        checked = check(base_of(name), declared, merged)
        options = replace(options, params=checked)
    loaded: Task = cls(options)
    return loaded


def _resolve(name: str) -> tuple[type[Any], dict[str, Value]]:
    """Return a task's class, and the parameters that its name carries."""
    cls, given = _class(name), dict[str, Value]()
    if cls is None:
        base, given = parse(name)
        cls = _class(base) if given else None
        if cls is None:
            raise GraphError(f"unknown task {name!r}: expected one of {', '.join(names())}")
        check(base, getattr(cls, "params", {}), given)
    return cls, given


def _class(name: str) -> type[Any] | None:
    """Return the class registered by a name, None for no such."""
    for table in (_registry, _handlers):
        entry = table.get(name)
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            table[name] = entry = getattr(importlib.import_module(module), attribute)
        if entry is not None:
            return entry
    return None


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
