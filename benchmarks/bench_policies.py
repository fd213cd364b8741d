"""What a decision costs: 9 resolutions, 8 rates, 2 models, 3 tasks, 9 nodes; 419,904 candidates.

A decision is all that a policy does between question and answer: reading what was measured and
remembered, correcting the prediction, searching, and the explanation with its alternatives. It is
CPU time of one thread, held against a budget of 1 ms: for the first plan; for a look that finds all
in order; for the look that besides searches for something better, one of three; and for a plan that
misses its bound.

Beside it the search alone, against one that predicts every candidate one by one, with the same
arithmetic; of that a part is timed and scaled to all, for it takes half a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, product

import pytest
from comparison import Comparison, quantile

from vdag.control.policies import BUILT_IN
from vdag.control.prediction import Aim, Candidate, Outlook, Tables, predict_on, search
from vdag.control.profile import Cost, Profile
from vdag.control.scheduling.events import NodeInfo, ServiceInfo, VideoInfo
from vdag.control.scheduling.instructions import Question
from vdag.control.scheduling.surroundings import Snapshot
from vdag.graph import Graph
from vdag.plan import Constraint, Plan
from vdag.sampling import RESOLUTIONS

TASKS = ("face_detection", "face_alignment", "car_detection")
EDGES, SERVERS = 5, 4
BUDGET_S = 0.001
ROUNDS = 200
TIMED = 2_000
ALL = len(RESOLUTIONS) * 8 * 2 ** len(TASKS) * (EDGES + SERVERS) ** len(TASKS)


class Fleet(Snapshot):
    """Nodes with a profile."""

    profile = Profile()


for _task, _seconds in zip(TASKS, (0.06, 0.03, 0.09), strict=True):
    for _name, (_width, _height) in RESOLUTIONS.items():
        for _model in (0, 1):
            for _role, _factor in (("edge", 1.0), ("cloud", 0.25)):
                _took = _seconds * _factor * (0.5 if _model else 1) * _width * _height / 2_073_600
                Fleet.profile.put_cost(_task, _model, _name, Cost(_took, 1.3 * _took), _role)


def node(number: int) -> NodeInfo:
    ip, is_server = f"10.0.0.{number + 1}", number >= EDGES
    return NodeInfo(
        f"{ip}:5001",
        ip,
        "cloud" if is_server else "edge",
        services={task: ServiceInfo(4 if is_server else 2, (0, 1)) for task in TASKS},
        landing=f"tcp://{ip}:5020",
        resources={"cpu_ratio": [10.0] * (16 if is_server else 4)},
    )


def question(delay: float = 0.3) -> Question:
    fleet = tuple(node(number) for number in range(EDGES + SERVERS))
    roles = {"host": {fleet[0].ip: {}}, "cloud": {each.ip: {} for each in fleet[EDGES:]}}
    around = Fleet(fleet, roles)
    return Question(
        "GLOBAL_ID_1",
        Graph.chain(*TASKS).to_dag(),
        around,
        constraint=Constraint.from_document({"delay": delay, "accuracy": 0.9}),
        now_s=100.0,
        video=VideoInfo("people", 1920, 1080, 30.0),
    )


def running(policy: str, p95_s: float) -> Question:
    """A query that has run for a minute, and measures this."""
    asked = question()
    answer = BUILT_IN[policy].answer(asked)
    plan = Plan.from_documents(TASKS, answer.video_conf, answer.flow_mapping, number=1)
    parts = dict.fromkeys(TASKS, p95_s / 4)
    runtime = {
        "delay": 0.9 * p95_s, "delay_p50": 0.9 * p95_s, "delay_p95": p95_s, "frames": 200,
        "window_s": 10.0, "fps": plan.video_conf.fps, "dropped": 0, "obj_n": 8.0,
        "plan_result": {"process_delay": parts, "queue_delay": dict.fromkeys(TASKS, 0.001),
                        "transfer_delay": dict.fromkeys(TASKS, 0.002)},
        "home_delay": 0.002,
    }  # fmt: skip
    return replace(
        asked, previous=plan, measured=1, runtime_info=runtime, memory=answer.memory or {},
        now_s=160.0, cause="period",
    )  # fmt: skip


def seconds(function: Callable[[], object]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def line(name: str, subject: str, against: str, base_s: float, took_s: list[float]) -> Comparison:
    p50 = quantile(took_s, 0.5)
    return Comparison(
        f"policies.{name}", subject, against, round(base_s / p50, 1),
        round(p50 * 1e3, 4), round(quantile(took_s, 0.99) * 1e3, 4), "ms", len(took_s),
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["predictive", "pid", "cold_start", "reference"])
@pytest.mark.parametrize("case", ["first", "fine", "better", "late"])
def bench_decision(record, policy, case):
    asked = question() if case == "first" else running(policy, 0.4 if case == "late" else 0.15)
    if case == "fine" and policy == "predictive":
        asked = replace(asked, memory={**asked.memory, "extra": {"looked_s": 159.0}})
    decide = BUILT_IN[policy].answer
    took_s = [seconds(lambda: decide(asked)) for _ in range(ROUNDS)]
    record(line(f"{policy}_{case}", f"{policy}, {case}", "a budget of 1 ms", BUDGET_S, took_s))


def bench_search(record):
    outlook = Outlook(question())
    aim = Aim(outlook.bound_s, 0.9)

    def by_search() -> None:
        search(Tables(Outlook(outlook.question)), aim)

    def one_by_one() -> None:
        for candidate in islice(every_candidate(), TIMED):
            predict_on(candidate, outlook)

    took_s = [seconds(by_search) for _ in range(ROUNDS)]
    base_s = quantile([seconds(one_by_one) for _ in range(5)], 0.5) * ALL / TIMED
    record(line("search", "search", f"{ALL:,} predictions one by one", base_s, took_s))


def every_candidate():
    names = [node(number).node_addr for number in range(EDGES + SERVERS)]
    for resolution, fps in product(RESOLUTIONS, (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)):
        for models in product((0, 1), repeat=len(TASKS)):
            for placed in product(names, repeat=len(TASKS)):
                yield Candidate(
                    resolution,
                    fps,
                    "JPEG",
                    dict(zip(TASKS, models, strict=True)),
                    dict(zip(TASKS, placed, strict=True)),
                )
