"""The report protocol, spoken to a real collector by callers at several addresses."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from vdag.config.conf import DatabaseConf
from vdag.control.collector import Collector, CollectorConf, app
from vdag.control.records import NodeRecord, Packet, Store, insertion

pytestmark = pytest.mark.slow  # as a whole

WAIT_S = 60.0
#: What the first system's reporter waits.
SENDER_TIMEOUT_S = 0.5
NODES = (
    NodeRecord(0, "client", "client", "127.0.0.1", 9000),
    NodeRecord(1, "edge", "server", "127.0.0.2", 9000),
    NodeRecord(2, "cloud", "server", "127.0.0.3", 9000),
    NodeRecord(3, "cloud, too", "server", "127.0.0.3", 9010),
)
SUCCEEDED = {"result": "Succeeded"}


@contextmanager
def collecting(place: str) -> Iterator[Collector]:
    """A collector that serves from a thread."""
    conf = CollectorConf("127.0.0.1", 0, NODES, DatabaseConf(url=place))
    with Collector(conf) as collector:
        thread = threading.Thread(target=collector.serve)
        thread.start()
        try:
            yield collector
        finally:
            collector.stop()
            thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.fixture
def collector(place: str) -> Iterator[Collector]:
    with collecting(place) as collector:
        yield collector


def ask(
    collector: Collector,
    method: str = "POST",
    path: str = "/",
    body: bytes = b"",
    *,
    source: str = "127.0.0.1",
    timeout_s: float = WAIT_S,
    headers: dict[str, str] | None = None,
) -> Any:
    connection = http.client.HTTPConnection(
        "127.0.0.1", collector.port, timeout=timeout_s, source_address=(source, 0)
    )
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        assert response.headers["content-type"] == "application/json"
        return json.loads(content)
    finally:
        connection.close()


def report(collector: Collector, document: Any, **more: Any) -> Any:
    """Post a report as the first system's nodes do: JSON without a content-type."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return ask(collector, body=body, **more)


def packets(count: int, *, first: int = 0) -> dict[str, Any]:
    at_s = time.time()
    return {
        "sys_info": [],
        "proc_info": [],
        "packet_info": [
            {"timestamp": at_s + n * 1e-3, "session_id": 3, "handler_id": 0, "sequence": n,
             "event": "send", "size": 100}
            for n in range(first, first + count)
        ],
    }  # fmt: skip


def test_a_report_is_in_the_database_when_it_is_answered(collector, place):
    document = packets(3)
    assert report(collector, document) == SUCCEEDED
    with Store(place) as other:
        assert other.log.packets(3) == [
            Packet(row["timestamp"], 3, 0, row["sequence"], "sent", 100, 0)
            for row in document["packet_info"]
        ]
        assert other.log.nodes() == list(NODES)


def test_a_report_that_is_sent_again_succeeds_and_is_stored_once(collector):
    document = packets(5)
    for _ in range(3):
        assert report(collector, document) == SUCCEEDED
    assert len(collector.store.log.packets(3)) == 5
    assert report(collector, {"packet_info": [], "proc_info": [], "sys_info": []}) == SUCCEEDED


def test_a_node_is_known_by_its_address_whatever_it_says(collector):
    document = packets(1)
    document["sys_info"] = [{"timestamp": 1795302130.0, "cpu_util": 5.0, "node_id": 0}]
    assert report(collector, document, source="127.0.0.2", path="/any/path?x=1") == SUCCEEDED
    assert [packet.node_id for packet in collector.store.log.packets(3)] == [1]


def test_of_two_nodes_at_one_address_each_says_which_it_is(collector):
    document = packets(1)
    assert report(collector, document, source="127.0.0.3") == {
        "result": "Failed",
        "reason": "nodes 2, 3 have the address 127.0.0.3: the report has no node_id",
    }
    assert report(collector, {**document, "node_id": 3}, source="127.0.0.3") == SUCCEEDED
    assert [packet.node_id for packet in collector.store.log.packets(3)] == [3]


def test_an_unknown_sender_is_refused_with_a_reason_and_its_body_is_not_read(collector):
    refused = {"result": "Failed", "reason": "no node has the address 127.0.0.9"}
    assert report(collector, packets(1), source="127.0.0.9") == refused
    assert report(collector, b"{", source="127.0.0.9") == refused
    assert collector.store.log.packets(3) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "report is malformed: input data was truncated"),
        (b'{"users": []}', "report is malformed: object contains unknown field `users`"),
        (b'{"packet_info": [{"timestamp": NaN}]}', "report is malformed: JSON is malformed"),
        (b'{"x": ' + b"[" * 200_000, "report is malformed: maximum recursion depth"),
        (b'{"sys_info": [{"timestamp": 1e10}]}', "timestamp 10000000000.000 is ahead of"),
    ],
)
def test_what_is_no_report_fails_with_a_reason(collector, body, reason):
    reply = report(collector, body)
    assert reply["result"] == "Failed"
    assert reply["reason"].lower().startswith(reason.lower())


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_report_that_is_too_large_fails_with_a_reason(collector, monkeypatch):
    reply = ask(collector, headers={"content-length": str(app.MAX_BODY_NBYTES + 1)})
    assert reply == {
        "result": "Failed",
        "reason": f"body of {app.MAX_BODY_NBYTES + 1} bytes or more exceeds {app.MAX_BODY_NBYTES}",
    }


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_fault_of_ours_has_a_reason_too(collector, monkeypatch, caplog):
    def broken(*arguments: Any, **options: Any) -> None:
        raise KeyError("oh")

    monkeypatch.setattr(app, "read_report", broken)
    reply = report(collector, packets(1))
    assert reply == {"result": "Failed", "reason": "internal error: KeyError"}
    assert "report of 127.0.0.1 failed" in caplog.text


@pytest.mark.parametrize("kind", ["sqlite"])
def test_it_says_how_it_is(collector):
    report(collector, packets(2))
    report(collector, packets(2), source="127.0.0.9")
    found = ask(collector, "GET", "/healthz")
    assert found["status"] == 0
    assert found["rows"]["rows"] == 2
    assert found["reports"] == {"succeeded": 1, "refused": 1, "put_off": 0}


@pytest.mark.parametrize("kind", ["sqlite"])
def test_it_tells_prometheus_what_became_of_reports_and_rows(collector):
    rows = packets(2)
    report(collector, rows)
    report(collector, rows)
    report(collector, rows, source="127.0.0.9")
    connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=WAIT_S)
    with closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    for line in (
        'vdag_collector_reports_total{outcome="succeeded"} 2.0',
        'vdag_collector_reports_total{outcome="refused"} 1.0',
        'vdag_records_rows_total{outcome="written"} 2.0',
        'vdag_records_rows_total{outcome="duplicate"} 2.0',
        "vdag_records_waiting 0.0",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_node_waits_in_vain_while_its_last_report_is_being_written(collector, monkeypatch):
    """So that it sends again what it has: it forgets what is answered, whatever the answer."""
    is_writing, may_write = threading.Event(), threading.Event()
    real = insertion.insert_new

    def slow(connection: Any, table: Any, rows: Any) -> int:
        is_writing.set()
        assert may_write.wait(WAIT_S)
        return real(connection, table, rows)

    monkeypatch.setattr("vdag.control.records.transaction.insert_new", slow)
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(report(collector, packets(2))))
    first.start()
    assert is_writing.wait(WAIT_S)
    start_s = time.monotonic()
    reply = report(collector, packets(4))
    assert time.monotonic() - start_s > SENDER_TIMEOUT_S
    assert reply == {"result": "Failed", "reason": "a report of node 0 is still being written"}
    assert answers == []
    may_write.set()
    first.join(WAIT_S)
    assert answers == [SUCCEEDED]
    assert report(collector, packets(4)) == SUCCEEDED
    assert {packet.sequence for packet in collector.store.log.packets(3)} == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_nothing_is_lost_or_stored_twice_while_the_database_is_away(kind, servers, collector):
    """A node sends what was not answered again, together with what is new."""
    server = servers.get(kind)
    backlog = packets(10)
    assert report(collector, backlog) == SUCCEEDED
    server.stop(signal.SIGKILL)
    try:
        for first in (10, 20):
            backlog["packet_info"] += packets(10, first=first)["packet_info"]
            with pytest.raises(TimeoutError):
                report(collector, backlog, timeout_s=SENDER_TIMEOUT_S)
    finally:
        server.start()
    deadline_s = time.monotonic() + WAIT_S
    while report(collector, backlog) != SUCCEEDED:
        assert time.monotonic() < deadline_s
    found = collector.store.log.packets(3)
    assert [packet.sequence for packet in found] == list(range(30))


@pytest.mark.parametrize("kind", ["sqlite"])
def test_what_was_not_answered_is_not_lost_when_the_collector_ends(place):
    document = packets(50)
    with collecting(place) as collector:
        assert report(collector, document) == SUCCEEDED
    with collecting(place) as collector:
        assert report(collector, document) == SUCCEEDED
        assert len(collector.store.log.packets(3)) == 50
        stats = collector.store.log.stats()
        assert (stats.rows, stats.duplicates) == (0, 50)


def test_a_port_that_is_taken_is_named(tmp_path: Path):
    with collecting(str(tmp_path / "a.sqlite")) as collector:
        conf = CollectorConf(
            "127.0.0.1", collector.port, NODES, DatabaseConf(url=str(tmp_path / "b.sqlite"))
        )
        with pytest.raises(ValueError, match=r"^collector_port \d+ of 127\.0\.0\.1 cannot be had"):
            Collector(conf)
