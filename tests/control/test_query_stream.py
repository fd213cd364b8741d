"""Results as server-sent events, read as browsers read them."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from desk_kit import FakeDesk, Serving

from vdag.control.desk import QueryRequest
from vdag.control.queries import Parts, stream
from vdag.control.records import Retention, Store, read_frame
from vdag.graph import Graph
from vdag.plan import Constraint

WAIT_S = 20.0
CONSTRAINT = Constraint.from_document({"delay": 0.3})


class Event(NamedTuple):
    kind: str
    last_id: str
    data: Any


class EventSource:
    """A reader of a stream, as the HTML standard (9.2.6) has it."""

    def __init__(self, url: str, path: str, **headers: str) -> None:
        self._connection = http.client.HTTPConnection(
            urllib.parse.urlsplit(url).netloc, timeout=WAIT_S
        )
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", path, headers=names)
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.kind = self._response.getheader("content-type")
        self.last_id = ""
        self.comments: list[str] = []

    def read(self) -> Event | None:
        """Return the next event, None at the end of the stream."""
        fields: dict[str, str] = {}
        while line := self._response.readline():
            text = line.decode().rstrip("\n")
            if text.startswith(":"):
                self.comments.append(text)
                return Event("comment", self.last_id, None)
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
            elif "data" in fields:
                self.last_id = fields.get("id", self.last_id)
                kind = fields.get("event", "message")
                return Event(kind, self.last_id, json.loads(fields["data"]))
            else:
                fields.clear()
        return None

    def numbers(self, count: int) -> list[int]:
        """Return the numbers of the results that come next."""
        found = []
        for _ in range(count):
            event = self.read()
            assert event is not None
            assert event.kind == "result"
            assert event.last_id == str(event.data["n_loop"])
            found.append(event.data["n_loop"])
        return found

    def body(self) -> bytes:
        return self._response.read()

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "records.sqlite", retention=Retention(results=50)) as store:
        yield store


@pytest.fixture
def desk(store: Store) -> FakeDesk:
    return FakeDesk(store)


@pytest.fixture
def query_id(desk: FakeDesk) -> str:
    request = QueryRequest("127.0.0.1:5001", 1, Graph.chain("face_detection"), CONSTRAINT)
    found: str = desk.submit(request).result(WAIT_S)
    return found


@pytest.fixture
def serving(store: Store, desk: FakeDesk) -> Iterator[Serving]:
    serving = Serving(Parts(desk, store, max_streams=3))
    yield serving
    serving.close()


def add(store: Store, query_id: str, first: int, last: int) -> None:
    frames = [
        read_frame({"count_result": {"total": n}, "n_loop": n, "frame_id": float(n), "delay": 0.1})
        for n in range(first, last + 1)
    ]
    store.add_results(query_id, frames)


def test_a_reader_gets_what_comes_and_then_how_it_ended(serving, store, desk, query_id):
    add(store, query_id, 1, 5)
    reader = EventSource(serving.url, f"/query/stream/{query_id}?after=3")
    assert (reader.status, reader.kind) == (200, "text/event-stream; charset=utf-8")
    assert reader.numbers(2) == [4, 5]
    add(store, query_id, 6, 8)
    assert reader.numbers(3) == [6, 7, 8]
    add(store, query_id, 9, 9)
    desk.end(query_id, 3, "the video has ended")
    assert reader.numbers(1) == [9]
    assert reader.read() == Event(
        "end", "9", {"state": 3, "state_name": "ended", "reason": "the video has ended"}
    )
    assert reader.read() is None
    reader.close()


def test_a_reader_that_says_nothing_gets_what_comes_from_now_on(
    serving, store, query_id, monkeypatch
):
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.01)
    add(store, query_id, 1, 5)
    reader = EventSource(serving.url, f"/query/stream/{query_id}")
    event = reader.read()  # silence, after it has looked where to begin
    assert event is not None
    assert event.kind == "comment"
    assert reader.comments == [": still here"]
    monkeypatch.setattr(stream, "HEARTBEAT_S", WAIT_S)
    add(store, query_id, 6, 6)
    while (event := reader.read()) is not None and event.kind == "comment":
        pass
    assert event is not None
    assert (event.kind, event.data["n_loop"]) == ("result", 6)
    reader.close()


def test_a_reader_goes_on_where_it_was_by_the_last_id(serving, store, desk, query_id):
    add(store, query_id, 1, 4)
    first = EventSource(serving.url, f"/query/stream/{query_id}?after=0")
    assert first.numbers(3) == [1, 2, 3]
    first.close()
    second = EventSource(
        serving.url, f"/query/stream/{query_id}?after=0", last_event_id=first.last_id
    )
    assert second.numbers(1) == [4]
    desk.end(query_id, 4, "node has no such video")
    event = second.read()
    assert event is not None
    assert event.data["state_name"] == "failed"
    second.close()
    third = EventSource(serving.url, f"/query/stream/{query_id}", last_event_id=second.last_id)
    assert (third.status, third.body()) == (204, b"")
    third.close()
    behind = EventSource(serving.url, f"/query/stream/{query_id}", last_event_id="2")
    assert behind.numbers(2) == [3, 4]
    behind.close()


def test_a_reader_that_was_away_too_long_is_told_of_the_gap(serving, store, query_id):
    add(store, query_id, 1, 500)
    reader = EventSource(serving.url, f"/query/stream/{query_id}", last_event_id="7")
    event = reader.read()
    assert event is not None
    assert event.kind == "gap"
    (first,) = reader.numbers(1)
    assert event.data == {"after": 7, "n_loop": first}
    assert reader.numbers(500 - first) == list(range(first + 1, 501))
    reader.close()


def test_many_results_at_once_come_in_order(tmp_path):
    with Store(tmp_path / "many.sqlite") as store:
        desk = FakeDesk(store)
        request = QueryRequest("127.0.0.1:5001", 1, Graph.chain("face_detection"), CONSTRAINT)
        query_id = desk.submit(request).result(WAIT_S)
        serving = Serving(Parts(desk, store))
        add(store, query_id, 1, 950)
        reader = EventSource(serving.url, f"/query/stream/{query_id}?after=0")
        assert reader.numbers(950) == list(range(1, 951))
        reader.close()
        serving.close()


def test_a_deleted_query_ends_its_streams(serving, store, desk, query_id):
    add(store, query_id, 1, 1)
    reader = EventSource(serving.url, f"/query/stream/{query_id}?after=0")
    assert reader.numbers(1) == [1]
    assert desk.delete(query_id).result(WAIT_S)
    event = reader.read()
    assert event is not None
    assert event.data["reason"] == "the query was deleted"
    reader.close()


def test_readers_are_bounded_and_end_with_the_server(serving, store, query_id):
    add(store, query_id, 1, 1)
    path = f"/query/stream/{query_id}?after=0"
    readers = [EventSource(serving.url, path) for _ in range(3)]
    for reader in readers:
        assert reader.numbers(1) == [1]
    refused = EventSource(serving.url, path)
    assert refused.status == 503
    assert json.loads(refused.body())["error"] == "3 callers follow results already"
    refused.close()
    serving.close()
    for reader in readers:
        assert reader.read() is None
        reader.close()


@pytest.mark.parametrize("where", ["?after=x", "?after=-1"])
def test_a_position_that_is_none_is_refused(serving, query_id, where):
    reader = EventSource(serving.url, f"/query/stream/{query_id}{where}")
    assert reader.status == 400
    reader.close()


def test_a_slow_reader_holds_up_nobody(serving, store, query_id):
    slow = EventSource(serving.url, f"/query/stream/{query_id}?after=0")
    quick = EventSource(serving.url, f"/query/stream/{query_id}?after=0")
    for n in range(1, 31):
        frame = {"count_result": {"total": n}, "n_loop": n, "padding": "x" * 100_000}
        store.add_results(query_id, [read_frame(frame)])
        assert quick.numbers(1) == [n]
    assert slow.numbers(30) == list(range(1, 31))
    slow.close()
    quick.close()
