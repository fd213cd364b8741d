"""Events of packets into the records: reports of many rows, until they are committed.

`records.packets_<database>`: 20,000 events in four reports, handed to the store and waited for;
against one INSERT per row and a commit per report, as a collector does it that takes rows one by
one. Both write into a database of their own, with the same tables. Servers are started for it, with
the settings that they come with: a commit is on the disk when it is answered.

`records.collector`: the same events as JSON, posted to a collector by four nodes at a time; against
one INSERT per row of the same JSON, read by `json`, without HTTP. Making the JSON is inside on both
sides.

20,000 events in 200 ms are 100,000 a second.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from vdag.config.conf import DatabaseConf
from vdag.control.collector import Collector, CollectorConf
from vdag.control.records import EVENTS, NodeRecord, Packet, Report, Store
from vdag.control.records.opening import open_database

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kit"))

from database_kit import KINDS, Servers

REPORTS, ROWS = 4, 5000
HANDLERS = 10
COLUMNS = "timestamp, session_ID, handler_ID, sequence, event, size, node_ID"
WAIT_S = 120.0
RUNS = 9


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


def reports(number: int) -> list[list[Packet]]:
    """What four nodes have seen of the packets that follow: none of it was there before."""
    start_s = time.time()
    packets = ROWS // HANDLERS // len(EVENTS)
    return [
        [
            Packet(start_s + n * 1e-3, node, handler, number * packets + n, event, 17875, node)
            for n in range(packets)
            for handler in range(HANDLERS)
            for event in EVENTS
        ]
        for node in range(REPORTS)
    ]


def bodies(number: int) -> list[bytes]:
    """The same as JSON."""
    return [
        json.dumps({"packet_info": [_as_posted(row) for row in rows]}).encode()
        for rows in reports(number)
    ]


def _as_posted(row: Packet) -> dict[str, Any]:
    return {name: value for name, value in row._asdict().items() if name != "node_id"}


class OneByOne:
    """The other side: a statement per row."""

    def __init__(self, engine: Engine) -> None:
        mark = "?" if engine.dialect.name == "sqlite" else "%s"
        marks = ", ".join([mark] * 7)
        self._statement = f"INSERT INTO packet_info ({COLUMNS}) VALUES ({marks})"
        self._engine, self._numbers = engine, itertools.count()

    def run(self) -> None:
        self._insert(reports(next(self._numbers)))

    def read_and_run(self) -> None:
        """Insert what is read of JSON."""
        documents = [json.loads(body)["packet_info"] for body in bodies(next(self._numbers))]
        self._insert(
            [[(*row.values(), node) for row in rows] for node, rows in enumerate(documents)]
        )

    def _insert(self, found: Sequence[Sequence[tuple[Any, ...]]]) -> None:
        connection = self._engine.raw_connection()
        cursor = connection.cursor()
        for rows in found:
            for row in rows:
                cursor.execute(self._statement, row)
            connection.commit()
        connection.close()


@pytest.mark.parametrize("kind", KINDS)
def bench_packets(compare, kind: str, servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with ExitStack() as stack:
        store = stack.enter_context(Store(stack.enter_context(servers.place(kind, tmp_path))))
        engine = open_database(stack.enter_context(servers.place(kind, tmp_path / "other")))
        stack.callback(engine.dispose)
        numbers = itertools.count()

        def record() -> None:
            found = [store.log.record_awaited(Report(r)) for r in reports(next(numbers))]
            assert sum(each.result(WAIT_S).rows for each in found) == REPORTS * ROWS

        compare(
            name=f"records.packets_{kind}",
            subject=(f"{REPORTS * ROWS} events", record),
            against=("one INSERT per row", OneByOne(engine).run),
            runs=RUNS,
        )


class Nodes:
    """Four nodes, at addresses of their own."""

    def __init__(self, port: int) -> None:
        self._numbers = itertools.count()
        self._connections = [
            http.client.HTTPConnection(
                "127.0.0.1", port, timeout=WAIT_S, source_address=(f"127.0.0.{node + 1}", 0)
            )
            for node in range(REPORTS)
        ]

    def post(self) -> None:
        """Have each node post its report, and wait for all answers."""
        threads = [
            threading.Thread(target=self._post, args=pair)
            for pair in zip(self._connections, bodies(next(self._numbers)), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _post(self, connection: http.client.HTTPConnection, body: bytes) -> None:
        connection.request("POST", "/", body)
        assert json.loads(connection.getresponse().read()) == {"result": "Succeeded"}

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def bench_collector(compare, tmp_path: Path) -> None:
    nodes = [
        NodeRecord(node, f"n{node}", "server", f"127.0.0.{node + 1}") for node in range(REPORTS)
    ]
    database = DatabaseConf(url=str(tmp_path / "ours.sqlite"))
    engine = open_database(tmp_path / "theirs.sqlite")
    with Collector(CollectorConf("127.0.0.1", 0, tuple(nodes), database)) as collector:
        thread = threading.Thread(target=collector.serve)
        thread.start()
        senders = Nodes(collector.port)
        compare(
            name="records.collector",
            subject=(f"{REPORTS * ROWS} events over HTTP", senders.post),
            against=("one INSERT per row", OneByOne(engine).read_and_run),
            runs=RUNS,
        )
        senders.close()
        collector.stop()
        thread.join(WAIT_S)
        assert collector.store.log.stats().rows % (REPORTS * ROWS) == 0
    engine.dispose()
