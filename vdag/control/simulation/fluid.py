"""`FluidWorld`: nodes, links and jobs as flows: rates and mean waits, second by second.

It costs the same per query however many frames that has, so it is what ten thousand nodes and a
hundred thousand queries are simulated with. What frames do to each other within a second is not in
it but for the formulas of `waits`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vdag.control.profile.costs import pixels_of
from vdag.control.scheduling.events import (
    Event,
    JobReported,
    NodeInfo,
    NodeReported,
    PlanTaken,
    QueryState,
    RuntimeReported,
)
from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.books import is_met
from vdag.control.simulation.edges import DECODE_S, ENCODE_S
from vdag.control.simulation.flow_reports import Hop, runtime_of
from vdag.control.simulation.frames import HEADER_NBYTES, peers_of, with_videos
from vdag.control.simulation.machines import device_state
from vdag.control.simulation.outcome import Books, Window
from vdag.control.simulation.scenario import NodeSpec, QuerySpec, Scenario, Step
from vdag.control.simulation.scenes import Scene, View
from vdag.control.simulation.truth import Truth
from vdag.control.simulation.waits import Wait, at_wire, at_workers, free_cores, on_node
from vdag.control.simulation.wires import Wires
from vdag.control.simulation.world import Record
from vdag.plan import Plan

__all__ = ["FluidWorld"]

_NS = 1_000_000_000
NOTHING = View(0, 0.0, 0.0, False)


@dataclass(slots=True)
class _Host:
    """A node: its present cores and speed, and the jobs whose video it owns."""

    spec: NodeSpec
    info: NodeInfo
    cores: float
    speed: float
    is_up: bool = True
    busy: float = 0.0
    jobs: list[_Job] = field(default_factory=list)

    def slowed_by(self, busy: float) -> float:
        """Return by how much so many busy workers slow each other down, at least 1."""
        free = free_cores(self.spec, self.cores)
        if self.spec.cpu_period_s is not None:
            return max(busy / free, 1.0)
        # Of less than a core each worker gets that much, however little there is to do.
        return max(busy / free, 1.0 / free, 1.0)

    def alone(self, mean_s: float, p95_s: float) -> Wait:
        """Return how long work takes if nobody else is there, but for what `slowed_by` has."""
        if self.spec.cpu_period_s is None:
            return Wait(mean_s, p95_s)
        return on_node(self.spec, self.cores, 1.0, Wait(mean_s, p95_s))


@dataclass(slots=True, eq=False)
class _Job:
    """A job.

    Attributes:
        view: what its camera sees in this second.
        hops: what becomes of a frame at each task.
        runtime: what it would report; empty without news.
    """

    query_id: str
    spec: QuerySpec
    host: str
    scene: Scene
    plan: Plan | None = None
    is_open: bool = False
    view: View = NOTHING
    hops: list[Hop] = field(default_factory=list)
    runtime: dict[str, Any] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)
    taken: float = 0.0
    delivered: float = 0.0
    reported: tuple[int, bool] = (0, False)

    @property
    def fps(self) -> float:
        """Frames per second that its camera gives to be processed."""
        assert self.plan is not None, "it is at work"
        return min(self.plan.video_conf.fps, self.spec.video.fps)


class FluidWorld:
    """See `World`.

    Args:
        scenario: what there is.
        truth: what tasks cost.
        agenda: the time.
        seed: of the random numbers.
    """

    def __init__(self, scenario: Scenario, truth: Truth, agenda: Agenda, seed: int) -> None:
        self._truth, self._agenda, self._seed = truth, agenda, seed
        self._addresses = scenario.addresses()
        self._names = {addr: name for name, addr in self._addresses.items()}
        self._wires = Wires(scenario)
        infos = with_videos(scenario)
        self._hosts = {
            self._addresses[spec.name]: _Host(
                spec, infos[self._addresses[spec.name]], spec.cores, spec.speed
            )
            for spec in scenario.nodes
        }
        self._infos = infos
        self._specs = {query.name: query for query in scenario.queries}
        self._jobs: dict[str, _Job] = {}
        self._peers = peers_of(scenario, self._addresses)
        self._rates: dict[str, dict[str, float]] = {}
        self.frames = 0
        agenda.at(_NS, self._pass)

    def infos(self) -> Mapping[str, NodeInfo]:
        """See `World.infos`."""
        return self._infos

    def is_up(self, node_addr: str) -> bool:
        """See `World.is_up`."""
        return self._hosts[node_addr].is_up

    def start(self, query_id: str, plan: Plan) -> None:
        """See `World.start`."""
        job = self._jobs.get(query_id)
        if job is None:
            spec = self._specs[query_id]
            host = self._addresses[spec.node]
            job = _Job(query_id, spec, host, Scene(spec.scene, f"{self._seed} scene {query_id}"))
            self._jobs[query_id] = job
            self._hosts[host].jobs.append(job)
        if self.is_up(job.host):
            job.plan, job.is_open = plan, True

    def give_up(self, query_id: str, node_addrs: Collection[str]) -> None:
        """See `World.give_up`; flows have no frames under way."""

    def stop(self, query_id: str, reason: str) -> None:
        """See `World.stop`."""
        job = self._jobs.get(query_id)
        if job is not None and job.is_open:
            job.is_open = False
            self._hosts[job.host].jobs.remove(job)

    def report(self, node_addr: str) -> Sequence[Event]:
        """See `World.report`."""
        now_ns, host = self._agenda.now_ns, self._hosts[node_addr]
        bandwidth = None
        if node_addr not in self._rates:
            name = self._names[node_addr]
            bandwidth = self._rates[node_addr] = {
                peer: self._wires.rate(name, self._names[peer], now_ns)
                for peer in self._peers[node_addr]
            }
        state = device_state(host.cores, host.busy)
        events: list[Event] = [NodeReported(now_ns, node_addr, state, bandwidth=bandwidth)]
        for job in host.jobs:
            if job.is_open and job.plan is not None:
                self._report_job(job, job.plan.number, events)
        return events

    def change(self, step: Step) -> None:
        """See `World.change`."""
        self._rates.clear()
        if step.node is None:
            return
        host = self._hosts[self._addresses[step.node]]
        host.cores, host.speed = step.cores or host.cores, step.speed or host.speed
        if step.up is not None and step.up != host.is_up:
            host.is_up = step.up
            for job in host.jobs:
                job.is_open = False

    def record(self, query_id: str) -> Record:
        """See `World.record`."""
        job = self._jobs.get(query_id)
        if job is None:
            return Record((), Books())
        taken, delivered = round(job.taken), min(round(job.delivered), round(job.taken))
        dropped = {"superseded": taken - delivered} if taken > delivered else {}
        return Record(job.windows, Books(taken, delivered, dropped))

    def _report_job(self, job: _Job, number: int, events: list[Event]) -> None:
        now_ns = self._agenda.now_ns
        is_running = bool(job.windows)
        if job.reported[1] != is_running or not job.reported[0]:
            state = QueryState.RUNNING if is_running else QueryState.READY
            events.append(JobReported(now_ns, job.query_id, job.host, state))
        if job.reported[0] != number:
            events.append(PlanTaken(now_ns, job.query_id, number))
        job.reported = (number, is_running)
        if job.runtime:
            number = job.runtime["plan_number"]
            events.append(RuntimeReported(now_ns, job.query_id, job.runtime, number))
            job.runtime = {}

    # A second.

    def _pass(self) -> None:
        """Work out the second that is over."""
        jobs = [job for job in self._jobs.values() if job.is_open]
        busy: defaultdict[tuple[str, str], float] = defaultdict(float)
        queries: defaultdict[tuple[str, str], int] = defaultdict(int)
        wires: defaultdict[tuple[str, str], float] = defaultdict(float)
        streams: defaultdict[tuple[str, str], int] = defaultdict(int)
        for job in jobs:
            self._lay_out(job)
            before = job.host
            for task, addr, mean_s, _, nbytes in job.hops:
                busy[addr, task] += job.fps * mean_s
                queries[addr, task] += 1
                if nbytes:
                    wires[before, addr] += job.fps * nbytes
                    streams[before, addr] += 1
                before = addr
        slow = self._contend(busy)
        loads = self._load_wires(wires)
        for job in jobs:
            self._settle(job, busy, queries, slow, loads, streams)
        self._agenda.after(_NS, self._pass)

    def _lay_out(self, job: _Job) -> None:
        plan, spec = job.plan, job.spec
        assert plan is not None, "it is at work"
        job.view = job.scene.look(self._agenda.now_ns / _NS - spec.arrives_s)
        conf, job.hops = plan.video_conf, []
        frame_nbytes = self._truth.frame_nbytes(conf.resolution, conf.encoder)
        before, context = job.host, float(HEADER_NBYTES)
        for task, placement in plan.flow_mapping.items():
            addr = placement.node_addr
            host = self._hosts[addr]
            work = self._truth.work(task, placement.model_id, conf.resolution, host.info)
            mean_s = work.expected(job.view.objects) / host.speed
            p95_s = work.p95_s(job.view.objects) / host.speed
            nbytes = context + frame_nbytes if addr != before else 0.0
            job.hops.append(Hop(task, addr, mean_s, p95_s, nbytes))
            before, context = addr, context + work.out_nbytes

    def _contend(self, busy: Mapping[tuple[str, str], float]) -> dict[str, float]:
        """Return by how much each node's workers slow each other down, at least 1."""
        total: defaultdict[str, float] = defaultdict(float)
        for (addr, task), seconds in busy.items():
            total[addr] += min(seconds, self._hosts[addr].spec.services[task].workers)
        for addr, host in self._hosts.items():
            host.busy = min(total.get(addr, 0.0), host.cores)
        return {addr: self._hosts[addr].slowed_by(seconds) for addr, seconds in total.items()}

    def _load_wires(self, wires: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
        """Return the share of each way that is asked for, its busiest pipe's."""
        now_ns = self._agenda.now_ns
        asked: defaultdict[int, float] = defaultdict(float)
        ways = {
            ends: self._wires.pipes(self._names[ends[0]], self._names[ends[1]]) for ends in wires
        }
        for ends, rate in wires.items():
            for pipe in ways[ends]:
                asked[id(pipe)] += rate
        return {
            ends: max(asked[id(pipe)] / pipe.rate_at(now_ns) for pipe in pipes)
            for ends, pipes in ways.items()
        }

    def _settle(
        self,
        job: _Job,
        busy: Mapping[tuple[str, str], float],
        queries: Mapping[tuple[str, str], int],
        slow: Mapping[str, float],
        loads: Mapping[tuple[str, str], float],
        streams: Mapping[tuple[str, str], int],
    ) -> None:
        """Work out how a job's second went."""
        share, before = 1.0, job.host
        parts: dict[str, tuple[float, float, float]] = {}
        total_s = spread_s2 = 0.0
        for task, addr, mean_s, p95_s, nbytes in job.hops:
            if not self._hosts[addr].is_up:
                share = 0.0
            alone = self._hosts[addr].alone(mean_s, p95_s)
            compute_s = alone.mean_s * slow[addr]
            workers = self._hosts[addr].spec.services[task].workers
            asked = busy[addr, task] * slow[addr] * (alone.mean_s / mean_s)
            queue = at_workers(compute_s, workers, asked, queries[addr, task])
            share = min(share, workers / asked if asked > workers else 1.0)
            hop_s = self._hosts[addr].spec.hop_ms / 1e3
            transfer = Wait(hop_s, hop_s)
            if nbytes:
                load = loads[before, addr]
                transfer = self._travel(job, before, addr, nbytes, load, streams[before, addr])
                share = min(share, 1.0 / load if load > 1.0 else 1.0)
            parts[task] = (transfer.mean_s, queue.mean_s, compute_s)
            total_s += transfer.mean_s + queue.mean_s + compute_s
            for wait in (transfer, queue, Wait(compute_s, alone.p95_s * slow[addr])):
                spread_s2 += (wait.p95_s - wait.mean_s) ** 2
            before = addr
        home_s = self._hosts[job.host].spec.hop_ms / 1e3
        if before != job.host:
            ends = self._names[before], self._names[job.host]
            home_s = self._wires.latency_ns(*ends, self._agenda.now_ns) / _NS
        total_s += home_s
        self._note(job, share, total_s, total_s + math.sqrt(spread_s2), home_s, parts)

    def _travel(
        self, job: _Job, sender: str, receiver: str, nbytes: float, load: float, streams: int
    ) -> Wait:
        assert job.plan is not None, "it is at work"
        ends, now_ns = (self._names[sender], self._names[receiver]), self._agenda.now_ns
        conf = job.plan.video_conf
        message_s = nbytes / self._wires.rate(*ends, now_ns)
        coding_s = pixels_of(conf.resolution) * (ENCODE_S[conf.encoder] + DECODE_S[conf.encoder])
        fixed_s = message_s + coding_s + self._wires.latency_ns(*ends, now_ns) / _NS
        wait = at_wire(message_s, load, streams)
        return Wait(fixed_s + wait.mean_s, fixed_s + wait.p95_s)

    def _note(
        self,
        job: _Job,
        share: float,
        mean_s: float,
        p95_s: float,
        home_s: float,
        parts: Mapping[str, tuple[float, float, float]],
    ) -> None:
        plan, spec, view = job.plan, job.spec, job.view
        assert plan is not None, "it is at work"
        conf, fps = plan.video_conf, job.fps * share
        job.taken += job.fps
        job.delivered += fps
        phase = job.scene.phase_at(self._agenda.now_ns / _NS - spec.arrives_s)
        accuracy = 0.0
        if share:
            accuracy = self._truth.accuracy(
                spec.branches,
            {task: place.model_id for task, place in plan.flow_mapping.items()},
                conf.resolution, fps,
                obj_size=phase.size, obj_speed=phase.speed, cam_fps=spec.video.fps,
            )  # fmt: skip
        p95_s = p95_s if share else math.inf
        met = is_met(spec.constraint, p95_s, accuracy)
        start_s = self._agenda.now_ns / _NS - 1.0
        taken, results = round(job.fps), round(fps)
        job.windows.append(
            Window(start_s, taken, results, taken - results, p95_s, accuracy, fps, plan.number, met)
        )
        if share:
            job.runtime = runtime_of(
                plan, view, job.fps, fps, (mean_s, p95_s, home_s), parts, job.hops
            )
