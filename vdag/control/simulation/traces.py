"""`Trace`: a query as it was seen to run.

`vdag record` writes one; `retracing` makes a scenario of it. What it cannot know is assumed there:
that a node without a quota has the cores its workers keep busy, and that links have the rate and
the latency that explain best how long frames were under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from vdag.errors import ConfigError, GraphError, PlanError
from vdag.graph import Graph
from vdag.itinerary import branches
from vdag.plan import Plan
from vdag.wording import rephrase

__all__ = [
    "Parts",
    "Trace",
    "TraceFrame",
    "TracePlan",
    "TraceQuota",
    "TraceRuntime",
    "TraceStates",
    "joined",
    "read_trace",
    "write_trace",
]

MAX_NBYTES = 512 << 20

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Parts(msgspec.Struct, frozen=True):
    """Where the time of a frame at one task went, in seconds, and which worker it was."""

    transfer: Seconds
    queue: Seconds
    compute: Seconds
    pid: int = 0


class TraceFrame(msgspec.Struct, frozen=True):
    """A result.

    Attributes:
        at_s: when it was heard of, seconds after the trace's beginning.
        seq: number among the frames taken.
        plan: number of the plan that it was made under.
        delay: seconds from its capture.
        obj_n: objects in it; None for not told.
        obj_size: their mean area in the frame, px^2.
        tasks: task to its parts.
    """

    at_s: Seconds
    seq: int
    plan: int
    delay: Seconds
    obj_n: float | None = None
    obj_size: float | None = None
    tasks: dict[str, Parts] = {}


class TracePlan(msgspec.Struct, frozen=True):
    """A plan, from a moment on."""

    at_s: Seconds
    number: int
    video_conf: dict[str, Any]
    flow_mapping: dict[str, dict[str, Any]]


class TraceRuntime(msgspec.Struct, frozen=True):
    """The run-time context of a moment."""

    at_s: Seconds
    runtime: dict[str, Any]


class TraceQuota(msgspec.Struct, frozen=True):
    """The CPU quota of a node, and what it has made of it: see `vdag.control.resources.quota`."""

    cores: Annotated[float, msgspec.Meta(gt=0, le=4096)]
    period_s: Annotated[float, msgspec.Meta(gt=0, le=10)]
    cpus: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    at_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    used_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    workers: dict[str, Annotated[float, msgspec.Meta(ge=0)]] = {}


class TraceStates(msgspec.Struct, frozen=True):
    """The nodes that were there at a moment, and the CPU quotas of those that have one.

    Attributes:
        at_s: when.
        nodes: their `node_addr`.
        quotas: by address, without a port.
    """

    at_s: Seconds
    nodes: tuple[str, ...]
    quotas: dict[str, TraceQuota] = {}


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A query as it ran.

    Attributes:
        version: of this form.
        query_id: of it.
        policy: who planned.
        node_addr: the node that owns the video.
        dag: the documents' graph.
        constraint: the user's own words.
        duration_s: of the recording.
        plans: by rising time, the one in force at the beginning first.
        frames: in the order in which they were heard of.
        runtimes: every second or so.
        states: likewise.
    """

    version: int = 1
    query_id: str
    policy: str = ""
    node_addr: str
    dag: dict[str, Any]
    constraint: dict[str, Any] = {}
    duration_s: Seconds
    plans: tuple[TracePlan, ...]
    frames: tuple[TraceFrame, ...]
    runtimes: tuple[TraceRuntime, ...] = ()
    states: tuple[TraceStates, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its tasks, in their order."""
        return tuple(self.dag.get("flow", ()))

    @property
    def branches(self) -> tuple[tuple[str, ...], ...]:
        """Its tasks by branch; without inputs that say otherwise each follows the one before.

        Raises:
            GraphError: the graph makes no sense.
        """
        graph = Graph.from_dag(self.dag)
        return branches(graph) if graph.edges else (graph.tasks,)

    def confs(self) -> dict[int, Plan]:
        """Return number to plan.

        Raises:
            ConfigError: one of them is no plan.
        """
        try:
            return {
                plan.number: Plan.from_documents(
                    self.tasks, plan.video_conf, plan.flow_mapping, number=plan.number
                )
                for plan in self.plans
            }
        except PlanError as err:
            raise ConfigError(f"trace of {self.query_id}: {err}") from err


def joined(traces: Sequence[Trace]) -> Trace:
    """Return traces of queries that did the same, as one of a query with all of their plans.

    Times go on from trace to trace, and plans are numbered anew.

    Raises:
        ConfigError: there is none, or they differ in their graphs or in the node of the video.
    """
    if not traces:
        raise ConfigError("there is no trace to join")
    first, parts, begin_s, next_number = traces[0], [], 0.0, 1
    for trace in traces:
        if (trace.dag, trace.node_addr) != (first.dag, first.node_addr):
            raise ConfigError(f"traces of {first.query_id} and {trace.query_id} are of other tasks")
        numbers = {plan.number: next_number + i for i, plan in enumerate(trace.plans)}
        parts.append(_moved(trace, begin_s, numbers))
        begin_s, next_number = begin_s + trace.duration_s, next_number + len(numbers)
    return replace(
        first,
        duration_s=begin_s,
        plans=tuple(plan for part in parts for plan in part.plans),
        frames=tuple(frame for part in parts for frame in part.frames),
        runtimes=tuple(each for part in parts for each in part.runtimes),
        states=tuple(each for part in parts for each in part.states),
    )


def _moved(trace: Trace, begin_s: float, numbers: Mapping[int, int]) -> Trace:
    """Return a trace that begins later, under other numbers; what has none of them is left out."""

    def runtime(each: TraceRuntime) -> dict[str, Any]:
        return {**each.runtime, "plan_number": numbers[each.runtime["plan_number"]]}

    return replace(
        trace,
        plans=tuple(
            replace(plan, at_s=plan.at_s + begin_s, number=numbers[plan.number])
            for plan in trace.plans
        ),
        frames=tuple(
            replace(frame, at_s=frame.at_s + begin_s, plan=numbers[frame.plan])
            for frame in trace.frames
            if frame.plan in numbers
        ),
        runtimes=tuple(
            TraceRuntime(each.at_s + begin_s, runtime(each))
            for each in trace.runtimes
            if each.runtime.get("plan_number") in numbers
        ),
        states=tuple(replace(each, at_s=each.at_s + begin_s) for each in trace.states),
    )


def read_trace(path: Path) -> Trace:
    """Read a trace.

    Raises:
        ConfigError: the file cannot be read, is none, or has no plan or no frame.
    """
    try:
        if path.stat().st_size > MAX_NBYTES:
            raise ConfigError(f"{path} exceeds {MAX_NBYTES} bytes")
        trace = msgspec.json.decode(path.read_bytes(), type=Trace)
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
    except msgspec.ValidationError as err:
        raise ConfigError(f"{path}: {rephrase(err)}") from err
    except msgspec.DecodeError as err:
        raise ConfigError(f"{path} is not JSON: {err}") from err
    if trace.version != 1:
        raise ConfigError(f"{path}: version {trace.version} is unknown, expected 1")
    if not trace.plans or not trace.frames or not trace.tasks:
        raise ConfigError(f"{path} has {len(trace.plans)} plans and {len(trace.frames)} frames")
    try:
        assert trace.branches, "there is a task"
    except GraphError as err:
        raise ConfigError(f"{path}: {err}") from err
    return trace


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_bytes(msgspec.json.encode(trace) + b"\n")
    except OSError as err:
        raise ConfigError(f"cannot write {path}: {err.strerror}") from err
