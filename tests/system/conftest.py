"""Hosts to put a system on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts_kit import Hosts, reason_to_skip

TASKS = Path(__file__).with_name("picture_tasks.py")


@pytest.fixture(scope="session")
def tasks() -> Path:
    """The file with the tasks."""
    return TASKS


@pytest.fixture(scope="module")
def make_hosts() -> Iterator[Callable[[int], Hosts]]:
    """Make so many hosts; skips where there can be none."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    made: list[Hosts] = []

    def make(count: int) -> Hosts:
        made.append(Hosts(count))
        return made[-1]

    yield make
    for hosts in made:
        hosts.close()
