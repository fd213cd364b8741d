from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from vdag.control.simulation import Scenario, simulate
from vdag.control.simulation.retracing import profile_of_trace, scenario_of_trace
from vdag.control.simulation.traces import (
    Parts,
    Trace,
    TraceFrame,
    TracePlan,
    TraceRuntime,
    joined,
    read_trace,
    write_trace,
)
from vdag.errors import ConfigError

EDGE, CLOUD = "10.0.0.1:5001", "10.0.0.9:5001"
RATE, LATENCY_S, NBYTES = 2_000_000.0, 0.003, 60_000.0
COMPUTE_S = 0.02


def trace(**changes: Any) -> Trace:
    """Twenty seconds of a query whose task is on a server behind a link of 16 Mbit/s."""
    chance = random.Random("trace")
    conf = {"resolution": "480p", "fps": 10, "encoder": "JPEG"}
    place = {"model_id": 0, "node_role": "cloud", "node_addr": CLOUD}
    coding_s = 640 * 480 * 8e-9
    ways_s = NBYTES / RATE + 2 * LATENCY_S + coding_s
    frames = []
    for seq in range(200):
        objects = 3.0 if seq < 100 else 9.0
        compute_s = COMPUTE_S * chance.lognormvariate(0, 0.1) + 0.001 * objects
        parts = {"face_detection": Parts(ways_s / 2, 0.0, compute_s, 7 + seq % 2)}
        delay_s = ways_s + compute_s
        frames.append(TraceFrame(seq / 10 + delay_s, seq, 1, delay_s, objects, 900.0, parts))
    runtimes = [
        TraceRuntime(
            float(second),
            {
                "plan_number": 1,
                "data_trans_size": {"face_detection": NBYTES},
                "plan_result": {"transfer_delay": {"face_detection": ways_s / 2}},
                "home_delay": ways_s / 2,
                "obj_speed": 80.0,
            },
        )
        for second in range(1, 20)
    ]
    known: dict[str, Any] = {
        "query_id": "GLOBAL_ID_1",
        "node_addr": EDGE,
        "dag": {"flow": ["face_detection"]},
        "constraint": {"delay": 0.3, "accuracy": 0.5},
        "duration_s": 20.0,
        "plans": (TracePlan(0.0, 1, conf, {"face_detection": place}),),
        "frames": tuple(frames),
        "runtimes": tuple(runtimes),
    }
    return Trace(**{**known, **changes})


def test_a_trace_that_was_written_is_read_as_the_same(tmp_path: Path):
    path = tmp_path / "trace.json"
    write_trace(trace(), path)
    assert read_trace(path) == trace()


def test_a_scenario_has_the_nodes_the_link_and_the_scene_of_its_trace(tmp_path: Path):
    path = tmp_path / "trace.json"
    write_trace(trace(), path)
    scenario = Scenario.from_trace(path)
    edge, cloud = scenario.nodes
    assert (edge.name, cloud.name, cloud.role) == (EDGE, CLOUD, "cloud")
    assert cloud.services["face_detection"].workers == 2  # so many were seen
    link = scenario.links[0]
    assert set(link.between) == {EDGE, CLOUD}
    assert link.mbit == pytest.approx(RATE * 8e-6, rel=0.2)
    assert [phase.objects for phase in scenario.queries[0].scene.phases] == [3.0, 9.0]
    assert scenario.queries[0].scene.phases[1].at_s == 10.0
    assert scenario.queries[0].scene.phases[0].speed == 80.0


def test_a_simulation_of_a_trace_has_its_delays():
    recorded = trace()
    outcome = simulate(
        scenario_of_trace(recorded), "static", profile=lambda: profile_of_trace(recorded)
    )
    for second, objects in ((5, 3), (15, 9)):
        simulated = next(w for w in outcome.queries[0].windows if int(w.start_s) == second)
        seen = sorted(
            frame.delay for frame in recorded.frames if second <= frame.seq / 10 < second + 2
        )
        assert objects in {frame.obj_n for frame in recorded.frames}
        assert simulated.delay_p95 == pytest.approx(seen[int(0.95 * len(seen))], rel=0.15)


def test_links_are_told_by_messages_of_two_sizes():
    def runtime(at_s: float, number: int, nbytes: float, pixels: int) -> TraceRuntime:
        both_s = nbytes / RATE + 2 * LATENCY_S + pixels * 8e-9
        document = {
            "plan_number": number,
            "data_trans_size": {"face_detection": nbytes},
            "plan_result": {"transfer_delay": {"face_detection": both_s / 2}},
            "home_delay": both_s / 2,
        }
        return TraceRuntime(at_s, document)

    first = trace().plans[0]
    larger = TracePlan(5.0, 2, {**first.video_conf, "resolution": "720p"}, first.flow_mapping)
    runtimes = [runtime(float(i), 1, NBYTES, 640 * 480) for i in range(5)]
    runtimes += [runtime(5.0 + i, 2, 3 * NBYTES, 1280 * 720) for i in range(5)]
    link = scenario_of_trace(trace(plans=(first, larger), runtimes=tuple(runtimes))).links[0]
    assert link.mbit == pytest.approx(RATE * 8e-6, rel=0.01)
    assert link.latency_ms == pytest.approx(1e3 * LATENCY_S, rel=0.01)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", r"trace.json is not JSON: "),
        ("{}", r"trace.json: object missing required field query_id$"),
        ('{"query_id": 1}', r"trace.json: query_id: expected str, got int$"),
    ],
)
def test_files_that_are_no_trace_are_refused(tmp_path: Path, text: str, error: str):
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=error):
        read_trace(path)


def test_a_trace_without_a_frame_is_refused(tmp_path: Path):
    path = tmp_path / "trace.json"
    write_trace(trace(frames=()), path)
    with pytest.raises(ConfigError, match=r"trace.json has 1 plans and 0 frames$"):
        read_trace(path)


def test_a_plan_that_is_none_is_refused():
    broken = TracePlan(0.0, 1, {"resolution": "480p", "fps": 0}, {})
    with pytest.raises(ConfigError, match=r"^trace of GLOBAL_ID_1: "):
        scenario_of_trace(trace(plans=(broken,)))


def test_traces_of_several_runs_are_joined_to_one_of_all_their_plans():
    first, second = trace(), trace(query_id="GLOBAL_ID_2")
    plan = second.plans[0]
    second = replace(second, plans=(plan, replace(plan, number=4)))
    whole = joined([first, second])
    assert [plan.number for plan in whole.plans] == [1, 2, 3]
    assert whole.duration_s == 40.0
    assert [frame.plan for frame in whole.frames] == [1] * 200 + [2] * 200
    assert whole.frames[200].at_s == pytest.approx(first.frames[0].at_s + 20.0)
    assert {each.runtime["plan_number"] for each in whole.runtimes} == {1, 2}
    assert scenario_of_trace(whole).links == scenario_of_trace(first).links


def test_only_traces_of_the_same_tasks_are_joined():
    other = trace(query_id="GLOBAL_ID_2", node_addr=CLOUD)
    with pytest.raises(ConfigError) as error:
        joined([trace(), other])
    assert str(error.value) == "traces of GLOBAL_ID_1 and GLOBAL_ID_2 are of other tasks"
    with pytest.raises(ConfigError) as error:
        joined([])
    assert str(error.value) == "there is no trace to join"


def test_branches_of_a_graph_leave_from_home_each():
    away = {"model_id": 0, "node_role": "cloud", "node_addr": CLOUD}
    image = {"image": "SingleFrameGenerator.image"}
    tasks = "car_detection", "face_detection"
    conf = {"resolution": "480p", "fps": 10, "encoder": "JPEG"}
    parts = Parts(0.04, 0.0, COMPUTE_S)
    plain = trace()
    branched = replace(
        plain,
        dag={"flow": list(tasks), "input": dict.fromkeys(tasks, image)},
        plans=(TracePlan(0.0, 1, conf, dict.fromkeys(tasks, away)),),
        frames=tuple(replace(frame, tasks=dict.fromkeys(tasks, parts)) for frame in plain.frames),
        runtimes=tuple(
            TraceRuntime(
                second,
                {
                    "plan_number": 1,
                    "data_trans_size": dict.fromkeys(tasks, NBYTES),
                    "plan_result": {"transfer_delay": dict.fromkeys(tasks, 0.02)},
                    "home_delay": 0.02,
                },
            )
            for second in (1.0, 2.0)
        ),
    )
    assert branched.branches == (("car_detection",), ("face_detection",))
    chain = replace(branched, dag={"flow": list(tasks)})
    assert chain.branches == (tasks,)
    found = scenario_of_trace(branched)
    assert found.queries[0].branches == branched.branches
    outcome = simulate(found, "static", profile=lambda: profile_of_trace(branched))
    assert outcome.queries[0].books.delivered > 100


def test_a_graph_that_is_none_is_refused(tmp_path: Path):
    path = tmp_path / "trace.json"
    image = {"image": "nowhere"}
    write_trace(trace(dag={"flow": ["face_detection"], "input": {"face_detection": image}}), path)
    with pytest.raises(ConfigError, match="^" + str(path)):
        read_trace(path)
