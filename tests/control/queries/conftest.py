"""A query manager over HTTP, with real records behind a desk that schedules nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from desk_kit import FakeDesk, Serving
from node_kit import Caller
from query_kit import NODE

from vdag.control.queries import Parts
from vdag.control.records import Store


@pytest.fixture
def desk(store: Store) -> FakeDesk:
    return FakeDesk(store)


@pytest.fixture
def serving(store: Store, desk: FakeDesk) -> Iterator[Serving]:
    serving = Serving(Parts(desk, store))
    yield serving
    serving.close()


@pytest.fixture
def caller(serving: Serving) -> Iterator[Caller]:
    caller = Caller(serving.url)
    for number, words in ((0, "student in classroom"), (1, "people in meeting-room")):
        joining = {"node_port": 5001, "video_id": number, "video_type": words}
        assert caller.post("/node/join", joining).json()["node_addr"] == NODE
    yield caller
    caller.close()
