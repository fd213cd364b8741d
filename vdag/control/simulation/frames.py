"""`FrameWorld`: nodes, links and jobs, simulated frame by frame."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vdag.control.profile.costs import pixels_of
from vdag.control.scheduling.events import (
    Event,
    JobReported,
    NodeInfo,
    NodeReported,
    PlanTaken,
    QueryState,
    RuntimeReported,
    VideoInfo,
)
from vdag.control.simulation.agenda import Agenda
from vdag.control.simulation.books import Ledger
from vdag.control.simulation.edges import DECODE_S, ENCODE_S, Edge, Parcel, pixel_ns
from vdag.control.simulation.machines import Batch, Machine, node_info
from vdag.control.simulation.outcome import Books
from vdag.control.simulation.runs import Run, Trip
from vdag.control.simulation.scenario import QuerySpec, Scenario, Step
from vdag.control.simulation.scenes import Scene
from vdag.control.simulation.truth import Truth, Work
from vdag.control.simulation.wires import Wires
from vdag.control.simulation.world import Record
from vdag.job.parts import Times
from vdag.plan import Plan
from vdag.transport.flow import Item

__all__ = ["HEADER_NBYTES", "FrameWorld", "peers_of", "with_videos"]

_NS = 1_000_000_000
#: Of a descriptor, whatever it carries.
HEADER_NBYTES = 400
#: A frame's size spreads by so much, as a share.
SIZE_SPREAD = 0.08
#: Nodes that a node knows its bandwidth towards, beside the servers.
MAX_MEASURED = 32
#: Measurements of bandwidth are off by so much, as a share.
BANDWIDTH_ERROR = 0.05


@dataclass(slots=True, eq=False)
class _Stop:
    """A frame at one place of its route.

    Attributes:
        trip: the frame.
        branch: of its itinerary.
        position: of the hop in the branch's route.
        arrived_ns: when it was in the queue there.
        nbytes: that brought it over the network, 0 for none.
    """

    trip: Trip
    branch: int
    position: int
    arrived_ns: int = 0
    nbytes: int = 0


class FrameWorld:
    """See `World`.

    Args:
        scenario: what there is.
        truth: what tasks cost.
        agenda: the time.
        seed: of the random numbers.
    """

    def __init__(self, scenario: Scenario, truth: Truth, agenda: Agenda, seed: int) -> None:
        self._scenario, self._truth, self._agenda, self._seed = scenario, truth, agenda, seed
        self._chance = random.Random(f"{seed} frames")
        self._wires = Wires(scenario)
        self._edges: dict[tuple[str, str, str], Edge] = {}
        addresses = scenario.addresses()
        self._names = {addr: name for name, addr in addresses.items()}
        self._machines = {
            addresses[spec.name]: Machine(
                spec,
                addresses[spec.name],
                agenda,
                work_of=self._work_of,
                done=self._done,
                dropped=self._dropped,
                phase=random.Random(f"{seed} period {spec.name}").random(),
            )
            for spec in scenario.nodes
        }
        self._infos = with_videos(scenario)
        self._specs = {query.name: query for query in scenario.queries}
        self._addresses = addresses
        self._runs: dict[str, Run] = {}
        self._by_host: dict[str, list[Run]] = {addr: [] for addr in addresses.values()}
        self._reported: dict[str, tuple[int, QueryState]] = {}
        self._peers = peers_of(scenario, addresses)
        self._rates: dict[str, dict[str, float]] = {}
        self.frames = 0

    def infos(self) -> Mapping[str, NodeInfo]:
        """See `World.infos`."""
        return self._infos

    def is_up(self, node_addr: str) -> bool:
        """See `World.is_up`."""
        return self._machines[node_addr].is_up

    def start(self, query_id: str, plan: Plan) -> None:
        """See `World.start`."""
        run = self._runs.get(query_id)
        if run is None:
            run = self._runs[query_id] = self._new_run(query_id, self._specs[query_id])
        if not self.is_up(run.host):
            return  # the order is lost; the node is told again when it is back
        run.follow(plan)
        for task, limit in plan.resource_limit.items():
            machine = self._machines[plan.flow_mapping[task].node_addr]
            machine.limit({task: limit.cpu_util_limit})

    def give_up(self, query_id: str, node_addrs: Collection[str]) -> None:
        """See `World.give_up`."""
        run = self._runs.get(query_id)
        if run is not None:
            run.give_up(node_addrs)

    def stop(self, query_id: str, reason: str) -> None:
        """See `World.stop`."""
        run = self._runs.get(query_id)
        if run is not None and run.is_open:
            run.stop("closed")
            for machine in self._machines.values():
                machine.cancel(query_id)
            self._by_host[run.host].remove(run)

    def report(self, node_addr: str) -> Sequence[Event]:
        """See `World.report`."""
        return list(self._report(node_addr))

    def change(self, step: Step) -> None:
        """See `World.change`; what links will be is known to the wires already."""
        self._rates.clear()
        if step.node is None:
            return
        machine = self._machines[self._addresses[step.node]]
        was_up = machine.is_up
        machine.change(step)
        if was_up and not machine.is_up:
            for (sender, _, _), edge in self._edges.items():
                if sender == step.node:
                    edge.clear()
            for run in self._by_host[machine.node_addr]:
                run.stop("closed")

    def record(self, query_id: str) -> Record:
        """See `World.record`."""
        run = self._runs.get(query_id)
        if run is None:
            return Record((), Books())
        spec, books = run.spec, run.books
        windows = run.ledger.windows(
            spec.constraint, partial(self._worth, spec), self._agenda.now_ns
        )
        dropped = dict(sorted(books.dropped.items()))
        return Record(windows, Books(books.admitted, books.delivered, dropped, books.in_flight))

    def _new_run(self, query_id: str, spec: QuerySpec) -> Run:
        host = self._addresses[spec.node]
        scene = Scene(spec.scene, f"{self._seed} scene {query_id}")
        stream = len(self._runs)
        run = Run(query_id, spec, host, stream, self._agenda, scene, Ledger(), self._depart)
        self._by_host[host].append(run)
        return run

    def _report(self, node_addr: str) -> Iterator[Event]:
        now_ns, machine = self._agenda.now_ns, self._machines[node_addr]
        bandwidth = None
        if node_addr not in self._rates:
            bandwidth = self._rates[node_addr] = self._measure(node_addr)
        yield NodeReported(now_ns, node_addr, machine.resources(), bandwidth=bandwidth)
        for run in self._by_host[node_addr]:
            if not run.is_open:
                continue
            runtime = run.report()
            # As a real node does, it says how its jobs are when there is something to say.
            state = QueryState.RUNNING if run.books.delivered else QueryState.READY
            before = self._reported.get(run.query_id)
            self._reported[run.query_id] = (run.taken, state)
            if before is None or before[1] != state:
                yield JobReported(now_ns, run.query_id, node_addr, state)
            if run.taken and (before is None or before[0] != run.taken):
                yield PlanTaken(now_ns, run.query_id, run.taken)
            if runtime:
                number = runtime["plan_number"]
                yield RuntimeReported(now_ns, run.query_id, runtime, number)

    def _measure(self, node_addr: str) -> dict[str, float]:
        name, now_ns = self._names[node_addr], self._agenda.now_ns
        return {
            peer: self._wires.rate(name, self._names[peer], now_ns)
            * (1.0 + self._chance.uniform(-BANDWIDTH_ERROR, BANDWIDTH_ERROR))
            for peer in self._peers[node_addr]
        }

    # A frame's way.

    def _depart(self, trip: Trip, branch: int, position: int, here: str) -> None:
        """Send a frame from a node to the next hop of its route."""
        self.frames += position == 0 and branch == 0
        stop = _Stop(trip, branch, position)
        wakes_ns = self._machines[here].wakes_ns()
        if wakes_ns > self._agenda.now_ns:  # nobody there can see to it before
            self._agenda.at(wakes_ns, self._leave, stop, here)
        else:
            self._leave(stop, here)

    def _leave(self, stop: _Stop, here: str) -> None:
        trip, branch, position = stop.trip, stop.branch, stop.position
        endpoint = trip.itinerary.routes[branch][position].endpoint
        if endpoint == here:
            hop_ns = round(self._machines[here].spec.hop_ms * 1e6)
            self._agenda.after(hop_ns, self._arrive, stop)
        else:
            self._edge(here, endpoint, stop).send(self._parcel(stop))

    def _parcel(self, stop: _Stop) -> Parcel:
        trip, route = stop.trip, stop.trip.itinerary.routes[stop.branch]
        conf = trip.plan.video_conf
        found = (self._work(trip, hop.task).out_nbytes for hop in route[: stop.position])
        nbytes = HEADER_NBYTES + sum(found)
        if stop.position == len(route) - 1:
            return Parcel(None, nbytes, 0, 0, stop)  # what was found goes home, without pixels
        size = self._truth.frame_nbytes(conf.resolution, conf.encoder)
        nbytes += round(size * max(self._chance.gauss(1.0, SIZE_SPREAD), 0.1))
        stop.nbytes = nbytes
        pixels = pixels_of(conf.resolution)
        return Parcel(
            (trip.run.query_id, route[stop.position].task),
            nbytes,
            pixel_ns(ENCODE_S[conf.encoder], pixels),
            pixel_ns(DECODE_S[conf.encoder], pixels),
            stop,
        )

    def _edge(self, sender: str, receiver: str, stop: _Stop) -> Edge:
        is_home = stop.position == len(stop.trip.itinerary.routes[stop.branch]) - 1
        lane = "home" if is_home else stop.trip.run.spec.video.policy
        key = self._names[sender], self._names[receiver], lane
        edge = self._edges.get(key)
        if edge is None:
            edge = self._edges[key] = Edge(
                key[0],
                key[1],
                self._agenda,
                self._wires,
                paced=lane == "latest",
                is_up=lambda name: self.is_up(self._addresses[name]),
                arrived=self._arrive,
                dropped=self._lose,
            )
        return edge

    def _arrive(self, stop: _Stop) -> None:
        trip, route = stop.trip, stop.trip.itinerary.routes[stop.branch]
        hop = route[stop.position]
        wakes_ns = self._machines[hop.endpoint].wakes_ns()
        if wakes_ns > self._agenda.now_ns:  # nobody there takes it in before
            self._agenda.at(wakes_ns, self._arrive, stop)
            return
        if stop.position == len(route) - 1:
            trip.run.arrive(trip, stop.branch)
            return
        stop.arrived_ns = self._agenda.now_ns
        if not stop.position or route[stop.position - 1].endpoint != hop.endpoint:
            self._machines[hop.endpoint].take_in()
        item = Item(
            trip.itinerary.stream,
            trip.seq,
            hop.task,
            plan=trip.itinerary.plan,
            job=trip.run.query_id,
            token=stop,
        )
        self._machines[hop.endpoint].submit(item)

    def _work_of(self, machine: Machine, item: Item) -> float:
        trip: Trip = item.token.trip
        return self._work(trip, item.task).draw(trip.view.objects, self._chance)

    def _work(self, trip: Trip, task: str) -> Work:
        placement = trip.plan.flow_mapping[task]
        node = self._infos[placement.node_addr]
        return self._truth.work(task, placement.model_id, trip.plan.video_conf.resolution, node)

    def _done(self, machine: Machine, item: Item, batch: Batch) -> None:
        stop: _Stop = item.token
        stop.trip.times[item.task] = Times(
            batch.start_ns,
            batch.end_ns,
            batch.pid,
            stop.arrived_ns,
            stop.nbytes,
            len(batch.items),
        )
        self._depart(stop.trip, stop.branch, stop.position + 1, machine.node_addr)

    def _dropped(self, machine: Machine, item: Item, reason: str) -> None:
        """Tell a frame's home that it was given up, which takes the way there."""
        stop: _Stop = item.token
        host = stop.trip.run.host
        delay_ns = 0
        if machine.node_addr != host:
            ends = machine.name, self._names[host]
            delay_ns = self._wires.latency_ns(*ends, self._agenda.now_ns)
        self._agenda.after(delay_ns, self._lose, stop, reason)

    def _lose(self, stop: _Stop, reason: str) -> None:
        stop.trip.run.lose(stop.trip, reason)

    def _worth(self, spec: QuerySpec, plan: Plan, fps: float, at_s: float) -> float:
        phase = Scene(spec.scene, "").phase_at(at_s - spec.arrives_s)
        return self._truth.accuracy(
            spec.branches,
            {task: place.model_id for task, place in plan.flow_mapping.items()},
            plan.video_conf.resolution,
            fps,
            obj_size=phase.size,
            obj_speed=phase.speed,
            cam_fps=spec.video.fps,
        )


def with_videos(scenario: Scenario) -> dict[str, NodeInfo]:
    """Return `node_addr` to each node with a video per query of its own, in their order."""
    addresses = scenario.addresses()
    videos: dict[str, dict[int, VideoInfo]] = {name: {} for name in addresses}
    for query in scenario.queries:
        video = query.video
        own = videos[query.node]
        own[len(own)] = VideoInfo("", video.width, video.height, video.fps)
    return {
        addresses[spec.name]: replace(
            node_info(spec, addresses[spec.name]), videos=videos[spec.name]
        )
        for spec in scenario.nodes
    }


def peers_of(scenario: Scenario, addresses: Mapping[str, str]) -> dict[str, list[str]]:
    """Return whom each node measures its bandwidth towards: servers first, then others."""
    ranked = sorted(scenario.nodes, key=lambda spec: spec.role != "cloud")
    first = [addresses[spec.name] for spec in ranked[: MAX_MEASURED + 1]]
    found = {addr: [peer for peer in first if peer != addr] for addr in addresses.values()}
    for link in scenario.links:
        for one, other in (link.between, link.between[::-1]):
            if addresses[other] not in found[addresses[one]]:
                found[addresses[one]].append(addresses[other])
    return found
