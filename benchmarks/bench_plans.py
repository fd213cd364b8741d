"""How long a plan takes to a node, over the plan channel, against a node that asks over REST.

Measured: from the moment at which the controller is given a plan (`Desk.prefer_plan`) until the
node's jobs are told of it, in another process: the event, the scheduler's question and its check of
the answer, the order, the trip over loopback, and the node's agent. Both sides read the same
monotonic clock. One plan at a time, at moments that have nothing to do with anybody's period.

    plans.reach_1     one node
    plans.reach_50    50 nodes, which report twice a second and ask for orders all the time; plans
                      go to each in turn

Held against a node that asks `POST /query/get_jobs_info_and_jobs_plan` ten times a second, over one
connection that is kept open, of a server that answers from memory. Nodes that speak only the
documented REST ask every 4 s, so they are 40 times slower than that.

Outside: starting the processes, joining, recording the plan, which is not waited for.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PLANS, ASKED = 300, 60
PERIOD_S = 0.1
TIMEOUT_S = 60.0
ADDRESS = "10.0.{}.{}:5001"
TASK = "car_detection"
PATH = "/query/get_jobs_info_and_jobs_plan"


# The other process


def run_nodes(channel: str, count: str) -> None:
    """So many agents, whose jobs print when they are told of a plan."""
    from channel_kit import NodeEnd, NotedJobs

    class PrintingJobs(NotedJobs):
        def update_plan(self, job_uid, plan, routes, names) -> None:
            now_ns = time.monotonic_ns()
            super().update_plan(job_uid, plan, routes, names)
            sys.stdout.write(f"{job_uid} {plan.number} {now_ns}\n")
            sys.stdout.flush()

    nodes = [
        NodeEnd(channel, node_addr=address(i), run=f"{i:016x}", jobs=PrintingJobs())
        for i in range(int(count))
    ]
    sys.stdin.read()
    for node in nodes:
        node.close()


def ask_for_plans(port: str) -> None:
    """A node of the documented kind, but for its haste; prints when it sees a new plan."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    body, seen, ended = json.dumps({"node_addr": address(0), "bandwidth": {}}), 0, threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
    due_s = time.monotonic()
    while not ended.wait(max(due_s - time.monotonic(), 0.0)):
        due_s += PERIOD_S
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        number = json.loads(connection.getresponse().read())["jobs_plan"]["GLOBAL_ID_1"]["number"]
        if number != seen:
            seen = number
            print("GLOBAL_ID_1", number, time.monotonic_ns(), flush=True)
    connection.close()


def address(number: int) -> str:
    return ADDRESS.format(number // 250, number % 250 + 1)


# This process


@dataclass
class Told:
    """What the other process says: when a job was told of a plan."""

    at_ns: dict[tuple[str, int], int] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self, lines: Iterator[str]) -> None:
        for line in lines:
            job, number, now_ns = line.split()
            with self.changed:
                self.at_ns[job, int(number)] = int(now_ns)
                self.latest[job] = int(number)
                self.changed.notify_all()

    def wait(self, job: str, after: int) -> int:
        """Return when the job was told of the plan after that number."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.latest.get(job, 0) > after, TIMEOUT_S)
            return self.at_ns[job, after + 1]


@contextmanager
def other_process(role: str, *arguments: str) -> Iterator[Told]:
    kit = str(Path(__file__).parents[1] / "tests" / "kit")
    path = os.pathsep.join([kit, *sys.path])
    told = Told()
    with subprocess.Popen(
        [sys.executable, __file__, role, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        reader = threading.Thread(target=told.read, args=(process.stdout,))
        reader.start()
        yield told
        process.stdin.close()
        assert process.wait(TIMEOUT_S) == 0
        reader.join(TIMEOUT_S)


def over_channel(folder: Path, count: int) -> list[float]:
    """Return the seconds each plan took."""
    from channel_kit import until

    from vdag.control.controller import Controller, ControllerSettings
    from vdag.control.desk import QueryRequest
    from vdag.control.records import Store
    from vdag.control.scheduling.scheduler import SchedulerSettings
    from vdag.graph import Graph
    from vdag.plan import Constraint

    # Nobody else changes plans meanwhile.
    settings = ControllerSettings("tcp://127.0.0.1:0", scheduler=SchedulerSettings(period_s=3600))
    with (
        Store(folder / f"records-{count}.db") as store,
        Controller(store, settings) as controller,
        other_process("nodes", controller.channel, str(count)) as told,
    ):
        until(lambda: len(controller.nodes()) == count)
        request = (Graph.chain(TASK), Constraint())
        jobs = [
            controller.submit(QueryRequest(address(i), 0, *request)).result(TIMEOUT_S)
            for i in range(count)
        ]
        for job in jobs:
            told.wait(job, 0)

        def change(turn: int) -> float:
            job, number = jobs[turn % count], turn // count + 1
            plan = {
                "video_conf": {"resolution": "480p", "fps": 1 + number % 2, "encoder": "JPEG"},
                "flow_mapping": {TASK: {"node_addr": address(turn % count), "node_role": "host"}},
            }
            start_ns = time.monotonic_ns()
            controller.prefer_plan(job, plan)
            return (told.wait(job, number) - start_ns) / 1e9

        return spread(change, PLANS)


def over_rest() -> list[float]:
    """Return the seconds each plan took to a node that asks."""
    number = 1

    class Plans(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            plan = {"job_uid": "GLOBAL_ID_1", "number": number}
            body = json.dumps({"jobs_info": {}, "jobs_plan": {"GLOBAL_ID_1": plan}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Plans) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with other_process("asks", str(server.server_port)) as told:
            told.wait("GLOBAL_ID_1", 0)

            def change(turn: int) -> float:
                nonlocal number
                start_ns = time.monotonic_ns()
                number = turn + 2
                return (told.wait("GLOBAL_ID_1", turn + 1) - start_ns) / 1e9

            found = spread(change, ASKED)
        server.shutdown()
        thread.join(TIMEOUT_S)
        return found


def spread(change: Callable[[int], float], count: int) -> list[float]:
    """Change the plan so often, each time after a pause of any length up to a tenth of a second."""
    chance, pause = random.Random(7), threading.Event()
    found = []
    for turn in range(count):
        pause.wait(chance.uniform(0, PERIOD_S))
        found.append(change(turn))
    return found


@pytest.mark.parametrize("count", [1, 50])
def bench_reach(record, tmp_path: Path, count: int) -> None:
    from comparison import Comparison, quantile

    ours_s, theirs_s = over_channel(tmp_path, count), over_rest()
    record(
        Comparison(
            f"plans.reach_{count}",
            "plan channel",
            "REST asked 10 times a second",
            round(statistics.median(theirs_s) / statistics.median(ours_s), 1),
            round(quantile(ours_s, 0.5) * 1e3, 3),
            round(quantile(ours_s, 0.99) * 1e3, 3),
            "ms",
            len(ours_s),
        )
    )
    print(f"worst {max(ours_s) * 1e3:.2f} ms; REST p50 {quantile(theirs_s, 0.5) * 1e3:.1f} ms, "
          f"p99 {quantile(theirs_s, 0.99) * 1e3:.1f} ms")  # fmt: skip
    assert quantile(ours_s, 0.99) < 0.05


if __name__ == "__main__":
    {"nodes": run_nodes, "asks": ask_for_plans}[sys.argv[1]](*sys.argv[2:])
