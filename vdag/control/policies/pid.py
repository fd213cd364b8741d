"""`pid`: latency first. A PID controller on the relative delay walks a ladder of plans.

The ladder has the configurations that no other beats in both accuracy and work, the cheapest at the
bottom. The controller's output is a place on it, 0 to 1:

    error = SETPOINT - p95 / bound              more than 0: there is room
    output = KP error + integral - KD d(p95 / bound) / dt

The derivative is that of the measurement, so a new bound makes no kick. Time is that of the clock
between two questions, however irregular, and bounded. Within a dead band nothing moves. Whenever
the plan in force is not what the output says, for it is in the band, at an end, waiting, or barred,
the integral is set so that it would be: what has not been carried out is not summed up.

Down it goes at once, up after a dwell, and not where it has failed lately. Where the tasks of a
rung run is left to the prediction, as few moves as possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdag.control.policies.calling import Answer
from vdag.control.policies.choosing import BEYOND, NEVER_ENOUGH, ROOMY, best, is_there
from vdag.control.policies.explaining import answer_with
from vdag.control.policies.judging import FEW_DROPS, Verdict, judge
from vdag.control.policies.standing import BAR_S, MAX_BAR_S, Standing
from vdag.control.prediction import (
    Aim,
    Candidate,
    Config,
    Outlook,
    Tables,
    calibrate,
    ladder,
    place,
)
from vdag.control.scheduling.events import VideoInfo
from vdag.control.scheduling.instructions import Question
from vdag.control.scheduling.surroundings import Surroundings
from vdag.plan import Constraint, Plan

__all__ = ["Controller", "decide", "pid"]

#: What the 95th percentile shall be, over the bound.
SETPOINT = 0.75
#: Gains: per unit of error, per second of it, and per unit of change in a second.
KP, KI, KD = 0.10, 0.12, 0.05
#: Over the bound: below the lower the plan is raised, above the upper it is lowered.
LOW, HIGH = 0.60, 0.95
#: An error counts no more than this, so that one hung frame does not empty the ladder.
MAX_ERROR = 1.0
#: Seconds between two questions as they are counted.
MIN_DT_S, MAX_DT_S = 0.1, 5.0
#: Before the plan is raised, since it was changed; doubled with each rise in a row, so often.
DWELL_S, MAX_DOUBLINGS = 6.0, 3
#: A rise that fails within this is not followed by another for a while, as of `standing.BAR_S`.
TRIAL_S = 20.0
#: What share of the ladder it goes up at once.
MAX_RISE = 0.5


@dataclass(slots=True)
class Controller:
    """The state of one query's controller.

    Attributes:
        integral: see the module.
        value: the measurement last time, over the bound; negative for none.
        at_s: when that was.
    """

    integral: float = 0.0
    value: float = -1.0
    at_s: float = 0.0
    _rest: float = 0.0

    def step(self, value: float, now_s: float) -> float:
        """Return the output for a measurement, 0 to 1."""
        dt_s = min(max(now_s - self.at_s, MIN_DT_S), MAX_DT_S)
        bounded = min(value, SETPOINT + MAX_ERROR)
        error = SETPOINT - bounded
        slope = (bounded - self.value) / dt_s if self.value >= 0 else 0.0
        self.integral += KI * error * dt_s
        self._rest = KP * error - KD * slope
        self.value, self.at_s = bounded, now_s
        return min(max(self.integral + self._rest, 0.0), 1.0)

    def track(self, output: float) -> None:
        """Set the integral so that the latest output would have been this."""
        self.integral = output - self._rest


def pid(
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
        choice = best(Tables(outlook))
        standing.settle(choice.found.candidate, question.now_s)
        answer = answer_with(choice.found.candidate, outlook, choice.why, weighed=choice.weighed)
        return answer._replace(memory=standing.to_document())
    present = Candidate.of_plan(question.previous)
    if standing.key != present.key:
        standing.settle(present, question.now_s)
    if outlook.is_current:
        calibrate(present, outlook, standing.held(question.now_s))
    outlook.forgiven = standing.forgiven(outlook)
    verdict = judge(present, outlook, standing)
    p95_s = outlook.measured.delay_p95_s
    if verdict.kind in ("unknown", "settling") or p95_s is None:
        answer = answer_with(present, outlook, verdict.why)
    else:
        answer = _step(present, outlook, standing, verdict, p95_s / max(outlook.bound_s, 1e-6))
    if standing.key == present.key:
        standing.remember(outlook)
    return answer._replace(memory=standing.to_document())


def _step(
    present: Candidate, outlook: Outlook, standing: Standing, verdict: Verdict, value: float
) -> Answer:
    tables = Tables(outlook).taking(free_only=False)
    rungs = ladder(tables)
    here, top = _rung_of(present, tables, rungs), max(len(rungs) - 1, 1)
    controller = _read(standing, here / top)
    # Frames that are given up have no delay, and others wait elsewhere.
    if verdict.kind in ("late", "crowding"):
        value = max(value, 2 * HIGH)
    output = controller.step(value, outlook.question.now_s)
    wanted = round(output * top)
    chosen, rung, why = present, here, f"{verdict.why}: within the dead band"
    age_s = outlook.question.now_s - standing.changed_s
    if value > HIGH:
        standing.bar(present, outlook)
        if standing.extra.get("rises") and age_s <= TRIAL_S:
            standing.failures += 1
            pause_s = min(BAR_S * 2 ** min(standing.failures - 1, 10), MAX_BAR_S)
            standing.hold_s = outlook.question.now_s + pause_s
        chosen, rung = _lower(present, tables, rungs, min(wanted, here - 1))
        why = f"{verdict.why}: down to rung {rung} of {top}"
    elif value < LOW or verdict.kind == "short":
        if age_s > 5 * BAR_S:
            standing.failures = 0
        why = f"{verdict.why}: there is room, but nothing better in it"
        rises = standing.extra.get("rises", 0.0) if verdict.kind == "fine" else 0.0
        is_early = age_s < DWELL_S * 2 ** min(rises + standing.failures, MAX_DOUBLINGS)
        if outlook.measured.drop_share > FEW_DROPS:
            why = f"{verdict.why}, but frames are given up"
        elif is_early or outlook.question.now_s < standing.hold_s:
            why = f"{verdict.why}: there is room, but it is too early to try more"
        else:
            highest = min(max(wanted, here + 1), here + max(round(MAX_RISE * top), 1), top)
            chosen, rung = _raise(present, tables, rungs, here, highest, standing)
            why = why if chosen is present else f"{verdict.why}: up to rung {rung} of {top}"
    controller.track(rung / top)
    rises = standing.extra.get("rises", 0.0) + (rung > here) if rung >= here else 0.0
    _keep(standing, controller, rises)
    if chosen.key != present.key:
        standing.settle(chosen, outlook.question.now_s)
    inputs = {"output": round(output, 4), "rung": here, "rungs": len(rungs)}
    return answer_with(
        chosen,
        outlook,
        why,
        weighed=[(present, verdict.why)],
        inputs=inputs,
        is_kept=chosen is present and verdict.kind == "fine",
    )


def _lower(
    present: Candidate, tables: Tables, rungs: list[Config], wanted: int
) -> tuple[Candidate, int]:
    """Return the highest rung from `wanted` down that is predicted to keep the bound.

    If none is, the lowest that can be run, wherever it is fastest.
    """
    aim = Aim(tables.outlook.bound_s, present=dict(present.nodes))
    fallback, lowest = present, 0
    for rung in range(max(wanted, 0), -1, -1):
        found, fastest = place(tables, aim, rungs[rung])
        if found is not None:
            return found.candidate, rung
        if fastest is not None:
            fallback, lowest = fastest, rung
    return fallback, lowest


def _raise(
    present: Candidate,
    tables: Tables,
    rungs: list[Config],
    here: int,
    highest: int,
    standing: Standing,
) -> tuple[Candidate, int]:
    """Return the highest rung up to one that there is room for; beyond what was asked for, free."""
    outlook, now_s = tables.outlook, tables.outlook.question.now_s
    asked = NEVER_ENOUGH if outlook.asked is None else outlook.asked
    free = tables.taking(free_only=True)
    for rung in range(highest, here, -1):
        is_beyond = float(tables.accuracy[rungs[rung]]) > asked or outlook.asked is None
        aim = Aim(
            BEYOND * outlook.bound_s,
            crowding=ROOMY if is_beyond else 1.0,
            present=dict(present.nodes),
            refuse=lambda each: standing.refuses(each, now_s),
        )
        found, _ = place(free if is_beyond else tables, aim, rungs[rung])
        if found is not None:
            return found.candidate, rung
    return present, here


def _rung_of(present: Candidate, tables: Tables, rungs: list[Config]) -> int:
    """Return the rung of a plan: its own, else the highest that is no more accurate."""
    names, rates = tables.resolutions, tables.rates
    for rung, (r, f, c) in enumerate(rungs):
        models = {
            task: tables.models[t][tables.combos[c, t]]
            for t, task in enumerate(tables.outlook.tasks)
        }
        if names[r] == present.resolution and rates[f] == present.fps and models == present.models:
            return rung
    accuracy = 1.0
    for task in tables.outlook.tasks:
        accuracy *= tables.outlook.accuracy(
            task, present.models[task], present.resolution, present.fps
        )
    below = [rung for rung, config in enumerate(rungs) if tables.accuracy[config] <= accuracy]
    return max(below, default=0)


def _read(standing: Standing, output: float) -> Controller:
    """Return the controller as it was left, a new one at the present output."""
    kept = standing.extra
    if not {"integral", "value", "at_s"} <= kept.keys():
        return Controller(output)
    return Controller(min(max(kept["integral"], -2.0), 2.0), kept["value"], kept["at_s"])


def _keep(standing: Standing, controller: Controller, rises: float) -> None:
    standing.extra = {
        "rises": rises,
        "integral": controller.integral,
        "value": controller.value,
        "at_s": controller.at_s,
    }
