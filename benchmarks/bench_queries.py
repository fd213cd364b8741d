"""Records of results, and the query manager's REST interface while nodes post results to it.

`queries.store_rows`: 2,000 results of 50 queries, each put by a call of its own, until all of them
are committed; against one INSERT and commit per result by `sqlite3`, with the same tables and
pragmas. Outside: opening the databases, making the frames.

`queries.rest_*`: 5 nodes of 10 queries each post 2 results a second per query (100 a second), to a
query manager in a process of its own, with the real controller. Meanwhile one caller asks, one
request after the other; p50 and p99 are of those requests. The ratio is how often p99 goes into the
50 ms that are allowed.
"""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comparison import Comparison, quantile

from vdag.control.records import FrameResult, NewQuery, Store, read_frame, tables
from vdag.control.records.opening import open_database

QUERIES, NODES, FPS = 50, 5, 2.0
ROWS = 2000
ALLOWED_S = 0.050
LOAD_S = 5.0 if os.environ.get("VDAG_BENCH_QUICK") else 20.0
PIPELINE = ["face_detection", "face_alignment"]
CONF = {"resolution": "480p", "fps": 30, "encoder": "JPEG"}
MAPPING = {task: {"model_id": 0, "node_role": "host", "node_ip": "127.0.0.1"} for task in PIPELINE}
RUNTIME = {"obj_n": 8.0, "obj_size": 2335.9, "delay": 0.0156, "obj_stable": True}


def frame(n_loop: int) -> dict[str, Any]:
    return {
        "count_result": {"up": 6, "total": 8},
        "frame_id": float(n_loop),
        "n_loop": n_loop,
        "delay": 0.0156,
        "ext_plan": {"video_conf": CONF, "flow_mapping": MAPPING, "resource_limit": {}},
        "ext_runtime": {**RUNTIME, "plan_result": {"delay": dict.fromkeys(PIPELINE, 0.1)}},
    }


Ask = Callable[..., Any]


class Rows:
    """Both sides of `queries.store_rows`, each with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "ours.sqlite")
        asked = NewQuery("127.0.0.1:5001", 1, {"flow": PIPELINE}, {})
        self.ids = [self.store.add_query(asked).result(20) for _ in range(QUERIES)]
        Store(folder / "theirs.sqlite").close()  # the same tables
        self.plain = sqlite3.connect(folder / "theirs.sqlite", isolation_level=None)
        self.plain.execute("PRAGMA synchronous=NORMAL")
        self.engine = open_database(folder / "theirs.sqlite")
        self.first = {"ours": 1, "theirs": 1}

    def frames(self, side: str) -> list[FrameResult]:
        first = self.first[side]
        self.first[side] += ROWS // QUERIES
        return [read_frame(frame(n)) for n in range(first, first + ROWS // QUERIES)]

    def ours(self) -> None:
        frames = self.frames("ours")
        for each in frames:
            for query_id in self.ids:
                self.store.add_results(query_id, [each])
        self.store.committed().result(60)

    def by_sqlite(self) -> None:
        statement = "INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?)"
        for row in self.rows():
            self.plain.execute(statement, row)

    def by_sqlalchemy(self) -> None:
        names = [column.name for column in tables.result.columns]
        for row in self.rows():
            with self.engine.begin() as connection:
                values = dict(zip(names, row, strict=True))
                connection.execute(tables.result.insert(), values)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        for each in self.frames("theirs"):
            for number in range(1, QUERIES + 1):
                n_loop, text = each.n_loop, each.document.decode()
                yield number, n_loop, "#0", n_loop, each.frame_id, text, time.time()

    def close(self) -> None:
        self.store.close()
        self.engine.dispose()
        self.plain.close()


@pytest.mark.parametrize("whom", ["sqlalchemy", "sqlite"])
def bench_store_rows(compare, tmp_path: Path, whom: str) -> None:
    rows = Rows(tmp_path)
    compare(
        name=f"queries.store_rows_{whom}",
        subject=(f"{ROWS} results", rows.ours),
        against=(f"{whom}, one INSERT per row", getattr(rows, f"by_{whom}")),
        runs=9,
    )
    count = rows.first["ours"] - 1
    assert [each.n_loop for each in rows.store.results(rows.ids[-1], limit=1)] == [count]
    rows.close()


class Manager:
    """The query manager under load."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("query_manager.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(script.parents[1])},
            text=True,
        )
        assert self.process.stdout is not None
        self.place = self.process.stdout.readline().strip().removeprefix("http://")
        self._connections: list[http.client.HTTPConnection] = []
        self._stopped = threading.Event()
        self.late = self.posted = 0
        ask = self.connect()
        nodes = [self._join(ask, number) for number in range(NODES)]
        self.ids = [self._submit(ask, nodes[number % NODES]) for number in range(QUERIES)]
        self._threads = [
            threading.Thread(target=self._post_all, args=(self.ids[node::NODES],))
            for node in range(NODES)
        ]
        for thread in self._threads:
            thread.start()

    def connect(self) -> Ask:
        connection = http.client.HTTPConnection(self.place, timeout=60)
        self._connections.append(connection)

        def ask(method: str, path: str, body: Any = None) -> Any:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            return json.loads(content)

        return ask

    def _join(self, ask: Ask, number: int) -> str:
        joining = {"node_port": 5001, "video_id": 1, "video_type": "x"}
        reply = ask("POST", "/node/join", {**joining, "node_ip": f"127.0.1.{number + 1}"})
        found: str = reply["node_addr"]
        return found

    def _submit(self, ask: Ask, node_addr: str) -> str:
        query = {
            "node_addr": node_addr,
            "video_id": 1,
            "pipeline": PIPELINE,
            "user_constraint": {"delay": 0.3, "accuracy": 0.9},
        }
        found: str = ask("POST", "/query/submit_query", query)["query_id"]
        return found

    def _post_all(self, ids: list[str]) -> None:
        """Post results of these queries in turn, evenly, as fast as their nodes find them."""
        ask = self.connect()
        step_s = 1.0 / (FPS * len(ids))
        due_s = time.monotonic()
        for count in range(1_000_000):
            query_id, n_loop = ids[count % len(ids)], count // len(ids) + 1
            result = {"appended_result": frame(n_loop)}
            ask("POST", "/query/sync_result", {"job_uid": query_id, "job_result": result})
            self.posted += 1
            due_s += step_s
            self.late += time.monotonic() > due_s
            if self._stopped.wait(max(0.0, due_s - time.monotonic())):
                return

    def close(self) -> int:
        """End it; return the largest memory that it took, in KiB."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()
        rest, _ = self.process.communicate("", timeout=60)
        return int(rest)


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    manager = Manager()
    yield manager
    print(f"\n{manager.posted} results, {manager.late} late, {manager.close()} KiB at most")


@pytest.mark.parametrize("path", ["get_result", "get_agg_info", "get_plan", "get_runtime", "list"])
def bench_rest_under_load(record, manager: Manager, path: str) -> None:
    ask = manager.connect()
    times_s: list[float] = []
    end_s = time.monotonic() + LOAD_S / 5
    while time.monotonic() < end_s or len(times_s) < 100:
        name = "" if path == "list" else f"/{manager.ids[len(times_s) % QUERIES]}"
        start_s = time.perf_counter()
        found = ask("GET", f"/query/{path}{name}")
        times_s.append(time.perf_counter() - start_s)
        assert isinstance(found, dict) or found is None
    p50, p99 = quantile(times_s, 0.5), quantile(times_s, 0.99)
    record(
        Comparison(
            f"queries.rest_{path}", "p99 at 100 results/s", "50 ms allowed", ALLOWED_S / p99,
            p50 * 1e3, p99 * 1e3, "ms", len(times_s),
        )
    )  # fmt: skip
