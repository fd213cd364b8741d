"""`Surveyor`: has the links measured that plans may use and nothing is sent over.

What frames take is measured as they go, see `vdag.transport.meter`. To nodes that no frame goes to,
a few bytes are sent from time to time, so that plans can be made that send frames there: to the
servers, and to other nodes that do tasks, one after the other, so that probes do not meet.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from vdag.errors import VdagError
from vdag.threads import wait_ended

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.control.cluster import Cluster, NodeView
    from vdag.transport.peers import Peers

__all__ = ["MAX_PROBED", "Surveyor"]

logger = logging.getLogger(__name__)

#: Nodes that are probed; of more, the servers and those that joined first.
MAX_PROBED = 16
#: How often it is looked whether one is due; each time one at most.
STEP_S = 0.5
JOIN_TIMEOUT_S = 5.0
#: How often the names of nodes are looked up: there may be thousands, and many reports a second.
NAMES_S = 1.0


class Surveyor:
    """See above; closed by `close` or a `with` block. Its thread starts with it.

    Args:
        peers: of the node.
        cluster: says which nodes there are.
        probe_s: since a link was measured, before it is probed; 0 for no probes.
    """

    def __init__(self, peers: Peers, cluster: Cluster, probe_s: float) -> None:
        self._peers, self._cluster, self._probe_s = peers, cluster, probe_s
        self._refused: dict[str, str] = {}
        self._names: dict[str, str] = {}  # landing to node_addr, of late
        self._named_s = -math.inf
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vdag-surveyor", daemon=True)
        if probe_s:
            self._thread.start()

    def bandwidth(self) -> dict[str, float]:
        """Return bytes per second to other nodes, by `node_addr`, as far as they were measured."""
        if (now_s := time.monotonic()) - self._named_s > NAMES_S:
            self._named_s = now_s
            self._names = {node.landing: node.node_addr for node in self._cluster.nodes()}
        return {
            self._names[address]: link.rate
            for address, link in self._peers.links().items()
            if link.rate is not None and self._names.get(address)
        }

    def close(self) -> None:
        """Probe no more; may be called again."""
        self._closing.set()
        wait_ended(self._thread, timeout_s=JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # From here on everything runs on the surveyor's own thread.

    def _run(self) -> None:
        while not self._closing.wait(STEP_S):
            nodes = self._nodes()
            self._refused = {
                address: self._refused[address]
                for address in (node.landing for node in nodes)
                if address in self._refused
            }
            for node in nodes:
                if self._probe(node):
                    break

    def _nodes(self) -> list[NodeView]:
        """Return the nodes to be probed."""
        others = [
            node
            for node in self._cluster.nodes()
            if node.landing.startswith("tcp://")
            and node.landing != self._peers.address
            and node.services
        ]
        return sorted(others, key=lambda node: node.role != "cloud")[:MAX_PROBED]

    def _probe(self, node: NodeView) -> bool:
        """Probe a node if it is time to; return whether it was."""
        try:
            is_due = self._peers.probe(node.landing, node.name, after_s=self._probe_s)
        except VdagError as err:
            if self._refused.get(node.landing) != str(err):  # said once
                self._refused[node.landing] = str(err)
                logger.info("link to %s is not measured: %s", node.node_addr, err)
            return False
        self._refused.pop(node.landing, None)
        return is_due
