"""A pool of workers beside a job; no process, socket or file may be left when the test is over."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pool_kit import TASKS, TIMEOUT_S, Plant

from vdag.workers import Patience


@pytest.fixture
def patience() -> Patience:
    return Patience(start_timeout_s=TIMEOUT_S, stop_timeout_s=TIMEOUT_S, backoff_s=0.01)


@pytest.fixture
def plant(tmp_path: Path, patience: Patience) -> Iterator[Plant]:
    fds = psutil.Process().num_fds()
    (tmp_path / "tasks.py").write_text(textwrap.dedent(TASKS), encoding="utf-8")
    plant = Plant(tmp_path, patience)
    try:
        yield plant
    finally:
        plant.close()
    assert not psutil.Process().children()
    assert psutil.Process().num_fds() <= fds
    left = [path.name for path in (tmp_path / "node").iterdir()]
    assert not [name for name in left if name.startswith(("worker", "exchange"))]
