"""Sessions of three nodes in the records: rows of every frame, once, whatever fails meanwhile."""

from __future__ import annotations

import itertools
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from database_kit import Servers
from hosts_kit import Loopback
from sqlalchemy import Engine, create_engine, text
from system_kit import System, until

pytestmark = pytest.mark.slow  # three daemons with workers, for each test

CHAIN = ["levels", "spreads", "steps"]
FPS = 10
PLACES = {"levels": "edge1", "spreads": "edge2", "steps": "cloud"}
#: The source, three tasks on three nodes, the sink.
EVENTS = ["start", "end",
          "start", "end", "sent",
          "recv", "start", "end", "sent",
          "recv", "start", "end", "sent",
          "recv", "start", "end"]  # fmt: skip
THROWN_AWAY = re.compile(r"(\d+) frames are thrown away")


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture
def start(tasks, clips: Path, tmp_path) -> Iterator[Callable[..., System]]:
    """Start a cloud and two edges on addresses of this host."""
    running: list[System] = []

    def start(database: str = "") -> System:
        clip = {"path": str(clips / "bikes.mp4"), "pace": "asap"}
        camera = {"path": str(clips / "bikes.mp4"), "loop": True, "policy": "block"}
        system = System(
            Loopback(3, net=79),
            tmp_path,
            modules=tasks,
            tasks=dict.fromkeys(("cloud", "edge1", "edge2"), CHAIN),
            videos={"edge1": {"0": clip, "1": camera}},
            cloud={"results_kept": 100_000, "database": database or str(tmp_path / "records.db")},
        )
        running.append(system.__enter__())
        return system

    yield start
    for system in running:
        system.end_well()
        system.__exit__(None, None, None)


def submit(system: System, video: int) -> str:
    plan = {
        "video_conf": {"resolution": "320x136", "fps": FPS, "encoder": "JPEG"},
        "flow_mapping": system.place(**PLACES),
    }
    return system.submit("edge1", video, CHAIN, policy="static", plan=plan)


def figures(system: System, node: str, port: int) -> dict[str, float]:
    """Return what an app of a node tells Prometheus."""
    asker = system.nodes[node].asker(port)
    text = asker.ask("GET", "/metrics").body.decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


class Rows:
    """What is recorded of the one session there is."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url if "://" in url else f"sqlite:///{url}")

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def frames(self) -> dict[int, list[tuple[float, int, str, int]]]:
        """Return the rows of each frame: when, at which handler, what, on which node."""
        found: dict[int, list[tuple[float, int, str, int]]] = {}
        rank = {"recv": 0, "start": 1, "end": 2, "sent": 3}
        rows = self.ask("SELECT sequence, timestamp, handler_ID, event, node_ID FROM packet_info")
        for sequence, *row in sorted(rows, key=lambda row: (row[1], row[2], rank[row[3]])):
            found.setdefault(sequence, []).append(tuple(row))
        return found

    def close(self) -> None:
        self.engine.dispose()


@pytest.fixture
def rows() -> Iterator[Callable[[str], Rows]]:
    opened: list[Rows] = []

    def rows(url: str) -> Rows:
        opened.append(Rows(url))
        return opened[-1]

    yield rows
    for each in opened:
        each.close()


def test_every_frame_of_a_session_leaves_its_way_in_the_records(start, rows, tmp_path):
    system = start()
    query = submit(system, 0)
    system.wait_state(query, "ended")
    results = {each["seq"]: each for each in system.results(query)}
    records = rows(str(tmp_path / "records.db"))
    frames = until(lambda: len(all_ := records.frames()) >= len(results) and all_)
    assert frames.keys() == results.keys()
    name = 'vdag_courier_frames_total{outcome="%s"}'
    told = until(
        lambda: (
            (found := figures(system, "edge1", 5500))[name % "acknowledged"] >= len(frames)
            and found
        )
    )
    assert (
        told[name % "dropped"]
        == told[name % "refused"]
        == told['vdag_courier_spooled{unit="frames"}']
        == 0
    )
    cloud = figures(system, "cloud", 5000)
    assert cloud["vdag_chronicle_frames_total"] == told[name % "acknowledged"]
    assert cloud['vdag_records_rows_total{outcome="written"}'] >= len(frames) * len(EVENTS)
    nodes = dict(records.ask("SELECT node_ID, node_name FROM node"))
    expected = ["edge1"] * 5 + ["edge2"] * 4 + ["cloud"] * 4 + ["edge1"] * 3
    for sequence, found in frames.items():
        assert [event for _, _, event, _ in found] == EVENTS
        assert [nodes[node] for *_, node in found] == expected
        times = [time for time, *_ in found]
        # The times rise, so no part of it is negative: their sum is the whole.
        assert abs(times[-1] - times[0] - results[sequence]["delay"]) < 1e-3
        sent = [time for time, _, event, _ in found if event == "sent"]
        received = [time for time, _, event, _ in found if event == "recv"]
        assert all(after >= before for before, after in zip(sent, received, strict=True))
        infos = results[sequence]["ext_runtime"]["proc_resource_info"]
        for handler, task in enumerate(CHAIN, 1):
            begin, end = (time for time, at, event, _ in found
                          if at == handler and event in ("start", "end"))  # fmt: skip
            assert abs(end - begin - infos[task]["compute_latency"]) < 1e-5
    ((state, service, algorithm),) = until(
        lambda: [
            row
            for row in records.ask("SELECT state, service_name, algorithm FROM session")
            if row[0] == "stopped"
        ]
    )
    assert (state, service, algorithm) == ("stopped", " > ".join(CHAIN), "static")
    placed = records.ask("SELECT handler_ID, node_ID, until_s FROM placement ORDER BY handler_ID")
    assert [nodes[node] for _, node, _ in placed] == ["edge1", "edge1", "edge2", "cloud", "edge1"]
    until(lambda: not records.ask("SELECT * FROM placement WHERE until_s IS NULL"))
    sizes = records.ask("SELECT DISTINCT handler_ID FROM packet_info WHERE size > 100")
    assert {handler for (handler,) in sizes} == {1, 2, 3}  # sent there, and received


def test_a_session_of_a_moment_leaves_rows_of_every_frame_and_of_its_nodes(start, rows, tmp_path):
    system = start()
    query = submit(system, 1)
    system.wait_results(query, FPS // 2)
    assert system.cloud.post("/query/stop", {"query_id": query})["status"] == 0
    system.wait_state(query, "ended")
    results = list(system.results(query))
    records = rows(str(tmp_path / "records.db"))

    def complete() -> dict[int, list[tuple[float, int, str, int]]] | None:
        found = records.frames()
        whole = {sequence for sequence, each in found.items() if len(each) == len(EVENTS)}
        return found if whole == {each["seq"] for each in results} else None

    frames = until(complete)
    # Those that were under way when it was stopped have been captured, and no more is known.
    assert set(frames) == set(range(max(frames) + 1))
    until(lambda: len(records.ask("SELECT DISTINCT node_ID FROM sys_info")) == 3)
    assert all(0 <= load <= 100 for (load,) in records.ask("SELECT cpu_util FROM sys_info"))


# What fails


def stop_database(servers: Servers, system: System, outage_s: float) -> None:
    """A server that is killed, and started again."""
    server = servers.get("mariadb")
    server.stop(signal.SIGKILL)
    threading.Event().wait(outage_s)
    server.start()


def hold_database(servers: Servers, system: System, outage_s: float) -> None:
    """A server that does not answer any more, and then does."""
    server = servers.get("mariadb")
    server._process.send_signal(signal.SIGSTOP)
    threading.Event().wait(outage_s)
    server._process.send_signal(signal.SIGCONT)


def kill_controller(servers: Servers, system: System, outage_s: float) -> None:
    """Nobody there to report to."""
    cloud = system.nodes["cloud"]
    cloud.kill()
    threading.Event().wait(outage_s)
    cloud.start()
    # What is asked over the old connection is asked anew.
    until(lambda: system.alive() == set(system.nodes))


@pytest.mark.parametrize("failure", [stop_database, hold_database, kill_controller])
@pytest.mark.parametrize("outage_s", [2.0, 30.0])
def test_frames_go_on_and_are_recorded_once(start, rows, servers, failure, outage_s):
    with servers.get("mariadb").database() as url:
        system = start(url)
        # The first two tasks: a cloud that is killed does nothing for anybody.
        plan = {
            "video_conf": {"resolution": "320x136", "fps": FPS, "encoder": "JPEG"},
            "flow_mapping": system.place(levels="edge1", spreads="edge2"),
        }
        query = system.submit("edge1", 1, CHAIN[:2], policy="static", plan=plan)
        before = system.wait_results(query, FPS)
        failure(servers, system, outage_s)
        # As many frames as at any time: the node has not waited for anybody.
        system.wait_results(query, round(FPS * outage_s * 0.7), before["n_loop"])
        records = rows(url)
        newest = records.ask("SELECT MAX(sequence) FROM packet_info")[0][0]
        until(lambda: records.ask("SELECT MAX(sequence) FROM packet_info")[0][0] > newest + FPS)
        handlers = "SELECT DISTINCT handler_ID FROM proc_info"
        until(lambda: {1, 2} <= {handler for (handler,) in records.ask(handlers)})
        assert system.cloud.post("/query/stop", {"query_id": query})["status"] == 0
        system.wait_state(query, "ended")
        results = [each["seq"] for each in system.results(query)]
        assert results == sorted(set(results))
        lost = sum(map(int, itertools.chain.from_iterable(
            THROWN_AWAY.findall(line) for line in system.nodes["edge1"].log)))  # fmt: skip

        def missing() -> set[int]:
            whole = {sequence for sequence, each in records.frames().items() if len(each) == 12}
            return set(results) - whole

        until(lambda: len(missing()) <= lost)
        assert lost == 0  # a few seconds of frames are far from what there is room for
        frames = records.frames()
        for found in frames.values():
            # Nothing is there twice under another time.
            assert len({(handler, event) for _, handler, event, _ in found}) == len(found)
        assert sum(system.drops(query).values()) <= len(frames) - len(results)
        for node in system.nodes.values():
            assert node.stop() == 0, "".join(node.log)
