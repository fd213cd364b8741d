"""Engines: libraries that run models, found by name and imported when one is constructed.

    with engines.load("centerface.onnx", device="cpu", threads=2) as engine:
        pixels = engine.buffer("input.1", (1, 3, 384, 640))
        ...                                       # fill it
        heat = engine.infer({"input.1": pixels})["537"]

Importing this package imports numpy and nothing heavier.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from vdag.engines.base import (
    Engine,
    EngineClass,
    EngineInfo,
    EngineSpec,
    EngineStats,
    TensorSpec,
)
from vdag.errors import ConfigError, EngineUnavailable

__all__ = [
    "Engine",
    "EngineClass",
    "EngineInfo",
    "EngineSpec",
    "EngineStats",
    "TensorSpec",
    "available",
    "load",
    "register",
]

_TARGETS = {
    "onnx": "vdag.engines.onnx:OnnxEngine",
    "onnx-cuda": "vdag.engines.gpu.onnx:OnnxCudaEngine",
    "onnx-tensorrt": "vdag.engines.gpu.onnx_tensorrt:OnnxTensorRTEngine",
    "tensorrt": "vdag.engines.tensorrt:TensorRTEngine",
}


def load(spec: EngineSpec | str | os.PathLike[str], **overrides: Any) -> Engine:
    """Load a model; the caller closes the engine.

    Args:
        spec: what to load, or just the path of the model.
        overrides: fields of `EngineSpec` that replace those of `spec`.

    Raises:
        ConfigError: a field has no meaning, or there is no engine of that name.
        EngineUnavailable: the engine's library or device is missing; says what to install.
        ModelError: the file is missing, broken, or not a model of this engine.
    """
    known = [field.name for field in fields(EngineSpec)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ConfigError(
            f"an engine spec has no field {unknown[0]!r}; its fields are {', '.join(known)}"
        )
    base = spec if isinstance(spec, EngineSpec) else EngineSpec(Path(spec))
    wanted = replace(base, **overrides)
    return _resolve(wanted.engine)(wanted)


def available() -> list[EngineInfo]:
    """Say of every registered engine whether it can be used here; imports their libraries."""
    return [_probe(name) for name in _TARGETS]


def register(name: str, target: str) -> None:
    """Make an engine of your own known to `load`.

    Args:
        name: for `EngineSpec.engine`; must be new.
        target: `"module:Class"`, an `EngineClass`; imported when an engine is loaded.

    Raises:
        ConfigError: the name is taken, or the target has another form.
    """
    if name in _TARGETS:
        raise ConfigError(f"engine {name!r} is registered already, as {_TARGETS[name]}")
    module, _, attribute = target.partition(":")
    if not module or not attribute.isidentifier():
        raise ConfigError(f"engine target {target!r} is not of the form module:Class")
    _TARGETS[name] = target


def _resolve(name: str) -> EngineClass:
    """Import the class of an engine; its library is imported later, by its constructor."""
    target = _TARGETS.get(name)
    if target is None:
        raise ConfigError(f"engine {name!r} is none of {', '.join(_TARGETS)}")
    module, _, attribute = target.partition(":")
    try:
        return cast(EngineClass, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as err:
        reason = str(err)
        raise EngineUnavailable(
            f"engine {name} is not part of this installation: {reason[:1].lower()}{reason[1:]}"
        ) from err


def _probe(name: str) -> EngineInfo:
    try:
        version, devices = _resolve(name).probe()
    except EngineUnavailable as err:
        return EngineInfo(name, available=False, problem=str(err))
    return EngineInfo(name, available=True, version=version, devices=devices)
