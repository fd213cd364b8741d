"""Read model cards from TOML, and say in which field one is wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vdag.engines.zoo.card import Card, Decode, Input
from vdag.errors import ConfigError
from vdag.wording import rephrase

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load_card"]

#: Words a field may hold. A new kind needs code in a task, so a card cannot invent one.
CHOICES = {
    "sources.registry": ("npm", "pypi"),
    "input.layout": ("NCHW",),
    "input.dtype": ("float32",),
    "input.colour": ("RGB", "BGR"),
    "input.resize": ("letterbox", "stretch"),
    "outputs.dtype": ("float32", "int32", "int64"),
    "crop.of": ("height", "longer"),
    "decode.kind": (
        "binary",
        "blazeface",
        "centerface",
        "classes",
        "facemesh",
        "nanodet",
        "yolo",
    ),
    "decode.layout": ("", "v5", "v8"),
}
#: What TensorRT may compute in.
PRECISIONS = ("float16", "float32", "model")
HASH = re.compile(r"[0-9a-f]{64}|")
#: No card describes a larger picture, so that a typing error cannot ask for all memory.
LARGEST_SIDE = 8192
LARGEST_CARD = 1 << 20


def load_card(path: Path) -> Card:
    """Read and check a card; the weights beside it are not opened.

    Args:
        path: the TOML file.

    Raises:
        ConfigError: the file cannot be read, or a field is missing, unknown, of another type, or
            has a value without a meaning. The message names the card and the field.
    """
    document = _read(path)
    if "folder" in document:
        raise ConfigError(f"card {path.name}: folder is set by the loader, remove it")
    try:
        card = msgspec.convert(document, Card)
    except msgspec.ValidationError as err:
        raise ConfigError(f"card {path.name}: {rephrase(err)}") from err
    for problem in _problems(card):
        raise ConfigError(f"card {path.name}: {problem}")
    return msgspec.structs.replace(card, folder=str(path.resolve().parent))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_CARD + 1)
    except OSError as err:
        raise ConfigError(f"card {path.name} cannot be read: {err.strerror}") from err
    if len(text) > LARGEST_CARD:
        raise ConfigError(f"card {path.name} exceeds {LARGEST_CARD} bytes")
    try:
        document: dict[str, Any] = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ConfigError(f"card {path.name} is not TOML: {err}") from err
    return document


def _problems(card: Card) -> Iterator[str]:
    """Yield what is wrong with the values of a card whose types are right."""
    yield from _wrong_words(card)
    if not card.file or Path(card.file).name != card.file:
        yield f"file is {card.file!r}, expected a name without folders"
    digests = [("sha256", card.sha256)]
    digests += [("sources.sha256", source.sha256) for source in card.sources]
    for name, digest in digests:
        if not HASH.fullmatch(digest):
            yield f"{name} is {digest!r}, expected 64 hexadecimal digits"
    if card.precision not in PRECISIONS:
        yield f"precision is {card.precision!r}, expected one of {', '.join(PRECISIONS)}"
    if not 0 <= card.agreement.share <= 1:
        yield f"agreement.share is {card.agreement.share}, expected 0 to 1"
    if bool(card.agreement.entry) != bool(card.agreement.score):
        yield "agreement.entry and agreement.score belong together"
    if not 0 <= card.decode.threshold <= 1:
        yield f"decode.threshold is {card.decode.threshold}, expected 0 to 1"
    if not 0 <= card.decode.iou <= 1:
        yield f"decode.iou is {card.decode.iou}, expected 0 to 1"
    yield from _input_problems(card.input)
    yield from _size_problems(card)
    yield from _class_problems(card.decode)


def _wrong_words(card: Card) -> Iterator[str]:
    for name, allowed in CHOICES.items():
        table, _, field = name.partition(".")
        part = getattr(card, table)
        for item in part if isinstance(part, tuple) else (part,):
            value = getattr(item, field, None)
            if item is not None and value not in allowed:
                words = ", ".join(word or "nothing" for word in allowed)
                yield f"{name} is {value!r}, expected one of {words}"


def _input_problems(spec: Input) -> Iterator[str]:
    if not spec.name:
        yield "input.name is empty"
    if 0 in spec.std:
        yield f"input.std is {list(spec.std)}, expected no zero"
    if not 0 <= spec.pad <= 255:
        yield f"input.pad is {spec.pad}, expected 0 to 255"
    for name in ("multiple", "least_side"):
        if not 1 <= getattr(spec, name) <= LARGEST_SIDE:
            yield f"input.{name} is {getattr(spec, name)}, expected 1 to {LARGEST_SIDE}"
    if spec.size != (0, 0) and not all(0 < side <= LARGEST_SIDE for side in spec.size):
        yield f"input.size is {list(spec.size)}, expected height and width of 1 to {LARGEST_SIDE}"


def _size_problems(card: Card) -> Iterator[str]:
    for name in ("tasks", "profiles"):
        for part in getattr(card, name):
            if not card.input.least_side <= part.max_side <= LARGEST_SIDE:
                yield (
                    f"{name}.max_side is {part.max_side}, "
                    f"expected {card.input.least_side} to {LARGEST_SIDE}"
                )
    for service in card.tasks:
        if service.model_id < 0:
            yield f"tasks.model_id is {service.model_id}, expected 0 or more"
    for profile in card.profiles:
        for name in ("batch", "height", "width"):
            low, usual, high = getattr(profile, name)
            if not 1 <= low <= usual <= high <= LARGEST_SIDE:
                yield f"profiles.{name} is {[low, usual, high]}, expected three rising sizes"


def _class_problems(decode: Decode) -> Iterator[str]:
    if len(set(decode.classes)) != len(decode.classes):
        yield "decode.classes has a name twice"
    if decode.kind == "yolo" and not decode.layout:
        yield "decode.layout is missing, expected one of v5, v8"
    if decode.kind in ("classes", "yolo") and not decode.classes:
        yield "decode.classes is empty, expected the names of the model's classes"
