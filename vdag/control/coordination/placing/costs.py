"""What placements cost: `Costs`, which algorithms ask, and `CostTable`, written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vdag.control.coordination.values import Link

__all__ = ["CostTable", "Costs"]


class Costs(Protocol):
    """What is known of handlers, nodes and the links between them, measured or estimated.

    It answers the same all through one call of an algorithm.
    """

    @property
    def fps(self) -> float:
        """Packets per second that each handler gets."""

    def compute_s(self, handler_id: int, node_id: int) -> float:
        """Return the mean seconds of a packet at a handler there; infinite if it cannot run."""

    def workers(self, handler_id: int, node_id: int) -> int:
        """Return how many packets the handler works on at a time there, 1 in the documents."""

    def nbytes(self, link: Link) -> float:
        """Return the mean bytes of a packet of a link, encoded as it goes between nodes.

        They are the same for all links of an output.
        """

    def bandwidth(self, sender: int, receiver: int) -> float | None:
        """Return the bytes per second from one node to another; None for not known."""

    def rtt_s(self, sender: int, receiver: int) -> float:
        """Return the seconds from one node to another and back."""

    def handover_s(self, link: Link, node_id: int) -> float:
        """Return the seconds of a packet of a link whose two ends are on one node."""

    def capacity(self, node_id: int) -> float:
        """Return the busy seconds per second that a node has left; infinite for not known."""


@dataclass(frozen=True, slots=True)
class CostTable:
    """Costs that are written down.

    Attributes:
        fps: packets per second.
        compute: seconds of a packet, by handler and node; what is not there cannot run there.
        sizes: bytes of a packet, by link; 0 where it is not there.
        bandwidths: bytes per second, by sender and receiver.
        rtts: seconds there and back, likewise; 0 where it is not there.
        capacities: busy seconds per second, by node.
        parallel: workers of a handler on a node; 1 where it is not there.
        handovers: seconds within a node, by link and node; 0 where it is not there.
    """

    fps: float
    compute: Mapping[tuple[int, int], float]
    sizes: Mapping[Link, float] = field(default_factory=dict)
    bandwidths: Mapping[tuple[int, int], float | None] = field(default_factory=dict)
    rtts: Mapping[tuple[int, int], float] = field(default_factory=dict)
    capacities: Mapping[int, float] = field(default_factory=dict)
    parallel: Mapping[tuple[int, int], int] = field(default_factory=dict)
    handovers: Mapping[tuple[Link, int], float] = field(default_factory=dict)

    def compute_s(self, handler_id: int, node_id: int) -> float:
        """See `Costs`."""
        return self.compute.get((handler_id, node_id), math.inf)

    def workers(self, handler_id: int, node_id: int) -> int:
        """See `Costs`."""
        return self.parallel.get((handler_id, node_id), 1)

    def nbytes(self, link: Link) -> float:
        """See `Costs`."""
        return self.sizes.get(link, 0.0)

    def bandwidth(self, sender: int, receiver: int) -> float | None:
        """See `Costs`."""
        return self.bandwidths.get((sender, receiver))

    def rtt_s(self, sender: int, receiver: int) -> float:
        """See `Costs`."""
        return self.rtts.get((sender, receiver), 0.0)

    def handover_s(self, link: Link, node_id: int) -> float:
        """See `Costs`."""
        return self.handovers.get((link, node_id), 0.0)

    def capacity(self, node_id: int) -> float:
        """See `Costs`."""
        return self.capacities.get(node_id, math.inf)
