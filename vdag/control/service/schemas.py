"""What callers of :5500 ask for: requests read into the work they mean, whatever their encoding.

A task's signature says which fields it takes; a `RequestReader` is made of it once, and skips all
others without making objects of them. Four encodings mean the same:

    application/json            the documents' fields; pictures are text or nested lists
    application/msgpack         the same fields; pictures are bin, or shape and data
    multipart/form-data         a part per field, several of one name for a list; numbers as JSON
    image/jpeg, image/png       the field `image`, nothing else
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vdag.control.service.bodies import (
    LIFTED_NBYTES,
    Fields,
    Parts,
    Source,
    check_nbytes,
    lift,
)
from vdag.control.service.forms import read_form
from vdag.control.service.images import Bounds, Picture
from vdag.errors import ConfigError
from vdag.graph import Signature
from vdag.wording import rephrase

__all__ = [
    "ALIASES",
    "FORM",
    "MEDIA_TYPES",
    "MSGPACK",
    "AddWorker",
    "DecreaseWorker",
    "LimitProcess",
    "LimitTask",
    "ModelContext",
    "Order",
    "RequestReader",
    "Work",
    "read_json",
]

JSON, MSGPACK, FORM = "application/json", "application/msgpack", "multipart/form-data"
PICTURES = ("image/jpeg", "image/png", "application/octet-stream")
#: What a body may be. A body without a type is taken for JSON.
MEDIA_TYPES = (JSON, MSGPACK, FORM, *PICTURES)
ALIASES = {"": JSON, "application/x-msgpack": MSGPACK, "application/vnd.msgpack": MSGPACK}

#: Bytes of a field that is no picture, as text; an object of Python is at most 20 times as large.
MAX_VALUE_NBYTES = 1 << 20
MAX_CONF_NBYTES = 4096
#: Fields that hold several pictures.
LISTS = frozenset({"clip", "faces", "image_list"})
#: Any of these gives a task something to look at.
VISIBLE = frozenset({"clip", "faces", "image"})
#: Read for every task, beside the fields of its signature.
COMMON = frozenset({"image_list", "task_conf"})

_Point = tuple[float, float]
#: Fields that become float32 arrays: what one of their rows is.
ROWS: Mapping[str, Any] = {
    "bbox": list[tuple[float, float, float, float]],
    "head_pose": list[tuple[float, float, float]],
    "landmarks": list[tuple[_Point, _Point, _Point, _Point, _Point]],
    "prob": list[float],
}
SHAPES = {"bbox": (-1, 4), "head_pose": (-1, 3), "landmarks": (-1, 5, 2), "prob": (-1,)}

_T = TypeVar("_T")
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
TaskName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Numbers = Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=4095)]], msgspec.Meta(max_length=64)]


class ModelContext(msgspec.Struct, frozen=True):
    """The documents' `model_ctx`; what is left out is as for the workers there are.

    Attributes:
        weights: name of a model, of the zoo or one that the operator has added.
        model_id: 0 large, 1 medium, 2 small.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`, see `TaskOptions`.
        engine: what runs the model.
        threads: of the engine, for one call.
    """

    weights: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    model_id: Annotated[int, msgspec.Meta(ge=0, le=99)] | None = None
    device: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    engine: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None


class AddWorker(msgspec.Struct, frozen=True):
    """Body of `add_work_process`."""

    task_name: TaskName
    model_ctx: ModelContext | None = None


class DecreaseWorker(msgspec.Struct, frozen=True):
    """Body of `decrease_work_process`."""

    task_name: TaskName


class LimitTask(msgspec.Struct, frozen=True):
    """Body of `limit_task_resource`: shares of all cores and of the memory; 1.0 lifts.

    The documents write `mem_limit`, callers write `mem_util_limit`.
    """

    task_name: TaskName
    cpu_util_limit: Share | None = None
    mem_util_limit: Share | None = None
    mem_limit: Share | None = None
    cpu_set_cpus: Numbers | None = None
    cpu_set_mems: Numbers | None = None


class LimitProcess(LimitTask, frozen=True):
    """Body of `limit_process_resource`."""

    pid: Annotated[int, msgspec.Meta(ge=1, le=1 << 22)] = msgspec.field(default=0)


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker is to do once.

    Attributes:
        task: its name.
        pictures: what it looks at; written into shared memory.
        is_clip: the pictures are one clip, else there is one picture at most.
        faces: pictures that go with boxes; None if the task is given none.
        fields: the other inputs, as the task takes them.
        model: which of the task's models; None for the one that each worker has loaded.
    """

    task: str
    pictures: Sequence[Picture] = ()
    is_clip: bool = False
    faces: Sequence[Picture] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    model: int | None = None

    @property
    def pixels(self) -> int:
        """Pixels to decode."""
        pictures = (*self.pictures, *(self.faces or ()))
        return sum(picture.width * picture.height for picture in pictures)


@dataclass(frozen=True, slots=True)
class Order:
    """What a request asks for.

    Attributes:
        works: independent of each other; their results are wanted in this order.
        is_list: the reply is a list of results, also of one or none.
        conf: the caller's `task_conf`.
    """

    works: Sequence[Work]
    is_list: bool = False
    conf: Mapping[str, Any] = field(default_factory=dict)


class RequestReader:
    """Reads the requests for one task; any number of threads at a time.

    Args:
        task: its name.
        signature: the fields it takes and gives.
        bounds: what a caller may ask for.
    """

    def __init__(self, task: str, signature: Signature, bounds: Bounds) -> None:
        self.task = task
        self._accepted = signature.inputs | signature.optional
        self._required = signature.inputs
        self._bounds = bounds
        names = sorted((self._accepted | COMMON) - {"seq"})
        body = msgspec.defstruct("Body", [(name, msgspec.Raw, msgspec.Raw()) for name in names])
        self._names = names
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)
        self._msgpack: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(body)

    def read(self, body: bytes, content_type: str, *, is_list: bool = False) -> Order:
        """Read a request.

        Args:
            body: all of it; pictures refer to it, so that it must not change.
            content_type: one of `MEDIA_TYPES`, or empty.
            is_list: `image_list` holds pictures to look at one by one.

        Raises:
            ConfigError: a field is missing, or is not what it should be.
            ImageError: a picture is none, or exceeds a limit.
        """
        source = self._open(body, content_type)
        conf: dict[str, Any] = {}
        if source.has("task_conf"):
            conf = source.value("task_conf", dict[str, Any], MAX_CONF_NBYTES)
        if not is_list and source.has("image_list") and not source.has("image"):
            is_list = "clip" not in self._accepted
        if not is_list:
            return Order([self._work(source)], conf=conf)
        if not source.has("image_list"):
            raise ConfigError("field image_list is missing")
        pictures = source.pictures("image_list")
        return Order([self._look_at(picture) for picture in pictures], True, conf)

    def _look_at(self, picture: Picture) -> Work:
        """Return the work on one picture of a list: for a task that takes boxes, all of it."""
        fields: dict[str, Any] = {}
        if "bbox" in self._required:
            fields["bbox"] = np.array([[0, 0, picture.width, picture.height]], np.float32)
        return Work(self.task, [picture], fields=fields)

    def _work(self, source: Source) -> Work:
        given = {name for name in self._accepted if source.has(name)}
        if "clip" in self._accepted and source.has("image_list"):
            given.add("clip")
        if "image" in given:
            given -= {"clip", "faces"}  # they would be parts of it
        missing = self._required - given
        if missing:
            raise ConfigError(f"{self.task} needs the field {min(missing)}")
        if VISIBLE & self._accepted and not VISIBLE & given:
            names = sorted(VISIBLE & self._accepted)
            raise ConfigError(f"{self.task} needs one of the fields {', '.join(names)}")
        fields = {name: self._value(source, name) for name in given - VISIBLE}
        if "image" in given:
            return Work(self.task, [source.picture("image")], fields=fields)
        if "clip" in given:
            clip = source.pictures("clip" if source.has("clip") else "image_list")
            if not clip:
                raise ConfigError("clip has no pictures")
            return Work(self.task, clip, is_clip=True, fields=fields)
        if "faces" not in given:
            return Work(self.task, fields=fields)
        faces = source.pictures("faces")
        if len(faces) != len(fields.get("bbox", faces)):
            raise ConfigError(f"{len(faces)} faces do not go with {len(fields['bbox'])} boxes")
        return Work(self.task, faces=faces, fields=fields)

    def _value(self, source: Source, name: str) -> Any:
        value = source.value(name, ROWS.get(name, Any), MAX_VALUE_NBYTES)
        if name not in ROWS:
            return value
        with np.errstate(over="ignore"):  # too large for it is infinite, which is refused below
            array: NDArray[np.float32] = np.array(value, np.float32).reshape(SHAPES[name])
        if not np.isfinite(array).all():
            raise ConfigError(f"{name} has a number that is not finite")
        return array

    def _open(self, body: bytes, content_type: str) -> Source:
        kind = content_type.partition(";")[0].strip().lower()
        kind = ALIASES.get(kind, kind)
        if kind in PICTURES:
            return Parts({"image": [body]}, self._bounds)
        if kind == FORM:
            most = self._bounds.max_pictures + len(self._names)
            return Parts(read_form(body, content_type, max_parts=most), self._bounds)
        decode = self._msgpack.decode if kind == MSGPACK else self._json.decode
        literal: bytes | None = None
        if kind == JSON and len(body) >= LIFTED_NBYTES:
            literal, body = lift(body)
        try:
            found = decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
            raise ConfigError(f"body is malformed: {rephrase(err)}") from err
        fields = {name: memoryview(getattr(found, name)) for name in self._names}
        return Fields(fields, self._bounds, is_json=kind != MSGPACK, literal=literal)


def read_json(body: bytes, kind: type[_T]) -> _T:
    """Read a small body.

    Raises:
        ConfigError: it is not JSON, or not of that kind; the message names the field.
    """
    check_nbytes("body", len(body), MAX_VALUE_NBYTES)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ConfigError(f"body is malformed: {rephrase(err)}") from err
