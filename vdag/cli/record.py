"""The command `vdag record`: a running query as it is seen from outside, for the simulator."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from vdag.cli.cloud import Cloud, Token, Url
from vdag.cli.queries import DEFAULT_URL, END, Query
from vdag.errors import ConfigError, VdagError

if TYPE_CHECKING:
    from vdag.control.simulation.traces import (
        Parts,
        Trace,
        TraceFrame,
        TracePlan,
        TraceQuota,
        TraceRuntime,
        TraceStates,
    )

__all__ = ["record"]

logger = logging.getLogger(__name__)

#: Between two looks at what is not streamed.
LOOK_S = 1.0
#: Plans and queries that are looked through.
MAX_PLANS, MAX_QUERIES = 1000, 1000
JOIN_TIMEOUT_S = 15.0
SERVICE_PORT = 5500


def record(
    query: Query,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    seconds: Annotated[
        float, typer.Option(min=1.0, max=86_400.0, help="How long, unless it ends before.")
    ] = 60.0,
    url: Url = DEFAULT_URL,
    token_file: Token = None,
    service: Annotated[
        str | None,
        typer.Option(help="Address of the cloud's compute service; port 5500 unless given."),
    ] = None,
) -> None:
    """Record a running query: its plans, what it measures, and every result's delay."""
    from vdag.control.simulation.traces import write_trace

    cloud = Cloud(url, token_file)
    recorder = Recorder(cloud, query, Cloud(service or _service_of(cloud.url), token_file))
    trace = recorder.run(seconds)
    write_trace(trace, out)
    print(f"{out}: {len(trace.frames)} results, {len(trace.plans)} plans, {trace.duration_s:.0f} s")


class Recorder:
    """What is heard of a query: results as they come, and everything else every second.

    Args:
        cloud: whom to ask.
        query: its id.
        service: whom to ask for the state of the nodes; it need not answer.
    """

    def __init__(self, cloud: Cloud, query: str, service: Cloud) -> None:
        self._cloud, self._query = cloud, query
        self._service: Cloud | None = service
        self._begin_s = 0.0
        self._frames: list[TraceFrame] = []
        self._plans: dict[int, TracePlan] = {}
        self._runtimes: list[TraceRuntime] = []
        self._states: list[TraceStates] = []
        self._fault: VdagError | None = None
        self._is_over = threading.Event()

    def run(self, seconds: float) -> Trace:
        """Record for so long, or until the query is over.

        Raises:
            ConfigError: there is no such query, or it had no plan or no result.
            TransportError: the cloud cannot be reached any more.
        """
        from vdag.control.simulation.traces import Trace

        listed = self._listed()
        self._begin_s = time.monotonic()
        looker = threading.Thread(target=self._look_again, name="vdag-record", daemon=True)
        self._look()
        looker.start()
        try:
            self._follow(self._begin_s + seconds)
        finally:
            self._is_over.set()
            looker.join(JOIN_TIMEOUT_S)
        if self._fault is not None and not self._frames:
            raise self._fault
        if not self._frames or not self._plans:
            raise ConfigError(f"{self._query} had no result within {seconds:g} s")
        return Trace(
            query_id=self._query,
            policy=str(listed.get("policy") or ""),
            node_addr=listed["node_addr"],
            # A cloud of before does not say which task takes what.
            dag=dict(listed.get("dag") or {"flow": list(listed["pipeline"])}),
            constraint=dict(listed.get("user_constraint") or {}),
            duration_s=time.monotonic() - self._begin_s,
            plans=tuple(plan for _, plan in sorted(self._plans.items())),
            frames=tuple(self._frames),
            runtimes=tuple(self._runtimes),
            states=tuple(self._states),
        )

    def _listed(self) -> Mapping[str, Any]:
        found = self._cloud.get("/query/list", limit=MAX_QUERIES, state="all")["queries"]
        for each in found:
            if each["query_id"] == self._query:
                return dict(each)
        raise ConfigError(f"query {self._query!r} is not among the newest {MAX_QUERIES}")

    def _now_s(self) -> float:
        return time.monotonic() - self._begin_s

    def _follow(self, end_s: float) -> None:
        for name, data in self._cloud.events(f"/query/stream/{self._query}"):
            if name == END:
                return
            if name == "result" and (frame := _frame(data, self._now_s())) is not None:
                self._frames.append(frame)
            if time.monotonic() >= end_s or self._fault is not None:
                return

    def _look_again(self) -> None:
        """Body of the thread that asks for what is not streamed."""
        while not self._is_over.wait(LOOK_S):
            try:
                self._look()
            except VdagError as err:
                self._fault = err
                return

    def _look(self) -> None:
        from vdag.control.simulation.traces import TracePlan, TraceRuntime, TraceStates

        at_s = self._now_s()
        runtime = self._cloud.get(f"/query/get_runtime/{self._query}")
        if runtime and (not self._runtimes or self._runtimes[-1].runtime != runtime):
            self._runtimes.append(TraceRuntime(at_s, runtime))
        found = self._cloud.get(f"/query/get_plan/{self._query}", history=MAX_PLANS)
        present = [found] if found.get("number") is not None else []
        for each in [*found.get("history", ()), *present]:
            # Those from before are kept as well: frames may still be under way with them.
            plan = TracePlan(at_s, each["number"], each["video_conf"], each["flow_mapping"])
            self._plans.setdefault(each["number"], plan)
        nodes = tuple(sorted(self._cloud.get("/node/get_all_status")["data"]))
        quotas = self._quotas()
        last = self._states[-1] if self._states else None
        if last is None or (last.nodes, last.quotas) != (nodes, quotas):
            self._states.append(TraceStates(at_s, nodes, quotas))

    def _quotas(self) -> dict[str, TraceQuota]:
        """Return the CPU quotas of nodes by address; nothing without a service that tells them."""
        if self._service is None:
            return {}
        try:
            found = self._service.get("/get_cluster_info")
        except VdagError as err:
            logger.info("quotas of nodes are not recorded: %s", err)
            self._service = None
            return {}
        states = found.items() if isinstance(found, Mapping) else ()
        return {address: quota for address, state in states if (quota := _quota(state)) is not None}


def _service_of(url: str) -> str:
    """Return where a cloud's compute service is, unless somebody has put it elsewhere."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{SERVICE_PORT}"


def _quota(state: Any) -> TraceQuota | None:
    """Read the CPU quota of a node; None for one that has none, or says it in no known way."""
    from vdag.control.simulation.traces import TraceQuota

    with contextlib.suppress(LookupError, TypeError, msgspec.ValidationError):
        return msgspec.convert(state["device_state"]["cpu_quota"], TraceQuota)
    return None


def _frame(data: Any, at_s: float) -> TraceFrame | None:
    """Read a result; None for one of a node that says too little of it."""
    from vdag.control.simulation.traces import TraceFrame

    with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
        infos = data["ext_runtime"]["proc_resource_info"]
        tasks = {task: _parts(info) for task, info in infos.items()}
        size = data.get("obj_size")
        count = data.get("obj_n")
        return TraceFrame(
            at_s,
            int(data["seq"]),
            int(data["plan"]),
            float(data["delay"]),
            None if count is None else float(count),
            None if size is None else float(size),
            tasks,
        )
    return None


def _parts(info: Mapping[str, Any]) -> Parts:
    from vdag.control.simulation.traces import Parts

    return Parts(
        max(float(info["transfer_latency"]), 0.0),
        max(float(info["queue_latency"]), 0.0),
        max(float(info["compute_latency"]), 0.0),
        int(info.get("pid") or 0),
    )
