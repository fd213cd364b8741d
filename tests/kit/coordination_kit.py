"""Services, nodes and costs of any shape, and what placements of them come to, told anew."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from itertools import product

from hypothesis import strategies as st

from vdag.control.coordination.documents import HandlerSpec, Link, Node, Service
from vdag.control.coordination.placing import CostTable
from vdag.control.prediction.queueing import wait_at
from vdag.control.prediction.ways import link_time

CAPTURE, RENDER, RESIZE, DRAW = 2, 3, 4, 16
INPUTS = {CAPTURE: 0, RENDER: 1, RESIZE: 1, DRAW: 2}
EPSILON = 1e-9
#: Shapes and costs are drawn by these, for hypothesis alone prefers the plainest.
seeds = st.integers(0, 2**32 - 1).map(random.Random)


def node(number: int, *, speaks="vdag", handlers=None, addr=None) -> Node:
    addr = f"192.0.2.{number + 1}" if addr is None else addr
    return Node(number, f"n{number}", "server", addr, 9000, handlers, speaks)


def chain(*kinds: int, nodes: Mapping[int, int] | None = None, algorithm="min_delay") -> Service:
    """Handlers one after the other, some tied to nodes."""
    tied = nodes or {}
    specs = tuple(
        HandlerSpec(i, f"h{i}", kind, node_id=tied.get(i)) for i, kind in enumerate(kinds)
    )
    links = tuple(Link(i, 0, i + 1, 0) for i in range(len(kinds) - 1))
    return Service(0, "chain", specs, links, algorithm)


@st.composite
def services(draw, *, nodes: int, most: int = 5, tied: float = 0.2) -> Service:
    """Chains and graphs with joins, numbered in any order, some handlers tied to nodes."""
    rnd = draw(seeds)
    count = rnd.choice([1, *range(2, most + 1), most, most])
    is_chain = rnd.random() < 0.5
    numbers = rnd.sample(range(count), count)
    kinds, links = [CAPTURE], []
    for i in range(1, count):
        givers = [j for j in range(i) if kinds[j] != RENDER]
        kind = RESIZE if is_chain else rnd.choices(list(INPUTS), [1, 2, 4, 4])[0]
        kinds.append(kind)
        for number in range(INPUTS[kind]):
            giver = i - 1 if is_chain else rnd.choice(givers)
            links.append(Link(numbers[giver], 0, numbers[i], number))
    specs = [
        HandlerSpec(
            numbers[i],
            f"h{i}",
            kinds[i],
            node_id=rnd.randrange(nodes) if rnd.random() < tied else None,
        )
        for i in range(count)
    ]
    rnd.shuffle(specs)
    return Service(0, "any", tuple(specs), tuple(links), "min_delay")


@st.composite
def costs(draw, service: Service, *, nodes: int) -> CostTable:
    """Costs of which many bind and few forbid; of a grid, so that there are ties."""
    rnd = draw(seeds)
    pairs = [pair for pair in product(range(nodes), repeat=2) if pair[0] != pair[1]]
    visits = [(spec.handler_id, number) for spec in service.handlers for number in range(nodes)]
    times = [0.0, 0.002, 0.005, 0.01, 0.03, 0.07, 0.15, math.inf]
    sizes = {spec.handler_id: rnd.choice([0.0, 500.0, 2e4, 2e5]) for spec in service.handlers}
    binds = rnd.random() < 0.7
    capacities = [0.3, 0.5, 0.8, 1.2] if binds else [2.0, math.inf]
    bandwidths = [1.5e6, 4e6] if binds else [1.25e7, 1e9, None]
    return CostTable(
        10.0,
        {visit: rnd.choices(times, [2, 4, 4, 4, 4, 3, 1, 1])[0] for visit in visits},
        {link: sizes[link.source_handler] for link in service.links},
        {pair: rnd.choice(bandwidths) for pair in pairs},
        {pair: rnd.choice([0.0, 0.002, 0.04]) for pair in pairs},
        {number: rnd.choice(capacities) for number in range(nodes)},
        {visit: rnd.choice([1, 2]) for visit in visits},
        {
            (link, number): rnd.choice([0.0, 0.001, 0.02])
            for link in service.links
            for number in range(nodes)
        },
    )


def delay_of(service: Service, table: CostTable, placed: Mapping[int, int]) -> float:
    """The delay of a placement, infinite if it is not possible: straight from the definition."""
    fps = table.fps
    for number in set(placed.values()):
        busy = sum(fps * table.compute_s(h, n) for h, n in placed.items() if n == number)
        if busy > table.capacity(number) * (1 + EPSILON) + EPSILON:
            return math.inf
    flows: dict[tuple[int, int], dict[int, float]] = {}
    for link in service.links:
        pair = placed[link.source_handler], placed[link.target_handler]
        if pair[0] != pair[1]:
            flows.setdefault(pair, {})[link.source_handler] = fps * table.nbytes(link)
    for pair, outputs in flows.items():
        bandwidth = table.bandwidth(*pair)
        if bandwidth is not None and sum(outputs.values()) > 0.98 * bandwidth * (1 + EPSILON):
            return math.inf

    def stay(handler: int) -> float:
        compute_s = table.compute_s(handler, placed[handler])
        workers = table.workers(handler, placed[handler])
        if not fps * compute_s <= 0.98 * workers:
            return math.inf
        if not compute_s:
            return 0.0
        wait_s, _ = wait_at(compute_s, compute_s**2 / 16, float(workers), fps * compute_s, 0.0)
        return wait_s + compute_s

    def way(link: Link) -> float:
        pair = placed[link.source_handler], placed[link.target_handler]
        if pair[0] == pair[1]:
            return table.handover_s(link, pair[0])
        bandwidth = table.bandwidth(*pair)
        bytes_s = table.nbytes(link) / bandwidth if bandwidth else 0.0
        return table.rtt_s(*pair) / 2 + link_time(bytes_s, fps * bytes_s, 0.0)[0]

    def done(handler: int) -> float:
        into = [link for link in service.links if link.target_handler == handler]
        came = (done(link.source_handler) + way(link) for link in into)
        return max(came, default=0.0) + stay(handler)

    return max(done(spec.handler_id) for spec in service.handlers)


def every_placement(service: Service, nodes: list[Node]) -> list[dict[int, int]]:
    """All placements that keep handlers where they are tied."""
    choices = [
        [each.node_id for each in nodes] if spec.node_id is None else [spec.node_id]
        for spec in service.handlers
    ]
    numbers = [spec.handler_id for spec in service.handlers]
    return [dict(zip(numbers, chosen, strict=True)) for chosen in product(*choices)]
