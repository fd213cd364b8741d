"""`calibrate`: taking in what was measured under the plan in force."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from vdag.control.prediction.calibration import (
    LEAST_LINK,
    MOST_LINK,
    QUEUE_FLOOR_S,
    Calibration,
)
from vdag.control.prediction.candidates import Candidate
from vdag.control.prediction.outlook import Outlook
from vdag.control.prediction.predicting import Leg, course_of, stay_at, way, way_home
from vdag.control.prediction.ways import link_time, shares
from vdag.control.scheduling.events import NodeInfo

__all__ = ["MIN_FRAMES", "calibrate"]

#: Of a window, before its means are believed.
MIN_FRAMES = 3.0
#: Of a trip, what is spent on links: less cannot be told from the rest of it.
LEAST_LINK_S = 0.002
#: Use of a link, as predicted, that explains any delay.
OVERFULL = 0.95
#: Halvings of the range in which the ratio of a link is looked for: 5 %, closer than it is known.
STEPS = 6
#: Share of the plan's frames below which a plan's results are held up somewhere.
STARVED = 0.9


def calibrate(present: Candidate, outlook: Outlook, held: Collection[str] = ()) -> Calibration:
    """Return the outlook's calibration with what its question says was measured.

    The runtime must have been measured under `present`, all of whose nodes are alive. The outlook's
    own calibration is brought up to date and returned; predictions made with it before are not.

    Args:
        present: the plan in force.
        outlook: see there.
        held: nodes of which what was learned does not fade.
    """
    kept, seen = outlook.calibration, outlook.measured
    outlook.forget()
    kept.fade(outlook.question.now_s, held)
    if seen.frames < MIN_FRAMES:
        return kept
    plain = outlook.corrected(Calibration())
    nodes = [_node(outlook, present.nodes[task]) for task in outlook.tasks]
    _learn_stays(kept, present, nodes, plain)
    _learn_ways(kept, present, nodes, plain)
    outlook.forget()
    _learn_spread(kept, present, outlook)
    return kept


def _learn_stays(
    kept: Calibration, present: Candidate, nodes: Sequence[NodeInfo], plain: Outlook
) -> None:
    """Work against what the profile says, then waits against what follows from that work.

    Work is that on a frame alone: what a batch takes longer does not make a node slow.
    """
    seen, frames = plain.measured, plain.measured.weight
    for task, node in zip(plain.tasks, nodes, strict=True):
        compute_s, queue_s = seen.compute_s.get(task, 0.0), seen.queue_s.get(task)
        cost = plain.cost(task, present.models[task], present.resolution, node)
        batch = seen.batch.get(task, 1.0)
        single_s = compute_s / cost.stretch(batch)
        if compute_s:
            stay = stay_at(present, task, node, plain)
            ratio = single_s * stay.stretch / stay.compute_s
            kept.learn_compute(task, node.node_addr, ratio, frames)
        if queue_s is not None:
            ratio = kept.compute_ratio(task, node.node_addr)
            stay = stay_at(present, task, node, plain, ratio)
            if batch > 1.0:  # what larger batches than the load explains take is a wait, too
                queue_s += max(compute_s - single_s * stay.stretch, 0.0)
            ratio = (queue_s + QUEUE_FLOOR_S) / (stay.queue_s + QUEUE_FLOOR_S)
            kept.learn_queue(task, node.node_addr, ratio, frames)


def _learn_ways(
    kept: Calibration, present: Candidate, nodes: Sequence[NodeInfo], plain: Outlook
) -> None:
    """Hand-overs one by one; ways between nodes by trip, from leaving the host to coming back.

    The nodes' clocks differ, so a job knows only how long all ways of a trip took together, and
    tells each an equal share of it, that of the way home among them.
    """
    took_s, host = plain.measured.transfer_s, plain.question.around.host
    if not all(task in took_s for task in plain.tasks):
        return
    for branch in plain.branches:
        trip, sender = _Trip(), host
        for index in branch:
            receiver, seconds = nodes[index], took_s[plain.tasks[index]]
            leg = way(present, sender, receiver, plain)
            if receiver.node_addr == sender.node_addr:
                name, frames = sender.node_addr, plain.measured.weight
                kept.learn_excess(name, name, seconds - leg.mean_s, frames)
            else:
                trip.add(sender.node_addr, receiver.node_addr, leg, seconds)
                if receiver.node_addr == host.node_addr:
                    trip = _learn_trip(kept, present, trip, plain)
            sender = receiver
        if sender.node_addr != host.node_addr:
            home = way_home(present, plain.tasks[branch[-1]], sender, plain)
            share_s = trip.took_s / len(trip.legs)
            trip.add(sender.node_addr, f"{host.node_addr}/home", home, share_s)
            _learn_trip(kept, present, trip, plain)


@dataclass(slots=True)
class _Trip:
    """The ways of a frame that is away: sender, receiver, and what was predicted; what all took."""

    legs: list[tuple[str, str, Leg]] = field(default_factory=list)
    took_s: float = 0.0

    def add(self, sender: str, receiver: str, leg: Leg, took_s: float) -> None:
        self.legs.append((sender, receiver, leg))
        self.took_s += took_s


def _learn_trip(kept: Calibration, present: Candidate, trip: _Trip, plain: Outlook) -> _Trip:
    """Learn from a trip; return an empty one."""
    frames, came = plain.measured.weight, plain.measured.fps or 0.0
    excess_s = trip.took_s - sum(leg.mean_s for _, _, leg in trip.legs)
    nbytes = plain.frame_nbytes(present.resolution, present.encoder)
    links = [(a, b, plain.bandwidth(a, b), leg.use) for a, b, leg in trip.legs if leg.use]
    if any(use > OVERFULL for _, _, _, use in links):
        return _Trip()  # that explains any delay, and the delay says nothing of the link
    loads = [(nbytes / speed, use, plain.sent_by(a).busy / speed) for a, _, speed, use in links]
    link_s = _on_links(loads, 1.0)
    if link_s < LEAST_LINK_S:
        for sender, receiver, _ in trip.legs:
            kept.learn_excess(sender, receiver, excess_s / len(trip.legs), frames)
        return _Trip()
    ratio = _solve(loads, link_s + excess_s)
    for sender, receiver, speed, _ in links:
        if ratio > 2 and 0 < came < STARVED * present.fps:
            # Frames queue up before a link: how many come through is what it carries.
            ratio = min(ratio, speed / (came * nbytes))
        kept.learn_link(sender, receiver, speed, max(ratio, 0.0), frames)
    return _Trip()


def _on_links(loads: Sequence[tuple[float, float, float]], ratio: float) -> float:
    """Return the seconds that a frame is on links which are slower by a ratio.

    Args:
        loads: of each: seconds of the frame's bytes, share that this query takes, and that others
            take.
        ratio: that all these are larger by.
    """
    return sum(link_time(bytes_s * ratio, *shares(own * ratio, others * ratio))[0]
               for bytes_s, own, others in loads)  # fmt: skip


def _solve(loads: Sequence[tuple[float, float, float]], took_s: float) -> float:
    """Return the ratio by which links are slower that explains how long a frame was on them.

    The slower a link, the fuller it is, too: the time rises faster than the ratio.
    """
    low, high = math.log(LEAST_LINK), math.log(MOST_LINK)
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        if _on_links(loads, math.exp(middle)) < took_s:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


def _learn_spread(kept: Calibration, present: Candidate, outlook: Outlook) -> None:
    seen = outlook.measured
    if seen.delay_s is None or seen.delay_p95_s is None or seen.frames < 4 * MIN_FRAMES:
        return
    delay_s, p95_s = course_of(present, outlook).delays(1.0)
    predicted_s = max(p95_s - delay_s, 1e-4)
    kept.learn_spread((seen.delay_p95_s - seen.delay_s) / predicted_s, seen.frames)


def _node(outlook: Outlook, node_addr: str) -> NodeInfo:
    node = outlook.question.around.get(node_addr)
    assert node is not None, "the plan in force is on live nodes"
    return node
