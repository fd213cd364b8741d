"""`predictive`: what is best by prediction, corrected by what is measured; the default.

At each question it looks whether the plan in force keeps the constraint. If not, it goes at once to
the best plan of all that is predicted to, wherever that is. If so, it tries a better plan only now
and then and only with ample room, goes back if that was an error, and remembers it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdag.control.policies.calling import Answer
from vdag.control.policies.choosing import Choice, best, better, is_there, surer
from vdag.control.policies.explaining import Weighed, answer_with
from vdag.control.policies.judging import FEW_DROPS, Verdict, judge
from vdag.control.policies.standing import BAR_S, MAX_BAR_S, Standing
from vdag.control.prediction import (
    ACCURACY_STEP,
    EPSILON,
    Candidate,
    Found,
    Outlook,
    Tables,
    accuracy_of,
    calibrate,
    predict_on,
    quality,
)
from vdag.control.scheduling.events import VideoInfo
from vdag.control.scheduling.instructions import Question
from vdag.control.scheduling.surroundings import Surroundings
from vdag.plan import Constraint, Plan

__all__ = ["decide", "predictive"]

#: Between two changes for the better, in seconds; doubled with each since the last for the worse,
#: so often.
DWELL_S, MAX_DOUBLINGS = 8.0, 3
#: What is worth a change where all that was asked for is there: steps of accuracy, ratio of rates.
STEPS, FASTER = 2, 1.2
#: Between two searches for something better that have found nothing.
LOOK_S = 5.0
#: Before tasks are moved only because they cost less elsewhere.
HOMESICK_S = 30.0
#: A plan that was tried for its quality has proved itself after this.
TRIAL_S = 20.0
#: After a trial that failed, the least time before the next where what was asked for lacks.
SHORT_S = 8.0
#: After a change, what the scene is like is known in so long.
SEEN_S = 1.5
#: Where nothing keeps the constraint, what another plan has to promise of the measured delay.
WORTH_IT = 0.85
#: Causes that say that other plans may be possible now.
NEWS = frozenset({"constraint", "node back", "node lost", "service gone"})


def predictive(
    job_uid: str,
    dag: Mapping[str, Any],
    around: Surroundings,
    constraint: Constraint,
    video: VideoInfo,
    now_s: float,
    runtime_info: Mapping[str, Any],
    measured: int = 0,
    memory: Mapping[str, Any] | None = None,
    previous: Plan | None = None,
    cause: str = "submitted",
) -> Answer:
    """Return the plan for a query, see the module.

    Raises:
        PlanError: no node offers a task.
    """
    question = Question(
        job_uid,
        dag,
        around,
        runtime_info,
        measured,
        constraint=constraint,
        now_s=now_s,
        memory=memory or {},
        video=video,
        previous=previous,
        cause=cause,
    )
    return decide(question)


def decide(question: Question) -> Answer:
    """Return the answer to a question.

    Raises:
        PlanError: no node offers a task.
    """
    standing = Standing.read(question.memory)
    outlook = Outlook(question, standing.calibration)
    standing.see(outlook)
    if question.previous is None or not is_there(question.previous, outlook):
        return _begin(outlook, standing)
    present = Candidate.of_plan(question.previous)
    if standing.key != present.key:  # the scheduler has moved it off a node that is gone
        standing.settle(present, question.now_s)
    if outlook.is_current:
        calibrate(present, outlook, standing.held(question.now_s))
    outlook.forgiven = standing.forgiven(outlook)
    verdict = judge(present, outlook, standing)
    answer = _follow(present, outlook, standing, verdict)
    if standing.key == present.key:
        standing.remember(outlook)
    return answer._replace(memory=standing.to_document())


def _begin(outlook: Outlook, standing: Standing) -> Answer:
    """Choose without a plan that could be kept."""
    now_s, previous = outlook.question.now_s, outlook.question.previous
    present = {} if previous is None else Candidate.of_plan(previous).nodes
    choice = best(Tables(outlook), present, lambda each: standing.refuses(each, now_s))
    standing.settle(choice.found.candidate, now_s)
    return answer_with(
        choice.found.candidate,
        outlook,
        choice.why,
        weighed=choice.weighed,
        memory=standing.to_document(),
    )


def _follow(present: Candidate, outlook: Outlook, standing: Standing, verdict: Verdict) -> Answer:
    if verdict.kind == "late":
        return _retreat(present, outlook, standing, verdict)
    if verdict.kind == "crowding":
        return _give_way(present, outlook, standing, verdict)
    if verdict.kind == "short":
        return _seek(present, outlook, standing, verdict)
    if verdict.kind == "fine":
        if standing.origin is not None and _age_s(outlook, standing) > TRIAL_S:
            standing.origin, standing.failures = None, 0
        return _improve(present, outlook, standing, verdict)
    return _keep(present, outlook, verdict.why)


def _retreat(present: Candidate, outlook: Outlook, standing: Standing, verdict: Verdict) -> Answer:
    """Leave a plan that misses the bound."""
    now_s, origin = outlook.question.now_s, standing.origin
    standing.bar(present, outlook)
    choice = best(Tables(outlook), present.nodes, lambda each: standing.refuses(each, now_s))
    if origin is not None and _age_s(outlook, standing) <= TRIAL_S and _can_be(origin, outlook):
        lacks = _lacks(accuracy_of(origin, outlook), outlook)
        standing.failures += 1
        pause_s = (SHORT_S if lacks else BAR_S) * 2 ** min(standing.failures - 1, 10)
        standing.hold_s = now_s + min(pause_s, MAX_BAR_S)
        if not lacks or not choice.keeps_delay or _lacks(choice.found.accuracy, outlook):
            why = f"{verdict.why}: back to what did well before, for {pause_s:.0f} s at least"
            return _change(origin, outlook, standing, why, [(present, verdict.why)])
    if choice.keeps_delay or _is_worth_it(choice, outlook):
        why = f"{verdict.why}: {choice.why}"
        weighed = [(present, verdict.why), *choice.weighed]
        return _change(choice.found.candidate, outlook, standing, why, weighed)
    weighed = [(choice.found.candidate, "would hardly be closer"), *choice.weighed]
    return _keep(present, outlook, f"{verdict.why}: {choice.why}", weighed)


def _seek(present: Candidate, outlook: Outlook, standing: Standing, verdict: Verdict) -> Answer:
    """Look for what was asked for, which the scene has put out of reach of the plan."""
    now_s = outlook.question.now_s
    if now_s < standing.hold_s or _age_s(outlook, standing) < SEEN_S:
        return _keep(present, outlook, f"{verdict.why}; too early to try more")
    choice = best(Tables(outlook), present.nodes, lambda each: standing.refuses(each, now_s))
    candidate = choice.found.candidate
    here = accuracy_of(present, outlook)
    if choice.keeps_delay and choice.found.accuracy >= here + STEPS * ACCURACY_STEP:
        why = f"{verdict.why}: {choice.why}"
        weighed = [(present, verdict.why), *choice.weighed]
        return _change(candidate, outlook, standing, why, weighed, origin=present)
    weighed = [(candidate, "hardly better"), *choice.weighed]
    return _keep(present, outlook, f"{verdict.why}: {choice.why}", weighed)


def _give_way(present: Candidate, outlook: Outlook, standing: Standing, verdict: Verdict) -> Answer:
    """Shrink to the fair share of what others have come to need."""
    choice = best(Tables(outlook), present.nodes)
    if choice.keeps_delay and choice.found.candidate.key != present.key:
        why = f"{verdict.why}: {choice.why}"
        return _change(choice.found.candidate, outlook, standing, why, [(present, verdict.why)])
    return _keep(present, outlook, f"{verdict.why}: nothing takes less", choice.weighed)


def _improve(present: Candidate, outlook: Outlook, standing: Standing, verdict: Verdict) -> Answer:
    """Try a better plan, if it is time to and there is one."""
    now_s, age_s = outlook.question.now_s, _age_s(outlook, standing)
    is_news = outlook.question.cause in NEWS
    dwell_s = DWELL_S * 2 ** min(standing.extra.get("climbs", 0.0), MAX_DOUBLINGS)
    if now_s < standing.hold_s or (age_s < dwell_s and not is_news):
        return _keep(present, outlook, f"{verdict.why}; too early to try more", is_kept=True)
    if outlook.measured.drop_share > FEW_DROPS:
        return _keep(present, outlook, f"{verdict.why}, but frames are given up", is_kept=True)
    if now_s < standing.extra.get("looked_s", 0.0) + LOOK_S and not is_news:
        return _keep(present, outlook, verdict.why, is_kept=True)
    standing.extra["looked_s"] = now_s
    found = _better(present, outlook, standing)
    if found is None:
        return _keep(present, outlook, verdict.why, is_kept=True)
    candidate = found.candidate
    gain = _gain(present, candidate, outlook)
    if not gain or (gain == "nearer" and age_s < HOMESICK_S):
        return _keep(present, outlook, verdict.why, [(candidate, "no better")], is_kept=True)
    why = f"{verdict.why}, with room for a plan that is {gain}"
    weighed: list[Weighed] = [
        (present, "kept the constraint"),
        *((c, "") for c in found.runners_up),
    ]
    return _change(candidate, outlook, standing, why, weighed, origin=present)


def _better(present: Candidate, outlook: Outlook, standing: Standing) -> Found | None:
    now_s, tables = outlook.question.now_s, Tables(outlook)

    def refuse(candidate: Candidate) -> bool:
        return standing.refuses(candidate, now_s)

    only = _gains(present, tables, is_homesick=_age_s(outlook, standing) >= HOMESICK_S)
    found = better(tables, present.nodes, refuse, only=only)
    if found is not None or not _is_narrow(accuracy_of(present, outlook), outlook):
        return found
    return surer(tables, present.nodes, refuse, only)


def _gains(present: Candidate, tables: Tables, *, is_homesick: bool) -> NDArray[np.bool_]:
    """Return the configurations for which `_gain` may say something: the rest is not searched."""
    outlook = tables.outlook
    here = accuracy_of(present, outlook)
    steps = np.floor(tables.accuracy / ACCURACY_STEP + EPSILON) - quality(here, math.inf)
    fps = tables.fps[None, :, None]
    gains = (steps >= STEPS) | ((steps >= 0) & (fps >= FASTER * present.fps))
    if _is_narrow(here, outlook):
        gains |= steps > 0
    if is_homesick and _price(present, outlook) > (0, 0):
        gains |= (steps == 0) & (fps == present.fps)
    return np.asarray(gains)


def _gain(present: Candidate, candidate: Candidate, outlook: Outlook) -> str:
    """Say in which way a candidate is better, empty for in none."""
    here, there = accuracy_of(present, outlook), accuracy_of(candidate, outlook)
    steps = quality(there, math.inf) - quality(here, math.inf)
    if steps >= STEPS or (_is_narrow(here, outlook) and there > here and steps > 0):
        return "more accurate"
    if steps >= 0 and candidate.fps >= FASTER * present.fps:
        return "faster"
    is_same = steps == 0 and candidate.fps == present.fps
    return "nearer" if is_same and _price(candidate, outlook) < _price(present, outlook) else ""


def _is_narrow(accuracy: float, outlook: Outlook) -> bool:
    """Whether an accuracy may well be less than was asked for, as far as predictions are right."""
    return outlook.wanted is not None and accuracy < outlook.wanted


def _lacks(accuracy: float, outlook: Outlook) -> bool:
    """Whether an accuracy is less than was asked for."""
    return outlook.asked is not None and accuracy < outlook.asked


def _price(candidate: Candidate, outlook: Outlook) -> tuple[int, int]:
    """Return how many tasks run in the cloud, and how many on other edges."""
    around = outlook.question.around
    away = [addr for addr in candidate.nodes.values() if addr != around.host.node_addr]
    nodes = [around.get(addr) for addr in away]
    cloud = sum(node is not None and node.role == "cloud" for node in nodes)
    return cloud, len(away) - cloud


def _is_worth_it(choice: Choice, outlook: Outlook) -> bool:
    p95_s = outlook.measured.delay_p95_s
    return p95_s is not None and choice.found.p95_s < WORTH_IT * p95_s


def _can_be(candidate: Candidate, outlook: Outlook) -> bool:
    """Whether a plan of before is still possible and predicted to keep the bound."""
    around = outlook.question.around
    if any(around.get(addr) is None for addr in candidate.nodes.values()):
        return False
    predicted = predict_on(candidate, outlook)
    return predicted.fits and predicted.delay_p95_s <= outlook.bound_s


def _age_s(outlook: Outlook, standing: Standing) -> float:
    return outlook.question.now_s - standing.changed_s


def _keep(
    present: Candidate,
    outlook: Outlook,
    why: str,
    weighed: list[Weighed] | None = None,
    *,
    is_kept: bool = False,
) -> Answer:
    return answer_with(present, outlook, why, weighed=weighed or (), is_kept=is_kept)


def _change(
    chosen: Candidate,
    outlook: Outlook,
    standing: Standing,
    why: str,
    weighed: list[Weighed],
    origin: Candidate | None = None,
) -> Answer:
    standing.settle(chosen, outlook.question.now_s, origin)
    climbs = 0.0 if origin is None else standing.extra.get("climbs", 0.0) + 1
    standing.extra["climbs"] = climbs
    return answer_with(chosen, outlook, why, weighed=weighed)
