"""Traces of a node that has a CPU quota: made of known work, told back by what was recorded."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest
from msgspec.structs import replace

from vdag.control.simulation import Scenario, simulate
from vdag.control.simulation.cpus import Cpu
from vdag.control.simulation.retracing import profile_of_trace, scenario_of_trace
from vdag.control.simulation.traces import (
    Parts,
    Trace,
    TraceFrame,
    TracePlan,
    TraceQuota,
    TraceStates,
    joined,
)

EDGE, IP = "10.0.0.1:5001", "10.0.0.1"
TASK = "face_detection"
CORES, PERIOD_S, OWN_LOAD = 0.5, 0.1, 0.05
HOP_S, OVERHEAD_S = 0.001, 0.001
SECONDS = 40
#: Resolution to seconds of work.
WORK_S = {"360p": 0.03, "540p": 0.09}
NS = 1_000_000_000


def took_s(work_s: float, chance: random.Random, frame_s: float) -> float:
    """How long work takes that begins at any moment of a period, once its frame was taken in."""
    cpu = Cpu(CORES, own_load=OWN_LOAD, period_ns=round(PERIOD_S * NS))
    cpu.advance(round(chance.random() * PERIOD_S * NS), 0)
    cpu.spend(frame_s)
    return cpu.until_done_ns(1, work_s) / NS


def recorded(
    resolution: str, fps: int, *, told: bool = True, confined: bool = True, frame_s: float = 0.0
) -> Trace:
    """A query that ran at a node; `told` is whether that says what its worker has used.

    A frame costs the node `frame_s` beside what its worker does.
    """
    chance = random.Random(resolution)
    conf = {"resolution": resolution, "fps": fps, "encoder": "JPEG"}
    place = {"model_id": 0, "node_role": "edge", "node_addr": EDGE}
    frames, states = [], []
    for seq in range(SECONDS * fps):
        work_s = WORK_S[resolution] * chance.lognormvariate(0.0, 0.02)
        compute_s = took_s(work_s, chance, frame_s) if confined else work_s
        parts = {TASK: Parts(HOP_S, 0.0, compute_s, 7)}
        delay_s = compute_s + 2 * HOP_S
        frames.append(TraceFrame(seq / fps + delay_s, seq, 1, delay_s, 1.0, 900.0, parts))
    for second in range(SECONDS):
        used_s = second * fps * (WORK_S[resolution] + OVERHEAD_S)
        workers = {"7": 100.0 + used_s} if told else {}
        used_s += second * (fps * frame_s + OWN_LOAD)
        quota = TraceQuota(CORES, PERIOD_S, 2, 500.0 + second, used_s, workers)
        states.append(TraceStates(float(second), (EDGE,), {IP: quota} if confined else {}))
    return Trace(
        query_id="GLOBAL_ID_1",
        node_addr=EDGE,
        dag={"flow": [TASK]},
        duration_s=float(SECONDS),
        plans=(TracePlan(0.0, 1, conf, {TASK: place}),),
        frames=tuple(frames),
        states=tuple(states),
    )


def cost_s(trace: Trace, resolution: str) -> float:
    costs = {(task, size): cost for task, _, size, _, cost in profile_of_trace(trace).costs()}
    return costs[TASK, resolution].compute_s


def p95_s(scenario: Scenario, trace: Trace, resolution: str, fps: int) -> float:
    """The median over seconds of what a simulation foretells for a plan."""
    (query,) = scenario.queries
    assert query.plan is not None
    conf = {"resolution": resolution, "fps": fps, "encoder": "JPEG"}
    # Frames of a camera of this rate fall into all moments of a period.
    spec = replace(
        query, plan={**query.plan, "video_conf": conf}, video=replace(query.video, fps=23.7)
    )
    (found,) = simulate(
        replace(scenario, queries=(spec,)), "static", profile=lambda: profile_of_trace(trace)
    ).queries
    return statistics.median(window.delay_p95 for window in found.windows)


def seen_p95_s(trace: Trace, fps: int) -> float:
    delays = [frame.delay for frame in trace.frames]
    return statistics.median(
        max(delays[start : start + fps]) for start in range(0, len(delays), fps)
    )


def test_the_quota_of_a_node_is_told_by_its_trace():
    (node,) = scenario_of_trace(recorded("540p", 4)).nodes
    assert (node.cores, node.cpu_period_s, node.cpus) == (CORES, PERIOD_S, 2)
    assert node.own_load == pytest.approx(OWN_LOAD, rel=0.1)
    assert node.hop_ms == pytest.approx(1e3 * HOP_S, rel=0.01)


def test_a_node_without_a_quota_has_as_many_cores_as_workers_were_busy():
    (node,) = scenario_of_trace(recorded("540p", 4, confined=False)).nodes
    assert (node.cores, node.cpu_period_s, node.own_load) == (1.0, None, 0.0)


def test_costs_are_the_work_and_not_the_stalls_in_it():
    both = joined([recorded("360p", 4), recorded("540p", 4)])
    # What reading and writing takes is told by 360p, which is not stalled in the median.
    for resolution, work_s in WORK_S.items():
        assert cost_s(both, resolution) == pytest.approx(work_s, rel=0.03)


def test_without_accounts_of_workers_the_work_is_what_explains_the_mean():
    assert cost_s(recorded("540p", 4, told=False), "540p") == pytest.approx(0.09, rel=0.05)


@pytest.mark.parametrize(("resolution", "fps"), [("360p", 4), ("540p", 4)])
def test_a_recorded_plan_is_simulated_as_it_was(resolution: str, fps: int):
    traces = [recorded("360p", 4), recorded("540p", 4)]
    both = joined(traces)
    seen = seen_p95_s(traces[resolution == "540p"], fps)
    assert p95_s(scenario_of_trace(both), both, resolution, fps) == pytest.approx(seen, rel=0.1)


def test_a_resolution_in_between_is_foretold(monkeypatch: pytest.MonkeyPatch):
    both = joined([recorded("360p", 4), recorded("540p", 4)])
    share = (640 * 480 - 480 * 360) / (960 * 540 - 480 * 360)
    monkeypatch.setitem(WORK_S, "480p", 0.03 + share * 0.06)
    seen = seen_p95_s(recorded("480p", 4), 4)
    assert p95_s(scenario_of_trace(both), both, "480p", 4) == pytest.approx(seen, rel=0.1)


def test_what_frames_cost_a_node_beside_its_tasks_is_told_by_their_rates():
    traces = [recorded("360p", 8, frame_s=0.01), recorded("540p", 2, frame_s=0.01)]
    (node,) = scenario_of_trace(joined(traces)).nodes
    assert node.frame_cpu_ms == pytest.approx(1e3 * (0.01 + OVERHEAD_S), rel=0.1)
    assert node.own_load == pytest.approx(OWN_LOAD, rel=0.2)
    (node,) = scenario_of_trace(traces[0]).nodes
    assert node.frame_cpu_ms == 0.0, "at one rate nobody can tell"
    assert node.own_load == pytest.approx(OWN_LOAD + 8 * (0.01 + OVERHEAD_S), rel=0.1)


def test_stalls_by_what_frames_cost_a_node_are_foretold(monkeypatch: pytest.MonkeyPatch):
    both = joined([recorded("360p", 8, frame_s=0.01), recorded("540p", 2, frame_s=0.01)])
    share = (640 * 480 - 480 * 360) / (960 * 540 - 480 * 360)
    monkeypatch.setitem(WORK_S, "480p", 0.03 + share * 0.06)
    seen, found = seen_p95_s(recorded("480p", 4, frame_s=0.01), 4), scenario_of_trace(both)
    assert p95_s(found, both, "480p", 4) == pytest.approx(seen, rel=0.1)
    without = replace(found, nodes=(replace(found.nodes[0], frame_cpu_ms=0.0),))
    assert p95_s(without, both, "480p", 4) < 0.95 * seen


def test_a_few_slow_seconds_do_not_change_what_is_usual():
    quiet = recorded("360p", 8, confined=False)

    def disturbed(frame: TraceFrame) -> TraceFrame:
        if frame.at_s % 10 >= 1.0:
            return frame
        parts: dict[str, Any] = {TASK: replace(frame.tasks[TASK], compute=0.3)}
        return replace(frame, delay=0.3 + 2 * HOP_S, tasks=parts)

    loud = replace(quiet, frames=tuple(map(disturbed, quiet.frames)))
    assert cost_s(loud, "360p") == pytest.approx(cost_s(quiet, "360p"), rel=0.01)
    told = p95_s(scenario_of_trace(loud), loud, "360p", 8)
    assert told == pytest.approx(seen_p95_s(quiet, 8), rel=0.05)
