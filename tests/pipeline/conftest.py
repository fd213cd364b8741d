"""What tests of a pipeline with worker processes want: tasks, a folder for sockets, and a gate."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from pipeline_kit import worker_processes

import vdag
from vdag.tasks.modules import load_module

GATE = "VDAG_TEST_GATE"


@pytest.fixture(scope="module")
def tasks():
    if "number" not in vdag.tasks.names():
        load_module(Path(__file__).parents[1] / "worker_tasks.py")


@pytest.fixture
def runtime(monkeypatch):
    """A folder for sockets; no socket, folder or process may be left when the test is over."""
    folder = Path(tempfile.mkdtemp(prefix="vt-"))  # short: paths of sockets are
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    assert worker_processes() == []
    assert list(folder.iterdir()) == []
    folder.rmdir()


@pytest.fixture
def gate(tmp_path, monkeypatch):
    path = tmp_path / "gate"
    os.mkfifo(path)
    monkeypatch.setenv(GATE, str(path))
    return path
