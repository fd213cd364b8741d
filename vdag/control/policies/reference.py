"""`reference`: the rules that the documents' system runs under, rebuilt from how it behaves.

Baselines for comparison, with the faults that make the comparison worth having; nobody should run
a query under them. `reference` is the scheduler that was active last, latency first by a PID
controller; the others came before or after it. Their faults, as far as they lie in the rules:

- The cold start takes a difference of 0 for none yet, so later candidates that miss the bound
  replace earlier ones that keep it: mostly the closest one that does not is chosen.
- The first task always starts at the host; all in the cloud is never tried.
- Accuracy is predicted to be 0.9 whatever the configuration, but for 0.6 where objects come and go
  and the rate is below 20. Delay is predicted to shrink with the rate.
- A controller is made anew at every look, with the time since its module was loaded in place of
  the time since the last look: so it is a proportional one whose gain grows for ever.
- Where it is fast enough and accurate enough it lowers the rate all the same, down to 1 frame per
  second, as long as the scene is stable. Tasks never go back to the host.

They read what our jobs measure, which is the true delay of a frame. The system that they are from
measured it divided by the frames passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vdag.control.policies.calling import Answer
from vdag.control.policies.ladders import (
    RESOLUTIONS,
    Setup,
    full_rate_s,
    nodes_of,
    read_setup,
    total_delay_s,
)
from vdag.control.prediction.measured import read_number
from vdag.errors import PlanError
from vdag.plan import Constraint, Plan

__all__ = ["reference", "reference_auto_pid", "reference_mogai", "reference_pid"]

KP, KI, KD = 1.0, 0.1, 0.01
#: What the controllers' output is rounded and held to.
MOST_LEVEL = 3
#: Rates of the older schedulers, more than any camera of the documents gives.
OLD_RATES = (24, 30, 60, 120)
#: Mean area of objects, in pixels of the sent frame, above which fewer pixels will do.
LARGE_OBJECTS = 500.0
#: Below this share of full rate accuracy suffers where objects come and go.
STABLE_FPS = 20
#: Of the learning controller: no change below, and one level per so much.
BOUNDARY = 0.08
SLOWEST = 5
#: Of its levels, those above which the rate is changed, and tasks are moved.
RATE_LEVEL, TASK_LEVEL = 5.0, 8.0


def reference(
    dag: Mapping[str, Any],
    resource_info: Mapping[str, Any],
    runtime_info: Mapping[str, Any],
    constraint: Constraint,
    now_s: float,
    memory: Mapping[str, Any] | None = None,
    previous: Plan | None = None,
) -> Answer:
    """Return the next plan: one knob, one step.

    Raises:
        PlanError: a bound lacks, or a runtime has no delay: both end a whole round over there.
    """
    bound_s, asked = _bounds(constraint)
    roles, tasks = nodes_of(resource_info), tuple(dag["flow"])
    started_s = _started_s(memory, now_s)
    kept = {"started_s": started_s}
    if previous is None or not runtime_info:
        return cold_setup(tasks, bound_s, asked).answer(roles, "cold start", kept)
    setup = read_setup(previous, tasks)
    level = _level(bound_s, _delay_s(runtime_info), now_s - started_s)
    stable = runtime_info.get("obj_stable")
    if level > 0:
        changed = _quicken(setup, level, asked, stable)
    elif level < 0:
        changed = _relieve(setup, stable, runtime_info)
    else:
        changed = setup
    return changed.answer(roles, f"level {level:+d}", kept)


def reference_pid(
    dag: Mapping[str, Any],
    resource_info: Mapping[str, Any],
    last_plan_res: Mapping[str, Any],
    constraint: Constraint,
    now_s: float,
    memory: Mapping[str, Any] | None = None,
    previous: Plan | None = None,
) -> Answer:
    """Return the plan of the scheduler before: each level of the output has a knob of its own.

    Raises:
        PlanError: a bound lacks.
    """
    return _levelled(
        dag, resource_info, last_plan_res, constraint, now_s, memory, previous, falls=False
    )


def reference_mogai(
    dag: Mapping[str, Any],
    resource_info: Mapping[str, Any],
    last_plan_res: Mapping[str, Any],
    constraint: Constraint,
    now_s: float,
    memory: Mapping[str, Any] | None = None,
    previous: Plan | None = None,
) -> Answer:
    """Return the plan of its variant: what a level cannot do, the next one does as well.

    Raises:
        PlanError: a bound lacks.
    """
    return _levelled(
        dag, resource_info, last_plan_res, constraint, now_s, memory, previous, falls=True
    )


def reference_auto_pid(
    dag: Mapping[str, Any],
    resource_info: Mapping[str, Any],
    runtime_info: Mapping[str, Any],
    constraint: Constraint,
    memory: Mapping[str, Any] | None = None,
    previous: Plan | None = None,
) -> Answer:
    """Return the plan of the scheduler after, at the gains that it starts to learn from.

    Its integral sums errors without their times. Too fast, the accuracy is raised by moving tasks
    to the cloud; too slow, tasks come back from there: the wrong way round wherever the cloud is
    the faster one. Over there all queries share one integral; here each has its own.

    Raises:
        PlanError: a bound lacks.
    """
    bound_s, asked = _bounds(constraint)
    roles, tasks = nodes_of(resource_info), tuple(dag["flow"])
    if previous is None or not runtime_info:
        return cold_setup(tasks, bound_s, asked).answer(roles, "cold start")
    setup, kept = read_setup(previous, tasks), dict(memory or {})
    delay_s = read_number(runtime_info.get("delay"), 1e6)
    if delay_s is None:
        return setup.answer(roles, "no delay", kept)
    error = bound_s - delay_s
    integral = _finite(kept.get("integral")) + error
    output = KP * error + KI * integral + KD * (error - _finite(kept.get("error")))
    kept = {"integral": min(max(integral, -1e6), 1e6), "error": error}
    why = f"output {output:+.3g}"
    if abs(output) < BOUNDARY:
        return setup.answer(roles, why, kept)
    return (_auto(setup, output) or setup).answer(roles, why, kept)


def cold_setup(
    tasks: tuple[str, ...], bound_s: float, asked: float, rates: tuple[int, ...] | None = None
) -> Setup:
    """Return the first plan; see the module for what is wrong with it."""
    first = Setup(tasks) if rates is None else Setup(tasks, rates=rates)
    best, closest = first, 0.0
    for rate in range(len(first.rates)):
        for resolution in range(len(RESOLUTIONS)):
            for cut in range(1, len(tasks) + 1):
                setup = replace(first, resolution=resolution, rate=rate, cut=cut)
                delay_s = full_rate_s(setup) * setup.fps / 30
                keeps = delay_s < bound_s
                off = abs(asked - accuracy_of(setup, None)) if keeps else abs(bound_s - delay_s)
                if off < closest or not closest:
                    best, closest = setup, off
    return best


def accuracy_of(setup: Setup, stable: Any) -> float:
    """Return the accuracy that they predict."""
    return 0.6 if stable is not None and not stable and setup.fps < STABLE_FPS else 0.9


def _quicken(setup: Setup, level: int, asked: float, stable: Any) -> Setup:
    """Fast enough: more accuracy if it lacks, else less of everything."""
    if accuracy_of(setup, stable) < asked:
        faster = setup.faster() if level >= 2 else None
        return faster or setup.raise_resolution() or setup
    return (setup.slower() if stable is True else None) or setup


def _relieve(setup: Setup, stable: Any, runtime: Mapping[str, Any]) -> Setup:
    """Too slow: the rate if nothing comes and goes, else the pixels if objects are large."""
    size = read_number(runtime.get("obj_size"), 1e9)
    changed = None
    if stable:
        changed = setup.slower()
    elif size is not None and size > LARGE_OBJECTS:
        changed = setup.lower_resolution()
    return changed or setup.offload() or setup.slower() or setup.lower_resolution() or setup


def _levelled(
    dag: Mapping[str, Any],
    resource_info: Mapping[str, Any],
    last_plan_res: Mapping[str, Any],
    constraint: Constraint,
    now_s: float,
    memory: Mapping[str, Any] | None,
    previous: Plan | None,
    *,
    falls: bool,
) -> Answer:
    bound_s, asked = _bounds(constraint)
    roles, tasks = nodes_of(resource_info), tuple(dag["flow"])
    started_s = _started_s(memory, now_s)
    kept = {"started_s": started_s}
    delay_s = total_delay_s(last_plan_res)
    if previous is None or delay_s is None:
        return cold_setup(tasks, bound_s, asked, OLD_RATES).answer(roles, "cold start", kept)
    setup = read_setup(previous, tasks, OLD_RATES)
    level = _level(bound_s, delay_s, now_s - started_s)
    return _apply(setup, level, falls=falls).answer(roles, f"level {level:+d}", kept)


def _apply(setup: Setup, level: int, *, falls: bool) -> Setup:
    """Turn the knob of a level; one that falls through turns the next as well, if none has moved.

    So where it falls through, the lowest level turns two knobs at once.
    """
    changed: Setup | None = None
    for number in (3, 2, 1) if level else ():
        if abs(level) == number or (falls and number < 3 and changed is None):
            now = changed or setup
            changed = (_rise(now, number) if level > 0 else _sink(now, number)) or changed
    return changed or setup


def _rise(setup: Setup, number: int) -> Setup | None:
    return (setup.raise_resolution, setup.faster, setup.bring_back)[number - 1]()


def _sink(setup: Setup, number: int) -> Setup | None:
    return (setup.lower_resolution, setup.slower, setup.offload)[number - 1]()


def _auto(setup: Setup, output: float) -> Setup | None:
    """Turn the knob of a level, or of the next level at which there is something to turn."""
    level = abs(output) / BOUNDARY
    while level <= TASK_LEVEL:
        if level <= RATE_LEVEL:
            changed = setup.raise_resolution() if output >= 0 else setup.lower_resolution()
        elif output >= 0:
            changed = setup.faster()
        else:
            changed = setup.slower() if setup.fps > SLOWEST else None
        if changed is not None:
            return changed
        level += 1
    return setup.offload() if output >= 0 else setup.bring_back()


def _level(bound_s: float, delay_s: float, uptime_s: float) -> int:
    """Return the output of a controller that is new and believes to be as old as its module."""
    uptime_s = max(uptime_s, 1e-3)
    error = bound_s - delay_s
    output = error * (KP + KI * uptime_s + KD / uptime_s)
    return min(max(round(output), -MOST_LEVEL), MOST_LEVEL)


def _started_s(memory: Mapping[str, Any] | None, now_s: float) -> float:
    started_s = read_number((memory or {}).get("started_s"), 1e12)
    return now_s if started_s is None else min(started_s, now_s)


def _bounds(constraint: Constraint) -> tuple[float, float]:
    bound_s, asked = constraint.delay_s[1], constraint.accuracy
    if bound_s < 0 or asked is None:
        raise PlanError("user_constraint lacks delay or accuracy")
    return bound_s, asked


def _delay_s(runtime: Mapping[str, Any]) -> float:
    delay_s = read_number(runtime.get("delay"), 1e6)
    if delay_s is None:
        raise PlanError("runtime_info has no delay")
    return delay_s


def _finite(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) <= 1e6 else 0.0
