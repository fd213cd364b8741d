"""Judging: whether a query's plan does what it shall, by what was measured under it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from vdag.control.policies.standing import Standing
from vdag.control.prediction import Candidate, Course, Outlook, accuracy_of, course_of

__all__ = ["FEW_DROPS", "Verdict", "judge", "squeezed"]

#: What a window has to have before its quantiles are believed: frames, or time.
MIN_FRAMES, MIN_WINDOW_S = 10.0, 1.0
#: Frames that are enough where the window says itself that delays have changed with them.
RUN = 5
#: After a change, the first frames still suffer from what was before.
SETTLE_S = 3.0
#: And the window has them in it for so long. As long as the quantile, or the mean with a median
#: that is well within the bound, falls like this from look to look, a plan is recovering.
RECOVER_S, FALLING_P95, FALLING_MEAN, WELL = 12.0, 0.85, 0.95, 0.8
#: Share of frames given up that says that a plan asks too much, and one that says nothing.
MAX_DROPS, FEW_DROPS = 0.2, 0.05
#: Accuracy that may lack: predictions are not better.
LITTLE = 0.003
#: How far a query may be over its share before it gives way; measurements differ by less.
TOLERANCE = 1.15


class Verdict(NamedTuple):
    """What a plan is doing.

    Attributes:
        kind: `unknown`: there is too little to go by; `settling`: it was changed just now;
            `late`: results miss the bound or are not made at all; `crowding`: it takes from others
            what is theirs; `short`: results are less accurate than was asked for; `fine`.
        why: in words.
    """

    kind: Literal["unknown", "settling", "late", "crowding", "short", "fine"]
    why: str


def judge(present: Candidate, outlook: Outlook, standing: Standing) -> Verdict:
    """Return what the plan in force is doing."""
    seen, age_s = outlook.measured, outlook.question.now_s - standing.changed_s
    p95_s = seen.delay_p95_s
    window_s = MIN_WINDOW_S if seen.window_s is None else seen.window_s
    least = RUN if seen.is_changed else MIN_FRAMES
    few = seen.frames < 1 or (seen.frames < least and window_s < MIN_WINDOW_S)
    if not outlook.is_current or p95_s is None or few:
        return Verdict("unknown", "too few frames were measured under this plan")
    accuracy = accuracy_of(_as_it_comes(present, outlook), outlook)
    lacks = outlook.asked is not None and accuracy < outlook.asked - LITTLE
    is_late = p95_s > outlook.bound_s
    # Frames that are given up are no harm in themselves: results may come often enough.
    is_rare = outlook.wanted is None or accuracy < outlook.wanted
    if is_late or (seen.drop_share > MAX_DROPS and is_rare):
        if age_s < SETTLE_S:
            return Verdict("settling", "the plan was changed just now")
        if is_late and age_s < RECOVER_S and _recovers(outlook, standing):
            return Verdict("settling", "delays are on their way down")
        if is_late:
            return Verdict("late", f"95 % within {p95_s:.3g} s, not {outlook.bound_s:.3g} s")
        return Verdict("late", f"{seen.drop_share:.0%} of frames were given up")
    name = squeezed(present, outlook)
    if name:
        return Verdict("crowding", f"others need their share of {name}")
    if lacks:
        return Verdict("short", f"accuracy {accuracy:.3f}, not {outlook.asked:g}")
    return Verdict("fine", "the constraint is kept")


def _as_it_comes(present: Candidate, outlook: Outlook) -> Candidate:
    """Return a plan at the rate of its results, where that is less than it asks for."""
    came = outlook.measured.fps
    if came is None or outlook.measured.drop_share < FEW_DROPS:
        return present
    return replace(present, fps=min(max(came, 0.01), present.fps))


def _recovers(outlook: Outlook, standing: Standing) -> bool:
    seen = outlook.measured
    if seen.delay_s is None or seen.delay_p95_s is None or seen.delay_p50_s is None:
        return False
    if seen.delay_p95_s < FALLING_P95 * standing.p95_s:
        return True
    is_well = seen.delay_p50_s < WELL * outlook.bound_s
    return is_well and seen.delay_s < FALLING_MEAN * standing.delay_s


def squeezed(candidate: Candidate, outlook: Outlook) -> str:
    """Return where a candidate takes more than its share of what others need, empty for nowhere."""
    own: dict[str, float] = {}
    course = course_of(candidate, outlook)
    for task, node, stay in zip(outlook.tasks, course.nodes, course.stays, strict=True):
        addr, busy = node.node_addr, stay.own
        own[addr] = own.get(addr, 0.0) + busy
        room, cores = outlook.room(task, node), outlook.node_room(node)
        if room.queries and busy > TOLERANCE * room.share:
            return f"{task} on {addr}"
        if cores is not None and cores.queries and own[addr] > TOLERANCE * cores.share:
            return addr
    return _squeezed_link(course, outlook)


def _squeezed_link(course: Course, outlook: Outlook) -> str:
    taken: dict[str, float] = {}
    for branch in course.branches:
        sender = outlook.question.around.host.node_addr
        for index in branch:
            leg = course.legs[index]
            if leg.use:
                taken[sender] = taken.get(sender, 0.0) + leg.use / leg.share
            sender = course.nodes[index].node_addr
    for sender, ratio in taken.items():
        if ratio > TOLERANCE and outlook.sent_by(sender).queries:
            return f"the uplink of {sender}"
    return ""
