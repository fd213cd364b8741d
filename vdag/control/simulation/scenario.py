"""`Scenario`: what is simulated: nodes, links, queries with their scenes, and what changes when.

A scenario is a value. `vdag.control.simulation.reading` reads one from TOML or JSON, `fleets` draws
one, `traces` makes one from a recorded query. Whatever it names is checked when it is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from vdag.control.simulation.hardware import (
    Cores,
    LinkSpec,
    Mbit,
    Millis,
    Name,
    NodeSpec,
    ServiceSpec,
    Spec,
    Speed,
)
from vdag.errors import ConfigError, GraphError, PlanError
from vdag.graph import Graph
from vdag.itinerary import branches
from vdag.plan import Constraint, Plan

__all__ = [
    "MAX_DURATION_S",
    "LinkSpec",
    "NodeSpec",
    "QuerySpec",
    "Scenario",
    "ScenePhase",
    "SceneSpec",
    "ServiceSpec",
    "Step",
    "VideoSpec",
]

MAX_DURATION_S = 86_400.0
PORT = 5001

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Time = Annotated[float, msgspec.Meta(ge=0, le=MAX_DURATION_S)]


# Before the classes: values of these are defaults of others, and checked when they are made.


# Read again and again, and made once.


@lru_cache(maxsize=1024)
def _chain(tasks: tuple[str, ...]) -> Graph:
    return Graph.chain(*tasks)


@lru_cache(maxsize=1024)
def _graph(dag: str) -> Graph:
    return Graph.from_dag(json.loads(dag))


def _address(name: str, index: int) -> str:
    if ":" in name:
        return name
    number = index + 1
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:{PORT}"


def _unique(what: str, names: Iterable[str]) -> set[str]:
    known: set[str] = set()
    for name in names:
        if name in known:
            raise ConfigError(f"{what} {name!r} is there twice")
        known.add(name)
    return known


def _expect_known(what: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{what} names node {name!r}, which is none")


def _expect_rising(what: str, times: Iterable[float]) -> None:
    last = -math.inf
    for time_s in times:
        if time_s <= last:
            raise ConfigError(f"{what} do not rise: {time_s:g} s comes after {last:g} s")
        last = time_s


class ScenePhase(Spec, frozen=True, kw_only=True):
    """How a scene is from a moment on.

    Attributes:
        at_s: from when, seconds after the query's arrival.
        objects: mean number in a frame.
        size: mean area of one, square pixels at 1920x1080.
        speed: mean speed of one, pixels per second at 1920x1080.
    """

    at_s: Time = 0.0
    objects: Annotated[float, msgspec.Meta(ge=0, le=1e4)] = 4.0
    size: Annotated[float, msgspec.Meta(ge=0, le=1920 * 1080)] = 20_000.0
    speed: Annotated[float, msgspec.Meta(ge=0, le=1e5)] = 100.0


class SceneSpec(Spec, frozen=True, kw_only=True):
    """What a camera sees over time.

    Attributes:
        phases: by rising `at_s`, the first at 0.
        spread: by how much, as a share of the mean, the number of objects wanders.
        cuts: seconds after arrival at which nothing stays where it was.
    """

    phases: tuple[ScenePhase, ...] = (ScenePhase(),)
    spread: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    cuts: tuple[Time, ...] = ()

    def __post_init__(self) -> None:
        times = [phase.at_s for phase in self.phases]
        if not times or times[0] != 0:
            raise ConfigError("phases begin at at_s 0")
        _expect_rising("phases", times)
        _expect_rising("cuts", self.cuts)


class VideoSpec(Spec, frozen=True, kw_only=True):
    """A camera.

    Attributes:
        width: in pixels.
        height: likewise.
        fps: that it gives.
        policy: `latest` drops a waiting frame for a newer one, `block` makes the camera wait.
    """

    width: Annotated[int, msgspec.Meta(ge=16, le=16384)] = 1920
    height: Annotated[int, msgspec.Meta(ge=16, le=16384)] = 1080
    fps: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] = 30.0
    policy: Literal["latest", "block"] = "latest"


class QuerySpec(Spec, frozen=True, kw_only=True):
    """A query.

    Attributes:
        name: unique.
        node: the node that owns the video.
        tasks: in their order; or
        dag: the documents' graph, in place of `tasks`.
        delay_s: that the results shall keep; None for no bound.
        accuracy: likewise, 0 to 1.
        arrives_s: when it is submitted.
        leaves_s: when it is stopped; None for never.
        video: its camera.
        scene: what that sees.
        plan: `video_conf` and `flow_mapping` for the policy `static`; `node_addr` in it may be a
            node's name.
    """

    name: Name
    node: Name
    tasks: tuple[str, ...] = ()
    dag: dict[str, Any] | None = None
    delay_s: Positive | None = None
    accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    arrives_s: Time = 0.0
    leaves_s: Time | None = None
    video: VideoSpec = VideoSpec()
    scene: SceneSpec = SceneSpec()
    plan: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if bool(self.tasks) == (self.dag is not None):
            raise ConfigError(f"query {self.name!r} has tasks or a dag, one of them")
        if self.leaves_s is not None and self.leaves_s <= self.arrives_s:
            raise ConfigError(f"query {self.name!r} leaves_s {self.leaves_s:g} before it arrives")
        try:
            graph = self.graph
        except GraphError as err:
            raise ConfigError(f"query {self.name!r}: {err}") from err
        if not graph.tasks:
            raise ConfigError(f"query {self.name!r} has no task")

    @property
    def graph(self) -> Graph:
        """Its tasks."""
        return _chain(self.tasks) if self.dag is None else _graph(json.dumps(self.dag))

    @property
    def branches(self) -> tuple[tuple[str, ...], ...]:
        """Its tasks by branch; without inputs that say otherwise each follows the one before."""
        graph = self.graph
        return branches(graph) if graph.edges else (graph.tasks,)

    @property
    def constraint(self) -> Constraint:
        """What its results shall be like."""
        given = {"delay": self.delay_s, "accuracy": self.accuracy}
        return Constraint.from_document({k: v for k, v in given.items() if v is not None})


class Step(Spec, frozen=True, kw_only=True):
    """Something that changes at a moment; what is not said stays.

    Attributes:
        at_s: when.
        node: whose `cores`, `speed`, access or presence it is; or
        link: two names whose link it is.
        cores: as of `NodeSpec`.
        speed: likewise.
        mbit: of the link, or of the node's access.
        latency_ms: likewise.
        up: False: the node is gone, with all frames that it has; True: it is there again.
    """

    at_s: Time
    node: Name | None = None
    link: tuple[Name, Name] | None = None
    cores: Cores | None = None
    speed: Speed | None = None
    mbit: Mbit | None = None
    latency_ms: Millis | None = None
    up: bool | None = None

    def __post_init__(self) -> None:
        if (self.node is None) == (self.link is None):
            raise ConfigError(f"step at {self.at_s:g} s names a node or a link, one of them")
        of_nodes = (self.cores, self.speed, self.up)
        if self.link is not None and any(value is not None for value in of_nodes):
            raise ConfigError(f"step at {self.at_s:g} s: a link has no cores, speed or up")
        if all(value is None for value in (*of_nodes, self.mbit, self.latency_ms)):
            raise ConfigError(f"step at {self.at_s:g} s changes nothing")


class Scenario(Spec, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        name: for tables.
        duration_s: how long it goes on.
        nodes: at least one.
        links: between some of them.
        queries: in the order of their submission where they arrive together.
        steps: in any order.
        profile: file of the knowledge base that costs and accuracies are taken from; empty for the
            synthetic one.
        error: by how much, as a share, what policies know of costs and accuracies is wrong.
        period_s: between two looks of the scheduler at a query.
        report_s: between two reports of a node.
        answer_ms: that a policy takes to answer.
        order_ms: from the scheduler to a node.
    """

    name: str = "scenario"
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_DURATION_S)] = 60.0
    nodes: tuple[NodeSpec, ...]
    links: tuple[LinkSpec, ...] = ()
    queries: tuple[QuerySpec, ...] = ()
    steps: tuple[Step, ...] = ()
    profile: str = ""
    error: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    period_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 2.0
    report_s: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 0.5
    answer_ms: Millis = 5.0
    order_ms: Millis = 10.0

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ConfigError("nodes has none")
        known = _unique("node", (node.name for node in self.nodes))
        _unique("query", (query.name for query in self.queries))
        for link in self.links:
            _expect_known("link", link.between, known)
        links = {frozenset(link.between) for link in self.links}
        for step in self.steps:
            _expect_known("step", step.link or (step.node or "",), known)
            if step.link is not None and frozenset(step.link) not in links:
                raise ConfigError(f"step names link {' - '.join(step.link)}, which is none")
        self._check_queries(known)

    @classmethod
    def from_trace(cls, path: Path) -> Scenario:
        """Return the scenario that a trace of `vdag record` is of.

        Raises:
            ConfigError: the trace cannot be read, or its plans make no sense.
        """
        from vdag.control.simulation.retracing import scenario_of_trace  # it makes scenarios itself

        return scenario_of_trace(path)

    def addresses(self) -> dict[str, str]:
        """Return name to `node_addr`, in the order of the nodes."""
        return {node.name: _address(node.name, index) for index, node in enumerate(self.nodes)}

    @staticmethod
    def plan_of(query: QuerySpec, addresses: Mapping[str, str]) -> Plan | None:
        """Return the plan that a query was given; None for none.

        Args:
            query: of the scenario.
            addresses: of its nodes, see `addresses`.

        Raises:
            PlanError: it is no plan.
        """
        if query.plan is None:
            return None
        mapping = {
            task: {**place, "node_addr": addresses.get(place.get("node_addr", ""), "")}
            if isinstance(place, Mapping)
            else place
            for task, place in query.plan.get("flow_mapping", {}).items()
        }
        conf = query.plan.get("video_conf")
        return Plan.from_documents(query.graph.tasks, conf, mapping, number=0)

    def _check_queries(self, known: set[str]) -> None:
        offered = {task for node in self.nodes for task in node.services}
        addresses = self.addresses()
        for query in self.queries:
            _expect_known(f"query {query.name!r}", (query.node,), known)
            for task in query.graph.tasks:
                if task not in offered:
                    raise ConfigError(f"query {query.name!r}: no node offers {task}")
            try:
                self.plan_of(query, addresses)
            except PlanError as err:
                raise ConfigError(f"query {query.name!r}: plan: {err}") from err
