"""`predict`: how a candidate would go, by the model that docs/scheduling.md explains.

This is the model in plain words, one candidate at a time. `tables` has the same arithmetic for all
candidates at once; tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from vdag.control.prediction.calibration import QUEUE_FLOOR_S
from vdag.control.prediction.candidates import Candidate, Prediction, TaskPrediction
from vdag.control.prediction.outlook import FULL, Outlook
from vdag.control.prediction.queueing import MAX_BUSY, Z95, wait_at
from vdag.control.prediction.ways import HOP_S, MAX_LINK, WAY_S, codec_s, finite, link_time
from vdag.control.scheduling.events import NodeInfo
from vdag.control.scheduling.instructions import Question
from vdag.errors import PlanError

__all__ = [
    "FILLED",
    "LEAST_WORK_S",
    "Leg",
    "Stay",
    "accuracy_of",
    "predict",
    "predict_on",
    "stay_at",
    "way",
    "way_home",
]

#: A job has one frame under way per task and one more; of these, what plans count on, as frames
#: do not come as evenly as that.
FILLED = 0.9
#: No work takes less; keeps ratios finite.
LEAST_WORK_S = 1e-6


class Leg(NamedTuple):
    """A way: mean seconds, their variance, and the share of the sender's uplink that it takes."""

    mean_s: float
    var_s2: float
    use: float


class Stay(NamedTuple):
    """A frame at a task: means and variances of wait and work.

    Attributes:
        own: workers that this query would keep busy.
        share: how many it may.
        utilisation: of the workers, by all queries.
    """

    queue_s: float
    queue_var_s2: float
    compute_s: float
    compute_var_s2: float
    own: float
    share: float
    utilisation: float


def predict(candidate: Candidate, question: Question) -> Prediction:
    """Return how a candidate would go, not corrected by anything measured.

    Raises:
        PlanError: it names a node that is not alive.
    """
    return predict_on(candidate, Outlook(question))


def predict_on(candidate: Candidate, outlook: Outlook) -> Prediction:
    """Return how a candidate would go, corrected by the outlook's calibration.

    Raises:
        PlanError: it names a node that is not alive.
    """
    nodes = [_node(candidate, task, outlook) for task in outlook.tasks]
    stays = [
        stay_at(candidate, task, node, outlook)
        for task, node in zip(outlook.tasks, nodes, strict=True)
    ]
    legs, homes = _legs(candidate, nodes, outlook)
    spread = outlook.calibration.spread_ratio
    delay_s = p95_s = home_s = 0.0
    for branch, home in zip(outlook.branches, homes, strict=True):
        mean_s = home.mean_s + sum(
            legs[i].mean_s + stays[i].queue_s + stays[i].compute_s for i in branch
        )
        var_s2 = home.var_s2 + sum(
            legs[i].var_s2 + stays[i].queue_var_s2 + stays[i].compute_var_s2 for i in branch
        )
        delay_s, home_s = max(delay_s, mean_s), max(home_s, home.mean_s)
        p95_s = max(p95_s, mean_s + Z95 * spread * math.sqrt(max(var_s2, 0.0)))
    links = _links(nodes, legs, outlook)
    cores, crowding = _crowding(nodes, stays, links, outlook)
    crowding = max(crowding, candidate.fps * delay_s / (FILLED * (len(nodes) + 1)))
    return Prediction(
        delay_s=delay_s,
        delay_p95_s=p95_s,
        accuracy=accuracy_of(candidate, outlook),
        fps=candidate.fps / max(crowding, 1.0),
        tasks={
            task: TaskPrediction(node.node_addr, leg.mean_s, stay.queue_s, stay.compute_s)
            for task, node, leg, stay in zip(outlook.tasks, nodes, legs, stays, strict=True)
        },
        home_s=home_s,
        workers={
            (node.node_addr, task): stay.utilisation
            for task, node, stay in zip(outlook.tasks, nodes, stays, strict=True)
        },
        nodes=cores,
        links=links,
        crowding=finite(crowding),
    )


def accuracy_of(candidate: Candidate, outlook: Outlook) -> float:
    """Return the product over the tasks of a branch, and of branches the worst.

    A task was measured on what the golden configuration of the one before had found; what that one
    misses is missing to all that follow.
    """
    worst = 1.0
    for branch in outlook.branches:
        product = 1.0
        for index in branch:
            task = outlook.tasks[index]
            product *= outlook.accuracy(
                task, candidate.models[task], candidate.resolution, candidate.fps
            )
        worst = min(worst, product)
    return worst


def stay_at(
    candidate: Candidate,
    task: str,
    node: NodeInfo,
    outlook: Outlook,
    ratio: float | None = None,
) -> Stay:
    """Return how long a frame would wait for a task on a node, and be worked on.

    Args:
        candidate: that has the task done.
        task: its name.
        node: where.
        outlook: see there.
        ratio: of the work to what the profile says; that of the outlook unless given.
    """
    cost = outlook.cost(task, candidate.models[task], candidate.resolution, node)
    ratio = outlook.work_ratio(task, node.node_addr) if ratio is None else ratio
    obj_n = outlook.measured.obj_n
    work_s = max(cost.mean_s(obj_n) * ratio, LEAST_WORK_S)
    deviation_s = max(cost.compute_p95_s - cost.compute_s, 0.0) * ratio / Z95
    room = outlook.room(task, node)
    own = candidate.fps * work_s
    busy = min(own, MAX_BUSY * room.total)
    others = max(min(room.others, FULL * room.total - busy), 0.0)
    mean_s, var_s2 = wait_at(work_s, deviation_s**2, room.total, busy, others)
    waited = outlook.calibration.queue_ratio(task, node.node_addr)
    queue_s = max((mean_s + QUEUE_FLOOR_S) * waited - QUEUE_FLOOR_S, 0.0)
    return Stay(
        queue_s,
        var_s2 * waited * waited,
        work_s,
        deviation_s**2,
        own,
        room.share,
        (own + room.others) / room.total,
    )


def way(candidate: Candidate, sender: NodeInfo, receiver: NodeInfo, outlook: Outlook) -> Leg:
    """Return how a frame would get from one task to the next."""
    here, there = sender.node_addr, receiver.node_addr
    excess_s = outlook.calibration.excess_s(here, there)
    if here == there:
        return Leg(max(HOP_S + excess_s, 0.0), HOP_S * HOP_S, 0.0)
    bandwidth = outlook.bandwidth(here, there)
    nbytes = outlook.frame_nbytes(candidate.resolution, candidate.encoder)
    bytes_s = nbytes / bandwidth * outlook.calibration.link_ratio(here, there, bandwidth)
    use = candidate.fps * bytes_s
    mean_s, var_s2 = link_time(bytes_s, min(use, MAX_LINK))
    fixed_s = WAY_S + codec_s(candidate.resolution, candidate.encoder)
    return Leg(max(fixed_s + mean_s + excess_s, 0.0), var_s2 + WAY_S * WAY_S, use)


def way_home(candidate: Candidate, task: str, node: NodeInfo, outlook: Outlook) -> Leg:
    """Return how what was found would get home from the last task of a branch."""
    here, host = node.node_addr, outlook.question.around.host.node_addr
    if here == host:
        return Leg(HOP_S, HOP_S * HOP_S, 0.0)
    cost = outlook.cost(task, candidate.models[task], candidate.resolution, node)
    excess_s = outlook.calibration.excess_s(here, f"{host}/home")
    mean_s = WAY_S + cost.out_nbytes / outlook.bandwidth(here, host) + excess_s
    return Leg(max(mean_s, 0.0), WAY_S * WAY_S, 0.0)


def _node(candidate: Candidate, task: str, outlook: Outlook) -> NodeInfo:
    node = outlook.question.around.get(candidate.nodes[task])
    if node is None:
        raise PlanError(f"no live node {candidate.nodes[task]}")
    return node


def _legs(
    candidate: Candidate, nodes: Sequence[NodeInfo], outlook: Outlook
) -> tuple[list[Leg], list[Leg]]:
    """Return the way to each task, and per branch the way home."""
    legs: list[Leg] = [Leg(0.0, 0.0, 0.0)] * len(nodes)
    homes = []
    for branch in outlook.branches:
        sender = outlook.question.around.host
        for index in branch:
            legs[index] = way(candidate, sender, nodes[index], outlook)
            sender = nodes[index]
        homes.append(way_home(candidate, outlook.tasks[branch[-1]], sender, outlook))
    return legs, homes


def _links(nodes: Sequence[NodeInfo], legs: Sequence[Leg], outlook: Outlook) -> dict[str, float]:
    """Return the share of each sender's uplink that is taken: its links are one wire at its end."""
    links: dict[str, float] = {}
    for branch in outlook.branches:
        sender = outlook.question.around.host
        for index in branch:
            if legs[index].use:
                links[sender.node_addr] = links.get(sender.node_addr, 0.0) + legs[index].use
            sender = nodes[index]
    return links


def _crowding(
    nodes: Sequence[NodeInfo], stays: Sequence[Stay], links: dict[str, float], outlook: Outlook
) -> tuple[dict[str, float], float]:
    """Return the use of each node's cores, and the largest ratio of use to what may be used."""
    worst = max((use / FULL for use in links.values()), default=0.0)
    own: dict[str, float] = {}
    for node, stay in zip(nodes, stays, strict=True):
        worst = max(worst, stay.own / stay.share)
        own[node.node_addr] = own.get(node.node_addr, 0.0) + stay.own
    cores = {}
    for name, node in {node.node_addr: node for node in nodes}.items():
        room = outlook.node_room(node)
        if room is not None:
            worst = max(worst, own[name] / room.share)
            cores[name] = (own[name] + room.others) / room.total
    return cores, worst
