"""The documented handler types as tasks: what each takes and gives, and which parameters it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vdag.errors import ConfigError
from vdag.tasks.naming import name_of
from vdag.tasks.params import Value

__all__ = [
    "BOXES",
    "CAPTURE",
    "FIELDS",
    "JPEG",
    "KINDS",
    "PICTURE",
    "RENDER",
    "RX",
    "TURNING",
    "TX",
    "USUAL",
    "Kind",
    "own_params",
    "task_of",
    "values_of",
]

TX, RX, CAPTURE, RENDER = 0, 1, 2, 3
#: What goes over a link; see `wiring`.
PICTURE, JPEG, BOXES = "picture", "jpeg", "boxes"
#: The field of a context that holds it.
FIELDS: Mapping[str, str] = MappingProxyType({PICTURE: "image", JPEG: "jpeg", BOXES: "boxes"})


@dataclass(frozen=True, slots=True)
class Kind:
    """A documented type as a task.

    Attributes:
        task: its name; empty for none.
        takes: of each input what it may be, the most usual first.
        gives: its output; empty for none.
        params: of the documents' parameters those that have an effect here: to the task's own name.
        replaceable: by the task that the parameter `task` names.
    """

    task: str = ""
    takes: tuple[tuple[str, ...], ...] = ()
    gives: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    replaceable: bool = False


#: Types whose crops are no parts of the picture any more.
TURNING = frozenset({11, 12})
_LOOK = ((PICTURE, BOXES),)
_BOTH = {"with_crop": "with_crop", "multiple": "multiple"}


def _finder(name: str, /, **params: str) -> Kind:
    return Kind(name, _LOOK, BOXES, {**_BOTH, **params}, replaceable=name != "recognise")


_RECOGNISE = _finder("recognise", task="task")
#: By number.
KINDS: Mapping[int, Kind] = MappingProxyType(
    {
        TX: Kind(),
        RX: Kind(),
        CAPTURE: Kind(gives=PICTURE),
        RENDER: Kind("render", ((PICTURE,),), "", {"fps": "fps", "to": "to"}),
        4: Kind("resize", ((PICTURE,),), PICTURE, {"width": "width", "height": "height"}),
        5: Kind("encode", ((PICTURE,),), JPEG, {"quality": "quality"}),
        6: Kind("decode", ((JPEG,),), PICTURE),
        7: _finder("detect_objects", targets="targets", thresh="thresh"),
        8: _finder("detect_faces", min_size="min_size"),
        9: _finder("detect_faces"),
        10: _finder("detect_faces", tresh="thresh"),
        11: _finder("align", dim="dim"),
        12: _finder("detect_faces", dim="dim"),
        13: _RECOGNISE,
        14: _RECOGNISE,
        15: _RECOGNISE,
        16: Kind("draw_boxes", ((PICTURE,), (BOXES,)), PICTURE),
        17: Kind("draw_labeled_boxes", ((PICTURE,), (BOXES,)), PICTURE),
    }
)
#: What the documents' types do unless they are told: where a task of ours has another default.
_DEFAULTS: Mapping[int, Mapping[str, Value]] = MappingProxyType(
    {8: {"min_size": 20}, 10: {"thresh": 0.5}, 12: {"dim": 160}}
)
#: Defaults of the tasks, which a name need not carry.
USUAL: Mapping[str, Mapping[str, Value]] = MappingProxyType(
    {
        "align": {"dim": 96, "multiple": True, "with_crop": True},
        "detect_faces": {
            "dim": 0,
            "min_size": 0,
            "multiple": True,
            "thresh": 0.0,
            "with_crop": True,
        },
        "detect_objects": {"multiple": True, "targets": "all", "thresh": 0.5, "with_crop": True},
        "encode": {"quality": 80},
        "recognise": {"multiple": True, "task": "", "thresh": 0.0, "with_crop": True},
        "render": {"fps": 0, "to": "window"},
        "resize": {"height": 480, "width": 640},
    }
)


def task_of(kind: int, params: Mapping[str, Any]) -> str | None:
    """Return the name of the task that a documented handler is, its parameters in it.

    Parameters of the documents that belong to libraries of theirs (`config`, `weights`, `upsample`
    and so on) have no effect here; defaults are left out, so that the same is called the same.

    Args:
        kind: number of its type.
        params: the documents' and our own, checked; defaults may stand or be left out.

    Returns:
        None for `tx`, `rx` and `capture`, which are no tasks.

    Raises:
        ConfigError: the type is not documented, or a value cannot stand in a name.
    """
    found = KINDS.get(kind)
    if found is None:
        raise ConfigError(f"handler type {kind} is not between 0 and {max(KINDS)}")
    if not found.task:
        return None
    if found.replaceable and params.get("task"):
        return str(params["task"])
    return name_of(found.task, own_params(kind, found, params))


def own_params(kind: int, found: Kind, params: Mapping[str, Any]) -> dict[str, Value]:
    """Return the parameters of a task, without those that are its defaults."""
    given = values_of(params)
    own = {name: given[key] for key, name in found.params.items() if key in given}
    usual = USUAL.get(found.task, {})
    return {
        name: value
        for name, value in {**_DEFAULTS.get(kind, {}), **own}.items()
        if value != usual[name]
    }


def values_of(params: Mapping[str, Any]) -> dict[str, Value]:
    """Return parameters as a name can carry them: lists of texts with commas, without nulls."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in params.items()
        if value is not None
    }
