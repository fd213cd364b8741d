"""What placing a service would cost, from what is measured, and from estimates where nothing is.

Seconds of a packet at a handler, the first of these that there is:

    what earlier packets took at a handler like it, on that node
    what it took when it was opened on that node, and tried on a picture of the capture's size
    what earlier packets took on other nodes, by how much slower the node is at what both have done
    what the profile says of its model
    what the file of its type says
    an estimate by its kind

A handler like another has the same type and parameters, whatever the session. Likewise bytes: those
that earlier packets had with them on their way to a handler like it, else those of the file of the
type that gives them, else an estimate by what that is: pixels, an encoded picture, boxes. What a
node has left is what its cores do not do now, with what the session takes of them given back.

From a handler to the next on its node a packet takes two messages and two wake-ups, and what
handlers have made is copied: pictures, JPEGs, crops. The capture's picture stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vdag.control.coordination.placing import CostTable
from vdag.control.coordination.types import CAPTURE, HandlerType, with_defaults
from vdag.control.coordination.values import HandlerSpec, Link, Node, Service
from vdag.control.coordinator.learned import Learned
from vdag.control.coordinator.routes import Route, luggage
from vdag.control.prediction.ways import CODEC_S, WAY_S
from vdag.control.scheduling.infos import NodeInfo

__all__ = ["COPY_S", "HANDOVER_S", "Situation", "copied_nbytes", "costs_of"]

#: Seconds by kind, of a picture of 640 x 480 on one core of a small server. That of a capture
#: passes before the packet begins.
ESTIMATES: Mapping[int, float] = {
    CAPTURE: 0.0, 3: 0.5e-3, 4: 1e-3, 5: 1e-3, 6: 1.2e-3, 7: 60e-3, 8: 12e-3, 9: 40e-3, 10: 60e-3,
    11: 5e-3, 12: 40e-3, 13: 20e-3, 14: 20e-3, 15: 20e-3, 16: 0.5e-3, 17: 0.8e-3,
}  # fmt: skip
UNKNOWN_S = 20e-3
#: From one handler to the next on a node, beside the bytes, on a machine with little else to do.
HANDOVER_S = 1.4e-3
#: Per byte that is copied on the way, see docs/processes.md.
COPY_S = 1.5e-9
USUAL_PIXELS = 640 * 480
#: Bytes per pixel of a JPEG of usual quality, of pixels as they are.
ENCODED, PLAIN = 0.12, 3.0
#: Of a list of boxes, without and with their pictures.
BOXES_NBYTES, CROPS_NBYTES = 300.0, 20_000.0
DETECTORS = range(7, 16)
ENCODE = 5


@dataclass(frozen=True, slots=True)
class Situation:
    """How the nodes are at the moment.

    Attributes:
        infos: of nodes that have joined, by their numbers.
        bandwidths: bytes per second, by sender and receiver.
        profiled: seconds of a packet by handler and node, of those that the profile knows, as they
            were measured before; what it has learned since is of other handlers as well.
        own: busy seconds per second, by node, of the session that is placed anew.
        route: the way of a frame, of a session on our nodes; empty for others.
    """

    infos: Mapping[int, NodeInfo] = field(default_factory=dict)
    bandwidths: Mapping[tuple[int, int], float] = field(default_factory=dict)
    profiled: Mapping[tuple[int, int], float] = field(default_factory=dict)
    own: Mapping[int, float] = field(default_factory=dict)
    route: Route = ()


def costs_of(
    service: Service,
    nodes: Iterable[Node],
    types: Mapping[int, HandlerType],
    learned: Learned,
    situation: Situation,
) -> CostTable:
    """Return what placing a service would cost.

    Args:
        service: which; of one on our nodes, with the steps of its way among the links.
        nodes: that may get handlers.
        types: of handlers.
        learned: of earlier packets.
        situation: how the nodes are.
    """
    nodes = tuple(nodes)
    capture = _capture_params(service, types)
    pixels = capture["width"] * capture["height"]
    compute = {
        (spec.handler_id, node.node_id): _seconds(spec, node, types, learned, situation, pixels)
        for spec in service.handlers
        for node in nodes
    }
    return CostTable(
        float(capture["fps"]),
        compute,
        _sizes(service, types, learned, situation, pixels),
        dict(situation.bandwidths),
        {
            (one.node_id, other.node_id): 2 * _way_s(one.node_id, other.node_id, learned, pixels)
            for one in nodes
            for other in nodes
            if one is not other
        },
        {node.node_id: _capacity(node, situation) for node in nodes},
        handovers=_handovers(service, nodes, types, learned, situation.route),
    )


def copied_nbytes(
    service: Service, types: Mapping[int, HandlerType], route: Route
) -> Mapping[tuple[int, int], float]:
    """Return the bytes that are copied for a packet, by the two ends of each step of its way."""
    capture = _capture_params(service, types)
    pixels = capture["width"] * capture["height"]

    def made(number: int) -> float:
        spec = service.by_id[number]
        return 0.0 if spec.kind == CAPTURE else _nbytes(spec, types, pixels)

    return luggage(service, route, made)


def _handovers(
    service: Service,
    nodes: Iterable[Node],
    types: Mapping[int, HandlerType],
    learned: Learned,
    route: Route,
) -> dict[tuple[Link, int], float]:
    copied = copied_nbytes(service, types, route)
    return {
        (link, node.node_id): learned.hop_s(node.node_id, HANDOVER_S)
        + COPY_S * copied.get((link.source_handler, link.target_handler), 0.0)
        for link in service.links
        for node in nodes
    }


def _capture_params(service: Service, types: Mapping[int, HandlerType]) -> dict[str, Any]:
    for spec in service.handlers:
        if spec.kind == CAPTURE:
            return with_defaults(types[CAPTURE], spec.params)
    return with_defaults(types[CAPTURE], {})


def _seconds(
    spec: HandlerSpec,
    node: Node,
    types: Mapping[int, HandlerType],
    learned: Learned,
    situation: Situation,
    pixels: int,
) -> float:
    guess = ESTIMATES.get(spec.kind, UNKNOWN_S) * pixels / USUAL_PIXELS
    sources: tuple[Callable[[], float | None], ...] = (
        lambda: learned.at(spec, node.node_id),
        lambda: learned.tried(spec, node.node_id),
        lambda: learned.elsewhere(spec, node.node_id),
        lambda: situation.profiled.get((spec.handler_id, node.node_id)),
        lambda: types[spec.kind].compute_s,
    )
    return next((found for ask in sources if (found := ask()) is not None), guess)


def _way_s(sender: int, receiver: int, learned: Learned, pixels: int) -> float:
    """Return the seconds from node to node beside those of the bytes."""
    return learned.way_s(sender, receiver, WAY_S + pixels * CODEC_S["JPEG"])


def _sizes(
    service: Service,
    types: Mapping[int, HandlerType],
    learned: Learned,
    situation: Situation,
    pixels: int,
) -> dict[Link, float]:
    def given(number: int) -> float:
        return _nbytes(service.by_id[number], types, pixels)

    if not situation.route:
        return {link: given(link.source_handler) for link in service.links}
    carried = luggage(service, situation.route, given)
    sizes: dict[Link, float] = {}
    for link in service.links:
        step = link.source_handler, link.target_handler
        if step in carried:  # what other links bring comes along with this one
            known = learned.nbytes(service.by_id[link.target_handler])
            sizes[link] = carried[step] if known is None else known
    return sizes


def _nbytes(source: HandlerSpec, types: Mapping[int, HandlerType], pixels: int) -> float:
    kind = types[source.kind]
    if kind.nbytes is not None:
        return kind.nbytes
    if source.kind in DETECTORS:
        with_crop = with_defaults(kind, source.params).get("with_crop", False)
        return CROPS_NBYTES if with_crop else BOXES_NBYTES
    # Frames of a source are encoded on their way.
    return pixels * (ENCODED if source.kind in (CAPTURE, ENCODE) else PLAIN)


def _capacity(node: Node, situation: Situation) -> float:
    info = situation.infos.get(node.node_id)
    ratios = None if info is None else info.resources.get("cpu_ratio")
    if isinstance(ratios, (list, tuple)) and ratios:
        busy = sum(float(ratio) for ratio in ratios if isinstance(ratio, (int, float))) / 100
        cores = node.cores if node.cores is not None else float(len(ratios))
        left = cores - busy + situation.own.get(node.node_id, 0.0)
        return min(max(left, 0.0), cores)
    return math.inf if node.cores is None else node.cores
