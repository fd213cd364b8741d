"""What several files of kernel tests share."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from ring_kit import CLASSES

from vdag._native import reference_jpeg as reference

# By its full name: `vdag._native.jpeg` is OpenCV's where there is no libturbojpeg.
compiled = importlib.import_module("vdag._native.jpeg")


@pytest.fixture(params=["newer calls", "older calls", "reference"])
def codec(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Every way to code a JPEG: both sets of libturbojpeg's functions, and OpenCV."""
    if request.param == "reference":
        yield reference
        return
    if not compiled.available():
        pytest.skip("there is no libturbojpeg")
    compiled._load(legacy=request.param == "older calls")
    yield compiled
    live, idle = compiled._coders()
    assert live == idle, "a handle was not given back"
    compiled._load()


@pytest.fixture(params=["compiled", "reference"])
def ring(request: pytest.FixtureRequest) -> ModuleType:
    name = "ring" if request.param == "compiled" else "reference_ring"
    return importlib.import_module(f"vdag._native.{name}")


@pytest.fixture
def arena(ring: ModuleType) -> Iterator[Any]:
    with ring.Arena.create("test", CLASSES) as arena:
        yield arena


@pytest.fixture
def consumer(ring: ModuleType, arena: Any) -> Iterator[Any]:
    with ring.Arena.attach(arena.name) as consumer:
        yield consumer
