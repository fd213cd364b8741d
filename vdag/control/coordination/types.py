"""Handler types: what each takes, gives and may be told.

The documented ones are numbered 0 to 17, and their parameters have the documents' names, types and
defaults, misspelt ones included: a node that speaks only the documented messages refuses others.
A parameter that is our `own` goes to our nodes alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vdag.errors import ConfigError
from vdag.sampling import MAX_SIDE

__all__ = [
    "CAPTURE",
    "HANDLER_TYPES",
    "RENDER",
    "RX",
    "TX",
    "HandlerType",
    "Param",
    "check_params",
    "with_defaults",
]

TX, RX, CAPTURE, RENDER = 0, 1, 2, 3
MAX_TEXT = 4096
MAX_ITEMS = 1024
PROTOCOLS = ("udp", "tcp")


@dataclass(frozen=True, slots=True)
class Param:
    """What a parameter may be.

    Attributes:
        type: `int`, `float`, `bool`, `str` or `list` (of texts); several with ` or ` between them,
            `null` among them. A whole number does for a float; a truth value is no number.
        default: what it is when it is left out.
        values: all it may be; empty for anything of its type.
        least: of a number; None for any.
        most: likewise.
        own: whether the documents do not know it.
    """

    type: str
    default: Any
    values: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    own: bool = False

    def read(self, value: Any) -> Any:
        """Return a value as its type has it: a whole number for a float becomes one.

        Raises:
            ConfigError: it may not be that; the text goes on after the name.
        """
        kind = _kind(value)
        allowed = self.type.split(" or ")
        if kind == "int" and "int" not in allowed and "float" in allowed:
            value, kind = _as_float(value), "float"
        if kind not in allowed:
            raise ConfigError(f"is {_shown(value)}, expected {self.type}")
        if self.values and value not in self.values:
            raise ConfigError(f"is {_shown(value)}, expected {', '.join(map(str, self.values))}")
        if kind in ("int", "float"):
            self._check_range(value)
        return list(value) if kind == "list" else value

    def _check_range(self, value: float) -> None:
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        if not (math.isfinite(value) and least <= value <= most):
            raise ConfigError(f"is {_shown(value)}, expected {least:g} to {most:g}")


@dataclass(frozen=True, slots=True)
class HandlerType:
    """A kind of handler.

    Attributes:
        kind: its number.
        name: lower case, for people and for services that would rather not write numbers.
        inputs: how many it joins, on equal sequence.
        outputs: 0 or 1.
        params: their names to what they may be.
        task: of ours that does it; empty for the one that is built in.
        compute_s: seconds of a packet at it, before anything is measured; None for not known.
        nbytes: of a packet it gives, as it goes between nodes; None for not known.
    """

    kind: int
    name: str
    inputs: int
    outputs: int
    params: Mapping[str, Param] = field(default_factory=dict)
    task: str = ""
    compute_s: float | None = None
    nbytes: float | None = None


def check_params(kind: HandlerType, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that were given, each as its type has it.

    Args:
        kind: whose they are.
        params: as they stand in a service.

    Raises:
        ConfigError: one is not known or may not be that; the text starts with `params.NAME`.
    """
    found = {}
    for name, value in params.items():
        param = kind.params.get(name)
        if param is None:
            known = ", ".join(kind.params) or "none"
            raise ConfigError(f"params.{name[:80]} is not known to {kind.name}: it takes {known}")
        try:
            found[name] = param.read(value)
        except ConfigError as err:
            raise ConfigError(f"params.{name} {err}") from err
    return found


def with_defaults(kind: HandlerType, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a type, those that were left out by their defaults.

    Raises:
        ConfigError: as of `check_params`.
    """
    given = check_params(kind, params)
    return {name: given.get(name, param.default) for name, param in kind.params.items()}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return "str"
    if isinstance(value, (list, tuple)) and len(value) <= MAX_ITEMS:
        return "list" if all(_kind(each) == "str" for each in value) else "list of other things"
    if isinstance(value, (bool, int, float)):
        return type(value).__name__
    return "something else"


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _side(default: int) -> Param:
    return Param("int", default, least=1, most=MAX_SIDE)


def _share(default: float) -> Param:
    return Param("float", default, least=0, most=1)


_PORT = Param("int", 0, least=0, most=65535)
#: Of all that look for something.
_FINDER: Mapping[str, Param] = {
    "with_crop": Param("bool", True),
    "multiple": Param("bool", True),
    "task": Param("str", "", own=True),
}
_DLIB_5 = "shape_predictor_5_face_landmarks.dat"
_DLIB_68 = "shape_predictor_68_face_landmarks.dat"
_DLIB_RESNET = "dlib_face_recognition_resnet_model_v1.dat"
_MEMORY = Param("float or null", None, least=0, most=1)
_DOCUMENTED = (
    HandlerType(
        TX,
        "tx",
        1,
        0,
        {"addr": Param("str", ""), "port": _PORT, "protocol": Param("str", "udp", PROTOCOLS)},
    ),
    HandlerType(
        RX,
        "rx",
        0,
        1,
        {"addr": Param("str", ""), "port": _PORT, "protocol": Param("str", "udp", PROTOCOLS)},
    ),
    HandlerType(
        CAPTURE,
        "capture",
        0,
        1,
        {
            "source": Param("int or str", 0),
            "width": _side(640),
            "height": _side(480),
            "fps": Param("int", 25, least=1, most=1000),
        },
    ),
    HandlerType(
        RENDER,
        "render",
        1,
        0,
        {"fps": Param("int", 0, least=0, most=1000), "to": Param("str", "window", own=True)},
    ),
    HandlerType(4, "resize", 1, 1, {"width": _side(640), "height": _side(480)}),
    HandlerType(5, "encode", 1, 1, {"quality": Param("int", 80, least=0, most=100)}),
    HandlerType(6, "decode", 1, 1),
    HandlerType(
        7,
        "yolo_detect_object",
        1,
        1,
        {
            "gpu": Param("bool", True),
            "config": Param("str", "yolov3-tiny-416.cfg"),
            "weights": Param("str", "yolov3-tiny.weights"),
            "labels": Param("str", "coco.names"),
            "targets": Param("list", ["all"]),
            "thresh": _share(0.5),
            "hier_thresh": _share(0.5),
            "nms": _share(0.45),
            **_FINDER,
        },
    ),
    HandlerType(
        8,
        "haar_detect_face",
        1,
        1,
        {
            "scale_factor": Param("float", 1.1, least=1.001, most=100),
            "min_size": Param("int", 20, least=0, most=MAX_SIDE),
            **_FINDER,
        },
    ),
    HandlerType(
        9,
        "hog_detect_face",
        1,
        1,
        {"upsample": Param("int", 1, least=0, most=4), **_FINDER},
    ),
    HandlerType(
        10,
        "mmod_detect_face",
        1,
        1,
        {
            "model": Param("str", "mmod_face_detector.dat"),
            "upsample": Param("int", 1, least=0, most=4),
            "tresh": _share(0.5),
            **_FINDER,
        },
    ),
    HandlerType(
        11,
        "dlib_align",
        1,
        1,
        {
            "predictor": Param("str", _DLIB_68),
            "indices": Param(
                "str",
                "OUTER_EYES_AND_NOSE",
                ("OUTER_EYES_AND_NOSE", "INNER_EYES_AND_BOTTOM_LIP"),
            ),
            "dim": _side(96),
            **_FINDER,
        },
    ),
    HandlerType(
        12,
        "mtcnn_detect_face_align",
        1,
        1,
        {
            "model": Param("str", "default"),
            "dim": _side(160),
            "margin": Param("int", 32, least=0, most=MAX_SIDE),
            "gpu_memory_frac": _MEMORY,
            **_FINDER,
        },
    ),
    HandlerType(
        13,
        "dlib_align_recognize",
        1,
        1,
        {
            "predictor": Param("str", _DLIB_5),
            "model": Param("str", _DLIB_RESNET),
            "classifier": Param("str", "dlib_choke_g1.encodings"),
            "dim": _side(96),
            "jitters": Param("int", 1, least=0, most=1000),
            "tresh": Param("float", 0.6, least=0, most=10),
            **_FINDER,
        },
    ),
    HandlerType(
        14,
        "openface_recognize",
        1,
        1,
        {
            "model": Param("str", "nn4.small2.v1.t7"),
            "classifier": Param("str", "nn4.small2.v1.g1.pkl"),
            "dim": _side(96),
            "gpu": Param("bool", True),
            "tresh": _share(0.5),
            **_FINDER,
        },
    ),
    HandlerType(
        15,
        "facenet_recognize",
        1,
        1,
        {
            "model": Param("str", "20180402"),
            "classifier": Param("str", "20180402_choke_g1.pkl"),
            "dim": _side(160),
            "gpu_memory_frac": _MEMORY,
            "tresh": _share(0.5),
            **_FINDER,
        },
    ),
    HandlerType(16, "draw_boxes", 2, 1),
    HandlerType(17, "draw_labeled_boxes", 2, 1),
)

#: The documented types by their numbers. Of a `draw`, input 0 is the picture and 1 the boxes.
HANDLER_TYPES: Mapping[int, HandlerType] = MappingProxyType(
    {each.kind: each for each in _DOCUMENTED}
)
