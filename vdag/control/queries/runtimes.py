"""What nodes measure, from the forms in which they report it to the documents' runtime.

A runtime has `delay`, `obj_n`, `obj_size`, `obj_stable` of a job, `plan_result` with the delays of
its tasks, and whatever else its node says. All functions here are pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

__all__ = ["average", "portrait", "runtime_of_report"]

#: Fields of a report that are not outputs of tasks.
GENERAL = frozenset(
    {
        "bandwidth",
        "cap_fps",
        "data_to_cloud",
        "data_trans_size",
        "delay",
        "end_pipe",
        "exe_plan",
        "process_delay",
        "user_constraint",
    }
)
#: Spread of `obj_n` below which a scene counts as stable, as in the first system.
STABLE_SPREAD = 0.3
#: Use of a limit above which a task is short of it (portrait 0), and below which it has plenty (2).
SHORT, PLENTY = 0.95, 0.5

#: What is larger is no measurement; its square is no number.
LARGEST = 1e100

Document = dict[str, Any]


def runtime_of_report(report: Mapping[str, Any]) -> Document:
    """Return the runtime in what a node posts once per frame.

    Args:
        report: the whole output of every task by its name, `end_pipe` with the delays of the
            frame, and fields beside them.
    """
    tasks = {
        name: output
        for name, output in report.items()
        if name not in GENERAL and isinstance(output, Mapping)
    }
    end = report.get("end_pipe")
    end = end if isinstance(end, Mapping) else {}
    found: Document = {}
    for output in tasks.values():
        found |= _objects(output)
    found |= {
        name: report[name]
        for name in ("bandwidth", "cap_fps", "data_to_cloud", "data_trans_size", "exe_plan")
        if name in report
    }
    for name in ("delay", "process_delay", "frame_id", "n_loop"):
        if name in end:
            found[name] = end[name]
    delays = {
        name: report[name]
        for name in ("delay", "process_delay")
        if isinstance(report.get(name), Mapping)
    }
    if delays:
        found["plan_result"] = delays
    infos = {
        name: output["proc_resource_info"]
        for name, output in tasks.items()
        if isinstance(output.get("proc_resource_info"), Mapping)
    }
    if infos:
        found["proc_resource_info"] = infos
    return found


def average(runtimes: Sequence[Mapping[str, Any]]) -> Document:
    """Return the means of what several runtimes measure; empty for none."""
    found: Document = {}
    for name in ("obj_n", "obj_size", "delay"):
        values = [value for each in runtimes if _is_number(value := each.get(name))]
        if values:
            found[name] = sum(values) / len(values)
    counts = [value for each in runtimes if _is_number(value := each.get("obj_n"))]
    if counts:
        mean = sum(counts) / len(counts)
        spread = math.sqrt(sum((count - mean) ** 2 for count in counts) / len(counts))
        found["obj_stable"] = spread < STABLE_SPREAD
    return found


def portrait(
    runtime: Mapping[str, Any],
    plan: Mapping[str, Any],
    constraint: Mapping[str, Any],
    condition: Mapping[str, Any],
) -> Document:
    """Return the reply of `get_portrait_info`: how a job does, and what its tasks use.

    Args:
        runtime: of the job, newest; empty gives an empty reply.
        plan: the present one's documents.
        constraint: the user's document.
        condition: means of late, see `average`.
    """
    if not runtime:
        return {}
    infos = runtime.get("proc_resource_info")
    infos = infos if isinstance(infos, Mapping) else {}
    resources = {
        task: _resource(info, plan.get("flow_mapping", {}).get(task) or {})
        for task, info in infos.items()
        if isinstance(info, Mapping)
    }
    delay = runtime.get("delay")
    limit = constraint.get("delay")
    limit = limit[-1] if isinstance(limit, list) and limit else limit
    is_late = _is_number(delay) and _is_number(limit) and limit >= 0 and delay > limit
    plan_result = runtime.get("plan_result")
    plan_result = plan_result if isinstance(plan_result, Mapping) else {}
    process_delay = runtime.get("process_delay")
    if process_delay is None and isinstance(parts := plan_result.get("process_delay"), Mapping):
        process_delay = sum(filter(_is_number, parts.values()))
    return {
        "cur_latency": delay,
        "cur_process_latency": process_delay,
        "user_constraint": dict(constraint),
        "if_overtime": bool(is_late),
        "work_condition": {"obj_speed": runtime.get("obj_speed", -1), **condition},
        "conf_portrait": 0 if is_late else 3,
        "available_resource": {info["node_ip"]: _available(info) for info in resources.values()},
        "resource_portrait": resources,
        "resource_info": resources,
        "bandwidth": runtime.get("bandwidth", {}),
        "data_to_cloud": runtime.get("data_to_cloud", 0),
        "data_trans_size": runtime.get("data_trans_size", {}),
        "exe_plan": runtime.get("exe_plan") or dict(plan),
        "delay": plan_result.get("delay", {}),
        "process_delay": plan_result.get("process_delay", {}),
    }


def _objects(output: Mapping[str, Any]) -> Document:
    """Return `obj_n` and `obj_size` of a task's output, as far as they can be told."""
    found: Document = {}
    boxes, counts = output.get("bbox"), output.get("count_result")
    if isinstance(boxes, list):
        found["obj_n"] = len(boxes)
        areas = [
            (box[2] - box[0]) * (box[3] - box[1])
            for box in boxes
            if isinstance(box, list) and len(box) >= 4 and all(map(_is_number, box[:4]))
        ]
        if areas:
            found["obj_size"] = sum(areas) / len(areas)
    elif isinstance(counts, Mapping) and "total" not in counts and "up" not in counts:
        found["obj_n"] = sum(value for value in counts.values() if _is_number(value))
    found |= {
        name: output[name]
        for name in ("obj_n", "obj_size", "obj_speed", "obj_stable")
        if name in output
    }
    return found


def _resource(info: Mapping[str, Any], placed: Mapping[str, Any]) -> Document:
    found: Document = {
        "node_ip": info.get("node_ip") or placed.get("node_ip", ""),
        "node_role": info.get("node_role") or placed.get("node_role", ""),
    }
    for kind in ("cpu", "mem"):
        limit, use = info.get(f"{kind}_util_limit"), info.get(f"{kind}_util_use")
        limit = limit if _is_number(limit) else 1.0
        use = use if _is_number(use) else 0.0
        found[f"{kind}_util_limit"], found[f"{kind}_util_use"] = limit, use
        share = use / limit if limit > 0 else 1.0
        found[f"{kind}_portrait"] = 0 if share >= SHORT else 2 if share <= PLENTY else 1
    return found


def _available(info: Mapping[str, Any]) -> Document:
    return {
        "node_role": info["node_role"],
        "available_cpu": max(0.0, 1.0 - info["cpu_util_use"]),
        "available_mem": max(0.0, 1.0 - info["mem_util_use"]),
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
