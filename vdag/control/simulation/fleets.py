"""Scenarios that are drawn: fleets of any size, what they see, and what happens to them."""

from __future__ import annotations

import random

from vdag.control.simulation.scenario import (
    NodeSpec,
    QuerySpec,
    Scenario,
    ScenePhase,
    SceneSpec,
    ServiceSpec,
    Step,
    VideoSpec,
)
from vdag.errors import ConfigError

__all__ = ["random_scenario"]

CHAINS = (
    ("face_detection", "face_alignment"),
    ("car_detection",),
    ("face_detection",),
    ("helmet_detection",),
)
TASKS = ("face_detection", "face_alignment", "car_detection", "helmet_detection")
#: One server for so many edges, and never less than one.
EDGES_PER_SERVER = 8
#: What a user might fix who does not look further, for the policy `static`.
FIXED_CONF = {"resolution": "720p", "fps": 10, "encoder": "JPEG"}
FIXED_NODE = "server0"
#: Nothing changes before, so that plans have settled, nor so shortly before the end.
QUIET_S = 20.0


def random_scenario(
    seed: int, nodes: int = 4, queries: int = 4, *, duration_s: float = 120.0, steps: int = 3
) -> Scenario:
    """Draw a scenario.

    Edges have 2 to 8 cores of half to twice the usual speed, and an access of 10 to 200 Mbit/s;
    servers four times the cores and a Gbit/s. Each query has a camera on an edge, one of four
    chains of tasks, a delay of 0.15 to 1 s and an accuracy of 0.6 to 0.92 to keep, and comes within
    the first ten seconds. Then, at `steps` moments with room between them, cores are halved, a link
    gets thin, a node slow, or a scene fuller, and most of that goes back again.

    Args:
        seed: of all that is drawn.
        nodes: at least 2, one of them a server.
        queries: at least 1.
        duration_s: of the whole.
        steps: things that happen; 0 for none.

    Raises:
        ConfigError: an argument is out of range.
    """
    if nodes < 2 or queries < 1 or steps < 0:
        raise ConfigError(f"{nodes} nodes, {queries} queries, {steps} steps make no fleet")
    chance = random.Random(f"fleet {seed}")
    servers = max(1, nodes // (EDGES_PER_SERVER + 1))
    specs = tuple(
        _server(number, chance) if number < servers else _edge(number - servers, chance)
        for number in range(nodes)
    )
    edges = specs[servers:]
    moments = _moments(duration_s, steps, chance)
    fuller = {
        chance.randrange(queries): at_s for at_s in moments[::3] if queries and len(moments) > 2
    }
    drawn = tuple(
        _query(number, chance.choice(edges).name, fuller.get(number), duration_s, chance)
        for number in range(queries)
    )
    changes: list[Step] = []
    for index, at_s in enumerate(moments):
        if index % 3 or len(moments) <= 2:
            changes += _change(at_s, duration_s, edges, chance)
    return Scenario(
        name=f"fleet {seed}",
        duration_s=duration_s,
        nodes=specs,
        queries=drawn,
        steps=tuple(sorted(changes, key=lambda step: step.at_s)),
    )


def _server(number: int, chance: random.Random) -> NodeSpec:
    cores = float(chance.choice((8, 16, 32)))
    service = ServiceSpec(workers=max(int(cores) // 4, 2), models=(0, 1, 2))
    return NodeSpec(
        name=f"server{number}",
        role="cloud",
        cores=cores,
        speed=round(chance.uniform(0.8, 1.5), 2),
        services=dict.fromkeys(TASKS, service),
        mbit=1000.0,
        latency_ms=round(chance.uniform(0.2, 2.0), 2),
    )


def _edge(number: int, chance: random.Random) -> NodeSpec:
    cores = float(chance.choice((2, 4, 4, 8)))
    service = ServiceSpec(workers=max(int(cores) // 2, 1), models=(0, 1, 2))
    return NodeSpec(
        name=f"edge{number}",
        cores=cores,
        speed=round(chance.uniform(0.5, 2.0), 2),
        services=dict.fromkeys(TASKS, service),
        mbit=float(chance.choice((10, 20, 50, 100, 200))),
        latency_ms=round(chance.uniform(0.5, 10.0), 2),
    )


def _query(
    number: int, node: str, fuller_s: float | None, duration_s: float, chance: random.Random
) -> QuerySpec:
    arrives_s = round(chance.uniform(0.0, min(10.0, duration_s / 4)), 2)
    objects, size = round(chance.uniform(0, 12), 1), round(chance.uniform(2_000, 60_000))
    speed = round(chance.uniform(0, 600))
    phases = [ScenePhase(objects=objects, size=size, speed=speed)]
    if fuller_s is not None:
        at_s = max(fuller_s - arrives_s, 1.0)
        phases.append(ScenePhase(at_s=at_s, objects=3 * objects + 1, size=size, speed=speed))
    tasks = chance.choice(CHAINS)
    return QuerySpec(
        name=f"query{number}",
        node=node,
        tasks=tasks,
        delay_s=round(chance.uniform(0.15, 1.0), 2),
        accuracy=round(chance.uniform(0.6, 0.92), 2),
        arrives_s=arrives_s,
        video=VideoSpec(fps=float(chance.choice((15, 25, 30)))),
        scene=SceneSpec(phases=tuple(phases)),
        plan={
            "video_conf": dict(FIXED_CONF),
            "flow_mapping": {task: {"model_id": 0, "node_addr": FIXED_NODE} for task in tasks},
        },
    )


def _moments(duration_s: float, steps: int, chance: random.Random) -> list[float]:
    """Draw when things happen, with room between them."""
    room_s = (duration_s - QUIET_S) / max(steps, 1)
    if room_s <= 0:
        return []
    return [round(QUIET_S + room_s * (index + 0.3 * chance.random()), 2) for index in range(steps)]


def _change(
    at_s: float, duration_s: float, edges: tuple[NodeSpec, ...], chance: random.Random
) -> list[Step]:
    """Draw what happens, and whether it goes back again after a while."""
    edge = chance.choice(edges)
    kind = chance.choice(("cores", "mbit", "speed"))
    usual = getattr(edge, kind)
    share = {"cores": 0.5, "mbit": 0.2, "speed": 0.6}[kind]
    steps = [Step(at_s=at_s, node=edge.name, **{kind: usual * share})]
    back_s = at_s + 15.0
    if chance.random() < 0.7 and back_s < duration_s:
        steps.append(Step(at_s=back_s, node=edge.name, **{kind: usual}))
    return steps
