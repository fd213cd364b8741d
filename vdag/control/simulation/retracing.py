"""From a trace to a scenario, and to the knowledge base of what was seen in it."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from vdag.control.profile import Profile
from vdag.control.profile.costs import pixels_of
from vdag.control.simulation.accounts import accounts_of
from vdag.control.simulation.edges import DECODE_S, ENCODE_S
from vdag.control.simulation.hardware import MAX_MBIT
from vdag.control.simulation.reading import scenario_from_document
from vdag.control.simulation.scenario import Scenario
from vdag.control.simulation.tracecosts import costs_of
from vdag.control.simulation.traces import Trace, TraceFrame, read_trace
from vdag.control.simulation.wires import MBIT
from vdag.plan import Plan, VideoConf

__all__ = ["profile_of_trace", "scenario_of_trace"]

#: A scene changes when the mean of its objects does, by more than this share, over so long.
SCENE_STEP, SCENE_S = 0.25, 2.0
FULL_HD_PIXELS = 1920 * 1080
#: Of objects whose size nobody has told, px^2 at 1080p.
USUAL_SIZE = 20_000.0
#: Of a link that frames were too alike to tell it from.
USUAL_LATENCY_S = 0.001
#: Links are not told to be faster than this.
FAST_MBIT = 1000.0
#: More than this between two queues of a node was a wait for something else.
MAX_HOP_MS = 50.0


def profile_of_trace(trace: Trace, base: Profile | None = None) -> Profile:
    """Return the knowledge base of what a trace has seen.

    Costs are those of usual moments: medians, so that what else was done on a machine for a few
    seconds does not count. Those of nodes with a CPU quota are CPU time, without its stalls.

    Args:
        trace: of a query.
        base: what is known beside; it is changed. None for nothing.
    """
    profile = Profile() if base is None else base
    plans = trace.confs()
    for (task, model_id, resolution, addr), cost in costs_of(trace, plans).items():
        profile.put_cost(task, model_id, resolution, cost, addr)
    for conf, _, _, nbytes in _transfers(trace, plans):
        profile.observe_frame(conf.resolution, conf.encoder, nbytes)
    return profile


def scenario_of_trace(path_or_trace: Path | Trace) -> Scenario:
    """Return the scenario that a trace is of; costs are those of `profile_of_trace`.

    Raises:
        ConfigError: the trace cannot be read, or its plans make no sense.
    """
    trace = read_trace(path_or_trace) if isinstance(path_or_trace, Path) else path_or_trace
    plans = trace.confs()
    bound = trace.constraint.get("delay")
    delay_s = bound[-1] if isinstance(bound, list) and bound else bound
    first = trace.plans[0]
    document: dict[str, Any] = {
        "name": f"trace of {trace.query_id}",
        "duration_s": max(trace.duration_s, 1.0),
        "error": 0.0,
        "nodes": list(_nodes(trace, plans)),
        "links": list(_links(trace, plans)),
        "queries": [
            {
                "name": trace.query_id,
                "node": trace.node_addr,
                "dag": trace.dag,
                "delay_s": delay_s if _is_above_0(delay_s) else None,
                "accuracy": trace.constraint.get("accuracy"),
                "video": {"fps": _camera_fps(plans)},
                "scene": {"phases": _phases(trace, plans), "spread": _spread(trace)},
                "plan": {"video_conf": first.video_conf, "flow_mapping": first.flow_mapping},
            }
        ],
    }
    return scenario_from_document(json.loads(json.dumps(document)))


def _nodes(trace: Trace, plans: Mapping[int, Plan]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of the plans, with as many workers of each task as were seen at work."""
    pids: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    models: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    accounts, hops = accounts_of(trace, plans), _hops(trace, plans)
    roles: dict[str, str] = {trace.node_addr: "edge"}
    for plan in plans.values():
        for task, place in plan.flow_mapping.items():
            addr = place.node_addr or trace.node_addr
            models[addr, task].add(place.model_id)
            if place.node_role == "cloud" or addr not in roles:
                roles[addr] = "cloud" if place.node_role == "cloud" else "edge"
    for frame in trace.frames:
        for task, parts in frame.tasks.items():
            at = plans[frame.plan].flow_mapping.get(task) if frame.plan in plans else None
            if at is not None and parts.pid:
                pids[at.node_addr or trace.node_addr, task].add(parts.pid)
    for addr, role in roles.items():
        services = {
            task: {"workers": max(len(pids[addr, task]), 1), "models": sorted(numbers)}
            for (node, task), numbers in models.items()
            if node == addr
        }
        cores = sum(len(pids[addr, task]) or 1 for task in services)
        node = {"name": addr, "role": role, "cores": max(cores, 1), "services": services}
        if addr in hops:
            node["hop_ms"] = hops[addr]
        quota = accounts.quotas.get(addr)
        if quota is not None:
            node |= {
                "cores": quota.cores,
                "cpu_period_s": quota.period_s,
                "cpus": quota.cpus,
                "own_load": accounts.own_load[addr],
                "frame_cpu_ms": 1e3 * accounts.frame_s[addr],
            }
        yield node


def _hops(trace: Trace, plans: Mapping[int, Plan]) -> dict[str, float]:
    """Return what it takes from one queue of a node to the next, or home, in the median, in ms."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    if len(trace.branches) != 1:
        return {}  # which of the branches was home last is not told
    for frame in trace.frames:
        if frame.plan not in plans:
            continue
        mapping, before = plans[frame.plan].flow_mapping, trace.node_addr
        inside: defaultdict[str, list[float]] = defaultdict(list)
        for task in trace.branches[0]:
            addr, parts = mapping[task].node_addr or trace.node_addr, frame.tasks.get(task)
            if addr == before and parts is not None:
                inside[addr].append(parts.transfer + parts.queue)
            before = addr
        if before == trace.node_addr:
            inside[before].append(_home_of(frame))
        for addr, seconds in inside.items():
            found[addr].append(statistics.fmean(seconds))
    return {addr: min(1e3 * statistics.median(each), MAX_HOP_MS) for addr, each in found.items()}


def _links(trace: Trace, plans: Mapping[int, Plan]) -> Iterator[dict[str, Any]]:
    """Yield the links that frames were on, with the rate and the latency that explain them.

    Of the messages of a configuration the median counts: a mean has in it what was in the way.
    """
    alike: defaultdict[tuple[VideoConf, tuple[str, str]], list[tuple[float, float]]]
    alike = defaultdict(list)
    for conf, ends, both_ways_s, nbytes in _transfers(trace, plans):
        alike[conf, ends].append((both_ways_s, nbytes))
    seen: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for (conf, ends), messages in alike.items():
        both_ways_s, nbytes = map(statistics.median, zip(*messages, strict=True))
        pixels = pixels_of(conf.resolution)
        coding_s = pixels * (ENCODE_S[conf.encoder] + DECODE_S[conf.encoder])
        seen[ends].append((nbytes, max(both_ways_s - coding_s, 1e-5)))
    for ends, found in seen.items():
        rate, latency_s = _fit(found)
        yield {
            "between": list(ends),
            "mbit": min(max(rate / MBIT, 1e-3), MAX_MBIT),
            "latency_ms": min(1e3 * latency_s, 60_000.0),
        }


def _transfers(
    trace: Trace, plans: Mapping[int, Plan]
) -> Iterator[tuple[VideoConf, tuple[str, str], float, float]]:
    """Yield conf, ends, seconds there and back, and bytes there of each way to another node.

    The time under way is told in equal shares of all ways away from home and back, see
    `vdag.job.parts`: so it is the sum that is known.
    """
    ways = _ways(trace, plans)
    for each in trace.runtimes:
        number = each.runtime.get("plan_number", 0)
        plan = plans.get(number)
        sizes = each.runtime.get("data_trans_size")
        parts = each.runtime.get("plan_result", {}).get("transfer_delay")
        home_s = each.runtime.get("home_delay", 0.0)
        if plan is None or not isinstance(sizes, Mapping) or not isinstance(parts, Mapping):
            continue
        for branch in trace.branches:
            before = trace.node_addr
            for task in branch:
                addr = plan.flow_mapping[task].node_addr or trace.node_addr
                if addr != before and _is_above_0(sizes.get(task)) and _is_above_0(parts.get(task)):
                    ends = (before, addr) if before < addr else (addr, before)
                    both_s = ways.get((number, task), parts[task] + home_s)
                    yield plan.video_conf, ends, both_s, float(sizes[task])
                before = addr


def _ways(trace: Trace, plans: Mapping[int, Plan]) -> dict[tuple[int, str], float]:
    """Return the median of the seconds there and home, by plan and task, as frames tell it."""
    found: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    if len(trace.branches) == 1:  # else it is not told which branch was home last
        for frame in trace.frames:
            if frame.plan in plans:
                home_s = _home_of(frame)
                for task, parts in frame.tasks.items():
                    found[frame.plan, task].append(parts.transfer + home_s)
    return {key: statistics.median(each) for key, each in found.items()}


def _home_of(frame: TraceFrame) -> float:
    """Return the seconds of a frame's way home, where it has one branch."""
    told = (parts.transfer + parts.queue + parts.compute for parts in frame.tasks.values())
    return max(frame.delay - sum(told), 0.0)


def _fit(found: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return bytes per second and seconds of latency of a link from messages and their times."""
    sizes, seconds = zip(*found, strict=True)
    if len(found) > 1 and max(sizes) > 1.5 * min(sizes):
        line = statistics.linear_regression(sizes, seconds)
        # A link that takes larger messages no longer is faster than can be told, and so is one
        # whose small messages take nothing: then the other of the two explains it alone.
        per_byte_s = max(line.slope, 1.0 / (MBIT * FAST_MBIT))
        latency_s = statistics.fmean(seconds) - per_byte_s * statistics.fmean(sizes)
        if latency_s > 0:
            return 1.0 / per_byte_s, latency_s / 2.0
        return sum(sizes) / sum(seconds), 0.0
    ranked = sorted((took - 2 * USUAL_LATENCY_S) / size for size, took in found)
    per_byte_s = max(ranked[len(ranked) // 2], 1e-12)
    return 1.0 / per_byte_s, USUAL_LATENCY_S


def _phases(trace: Trace, plans: Mapping[int, Plan]) -> list[dict[str, float]]:
    """Return the phases of the scene: a new one where its objects have become more or fewer."""
    slots: defaultdict[int, list[TraceFrame]] = defaultdict(list)
    for frame in trace.frames:
        if frame.obj_n is not None:
            slots[int(frame.at_s / SCENE_S)].append(frame)
    speed = _speed(trace)
    phases: list[dict[str, float]] = []
    for index, frames in sorted(slots.items()):
        objects = statistics.fmean(frame.obj_n or 0.0 for frame in frames)
        if phases and abs(objects - phases[-1]["objects"]) <= max(
            SCENE_STEP * phases[-1]["objects"], 0.5
        ):
            continue
        at_s = index * SCENE_S if phases else 0.0
        size = _size(frames, plans)
        phases.append({"at_s": at_s, "objects": objects, "size": size, "speed": speed})
    return phases or [{"at_s": 0.0, "objects": 0.0, "size": 0.0, "speed": speed}]


def _size(frames: Sequence[TraceFrame], plans: Mapping[int, Plan]) -> float:
    sizes = [
        frame.obj_size * FULL_HD_PIXELS / pixels_of(plans[frame.plan].video_conf.resolution)
        for frame in frames
        if frame.obj_size and frame.plan in plans
    ]
    return min(statistics.fmean(sizes), FULL_HD_PIXELS) if sizes else USUAL_SIZE


def _speed(trace: Trace) -> float:
    told = [each.runtime.get("obj_speed") for each in trace.runtimes]
    known = [float(value) for value in told if _is_above_0(value)]
    return min(statistics.fmean(known), 1e5) if known else 0.0


def _spread(trace: Trace) -> float:
    """Return by how much the objects wander within a moment, as a share of their mean."""
    slots: defaultdict[int, list[float]] = defaultdict(list)
    for frame in trace.frames:
        if frame.obj_n:
            slots[int(frame.at_s / SCENE_S)].append(frame.obj_n)
    shares = [
        statistics.pstdev(counts) / statistics.fmean(counts)
        for counts in slots.values()
        if len(counts) > 1
    ]
    return min(statistics.fmean(shares), 1.0) if shares else 0.0


def _camera_fps(plans: Mapping[int, Plan]) -> float:
    return max((plan.video_conf.fps for plan in plans.values()), default=30.0)


def _is_above_0(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
