"""`Services`: the services of other makes that frames of this node visit."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal

from vdag.control.rest.service_edge import SCHEME, ServiceEdge, ServiceStats
from vdag.errors import ConfigError
from vdag.transport.entrance import Entrance

if TYPE_CHECKING:
    from typing_extensions import Self

    from vdag.graph import Graph
    from vdag.transport.exchange import Exchange

__all__ = ["SCHEME", "Services", "is_service"]

#: Services that there may be edges to.
MAX_SERVICES = 64


def is_service(endpoint: str) -> bool:
    """Say whether an endpoint of a route is a service, and no exchange."""
    return endpoint.startswith(SCHEME)


class Services:
    """Joins an exchange to services; closed by `close` or a `with` block, before the exchange.

    Args:
        exchange: of this node; gets an edge for each service that a job visits.
        timeout_s: for one frame at one service.
    """

    def __init__(self, exchange: Exchange, *, timeout_s: float = 10.0) -> None:
        self._exchange, self._timeout_s = exchange, timeout_s
        self._entrance = Entrance(exchange.address)
        self._lock = threading.Lock()
        self._edges: dict[str, ServiceEdge] = {}

    def visit(
        self,
        job: str,
        graph: Graph,
        endpoints: Collection[str],
        policy: Literal["block", "latest"] = "latest",
    ) -> None:
        """Prepare for the frames of a job, or for those of its next plan.

        Services of an earlier call that are not named again are not forgotten: frames may still be
        under way to them. `leave` ends it.

        Args:
            job: its id.
            graph: of it, with its edges written out.
            endpoints: `http://host:port` of each service.
            policy: see `ServiceEdge.assign`.

        Raises:
            ConfigError: one is no endpoint, or there are too many; nothing has changed then.
        """
        with self._lock:
            new = {
                endpoint: ServiceEdge(
                    endpoint,
                    enter=self._entrance.send,
                    where=self._exchange.address,
                    timeout_s=self._timeout_s,
                )
                for endpoint in endpoints
                if endpoint not in self._edges
            }
            if len(self._edges) + len(new) > MAX_SERVICES:
                raise ConfigError(f"{MAX_SERVICES} services are the limit")
            self._edges.update(new)
            for endpoint in endpoints:
                self._edges[endpoint].assign(job, graph, policy)
            self._exchange.edges.update(new)

    def leave(self, job: str) -> None:
        """Forget a job that has ended, and services that nobody visits any more."""
        with self._lock:
            for edge in self._edges.values():
                edge.release(job)
            idle = [endpoint for endpoint, edge in self._edges.items() if not edge.is_used]
            gone = [self._take_out(endpoint) for endpoint in idle]
        for edge in gone:  # without the lock: it waits for threads
            edge.close()

    def stats(self) -> Mapping[str, ServiceStats]:
        """Return where the frames are, by endpoint."""
        with self._lock:
            return {endpoint: edge.stats() for endpoint, edge in self._edges.items()}

    def close(self) -> None:
        """Part with every service; frames under way are dropped, and told."""
        with self._lock:
            gone = [self._take_out(endpoint) for endpoint in tuple(self._edges)]
        for edge in gone:
            edge.close()
        self._entrance.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take_out(self, endpoint: str) -> ServiceEdge:
        self._exchange.edges.pop(endpoint, None)
        return self._edges.pop(endpoint)
