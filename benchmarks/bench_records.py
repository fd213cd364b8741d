"""Events of packets into the records: reports of many rows, until they are committed.

`records.packets_<database>`: 20,000 events in four reports, handed to the store and waited for;
against one INSERT per row and a commit per report, as a collector does it that takes rows one by
one. Both write into a database of their own, with the same tables. Servers are started for it, with
the settings that they come with: a commit is on the disk when it is answered.

`records.collector`: the same events as JSON, posted to a collector by four nodes at a time; against
one INSERT per row of the same JSON, read by `json`, without HTTP. Making the JSON is inside on both
sides.

20,000 events in 200 ms are 100,000 a second.

`records.pipeline_<task>`: frames per second of a job whose every frame is recorded, against the
same job with `edge.events` off; all else is the same and goes on, and the controller with its
records is another process of this machine. `nothing` looks at no pixel: what is left is the way of
a frame, so that is the most that recording can cost. Its ratio is to be 0.98 or more.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from comparison import paired
from sqlalchemy import Engine

from vdag.config import VideoConfig
from vdag.config.conf import DatabaseConf
from vdag.control.agent import Agent, Profile
from vdag.control.agent.courier import Courier
from vdag.control.agent.framebook import FrameBook
from vdag.control.agent.notebook import Notebook
from vdag.control.cluster import NodeView
from vdag.control.collector import Collector, CollectorConf
from vdag.control.controller import Controller, ControllerSettings
from vdag.control.controller.membership import draw_session
from vdag.control.jobs import JobManager
from vdag.control.jobs.run import Site
from vdag.control.records import (
    EVENTS,
    Handler,
    NewSession,
    NodeRecord,
    Packet,
    Report,
    Store,
)
from vdag.control.records.opening import open_database
from vdag.control.scheduling.events import QueryState
from vdag.graph import Graph
from vdag.plan import Constraint, Placement, Plan, VideoConf
from vdag.tasks import base
from vdag.tasks.modules import load_module
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

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


# What recording costs a pipeline.

ADDR = "127.0.0.1:5001"
PIPELINE_ROUNDS, SESSIONS = 11, 64
#: Frames of a job: two or three seconds of it.
FRAMES = {"nothing": 3000, "face_detection": 150}
WIDTH, HEIGHT = 320, 240
EVENTS_PER_FRAME = 6
PLAN = VideoConf("native", 1000.0, "JPEG")
TASKS = """
import vdag

@vdag.task(outputs=["size"])
def nothing(image):
    return {"size": image.shape[0]}
"""


def keep_records(folder: str, task: str) -> None:
    """The controller, in a process of its own: says where it is, and at last what it has."""
    with (
        Store(Path(folder) / "records.db") as store,
        Controller(store, ControllerSettings("tcp://127.0.0.1:0")) as controller,
    ):
        handlers = [Handler(0, "source"), Handler(1, task), Handler(2, "sink")]
        for number in range(1, SESSIONS + 1):
            store.journal.open(NewSession(f"GLOBAL_ID_{number}", task, handlers, number))
        print(controller.channel, flush=True)
        sys.stdin.read()
        print(store.log.stats().rows, flush=True)


@contextmanager
def controller_of(folder: Path, task: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a controller; yield its address, and it."""
    command = [sys.executable, __file__, str(folder), task]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
        process.kill()


class Edge:
    """A node whose jobs run over a video as fast as they can, recorded or not."""

    def __init__(self, folder: Path, channel: str, video: Path, task: str) -> None:
        self._task, self._numbers = task, itertools.count(1)
        with ExitStack() as stack:
            exchange = stack.enter_context(
                Exchange(folder / "x", classes=[(WIDTH * HEIGHT * 3, 32)])
            )
            tasks = folder / "nothing_tasks.py"
            tasks.write_text(TASKS)
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(base, "_registry", dict(base._registry))
            load_module(tasks)
            pool = stack.enter_context(WorkerPool(exchange, modules=[tasks]))
            exchange.open_task(task, policy="fifo")
            pool.add(task)
            pool.wait_ready(task, WAIT_S)
            self._notebook = Notebook(draw_session())
            stack.callback(self._notebook.close)
            book = FrameBook(self._notebook.run)
            stack.callback(book.close)
            videos = {0: VideoConfig(str(video), pace="asap", policy="block")}
            self._jobs = [
                stack.enter_context(
                    JobManager(
                        Site(exchange, None, "127.0.0.1", frames=frames),
                        videos,
                        offered=lambda: {task: (0,)},
                        reporter=self._notebook,
                    )
                )
                for frames in (None, book)
            ]
            stack.enter_context(
                Agent(
                    channel,
                    profile=Profile(ADDR, "bench"),
                    view=lambda: NodeView("127.0.0.1", 0, "edge"),
                    notebook=self._notebook,
                )
            )
            self.courier = stack.enter_context(Courier(channel, node_addr=ADDR, book=book))
            self._stack = stack.pop_all()

    def run(self, *, is_recorded: bool) -> float:
        """Run a job to the end of its video; return its frames per second."""
        jobs, uid = self._jobs[is_recorded], f"GLOBAL_ID_{next(self._numbers)}"
        mapping = {self._task: Placement("127.0.0.1", "host")}
        jobs.submit(uid, 0, Graph.chain(self._task), Constraint.from_document({"delay": 1.0}))
        began_s = time.perf_counter()
        jobs.update_plan(uid, Plan(1, PLAN, mapping))
        while (info := next(i for i in jobs.infos() if i.job_uid == uid)).state < QueryState.ENDED:
            time.sleep(0.002)
        took_s = time.perf_counter() - began_s
        assert (info.state, dict(info.drops)) == (QueryState.ENDED, {}), info
        jobs.stop(uid, "")
        return FRAMES[self._task] / took_s

    def close(self) -> None:
        self._stack.close()


def write_video(path: Path, count: int) -> Path:
    """Write a video of noise that moves, which costs as much to decode as a camera's."""
    random = np.random.default_rng(7)
    scene = cv2.GaussianBlur(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 3)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
    for number in range(count):
        writer.write(np.roll(scene, number, axis=1))
    writer.release()
    return path


@pytest.mark.parametrize("task", FRAMES)
def bench_pipeline(record, task: str, tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", FRAMES[task])
    with tempfile.TemporaryDirectory(prefix="vb-") as short, ExitStack() as stack:
        channel, controller = stack.enter_context(controller_of(tmp_path, task))
        edge = Edge(Path(short), channel, video, task)
        stack.callback(edge.close)
        rates: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * (PIPELINE_ROUNDS + 1)):
            is_recorded = number % 4 in (1, 2)  # each is first as often as the other
            rates[is_recorded].append(edge.run(is_recorded=is_recorded))
        edge.courier.close()
        stats = edge.courier.stats()
        assert (stats.frames, stats.lost) == ((PIPELINE_ROUNDS + 1) * FRAMES[task], 0)
        rows, _ = controller.communicate("", timeout=WAIT_S)
        assert int(rows) == stats.frames * EVENTS_PER_FRAME
    ours, theirs = ([1.0 / rate for rate in rates[each][1:]] for each in (True, False))
    record(
        paired(
            f"records.pipeline_{task}",
            "each frame recorded",
            "none recorded",
            subject_s=ours,
            against_s=theirs,
            unit="ms",
        )
    )


if __name__ == "__main__":
    keep_records(*sys.argv[1:])
