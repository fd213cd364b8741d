"""`Stretch`: a time in which nothing changes, and what queries take of what there is in it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vdag.control.profile.costs import pixels_of
from vdag.control.scheduling.events import NodeInfo
from vdag.control.simulation.edges import DECODE_S, ENCODE_S
from vdag.control.simulation.frames import HEADER_NBYTES, with_videos
from vdag.control.simulation.scenario import NodeSpec, QuerySpec, Scenario
from vdag.control.simulation.scenes import Scene
from vdag.control.simulation.truth import Truth
from vdag.control.simulation.waits import Wait, at_wire, at_workers, free_cores, on_node
from vdag.control.simulation.wires import Wires

__all__ = ["Choice", "Stretch", "moments", "stretches"]

_NS = 1_000_000_000
#: Shares of workers, cores and wires that may be taken: beyond, waits grow without bounds.
MAX_SHARE = 0.85
#: Objects wander; this many standard deviations above the mean are reckoned with.
OBJECTS_ABOVE = 1.0


class Choice(NamedTuple):
    """One way to run a query; sorted by what it is worth.

    Attributes:
        accuracy: 0 to 1.
        resolution: of the frames.
        fps: at which they are taken.
        encoder: between nodes.
        models: of the tasks, in their order.
        nodes: likewise their `node_addr`.
    """

    accuracy: float
    resolution: str
    fps: float
    encoder: str
    models: tuple[int, ...]
    nodes: tuple[str, ...]


@dataclass(slots=True)
class _State:
    """A node as it is during a stretch."""

    spec: NodeSpec
    info: NodeInfo
    cores: float
    speed: float
    is_up: bool


#: What may run short: `("workers", node, task)`, `("cores", node)`, `("wire", a number)`.
Resource = tuple[str | int, ...]


class _Claim(NamedTuple):
    """What a frame a second takes of each resource, as a share of it, and how a frame would go."""

    shares: dict[Resource, float]
    fixed_s: float
    spread_s2: float
    stages: tuple[tuple[str, str, float, int], ...]
    trips: tuple[tuple[int, float], ...]


#: Claims of choices, and options of queries, by what they depend on.
Known = tuple[dict[tuple[object, ...], _Claim | None], dict[tuple[object, ...], list[Choice]]]


class Stretch:
    """What there is between two changes, and who has what of it.

    Args:
        scenario: all of it.
        truth: what tasks cost.
        wires: the ways between nodes.
        infos: the nodes, as they describe themselves.
        start_s: when it begins.
        known: what was reckoned in other stretches, where nothing differed that matters.

    Attributes:
        queries: that are there.
        chosen: query to what it does.
    """

    def __init__(
        self,
        scenario: Scenario,
        truth: Truth,
        wires: Wires,
        infos: dict[str, NodeInfo],
        start_s: float,
        known: Known,
    ) -> None:
        self.start_s = start_s
        self._truth, self._wires = truth, wires
        self._addresses = scenario.addresses()
        self._names = {addr: name for name, addr in self._addresses.items()}
        self._nodes = _states(scenario, infos, self._addresses, start_s)
        self.queries = [
            query
            for query in scenario.queries
            if query.arrives_s <= start_s and (query.leaves_s is None or start_s < query.leaves_s)
        ]
        self._specs = {query.name: query for query in self.queries}
        self._phases = {
            query.name: Scene(query.scene, "").phase_at(start_s - query.arrives_s)
            for query in self.queries
        }
        self.chosen: dict[str, Choice] = {}
        self._claims: dict[str, _Claim] = {}
        self._total: defaultdict[Resource, float] = defaultdict(float)
        self._users: defaultdict[Resource, int] = defaultdict(int)
        changes = (step for step in scenario.steps if step.at_s <= start_s)
        (self._known, self._options), self._signature = known, sum(1 for _ in changes)

    def spec(self, query: str) -> QuerySpec:
        """Return a query."""
        return self._specs[query]

    def host(self, query: QuerySpec) -> str:
        """Return the address of the node that owns a query's video."""
        return self._addresses[query.node]

    def near(self, query: QuerySpec, servers: int, edges: int) -> list[str]:
        """Return nodes to try: the query's own, the fastest servers and other edges."""
        host = self.host(query)
        ranked = sorted(
            (addr for addr, state in self._nodes.items() if addr != host and state.is_up),
            key=lambda addr: (-self._nodes[addr].cores * self._nodes[addr].speed, addr),
        )
        found = [addr for addr in ranked if self._nodes[addr].spec.role == "cloud"][:servers]
        found += [addr for addr in ranked if self._nodes[addr].spec.role != "cloud"][:edges]
        return [host, *found]

    def remembered(self, query: QuerySpec, make: Callable[[], list[Choice]]) -> list[Choice]:
        """Return the options of a query, which are made once for all stretches that are alike."""
        key = self._signature, query.name, self._phases[query.name].at_s
        if key not in self._options:
            self._options[key] = make()
        return self._options[key]

    def offers(self, nodes: Sequence[str], tasks: Sequence[str], models: Sequence[int]) -> bool:
        """Whether each node has the task and the model that is asked of it."""
        return all(
            self._nodes[addr].info.offers(task, model_id)
            for addr, task, model_id in zip(nodes, tasks, models, strict=True)
        )

    def accuracy(
        self, query: QuerySpec, resolution: str, fps: float, models: Sequence[int]
    ) -> float:
        """Return what a configuration is worth."""
        phase = self._phases[query.name]
        return self._truth.accuracy(
            query.branches,
            dict(zip(query.graph.tasks, models, strict=True)),
            resolution,
            fps,
            obj_size=phase.size,
            obj_speed=phase.speed,
            cam_fps=query.video.fps,
        )

    def share(self, query: QuerySpec, choice: Choice) -> float:
        """Return what a choice takes, all resources together."""
        claim = self._claim(query, choice)
        return choice.fps * sum(claim.shares.values()) if claim is not None else math.inf

    def fits(self, query: QuerySpec, choice: Choice, margin: float) -> bool:
        """Whether there is room for a choice, and all keep their delays; it replaces the present.

        Args:
            query: whose.
            choice: of it.
            margin: of the bounds of delays, the share that may be used.
        """
        claim = self._claim(query, choice)
        if claim is None:
            return False
        # Quickly, without the others, what cannot be anyhow.
        bound_s = (query.delay_s or math.inf) * margin
        if claim.fixed_s > bound_s or choice.fps * max(claim.shares.values()) > MAX_SHARE:
            return False
        before = self.chosen.get(query.name)
        self._put(query, choice, claim)
        is_fit = all(self._total[resource] <= MAX_SHARE for resource in claim.shares) and all(
            self._is_in_time(other, margin)
            for other, theirs in self._claims.items()
            if other == query.name or not claim.shares.keys().isdisjoint(theirs.shares)
        )
        self._remove(query.name)
        if before is not None:
            self.assign(query, before)
        return is_fit

    def assign(self, query: QuerySpec, choice: Choice) -> None:
        """Give a query what it asks for, in place of what it had."""
        claim = self._claim(query, choice)
        if claim is not None:
            self._put(query, choice, claim)
        else:
            self.chosen[query.name] = choice

    def _put(self, query: QuerySpec, choice: Choice, claim: _Claim) -> None:
        self._remove(query.name)
        self.chosen[query.name], self._claims[query.name] = choice, claim
        for resource, share in claim.shares.items():
            self._total[resource] += choice.fps * share
            self._users[resource] += 1

    def _remove(self, query: str) -> None:
        choice, claim = self.chosen.pop(query, None), self._claims.pop(query, None)
        if choice is not None and claim is not None:
            for resource, share in claim.shares.items():
                self._total[resource] -= choice.fps * share
                self._users[resource] -= 1

    def _is_in_time(self, query: str, margin: float) -> bool:
        """Whether a query keeps its delay with all that is assigned."""
        spec, claim, choice = self._specs[query], self._claims[query], self.chosen[query]
        waits = []
        for addr, task, service_s, workers in claim.stages:
            resource: Resource = ("workers", addr, task)
            busy = self._total[resource] * workers
            waits.append(at_workers(service_s, workers, busy, self._users[resource]))
        for number, message_s in claim.trips:
            resource = ("wire", number)
            waits.append(at_wire(message_s, self._total[resource], self._users[resource]))
        mean_s = claim.fixed_s + sum(wait.mean_s for wait in waits)
        spread_s2 = claim.spread_s2 + sum((wait.p95_s - wait.mean_s) ** 2 for wait in waits)
        # As of the real job: one frame per task and one on its way, and no more.
        if choice.fps * mean_s > len(choice.nodes) + 1:
            return False
        return mean_s + math.sqrt(spread_s2) <= (spec.delay_s or math.inf) * margin

    def _claim(self, query: QuerySpec, choice: Choice) -> _Claim | None:
        place = self._signature, query.name, self._phases[query.name].at_s
        key = *place, choice.resolution, choice.encoder, choice.models, choice.nodes
        if key not in self._known:
            self._known[key] = self._reckon(query, choice)
        return self._known[key]

    def _reckon(self, query: QuerySpec, choice: Choice) -> _Claim | None:
        """Return what a choice takes, its rate aside; None if a node is not there."""
        phase = self._phases[query.name]
        objects = phase.objects * (1.0 + OBJECTS_ABOVE * query.scene.spread)
        shares: defaultdict[Resource, float] = defaultdict(float)
        stages: list[tuple[str, str, float, int]] = []
        trips: list[tuple[int, float]] = []
        fixed_s = spread_s2 = 0.0
        before, context = self.host(query), float(HEADER_NBYTES)
        steps = zip(query.graph.tasks, choice.models, choice.nodes, strict=True)
        for task, model_id, addr in steps:
            node = self._nodes[addr]
            if not node.is_up:
                return None
            work = self._truth.work(task, model_id, choice.resolution, node.info)
            alone = Wait(work.expected(objects), work.p95_s(objects))
            service_s, p95_s = on_node(node.spec, node.cores, node.speed, alone)
            workers = node.spec.services[task].workers
            shares["workers", addr, task] += service_s / workers
            free = free_cores(node.spec, node.cores)
            shares["cores", addr] += alone.mean_s / node.speed / free
            stages.append((addr, task, service_s, workers))
            fixed_s += service_s
            spread_s2 += (p95_s - service_s) ** 2
            if addr == before:
                fixed_s += node.spec.hop_ms / 1e3
            else:
                travel = self._travel(choice, before, addr, context, shares, trips)
                fixed_s += travel.mean_s
                spread_s2 += (travel.p95_s - travel.mean_s) ** 2
            before, context = addr, context + work.out_nbytes
        if before != self.host(query):
            ends = self._names[before], self._names[self.host(query)]
            fixed_s += self._wires.latency_ns(*ends, self._now_ns) / _NS
            fixed_s += context / self._wires.rate(*ends, self._now_ns)
        return _Claim(dict(shares), fixed_s, spread_s2, tuple(stages), tuple(trips))

    @property
    def _now_ns(self) -> int:
        return round(self.start_s * _NS) + 1

    def _travel(
        self,
        choice: Choice,
        sender: str,
        receiver: str,
        context: float,
        shares: defaultdict[Resource, float],
        trips: list[tuple[int, float]],
    ) -> Wait:
        """Return what a frame's way to another node takes beside waiting, and note its load."""
        ends, now_ns = (self._names[sender], self._names[receiver]), self._now_ns
        nbytes = context + self._truth.frame_nbytes(choice.resolution, choice.encoder)
        for pipe in self._wires.pipes(*ends):
            message_s = nbytes / pipe.rate_at(now_ns)
            shares["wire", id(pipe)] += message_s
            trips.append((id(pipe), message_s))
        pixels = pixels_of(choice.resolution)
        coding_s = pixels * (ENCODE_S[choice.encoder] + DECODE_S[choice.encoder])
        # One thread encodes all frames of an edge.
        encoder: Resource = ("encoder", *ends)
        shares[encoder] += pixels * ENCODE_S[choice.encoder]
        sent_s = nbytes / self._wires.rate(*ends, now_ns)
        fixed_s = sent_s + coding_s + self._wires.latency_ns(*ends, now_ns) / _NS
        return Wait(fixed_s, fixed_s + 0.13 * sent_s)


def stretches(scenario: Scenario, truth: Truth) -> Iterator[Stretch]:
    """Yield the times in which nothing changes, in their order."""
    wires, infos = Wires(scenario), with_videos(scenario)
    known: Known = ({}, {})
    for start_s in moments(scenario):
        yield Stretch(scenario, truth, wires, infos, start_s, known)


def moments(scenario: Scenario) -> list[float]:
    """Return when anything changes, in its order; arrivals of queries among it."""
    found = {step.at_s for step in scenario.steps}
    for query in scenario.queries:
        found.add(query.arrives_s)
        if query.leaves_s is not None:
            found.add(query.leaves_s)
        found.update(query.arrives_s + phase.at_s for phase in query.scene.phases)
    return sorted(at_s for at_s in found if at_s < scenario.duration_s)


def _states(
    scenario: Scenario, infos: dict[str, NodeInfo], addresses: dict[str, str], at_s: float
) -> dict[str, _State]:
    states = {
        addresses[spec.name]: _State(
            spec, infos[addresses[spec.name]], spec.cores, spec.speed, True
        )
        for spec in scenario.nodes
    }
    for step in sorted(scenario.steps, key=lambda step: step.at_s):
        if step.node is not None and step.at_s <= at_s:
            state = states[addresses[step.node]]
            state.cores, state.speed = step.cores or state.cores, step.speed or state.speed
            state.is_up = state.is_up if step.up is None else step.up
    return states
