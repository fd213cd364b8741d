"""A node's end of the plan channel when messages, nodes or the controller are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from channel_kit import (
    LOOPBACK,
    TASK,
    TIMEOUT_S,
    NodeEnd,
    cloud,
    quick,
    request,
    submit,
    totals,
    until,
    view,
)

from vdag.control.cluster import Hearsay
from vdag.control.controller import Controller
from vdag.control.records import NewQuery, Store
from vdag.control.scheduling.events import QueryState

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("impatient")]

CLOUD = """
import sys
from pathlib import Path
from channel_kit import cloud
with cloud(Path(sys.argv[1]), sys.argv[2]) as controller:
    print(controller.channel, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def controller(store: Store, request) -> Iterator[Controller]:
    """A controller; its parameter is the silence after which nodes are away."""
    with Controller(store, quick(silence_s=getattr(request, "param", 60.0))) as controller:
        yield controller
        assert controller.stats().faults == 0


# On the way.


class Wall:
    """Stands between nodes and the controller; while it is up, what comes is lost."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.lost = {"questions": 0, "answers": 0}
        self.up: set[str] = set()
        self.address = ""
        self._is_closing = False
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        assert ready.wait(TIMEOUT_S)

    def _run(self, ready: threading.Event) -> None:
        front, back = self.context.socket(zmq.ROUTER), self.context.socket(zmq.DEALER)
        front.bind(LOOPBACK)
        back.connect(self.controller.channel)
        self.address = front.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        ready.set()
        while not self._is_closing:
            zmq.zmq_poll([(front, zmq.POLLIN), (back, zmq.POLLIN)], 50)
            for kind, source, target in (("questions", front, back), ("answers", back, front)):
                while source.poll(0):
                    parts = source.recv_multipart()
                    if kind in self.up:
                        self.lost[kind] += 1
                    else:
                        target.send_multipart(parts)
        front.close(linger=0)
        back.close(linger=0)

    def close(self) -> None:
        self._is_closing = True
        self._thread.join()
        self.context.term()


@pytest.fixture
def wall(controller: Controller) -> Iterator[Wall]:
    wall = Wall(controller)
    yield wall
    wall.close()


@pytest.fixture
def patient(store: Store) -> Iterator[Wall]:
    """The way to a controller that waits long before it takes a node for lost."""
    with Controller(store, quick()) as controller:
        wall = Wall(controller)
        yield wall
        wall.close()


@pytest.mark.parametrize("kind", ["questions", "answers"])
def test_what_is_lost_on_the_way_is_made_good_and_nothing_comes_twice(store, patient, kind):
    with NodeEnd(patient.address) as node:
        until(patient.controller.nodes)
        query_id = submit(patient.controller)
        node.jobs.next("plan")
        for number in range(1, 31):
            if number % 10 == 5:
                patient.up.add(kind)
                before = patient.lost[kind]
                node.report(query_id, number)
                until(lambda before=before: patient.lost[kind] > before)
                patient.up.clear()
            else:
                node.report(query_id, number)
        until(lambda: totals(store, query_id) == list(range(1, 31)))
        until(lambda: node.agent.stats().results == 30)
    assert node.agent.stats().failures >= 3
    assert node.jobs.calls.empty()  # no order was carried out again


@pytest.mark.parametrize("controller", [2.0], indirect=True)
def test_a_node_that_was_away_goes_on_where_it_was(controller, store, wall):
    with NodeEnd(wall.address) as node:
        until(controller.nodes)
        query_id = submit(controller)
        node.jobs.next("plan")
        until(lambda: controller.query(query_id).state == QueryState.RUNNING)
        wall.up.update(("questions", "answers"))
        until(lambda: controller.query(query_id).suspended)
        until(lambda: [each.is_alive for each in controller.nodes()] == [False])
        node.report(query_id, *range(1, 6))
        wall.up.clear()
        until(lambda: not controller.query(query_id).suspended)
        until(lambda: totals(store, query_id) == [1, 2, 3, 4, 5])
        assert node.agent.stats().joins == 2
        assert controller.query(query_id).state == QueryState.RUNNING


def test_a_node_that_the_controller_is_lost_to_knows_itself_only(controller, wall):
    mine = view(address="10.0.0.8")
    cluster = Hearsay(lambda: mine, timeout_s=0.5)
    with (
        NodeEnd(controller.channel),
        NodeEnd(wall.address, node_addr="10.0.0.8:5001", run="f" * 16, cluster=cluster) as other,
    ):
        until(lambda: len(other.agent.cluster.nodes()) == 2)
        wall.up.update(("questions", "answers"))
        until(lambda: len(other.agent.cluster.nodes()) == 1)
        assert cluster.nodes() == (mine,)


# Restarts.


def test_a_node_that_was_started_anew_gets_its_jobs_again_and_sends_what_waited(
    controller, store, tmp_path
):
    spool = tmp_path / "spool"
    spool.mkdir()
    with NodeEnd(controller.channel, spool=spool) as node:
        until(controller.nodes)
        query_id = submit(controller)
        node.jobs.next("plan")
    with NodeEnd("tcp://127.0.0.1:1", spool=spool) as away:  # found while nobody could be told
        away.report(query_id, 1, 2)
    assert away.agent.stats().spool.segments == 1
    with NodeEnd(controller.channel, spool=spool, run="f" * 16) as again:
        assert again.jobs.next("submit")[1] == query_id
        again.report(query_id, 1, 2)
        # The numbers of another run are others: four results, not two.
        until(lambda: totals(store, query_id) == [1, 2, 1, 2])


def test_jobs_go_on_while_the_controller_is_away_and_results_arrive_once(tmp_path):
    with cloud(tmp_path) as controller, NodeEnd(controller.channel) as node:
        until(controller.nodes)
        channel, query_id = controller.channel, submit(controller)
        node.jobs.next("plan")
        node.report(query_id, 1, 2)
        until(lambda: node.agent.stats().results == 2)
        controller.close()
        controller._store.close()
        node.report(query_id, 3, 4)
        until(lambda: node.agent.stats().failures)
        with Store(tmp_path / "records.db") as store, Controller(store, quick(channel)) as later:
            until(lambda: totals(store, query_id) == [1, 2, 3, 4])
            until(lambda: not later.query(query_id).suspended)
            assert later.query(query_id).plan["number"] == 1
            assert node.jobs.jobs[query_id].plan_number == 1
            assert not any(call[0] == "stop" for call in node.jobs.calls.queue)
            conf = {"resolution": "360p", "fps": 1, "encoder": "JPEG"}
            mapping = {TASK: {"node_ip": "10.0.0.7", "node_role": "host"}}
            later.prefer_plan(query_id, {"video_conf": conf, "flow_mapping": mapping})
            until(lambda: node.jobs.jobs[query_id].plan_number == 2)


class Cloud:
    """A controller in a process of its own."""

    def __init__(self, folder: Path, channel: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLOUD, str(folder), channel],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.process.stdout is not None
        self.channel = self.process.stdout.readline().strip()
        if not self.channel:
            self.kill()
            raise AssertionError("it could not be started")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=TIMEOUT_S)

    def stop(self) -> int:
        self.process.communicate("", timeout=TIMEOUT_S)
        return self.process.returncode


@pytest.mark.slow
def test_a_controller_that_is_killed_while_results_come_loses_and_doubles_none(tmp_path):
    running = Cloud(tmp_path, LOOPBACK)
    channel = running.channel
    with NodeEnd(channel) as node:
        until(lambda: node.agent.stats().is_joined)
        with Store(tmp_path / "records.db") as store:
            query_id = store.add_query(_asked()).result(TIMEOUT_S)
        for round_ in range(3):
            running.kill()
            node.report(query_id, *range(round_ * 100, round_ * 100 + 50))
            running = Cloud(tmp_path, channel)
            started_s = time.monotonic()
            until(lambda joins=round_ + 2: node.agent.stats().joins >= joins)
            assert time.monotonic() - started_s < 5.0
            node.report(query_id, *range(round_ * 100 + 50, round_ * 100 + 100))
        until(lambda: node.agent.stats().results == 300)
        until(lambda: query_id in node.jobs.jobs)
    assert running.stop() == 0
    with Store(tmp_path / "records.db") as store:
        assert totals(store, query_id) == list(range(300))


def _asked() -> NewQuery:
    asked = request()
    return NewQuery(
        asked.node_addr, 0, asked.graph.to_dag(), asked.constraint.to_document(), "golden"
    )
