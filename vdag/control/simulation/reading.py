"""Scenarios from files: TOML, or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from vdag.control.simulation.scenario import Scenario
from vdag.errors import ConfigError
from vdag.wording import rephrase

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_scenario", "scenario_from_document", "write_scenario"]

#: Of a file: ten thousand nodes and a hundred thousand queries have some 40 MB.
MAX_NBYTES = 256 << 20


def read_scenario(path: Path) -> Scenario:
    """Read a scenario; a profile that it names is looked for beside it.

    Args:
        path: of a `.toml` file, or of one that holds JSON.

    Raises:
        ConfigError: it cannot be read, or a field is unknown, missing or makes no sense; the text
            says which.
    """
    try:
        if path.stat().st_size > MAX_NBYTES:
            raise ConfigError(f"{path} exceeds {MAX_NBYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path} is not UTF-8 text") from err
    try:
        document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as err:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigError(f"{path} is not {kind}: {err}") from err
    try:
        scenario = scenario_from_document(document)
    except ConfigError as err:
        raise ConfigError(f"{path}: {err}") from err
    if scenario.profile:
        beside = str(path.parent / scenario.profile)
        return msgspec.structs.replace(scenario, profile=beside)
    return scenario


def scenario_from_document(document: Any) -> Scenario:
    """Return the scenario that a mapping describes.

    Raises:
        ConfigError: a field is unknown, missing or makes no sense; the text says which.
    """
    try:
        return msgspec.convert(document, Scenario)
    except msgspec.ValidationError as err:
        raise ConfigError(rephrase(err)) from err


def write_scenario(scenario: Scenario, path: Path) -> None:
    """Write a scenario as JSON; what is as it is by itself is left out.

    Raises:
        ConfigError: the file cannot be written.
    """
    document = msgspec.to_builtins(scenario)
    try:
        path.write_text(json.dumps(_without_defaults(scenario, document), indent=1) + "\n")
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror}") from err


def _without_defaults(value: Any, document: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        return {
            field.name: _without_defaults(getattr(value, field.name), document[field.name])
            for field in fields
            if getattr(value, field.name) != field.default
        }
    if isinstance(value, tuple):
        return [_without_defaults(each, part) for each, part in zip(value, document, strict=True)]
    if isinstance(value, dict):
        return {key: _without_defaults(value[key], part) for key, part in document.items()}
    return document
