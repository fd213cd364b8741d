"""What several files of kernel tests share."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

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
