"""What a look into the knowledge base costs: policies take thousands of them per decision round.

It is the profile that comes with vdag, and has learned from 100 nodes. Costs and accuracies that
were asked for before are held against a budget of 2 us; those that were not, because a node has
just reported something or a scene is new, against 50 us, and so is the report itself. It is CPU
time, for nothing here waits. Loading the profile is what a controller does once.
"""

from __future__ import annotations

import itertools
import time

import pytest
from comparison import Comparison, quantile, repeat, repetitions

from vdag.control.profile import Profile
from vdag.control.scheduling.events import NodeInfo, ServiceInfo
from vdag.sampling import RESOLUTIONS

TASKS = ("car_detection", "face_alignment", "face_detection", "helmet_detection")
NODES = 100
ROUNDS = 15
FRESH_S, CACHED_S, LOAD_S = 50e-6, 2e-6, 1.0


@pytest.fixture(scope="module")
def nodes() -> list[NodeInfo]:
    services = {task: ServiceInfo(2, (0, 1, 2)) for task in TASKS}
    return [
        NodeInfo(
            f"10.0.0.{number}:5001",
            f"10.0.0.{number}",
            role="cloud" if number % 10 == 0 else "edge",
            services=services,
            resources={"cpu_ratio": [0.0] * 4},
        )
        for number in range(NODES)
    ]


@pytest.fixture
def profile(nodes) -> Profile:
    profile = Profile.default()
    for node, task in itertools.product(nodes, TASKS):
        assert profile.observe(task, 0, "720p", node, 0.1, 0.15, 20)
    return profile


def line(name: str, budget_s: float, times: list[float]) -> Comparison:
    p50 = quantile(times, 0.5)
    return Comparison(
        f"profile.{name}", "vdag", f"a budget of {budget_s * 1e6:g} us", round(budget_s / p50, 1),
        round(p50 * 1e6, 3), round(quantile(times, 0.99) * 1e6, 3), "us", len(times),
    )  # fmt: skip


def measured(function, calls: int = 1) -> list[float]:
    """The seconds of one of the calls that the function makes, in rounds."""
    times = repetitions(function)
    seconds = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        repeat(function, times)
        seconds.append((time.thread_time() - start) / times / calls)
    return seconds


def bench_cost(record, profile, nodes):
    cells = list(itertools.product(TASKS, range(3), RESOLUTIONS, nodes[:10]))

    def look() -> None:
        for cell in cells:
            profile.cost(*cell)

    record(line("cost", CACHED_S, measured(look, len(cells))))
    assert all(profile.cost(*cell) is profile.cost(*cell) for cell in cells)


def bench_cost_after_a_report(record, profile, nodes):
    node = nodes[0]

    def report_and_look() -> None:
        profile.observe("face_detection", 0, "720p", node, 0.1, 0.15, 20)
        for name in RESOLUTIONS:
            profile.cost("face_detection", 0, name, node)

    record(line("cost_after_a_report", FRESH_S, measured(report_and_look, 1 + len(RESOLUTIONS))))
    assert profile.slowdown(node, "face_detection") < 4


def bench_accuracy(record, profile):
    cells = list(itertools.product(TASKS, range(3), RESOLUTIONS, (1, 5, 10, 20, 30)))

    def look() -> None:
        for cell in cells:
            profile.accuracy(*cell, obj_size=2_000.0, obj_speed=120.0)

    record(line("accuracy", CACHED_S, measured(look, len(cells))))
    assert all(0 <= profile.accuracy(*cell) <= 1 for cell in cells)


def bench_accuracy_of_another_scene(record, profile):
    rates = itertools.count(1)

    def look() -> None:
        fps = 1.0 + next(rates) * 1e-6  # never asked for before
        for name in RESOLUTIONS:
            profile.accuracy("face_detection", 0, name, fps, obj_size=2_000.0, obj_speed=120.0)

    record(line("accuracy_of_another_scene", FRESH_S, measured(look, len(RESOLUTIONS))))
    assert profile.accuracy("face_detection", 0, "1080p", 30) > 0.9


def bench_frame_nbytes(record, profile):
    def look() -> None:
        for name in RESOLUTIONS:
            profile.frame_nbytes(name, "JPEG")

    record(line("frame_nbytes", CACHED_S, measured(look, len(RESOLUTIONS))))


def bench_load(record):
    record(line("load", LOAD_S, measured(Profile.default)))
