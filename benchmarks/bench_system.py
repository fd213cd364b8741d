"""A whole system on this machine: cloud and edges as `vdag-node` processes, asked over REST.

    system.rest_50_queries   a request of the cloud's REST while 50 queries, ten on each of five
                             edges, process 2 frames a second each with a task that does nothing
    system.plan_reaches_job  from a client's `POST /query/update_prev_plan` until the running job
                             on another node follows the plan; the moment is when its node's log
                             says so here, and so never too early
    system.migration         a task goes from the edge to the cloud or back at 25 frames a second:
                             how much later than the usual the latest of the frames comes that left
                             around the change

Each is held against what is allowed: 50 ms for a request and for a plan, one frame's gap for a
frame. Frames, results, reports and plans go by authenticated and encrypted connections; all nodes
are on this machine and share its cores with whoever asks.

The first prints the memory that a query takes, in the cloud and in the edges: resident memory
that is not shared, with 50 queries less without, by 50. It asserts that every query goes on, at
half of its rate at least.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

TASK = """
import vdag

@vdag.task(outputs=["count_result"])
def nothing(image):
    return {"count_result": {}}

@vdag.task(outputs=["size"])
def first(image):
    return {"size": list(image.shape)}

@vdag.task(outputs=["count_result"])
def second(image, size):
    return {"count_result": {}}
"""
EDGES, QUERIES, FPS = 5, 50, 2
PLANS, MIGRATIONS, GAP_S = 100, 20, 0.04
WINDOW_S = 30.0 if not os.environ.get("VDAG_BENCH_QUICK") else 10.0
ALLOWED_S = 0.05


@pytest.fixture
def start(clips: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a cloud and so many edges, with a video each."""
    from hosts_kit import Loopback
    from system_kit import System

    started: list[Any] = []

    def start(edges: int, tasks: list[str], clip: str) -> Any:
        modules = tmp_path / "tasks.py"
        modules.write_text(TASK)
        names = [f"edge{number}" for number in range(edges)]
        video = {"path": str(clips / clip), "loop": True, "policy": "block"}
        system = System(
            Loopback(edges + 1),
            tmp_path,
            modules=modules,
            tasks=dict.fromkeys(["cloud", *names], tasks),
            videos={name: {"0": video} for name in names},
            cloud={"period_s": 3600, "results_kept": 100_000},
        )
        started.append(system.__enter__())
        return started[-1]

    yield start
    for system in started:
        codes = {name: node.stop() for name, node in system.nodes.items()}
        system.__exit__()
        assert set(codes.values()) == {0}, codes


def plan(
    system: Any, tasks: list[str], places: list[str], fps: float, size: str = "176x144"
) -> Any:
    return {
        "video_conf": {"resolution": size, "fps": fps, "encoder": "raw"},
        "flow_mapping": system.place(**dict(zip(tasks, places, strict=True))),
    }


def own_nbytes(node: Any) -> int:
    """Return the memory of a node and its workers that nobody shares."""
    process = psutil.Process(node.process.pid)
    return sum(each.memory_full_info().uss for each in (process, *process.children(True)))


def line(name: str, subject: str, against: str, found_s: list[float], allowed_s: float) -> Any:
    from comparison import Comparison, quantile

    p99_s = quantile(found_s, 0.99)
    figures = (quantile(found_s, 0.5) * 1e3, p99_s * 1e3)
    ratio = round(allowed_s / max(p99_s, 1e-6), 2)
    return Comparison(
        name, subject, against, ratio, *(round(each, 3) for each in figures), "ms", len(found_s)
    )


def bench_fifty_queries(start, record) -> None:
    system = start(EDGES, ["nothing"], "carphone_pristine.mp4")
    nodes = system.nodes
    before = {name: own_nbytes(node) for name, node in nodes.items()}
    queries = []
    for number in range(QUERIES):
        name = f"edge{number % EDGES}"
        wanted = plan(system, ["nothing"], [name], FPS)
        queries.append(system.submit(name, 0, ["nothing"], policy="static", plan=wanted))
    for query in queries:
        system.wait_results(query, 2)
    first = {query: system.newest(query)["n_loop"] for query in queries}
    begin_s, found_s, pause = time.monotonic(), [], threading.Event()
    paths = ("get_result", "get_plan", "get_runtime", "get_agg_info", "get_drops")
    chance = random.Random(7)
    while (now_s := time.monotonic()) < begin_s + WINDOW_S:
        system.cloud.get(f"/query/{chance.choice(paths)}/{chance.choice(queries)}")
        found_s.append(time.monotonic() - now_s)
        pause.wait(chance.uniform(0, 0.05))
    last = {query: system.newest(query)["n_loop"] for query in queries}
    window_s = time.monotonic() - begin_s
    rates = sorted((last[query] - first[query]) / window_s for query in queries)
    after = {name: own_nbytes(node) for name, node in nodes.items()}
    cloud_mib = (after["cloud"] - before["cloud"]) / QUERIES / 2**20
    edge_mib = sum(after[n] - before[n] for n in nodes if n != "cloud") / QUERIES / 2**20
    print(
        f"\nresults a second of a query: {rates[0]:.2f} to {rates[-1]:.2f}, "
        f"median {statistics.median(rates):.2f}; memory of a query: {cloud_mib:.2f} MiB in the "
        f"cloud, {edge_mib:.2f} MiB in its edge"
    )
    record(line("system.rest_50_queries", "REST of the cloud", "the 50 ms that are allowed",
                found_s, ALLOWED_S))  # fmt: skip
    assert rates[0] > FPS / 2


def bench_plan_reaches_job(start, record) -> None:
    system = start(1, ["first", "second"], "bikes.mp4")
    tasks, edge = ["first", "second"], system.nodes["edge0"]
    plans = [plan(system, tasks, ["edge0", "edge0"], 25, size) for size in ("240x136", "320x180")]
    query = system.submit("edge0", 0, tasks, policy="static", plan=plans[0])
    system.wait_results(query, 25)
    chance, pause, found_s = random.Random(7), threading.Event(), []
    for number in range(2, PLANS + 2):
        pause.wait(chance.uniform(0, 0.1))
        mark, begin_ns = len(edge.log), time.monotonic_ns()
        system.cloud.post("/query/update_prev_plan", {"job_uid": query, **plans[(number + 1) % 2]})
        told_ns = edge.wait_for(f"job {query} follows plan {number}$", mark)[0]
        found_s.append((told_ns - begin_ns) / 1e9)
    record(line("system.plan_reaches_job", "plan by REST to the job on another node",
                "the 50 ms that are allowed", found_s, ALLOWED_S))  # fmt: skip


def bench_migration(start, record) -> None:
    from comparison import quantile

    system = start(1, ["first", "second"], "bikes.mp4")
    tasks = ["first", "second"]
    here, there = (plan(system, tasks, ["edge0", at], 25, "240x136") for at in ("edge0", "cloud"))
    query = system.submit("edge0", 0, tasks, policy="static", plan=here)
    system.wait_results(query, 50)
    for turn in range(MIGRATIONS):
        order = {"job_uid": query, **(there, here)[turn % 2]}
        system.cloud.post("/query/update_prev_plan", order)
        moved = system.wait_newest(query, lambda frame, turn=turn: frame["plan"] == turn + 2)
        system.wait_results(query, 25, after=moved["n_loop"])
    frames = list(system.results(query))
    assert [frame["n_loop"] for frame in frames] == list(range(1, len(frames) + 1))
    assert {b["seq"] - a["seq"] for a, b in itertools.pairwise(frames)} == {1}
    assert system.drops(query) == {}
    later_s, elsewhere_s, late = [], [], []
    for number in range(2, MIGRATIONS + 2):
        start_at = next(i for i, frame in enumerate(frames) if frame["plan"] == number)
        delays = [frame["delay"] for frame in frames[start_at - 12 : start_at + 24]]
        usual_s = max(statistics.median(delays[:10]), statistics.median(delays[-10:]))
        later_s.append(max(max(delays[10:16]) - usual_s, 0.0))
        elsewhere_s.append(max(max(delays[2:8]) - usual_s, 0.0))
        late.append(sum(delay - usual_s > GAP_S for delay in delays[10:16]))
    print(f"\nframes later than by a gap: {late}; without a change the latest of six frames is "
          f"{quantile(elsewhere_s, 0.5) * 1e3:.1f} ms later, p99 "
          f"{quantile(elsewhere_s, 0.99) * 1e3:.1f} ms")  # fmt: skip
    record(line("system.migration", "delay that a task's move adds", "the gap of two frames",
                later_s, GAP_S))  # fmt: skip
