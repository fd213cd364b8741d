"""Settings of a node: defaults, then a TOML file, then the environment, then flags.

    [node]                      VDAG_NODE_NAME=...         --set node.name=...
    name = "gate-3"
    role = "edge"

    [service]                   VDAG_SERVICE_PORT=5500     --set service.port=5500
    port = 5500

    [service.tasks.face_detection]
    workers = 2

A value from the environment or a flag is TOML; what is not TOML is taken as text. Nobody else's
variables are touched: those that begin with `VDAG_` and the name of a section must be settings.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec

from vdag.config.checks import PACKAGE, checked, is_loopback, read_token
from vdag.config.sections import (
    CloudConfig,
    CollectorConfig,
    Config,
    DoorConfig,
    EdgeConfig,
    NodeConfig,
    PackagesConfig,
    RetentionConfig,
    ServiceConfig,
    TaskConfig,
    VideoConfig,
)
from vdag.errors import ConfigError
from vdag.wording import located

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "PACKAGE",
    "CloudConfig",
    "CollectorConfig",
    "Config",
    "DoorConfig",
    "EdgeConfig",
    "NodeConfig",
    "PackagesConfig",
    "RetentionConfig",
    "ServiceConfig",
    "TaskConfig",
    "VideoConfig",
    "is_loopback",
    "load_config",
    "read_token",
]

MAX_FILE_NBYTES = 1 << 20
PREFIX = "VDAG_"


def load_config(
    path: Path | None = None,
    environment: Mapping[str, str] = types.MappingProxyType({}),
    flags: Mapping[str, str] = types.MappingProxyType({}),
) -> Config:
    """Read the settings, the later source before the earlier one, and check them.

    Args:
        path: a TOML file; None for none.
        environment: variables, of which those with our prefix are read.
        flags: dotted name to value, such as `service.port` to `5501`.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, of another type or without
            meaning. The message names it.
    """
    tree: dict[str, Any] = {} if path is None else _read(path)
    for name, text in _variables(environment).items():
        _put(tree, name, text)
    for name, text in flags.items():
        _put(tree, name, text)
    _check_known(tree, Config, "")
    try:
        config = msgspec.convert(tree, Config, strict=False, dec_hook=_convert)
    except msgspec.ValidationError as err:
        place, text = located(err)
        raise ConfigError(f"setting {place}: {text}" if place else text) from err
    return checked(config)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_NBYTES + 1)
    except OSError as err:
        raise ConfigError(f"config {path} cannot be read: {err.strerror}") from err
    if len(text) > MAX_FILE_NBYTES:
        raise ConfigError(f"config {path} exceeds {MAX_FILE_NBYTES} bytes")
    try:
        document: dict[str, Any] = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ConfigError(f"config {path} is not TOML: {err}") from err
    return document


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return our variables by the dotted names of their settings."""
    found = {}
    for section in fields(Config):
        prefix = f"{PREFIX}{section.name.upper()}_"
        for name, text in environment.items():
            if name.startswith(prefix):
                found[f"{section.name}.{name.removeprefix(prefix).lower()}"] = text
    return found


def _put(tree: dict[str, Any], name: str, text: str) -> None:
    """Set the value of a dotted name."""
    *sections, last = name.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"setting {name}: {section} is no section")
        tree = inner
    tree[last] = _value(text, _kind(name))


def _kind(name: str) -> Any:
    """Return the type of a setting by its dotted name, None if there is none."""
    kind: Any = Config
    for part in name.split("."):
        if is_dataclass(kind):
            kind = _hints(cast(type, kind)).get(part)
        elif _is_mapping(kind):
            kind = typing.get_args(kind)[1]
        else:
            return None
    return kind


def _is_mapping(kind: Any) -> bool:
    return typing.get_origin(kind) is Mapping


def _value(text: str, kind: Any) -> Any:
    if kind in (str, Path | None):
        return text
    try:
        found = tomllib.loads(f"value = {text}\n")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if found.keys() == {"value"} else text


def _convert(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _check_known(tree: Any, kind: Any, place: str) -> None:
    """Refuse names that are no settings: a typing error must not go unnoticed."""
    if not isinstance(tree, Mapping):
        return  # of another type, which is found later
    if _is_mapping(kind):
        for name, value in tree.items():
            _check_known(value, typing.get_args(kind)[1], f"{place}{name}.")
    elif is_dataclass(kind):
        hints = _hints(cast(type, kind))
        for name, value in tree.items():
            if name not in hints:
                raise ConfigError(f"unknown setting {place}{name}")
            _check_known(value, hints[name], f"{place}{name}.")
