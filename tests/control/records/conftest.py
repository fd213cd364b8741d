"""An empty database of each kind, in real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from database_kit import KINDS, Servers


@pytest.fixture(scope="module")  # others look at what processes there are
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def place(kind: str, servers: Servers, tmp_path: Path) -> Iterator[str]:
    """A path of a file that is not there yet, or a URL of an empty database."""
    with servers.place(kind, tmp_path) as place:
        yield place
