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
from vdag.control.prediction.queueing import MAX_BUSY, Z95, gather
from vdag.control.prediction.ways import HOP_S, WAY_S, codec_s, finite, link_time, shares
from vdag.control.scheduling.events import NodeInfo
from vdag.control.scheduling.instructions import Question
from vdag.errors import PlanError

__all__ = [
    "FILLED",
    "LEAST_WORK_S",
    "Course",
    "Leg",
    "Stay",
    "accuracy_of",
    "course_of",
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
    """A way: mean seconds and their variance.

    Attributes:
        use: share of the sender's uplink that it takes.
        share: that this query may take.
    """

    mean_s: float
    var_s2: float
    use: float
    share: float = FULL


class Stay(NamedTuple):
    """A frame at a task: means and variances of wait and work.

    Attributes:
        own: workers that this query would keep busy.
        share: how many it may.
        utilisation: of the workers, by all queries.
        stretch: how many times as long work takes as on a frame alone, for it is in a batch.
    """

    queue_s: float
    queue_var_s2: float
    compute_s: float
    compute_var_s2: float
    own: float
    share: float
    utilisation: float
    stretch: float = 1.0


class Course(NamedTuple):
    """A frame on its way through the tasks of a candidate; without what it means for others.

    Attributes:
        nodes: of the tasks, in their order.
        stays: there.
        legs: the ways to them.
        homes: per branch, the way home.
        branches: indexes of the tasks of each.
    """

    nodes: Sequence[NodeInfo]
    stays: Sequence[Stay]
    legs: Sequence[Leg]
    homes: Sequence[Leg]
    branches: Sequence[Sequence[int]]

    def delays(self, spread: float) -> tuple[float, float]:
        """Return mean and 95th percentile; `spread`: how much wider delays scatter."""
        stays, legs, delay_s, p95_s = self.stays, self.legs, 0.0, 0.0
        for branch, home in zip(self.branches, self.homes, strict=True):
            mean_s, var_s2 = home.mean_s, home.var_s2
            for i in branch:
                stay, leg = stays[i], legs[i]
                mean_s += leg.mean_s + stay.queue_s + stay.compute_s
                var_s2 += leg.var_s2 + stay.queue_var_s2 + stay.compute_var_s2
            delay_s = max(delay_s, mean_s)
            p95_s = max(p95_s, mean_s + Z95 * spread * math.sqrt(max(var_s2, 0.0)))
        return delay_s, p95_s


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
    course = course_of(candidate, outlook)
    nodes, stays, legs = course.nodes, course.stays, course.legs
    delay_s, p95_s = course.delays(outlook.calibration.spread_ratio)
    links, crowded = _links(nodes, legs, outlook)
    cores, crowding = _crowding(nodes, stays, crowded, outlook)
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
        home_s=max((home.mean_s for home in course.homes), default=0.0),
        workers={
            (node.node_addr, task): stay.utilisation
            for task, node, stay in zip(outlook.tasks, nodes, stays, strict=True)
        },
        nodes=cores,
        links=links,
        crowding=finite(crowding),
    )


def course_of(candidate: Candidate, outlook: Outlook) -> Course:
    """Return how a frame would go, made once for a candidate.

    Raises:
        PlanError: the candidate names a node that is not alive.
    """
    return outlook.once(candidate, _course)


def _course(candidate: Candidate, outlook: Outlook) -> Course:
    nodes = [_node(candidate, task, outlook) for task in outlook.tasks]
    stays = [
        stay_at(candidate, task, node, outlook)
        for task, node in zip(outlook.tasks, nodes, strict=True)
    ]
    return Course(nodes, stays, *_legs(candidate, nodes, outlook), outlook.branches)


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
    own = candidate.fps * (work_s * cost.busy_share)
    busy = min(own, MAX_BUSY * room.total)
    others = max(min(room.others, FULL * room.total - busy), 0.0)
    mean_s, var_s2, stretch = gather(
        work_s, deviation_s**2, room.total, busy, others, cost.busy_share
    )
    waited = outlook.calibration.queue_ratio(task, node.node_addr)
    queue_s = max((mean_s + QUEUE_FLOOR_S) * waited - QUEUE_FLOOR_S, 0.0)
    return Stay(
        queue_s,
        var_s2 * waited * waited,
        work_s * stretch,
        deviation_s**2 * (stretch * stretch),
        own,
        room.share,
        (own + room.others) / room.total,
        stretch,
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
    use, sent = candidate.fps * bytes_s, outlook.sent_by(here)
    others = sent.busy * bytes_s / nbytes
    mean_s, var_s2 = link_time(bytes_s, *shares(use, others))
    fixed_s = WAY_S + codec_s(candidate.resolution, candidate.encoder)
    share = max(FULL - others, FULL / (sent.queries + 1))
    return Leg(max(fixed_s + mean_s + excess_s, 0.0), var_s2 + WAY_S * WAY_S, use, share)


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


def _links(
    nodes: Sequence[NodeInfo], legs: Sequence[Leg], outlook: Outlook
) -> tuple[dict[str, float], float]:
    """Return the use of each sender's uplink, and the largest ratio of use to what may be used.

    All links of a sender are one wire at its end.
    """
    links: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for branch in outlook.branches:
        sender = outlook.question.around.host
        for index in branch:
            name, leg = sender.node_addr, legs[index]
            if leg.use:
                links[name] = links.get(name, 0.0) + leg.use
                ratios[name] = ratios.get(name, 0.0) + leg.use / leg.share
            sender = nodes[index]
    return links, max(ratios.values(), default=0.0)


def _crowding(
    nodes: Sequence[NodeInfo], stays: Sequence[Stay], worst: float, outlook: Outlook
) -> tuple[dict[str, float], float]:
    """Return the use of each node's cores, and the largest ratio of use to what may be used.

    Args:
        nodes: of the tasks.
        stays: there.
        worst: ratio of the uplinks.
        outlook: see there.
    """
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
